from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from deitlt_hf import DeiTLTError, feature_rank
from deitlt_hf.evaluation.analysis.tokens import FeatureSpectrum, count_components


def features(rows: int = 60, columns: int = 12, seed: int = 0) -> torch.Tensor:
    """Correlated columns of very different variance, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return mixed * torch.logspace(0, -2, columns) + 30


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrices_of_known_rank(rank, dtype):
    generator = torch.Generator().manual_seed(rank)
    left, right = torch.randn(50, rank, generator=generator), torch.randn(rank, 20, generator=generator)
    known = (left.to(dtype) @ right.to(dtype)) + 7  # the shift is no direction of variance
    assert feature_rank(known, variance=1.0) == rank
    assert feature_rank(known) <= rank


def test_counts_squares_of_singular_values():
    # Columns with sums of squares 9, 4, 1 and 0 about their means: shares 9/14, 4/14, 1/14.
    table = torch.tensor([[3.0, 2.0, 1.0, 5.0], [-3.0, 2.0, -1.0, 5.0], [3.0, -2.0, -1.0, 5.0], [-3.0, -2.0, 1.0, 5.0]])
    assert [feature_rank(table, variance) for variance in (0.64, 0.65, 0.92, 0.93, 1.0)] == [1, 2, 2, 3, 3]


@pytest.mark.parametrize(("rows", "columns"), [(60, 12), (8, 30)])
def test_spectrum_is_that_of_a_principal_component_analysis(rows, columns):
    table = features(rows, columns)
    spectrum = FeatureSpectrum()
    spectrum.add(table)
    expected = PCA().fit(table.double().numpy()).explained_variance_ratio_
    np.testing.assert_allclose(spectrum.shares()[: len(expected)], expected, rtol=1e-9, atol=1e-13)
    assert spectrum.shares()[len(expected) :].sum() == 0
    assert feature_rank(table) == 1 + np.searchsorted(np.cumsum(expected), 0.99)


def test_batches_give_what_the_whole_gives_far_from_the_origin():
    table = features().double() + 1e5  # where a difference of summed squares would lose ten digits
    batches, whole = FeatureSpectrum(), FeatureSpectrum()
    for batch in table.split([1, 20, 7, 32]):
        batches.add(batch)
    whole.add(table)
    torch.testing.assert_close(batches.shares(), whole.shares(), rtol=1e-8, atol=1e-15)


def test_layers_have_spectra_of_their_own():
    first, second = features(seed=1), features(seed=2)[:, :1].expand(60, 12)
    layers = FeatureSpectrum()
    for batch in torch.stack([first, second]).split(25, dim=1):
        layers.add(batch)
    assert layers.shares().shape == (2, 12)
    assert count_components(layers.shares()).tolist() == [feature_rank(first), 1]


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_equal_rows_have_no_rank(value):
    assert feature_rank(torch.full((30, 5), value)) == 0
    assert feature_rank(torch.randn(1, 5)) == 0


@pytest.mark.parametrize(
    ("table", "variance", "said"),
    [
        (torch.ones(5), 0.99, "(5,)"),
        (torch.ones(0, 5), 0.99, "(0, 5)"),
        (torch.tensor([[1.0, float("nan")], [1.0, 2.0]]), 0.99, "not finite"),
        (torch.tensor([[1.0, float("inf")], [1.0, 2.0]]), 0.99, "not finite"),
        (torch.eye(3), 0.0, "variance is 0.0"),
        (torch.eye(3), 99, "variance is 99"),
    ],
)
def test_wrong_features_are_refused(table, variance, said):
    with pytest.raises(DeiTLTError, match=r".*") as error:
        feature_rank(table, variance)
    assert said in str(error.value)
