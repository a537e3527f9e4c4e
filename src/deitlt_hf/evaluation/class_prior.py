"""Which classes can occur where a model is used, and how often: `--only` and `--prior`.

From the probabilities p(k) of a model for which all classes are equally frequent, those of a place where class k has
the share prior(k) are p(k) prior(k) / sum_j p(j) prior(j): Bayes' rule with another prior (Saerens et al. 2002). That
is log prior(k) added to the logits. A class that cannot occur has the share 0 there, and so the logit -inf.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from deitlt_hf.data.arguments import names_of
from deitlt_hf.errors import DeiTLTError, counted, notice, printable, some
from deitlt_hf.files import last_part

TRAINING = "training"  # as a prior: the frequencies of the training images

Only = str | os.PathLike[str] | Sequence[str]
Prior = str | os.PathLike[str] | Mapping[str, float]


@dataclass(frozen=True)
class ClassPrior:
    """How often each class occurs at a place: added to logits, it makes their softmax that of the place.

    `shares` are float64 `(classes,)` in label order and sum to 1. `description` is for people.
    """

    shares: torch.Tensor
    description: str

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `(..., classes)` of the place from those of a model."""
        # Relative to equally frequent classes, so that what all classes have in common leaves the logits as they are.
        return logits + (self.shares * len(self.shares)).log().to(logits.device, logits.dtype)

    @property
    def can_occur(self) -> list[bool]:
        """For each class whether its share is above 0."""
        return (self.shares > 0).tolist()


def class_prior(config: PreTrainedConfig, only: Only | None = None, prior: Prior | None = None) -> ClassPrior | None:
    """The prior of a model's classes that `--only` and `--prior` give; None where neither is given.

    Args:
        config: of the model; its `id2label` names the classes.
        only: the classes that can occur: names, or a file with one in each line. Blank lines and lines that begin with
            `#` are passed over.
        prior: how often each class occurs, 0 for never: numbers by name, or a CSV file with the columns class and
            number, with or without a header. Counts and shares mean the same. `"training"` takes the training images
            of the model. Classes that `only` leaves out need no number.

    Raises:
        DeiTLTError: a file that cannot be read; classes that the model does not have; no class; a prior that lacks
            classes, has one twice, or has a number that is negative or not finite; all numbers 0.

    Example:
        >>> from deitlt_hf import DeiTLTConfig
        >>> config = DeiTLTConfig(id2label={0: "deer", 1: "hare", 2: "lynx"})
        >>> class_prior(config, only=["deer", "lynx"]).shares.tolist()
        [0.5, 0.0, 0.5]
        >>> class_prior(config, prior={"deer": 15, "hare": 4, "lynx": 1}).shares.tolist()
        [0.75, 0.2, 0.05]
    """
    if only is None and prior is None:
        return None
    names = names_of(config)
    listed = names if only is None else _listed(only, names)
    weight_of = dict.fromkeys(listed, 1.0)
    if prior is not None:
        weight_of = _weights(prior, names, listed, config)
        if getattr(config, "fusion", None) is None:
            notice(
                "a prior takes the model's probabilities as those of equally frequent classes, and this model is not "
                "calibrated to be so: the result is an approximation (`deitlt calibrate` fits it)"
            )
    weights = torch.tensor([weight_of.get(name, 0.0) for name in names], dtype=torch.float64)
    occurring = int((weights > 0).sum())
    said = [] if occurring == len(names) else [f"only {occurring} of {len(names)} classes can occur{_from(only)}"]
    said += [] if prior is None else [f"class frequencies{_from(prior) or ' as given'}"]
    return ClassPrior(weights / weights.sum(), " and ".join(said))


def _from(given: Only | Prior | None) -> str:
    """The place of a list or prior, in brackets; nothing for one that is no file."""
    return f" ({printable(last_part(os.fspath(given)))})" if isinstance(given, str | os.PathLike) else ""


def _listed(only: Only, names: Sequence[str]) -> list[str]:
    """The classes that can occur, all of them the model's."""
    where = "only"
    if isinstance(only, str | os.PathLike):
        where = str(only)
        lines = [line.strip() for line in _text(only, "the name of a class in each line").splitlines()]
        known = set(names)  # a class may be called `# 1`
        only = [line for line in lines if line in known or (line and not line.startswith("#"))]
    _check_known(where, only, names)
    if not only:
        raise DeiTLTError(f"{where} names no class; write one of the model's in each line, such as {names[0]}")
    return list(only)


def _weights(prior: Prior, names: Sequence[str], listed: Sequence[str], config: PreTrainedConfig) -> dict[str, float]:
    """The number of each class that can occur."""
    where = "prior" if isinstance(prior, Mapping) else str(prior)
    if where == TRAINING:
        counts = getattr(config, "class_counts", None)
        if counts is None:
            raise DeiTLTError("the model does not say how many training images a class had; pass a CSV file as prior")
        prior = dict(zip(names, counts, strict=True))
    elif not isinstance(prior, Mapping):
        prior = _read_weights(Path(prior), names)
    _check_known(where, prior, names)
    wrong = [name for name, number in prior.items() if not 0 <= number < math.inf]
    if wrong:
        raise DeiTLTError(f"{where}: {wrong[0]!r} has {prior[wrong[0]]:g}; pass a count or a share of 0 or more")
    missing = [name for name in listed if name not in prior]
    if missing:
        raise DeiTLTError(
            f"{where} lacks {counted(len(missing), 'class')} of {len(listed)}: {some(missing, 5)}; give each a number, "
            "0 if it cannot occur"
        )
    of_listed = {name: float(prior[name]) for name in listed}
    if not any(of_listed.values()):
        raise DeiTLTError(f"{where} has 0 for every class that can occur; give at least one a number above 0")
    return of_listed


def _read_weights(path: Path, names: Sequence[str]) -> dict[str, float]:
    """The numbers in a CSV file, or one with tabs that ends in `.tsv`."""
    text = _text(path, "the columns class and number")
    lines = csv.reader(io.StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    weights: dict[str, float] = {}
    try:
        is_first = True
        for cells in ([cell.strip() for cell in line] for line in lines):
            if not any(cells):
                continue
            number = _number(cells[1]) if len(cells) == 2 else None
            is_header, is_first = is_first and len(cells) == 2 and number is None and cells[0] not in names, False
            if is_header:
                continue
            if number is None:
                raise DeiTLTError(
                    f"{path}, line {lines.line_num}: {', '.join(cells)!r} is no class with its number; write "
                    f"{names[0]},12 (a name with a comma in quotes)"
                )
            if cells[0] in weights:
                raise DeiTLTError(f"{path} has {cells[0]!r} twice; keep one line of each class")
            weights[cells[0]] = number
    except csv.Error as error:
        raise DeiTLTError(f"{path}, line {lines.line_num}: {error}; save it as CSV") from error
    return weights


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _check_known(where: str, given: Sequence[str] | Mapping[str, float], names: Sequence[str]) -> None:
    known = set(names)
    unknown = [name for name in given if name not in known]
    if unknown:
        by_case = {name.casefold(): name for name in names}
        near = difflib.get_close_matches(str(unknown[0]).casefold(), by_case, n=1)
        hint = f"did you mean {by_case[near[0]]!r}?" if near else f"its classes are {some(names, 5)}"
        raise DeiTLTError(f"{where}: the model has no class {some(unknown, 5)}; {hint}")


def _text(path: str | os.PathLike[str], what: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DeiTLTError(f"{path} is not UTF-8 text; save it with that encoding") from error
    except OSError as error:
        raise DeiTLTError(f"cannot read {path}: {error.strerror}; pass a text file with {what}") from error
