"""In how many directions features vary: few where the teacher was flat (paper, "low-rank features")."""

from __future__ import annotations

import torch

from deitlt_hf.errors import DeiTLTError

VARIANCE = 0.99  # the paper's share


def feature_rank(features: torch.Tensor, variance: float = VARIANCE) -> int:
    """Number of principal components that hold a share of the features' variance (the paper's analysis).

    The components are singular vectors of the centred features, a component's variance the square of its singular
    value; the largest come first.

    Args:
        features: floats `(N, D)`, a row per image.
        variance: the share, above 0 up to 1. Default 0.99, the paper's.

    Returns:
        0 to `min(N - 1, D)`; 0 where all rows are the same.

    Raises:
        DeiTLTError: features of another shape, without rows, or not finite; a share out of range.

    Example:
        >>> line = torch.arange(6.0)[:, None] * torch.tensor([1.0, 2.0, 3.0]) + 5
        >>> feature_rank(line), feature_rank(torch.eye(3))
        (1, 2)
    """
    if features.ndim != 2 or 0 in features.shape:
        raise DeiTLTError(f"features have shape {tuple(features.shape)}; pass one row of features per image, (N, D)")
    spectrum = FeatureSpectrum()
    spectrum.add(features)
    return count_components(spectrum.shares(), variance).item()


def count_components(shares: torch.Tensor, variance: float = VARIANCE) -> torch.Tensor:
    """How many of the largest components hold a share of the variance.

    Args:
        shares: of the components, `(..., D)`, falling, as `FeatureSpectrum.shares` gives them.
        variance: the share, above 0 up to 1. Default 0.99.

    Returns:
        Ints `(...)`.

    Raises:
        DeiTLTError: a share out of range.

    Example:
        >>> count_components(torch.tensor([0.75, 0.25, 0.0]), variance=0.8)
        tensor(2)
    """
    if not 0 < variance <= 1:
        raise DeiTLTError(f"variance is {variance}; pass a share above 0, up to 1, such as {VARIANCE}")
    short = shares.cumsum(-1) < variance - 1e-12  # else the rounding of a sum of 1 would ask for one more
    return torch.minimum(short.sum(-1) + 1, (shares > 0).sum(-1))


class FeatureSpectrum:
    """Variances of features along their principal components, from batches; memory for `D x D` numbers.

    It keeps the mean and the Gram matrix of the centred features in float64, in which squares of singular values are
    exact to about 1e-16 of the largest. Batches are merged as by Chan, Golub and LeVeque (1979).

    Example:
        >>> spectrum = FeatureSpectrum()
        >>> spectrum.add(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        >>> spectrum.add(torch.tensor([[4.0, 1.0]]))
        >>> spectrum.shares()
        tensor([1., 0.], dtype=torch.float64)
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean: torch.Tensor | None = None
        self._gram: torch.Tensor | None = None

    def add(self, features: torch.Tensor) -> None:
        """Add a batch `(..., N, D)`; leading dimensions, such as layers, have spectra of their own."""
        features = features.detach()
        # Apple's devices know no float64.
        features = (features.cpu() if features.device.type == "mps" else features).double()
        mean = features.mean(-2)
        centred = features - mean[..., None, :]
        gram = centred.mT @ centred
        added = features.shape[-2]
        if self._gram is None:
            self._count, self._mean, self._gram = added, mean, gram
            return
        count = self._count + added
        shift = mean - self._mean
        self._gram += gram + (self._count * added / count) * shift[..., :, None] * shift[..., None, :]
        self._mean += shift * (added / count)
        self._count = count

    def shares(self) -> torch.Tensor:
        """Each component's share of the variance, `(..., D)` float64 on the CPU, falling; zeros where nothing varies.

        Raises:
            DeiTLTError: features that are not finite.
        """
        gram = self._gram.cpu()
        if not gram.isfinite().all():
            raise DeiTLTError("features are not finite; pass those of a model whose weights are")
        squares = torch.linalg.eigvalsh(gram).flip(-1)
        # What rounding leaves of a component that has no variance.
        noise = squares[..., :1] * gram.shape[-1] * torch.finfo(gram.dtype).eps
        noise = torch.maximum(noise, (self._mean.cpu().abs().amax(-1, keepdim=True) * 1e-15) ** 2 * self._count)
        squares = torch.where(squares > noise, squares, 0.0)
        total = squares.sum(-1, keepdim=True)
        return squares / torch.where(total > 0, total, 1.0)
