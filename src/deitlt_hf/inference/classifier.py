"""A student, its image processor and its class names in one object: pictures in, both experts' classes out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor

from deitlt_hf.data.arguments import names_of
from deitlt_hf.data.folders import PassedOver, files_in
from deitlt_hf.data.images import IMAGE_SUFFIXES, BadImage, decode_image
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.answer_rules import AnswerRules
from deitlt_hf.evaluation.attention import seen_region, sides
from deitlt_hf.evaluation.class_prior import ClassPrior, Only, Prior, class_prior
from deitlt_hf.evaluation.evaluate import logits_by_row
from deitlt_hf.evaluation.measures import FUSED, MODEL, expert_named, experts_of
from deitlt_hf.inference.loading import (
    load_answer_rules,
    load_any_classifier,
    load_any_config,
    load_image_processor,
    load_student_config,
)
from deitlt_hf.inference.runtimes import OneHeadRuntime, Runtime, accelerator_or_cpu, load_runtime
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig

Picture = str | os.PathLike[str] | Image.Image | np.ndarray

# Decoded pictures held at once: a camera's take a hundred megabytes each, their pixel values less than one.
_DECODED_AT_ONCE = 8


@dataclass
class ClassRow:
    """A class and its probability in [0, 1] by `"average"`, `"cls"` and `"distillation"`, or by `"model"` alone."""

    name: str
    probability: dict[str, float]


@dataclass
class ImageResult:
    """The top classes of an image, sorted by the expert that was asked for, and where its two tokens look.

    With a precision or a coverage, also whether the image is answered, and a set of classes that holds the right one.
    """

    file: Path | None  # None for an image that came as pixels
    rows: list[ClassRow]
    attention: dict[str, np.ndarray] | None = None  # for "cls" and "distillation" a float32 map `(rows, cols)`
    region: tuple[float, float, float, float] | None = None  # of the picture that the maps cover: see `seen_region`
    answered: bool | None = None  # whether the first row is sure enough; None where no precision was asked
    prediction_set: list[str] | None = None  # names, the most probable first; None where no coverage was asked

    def top(self, expert: str, number: int) -> list[ClassRow]:
        """The `number` most probable of the rows, sorted by another expert."""
        return sorted(self.rows, key=lambda row: -row.probability[expert])[:number]


class ExpertClassifier:
    """Classifies pictures with both experts of a DeiT-LT student.

    `ExpertClassifier.from_pretrained` is the usual way to make one.

    Args:
        runtime: what runs the student, see `deitlt_hf.inference.runtimes`.
        processor: the student's image processor.
        prior: which classes can occur where the pictures are from, and how often; by default all can, equally often.
        rules: which images are answered, and which set of classes is named; by default there are none.

    Attributes:
        class_names: in the order of the classes.
        config: the student's configuration; by default, results are sorted by its `expert`.
        runtime: `"torch"`, `"onnx"` or `"exported"`.
        has_attention: whether results can say where the tokens look.
        prior, rules: as passed.
        experts: whose probabilities a result has: `"average"`, `"cls"` and `"distillation"`, and `"fused"` of a student
            that `deitlt calibrate` has fitted.

    Example:
        >>> classifier = ExpertClassifier.from_pretrained("demo-output/student")  # doctest: +SKIP
        >>> (result,) = classifier("photo.jpg", attention=True)  # doctest: +SKIP
        >>> result.rows[0].name, result.rows[0].probability["distillation"]  # doctest: +SKIP
        ('7', 0.83)
        >>> result.attention["cls"].shape  # doctest: +SKIP
        (4, 4)
    """

    experts: tuple[str, ...]

    def __init__(
        self,
        runtime: Runtime,
        processor: BaseImageProcessor,
        prior: ClassPrior | None = None,
        rules: AnswerRules | None = None,
    ):
        self._run = runtime
        self._processor = processor
        self.prior = prior
        self.rules = rules
        self.runtime = runtime.name
        self.has_attention = runtime.has_attention
        self.config: DeiTLTConfig = runtime.config
        self.class_names = names_of(self.config)
        self.experts = self._rows()

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        revision: str | None = None,
        only: Only | None = None,
        prior: Prior | None = None,
        precision: float | None = None,
        coverage: float | None = None,
    ) -> ExpertClassifier:
        """Load a student: PyTorch weights, or what `deitlt export` made of them.

        PyTorch weights go to the accelerator if there is one, the other two run on the CPU.

        Args:
            source: a directory, or a hub id.
            revision: branch, tag or commit of a hub repository, by default its main branch.
            only: names of the classes that can occur where the pictures are from, or a file with one in each line; by
                default all can. The others get no probability, and those that can occur share it.
            prior: how often each class occurs there: numbers by name, or a CSV file with the columns class and number;
                by default the model's probabilities stay as they are. See `deitlt_hf.evaluation.class_prior`.
            precision: share of the answers that are right, in 0 to 1: results have `answered`, False for an image whose
                class is not sure enough. For students that `deitlt calibrate` has fitted, as `coverage`, and for images
                whose classes come as often as on the validation split. See `deitlt_hf.evaluation.selective`.
            coverage: share of the images whose set of classes holds the right one, in 0 to 1: results have a
                `prediction_set`.

        Raises:
            DeiTLTError: there is no student or no image processor, or ONNX Runtime is needed and not installed; `only`
                or `prior` cannot be read, or do not fit the model's classes; `precision` or `coverage` of a student
                that was not calibrated, out of its reach, or with a `prior`.
        """
        source = os.fspath(source)
        config = load_student_config(source, revision)  # before the weights are loaded
        if prior is not None and (precision, coverage) != (None, None):
            raise DeiTLTError(
                "precision and coverage hold where classes come as often as on the validation images, and a prior says "
                "that they come otherwise; leave one of them out"
            )
        of_place = class_prior(config, only, prior)
        rules = load_answer_rules(source, config, revision, precision, coverage)
        return cls(load_runtime(source, revision), load_image_processor(source, revision), of_place, rules)

    def __call__(
        self,
        images: Picture | Sequence[Picture],
        top: int = 5,
        expert: str | None = None,
        attention: bool = False,
        batch_size: int = 32,
    ) -> list[ImageResult]:
        """Classify pictures.

        Args:
            images: one picture or several: paths, PIL images of any mode, or uint8 arrays `(height, width)` or
                `(height, width, channels)` with 1, 3 (RGB) or 4 (RGBA) channels.
            top: how many classes to give, at least 1; all that can occur where these are fewer.
            expert: sorts the classes: `"average"`, `"cls"` (or `"head"`), `"distillation"` (or `"dist"`, `"tail"`) or
                `"fused"`; by default the configuration's, and the fused one with a precision or a coverage.
            attention: also say where the tokens look; needs PyTorch weights.
            batch_size: pictures per step, at least 1.

        Returns:
            One result per picture, in their order.

        Raises:
            DeiTLTError: a picture that cannot be read, an unknown expert, a wrong number, attention where the runtime
                has none, or an image processor that does not make what the model takes.
        """
        is_one = isinstance(images, str | os.PathLike | Image.Image | np.ndarray) or not isinstance(images, Iterable)
        return list(self.stream([images] if is_one else list(images), top, expert, attention, batch_size))

    def stream(
        self,
        images: Iterable[Picture],
        top: int = 5,
        expert: str | None = None,
        attention: bool = False,
        batch_size: int = 32,
        on_error: Callable[[Path, DeiTLTError], None] | None = None,
    ) -> Iterator[ImageResult]:
        """Classify many pictures, and give each result as soon as its batch is done.

        Args:
            images, top, expert, attention, batch_size: as in a call.
            on_error: called with the file and the error for each picture that cannot be read, which then has no result;
                by default the error is raised.

        Example:
            >>> for result in classifier.stream(sorted(Path("photos").glob("*.jpg"))):  # doctest: +SKIP
            ...     print(result.file, result.rows[0].name)
        """
        expert = self._expert(expert)
        for name, value in (("top", top), ("batch_size", batch_size)):
            if value < 1:
                raise DeiTLTError(f"{name} is {value}; pass at least 1")
        if attention and not self.has_attention:
            of_file = f"need PyTorch weights, and this is an {self.runtime} model; pass the model it was exported from"
            of_timm = "cannot be had from this student, whose layers are timm's; leave them out"
            raise DeiTLTError(f"attention maps {of_timm if self.runtime == 'torch' else of_file}")
        images = images if isinstance(images, Sequence) else list(images)
        return self._results(images, top, expert, attention, batch_size, on_error)

    def _rows(self) -> tuple[str, ...]:
        return experts_of(self.config)

    def _expert(self, name: str | None) -> str:
        own = self.config.expert if self.rules is None else FUSED
        expert = own if name is None else expert_named(name)
        if self.rules is not None and expert != FUSED:
            raise DeiTLTError(
                f"expert is {expert!r}, and precision and coverage are those of the fused prediction; leave expert out"
            )
        if expert not in self.experts:
            raise DeiTLTError(f"expert is {expert!r}, which `deitlt calibrate` fits; pass {', '.join(self.experts)}")
        return expert

    def _pixels_taken(self) -> tuple[int, ...] | None:
        """The shape of an image's pixel values, None where the configuration does not tell."""
        return self.config.num_channels, *sides(self.config.image_size)

    def _probabilities(
        self, pixel_values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, dict[str, torch.Tensor] | None]:
        """Probabilities `(experts, batch, classes)`, those that the rules are about, and attention maps, if any."""
        outputs = self._run(pixel_values)
        logits = logits_by_row(outputs, self.config)
        stacked = torch.stack([logits[expert] for expert in self.experts])
        of_rules = None if self.rules is None else logits[FUSED].softmax(-1)  # thresholds were found without a prior
        return self._at_the_place(stacked).softmax(-1), of_rules, outputs.attention

    def _at_the_place(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.prior is None else self.prior(logits)

    def _results(
        self,
        images: Sequence[Picture],
        top: int,
        expert: str,
        attention: bool,
        batch_size: int,
        on_error: Callable[[Path, DeiTLTError], None] | None,
    ) -> Iterator[ImageResult]:
        taken = self._pixels_taken()
        for start in range(0, len(images), batch_size):
            results, pixel_values = self._read(images, range(start, min(start + batch_size, len(images))), on_error)
            if not results:
                continue
            made = tuple(pixel_values.shape[1:])
            if taken is not None and made != taken:
                raise DeiTLTError(
                    f"the image processor makes pixel values of shape {made}, and the model takes {taken}; pass a "
                    "model with a preprocessor_config.json that fits it"
                )
            probabilities, of_rules, maps_of = self._probabilities(pixel_values)
            for index, result in enumerate(results):
                result.rows = self._top_rows(probabilities[:, index], expert, top)
                if of_rules is not None:
                    self._decide(result, of_rules[index].cpu().numpy())
                if attention:
                    result.attention = {token: maps[index].numpy() for token, maps in maps_of.items()}
                else:
                    result.region = None
                yield result

    def _top_rows(self, probabilities: torch.Tensor, expert: str, top: int) -> list[ClassRow]:
        """The most probable classes of an image, from probabilities `(experts, classes)`."""
        order = probabilities[self.experts.index(expert)].argsort(descending=True, stable=True).tolist()
        if self.prior is not None:
            can_occur = self.prior.can_occur
            order = [index for index in order if can_occur[index]]
        order = order[:top]
        columns = zip(order, probabilities[:, order].T.tolist(), strict=True)
        return [
            ClassRow(self.class_names[index], dict(zip(self.experts, column, strict=True))) for index, column in columns
        ]

    def _decide(self, result: ImageResult, probabilities: np.ndarray) -> None:
        """Say whether an image of these probabilities `(classes,)` is answered, and which classes are in its set."""
        can_occur = np.ones(len(probabilities), bool) if self.prior is None else np.array(self.prior.can_occur)
        best = int(np.where(can_occur, probabilities, -1.0).argmax())
        result.answered = self.rules.is_answered(probabilities, best)
        inside = self.rules.set_of(probabilities, can_occur)
        result.prediction_set = None if inside is None else [self.class_names[index] for index in inside]

    def _read(
        self, images: Sequence[Picture], batch: range, on_error: Callable[[Path, DeiTLTError], None] | None
    ) -> tuple[list[ImageResult], torch.Tensor | None]:
        """Results without classes yet, and the pixel values, of those pictures of a batch that can be read."""
        results, parts = [], []
        for start in range(batch.start, batch.stop, _DECODED_AT_ONCE):
            decoded = []
            for position in range(start, min(start + _DECODED_AT_ONCE, batch.stop)):
                file = Path(images[position]) if isinstance(images[position], str | os.PathLike) else None
                try:
                    picture = decode_picture(images[position], file or f"picture {position}")
                except DeiTLTError as error:
                    if on_error is None or file is None:
                        raise
                    on_error(file, error)
                    continue
                decoded.append(picture)
                # Only with attention: timm's processor does not say what it crops.
                region = seen_region(self._processor, *picture.size) if self.has_attention else None
                results.append(ImageResult(file, [], region=region))
            if decoded:
                parts.append(self._processor(images=decoded, return_tensors="pt").pixel_values)
        return results, torch.cat(parts) if parts else None


class OneHeadClassifier(ExpertClassifier):
    """Classifies pictures with a network that has one head, such as a teacher: `"model"` stands for the experts."""

    def _rows(self) -> tuple[str, ...]:
        return (MODEL,)

    def _expert(self, name: str | None) -> str:
        if name is not None:
            raise DeiTLTError(f"expert is {name!r}, and this {self.config.model_type} model has one head; leave it out")
        return MODEL

    def _pixels_taken(self) -> None:
        return None

    def _probabilities(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return self._at_the_place(self._run(pixel_values)).softmax(-1)[None], None, None

    def stream(self, images, top=5, expert=None, attention=False, batch_size=32, on_error=None):
        """As `ExpertClassifier.stream`; there are no attention maps."""
        if attention:
            raise DeiTLTError(f"attention maps are of DeiT-LT students, and this is a {self.config.model_type} model")
        return super().stream(images, top, expert, attention, batch_size, on_error)


def load_classifier(
    source: str,
    revision: str | None = None,
    only: Only | None = None,
    prior: Prior | None = None,
    precision: float | None = None,
    coverage: float | None = None,
) -> ExpertClassifier:
    """The student in a directory or hub repository, or any other image classifier as a `OneHeadClassifier`."""
    config = load_any_config(source, revision)
    if config.model_type == DeiTLTConfig.model_type:
        return ExpertClassifier.from_pretrained(source, revision, only, prior, precision, coverage)
    load_answer_rules(source, config, revision, precision, coverage)  # which no other classifier has
    of_place = class_prior(config, only, prior)
    processor = load_image_processor(source, revision)
    model = load_any_classifier(source, revision).to(accelerator_or_cpu())
    return OneHeadClassifier(OneHeadRuntime(model), processor, of_place)


def decode_picture(picture: Picture, name: Path | str) -> Image.Image:
    """The upright RGB image of a picture; errors call it `name`."""
    if isinstance(picture, np.ndarray):
        array = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
        has_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
        if array.dtype != np.uint8 or not has_shape or array.size == 0:
            raise DeiTLTError(
                f"{name} is a {array.dtype} array of shape {array.shape}; pass uint8 of shape (height, width), or "
                "(height, width, channels) with 1, 3 or 4 channels"
            )
        picture = Image.fromarray(array)
    if not isinstance(picture, str | os.PathLike | Image.Image):
        raise DeiTLTError(f"{name} is a {type(picture).__name__}; pass a path, a PIL image or a uint8 array")
    value = picture if isinstance(picture, Image.Image) else {"bytes": None, "path": os.fspath(picture)}
    try:
        return decode_image(value)
    except BadImage as error:
        raise DeiTLTError(
            f"{name} cannot be read as an image ({error}); leave it out or convert it to PNG or JPEG"
        ) from error


def named_images(paths: Sequence[Path]) -> dict[Path, Path]:
    """The files in `paths`, and the images in the folders in `paths`, sorted by name, each once.

    Each has its path below the folder that was given, which begins with the folder's name where several were given.
    """
    many = sum(path.is_dir() for path in paths) > 1
    files: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            passed = PassedOver()
            inside = sorted(map(Path, files_in(path, IMAGE_SUFFIXES, passed)))
            passed.say(path)
            if not inside:
                raise DeiTLTError(f"{path} holds no images; pass a folder with files such as photo.png or photo.jpg")
            start = Path(path.absolute().name) if many else Path()
            for file in inside:
                files.setdefault(file, start / file.relative_to(path))
        elif path.is_file():
            files.setdefault(path, Path(path.name))
        else:
            raise DeiTLTError(f"{path} does not exist; pass an image file or a folder of images")
    return files
