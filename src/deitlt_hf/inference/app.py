"""A page in the browser that shows what both experts say about a picture, and where their tokens look."""

from __future__ import annotations

import html
import os
import re
import socket
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from PIL import Image

from deitlt_hf.data.images import BadImage, decode_image
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.answer_rules import AnswerRules
from deitlt_hf.evaluation.attention import TOKENS, draw_attention, shrink
from deitlt_hf.evaluation.class_prior import ClassPrior
from deitlt_hf.evaluation.measures import EXPERT_LABELS, EXPERTS, FUSED
from deitlt_hf.inference.app_examples import ExamplePicture, class_caption
from deitlt_hf.inference.classifier import ExpertClassifier, ImageResult
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig

if TYPE_CHECKING:
    import gradio

MAX_PIXELS = 25_000_000
MAX_UPLOAD = "200mb"  # 50 megapixels without compression; smaller files get this page's message instead of gradio's
SMALLEST_SHOWN, LARGEST_SHOWN = 256, 1024  # pixels of the longer side
# Formats that people use. Some others of Pillow start other programs, or are not pictures.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
TOP = 5  # classes of each expert
_ALERT = (
    '<div role="alert" style="border-left: 6px solid #D55E00; padding: 0.6em 1em; '
    'background: var(--block-background-fill)">{}</div>'
)


def expert_panels(classifier: ExpertClassifier, picture: Image.Image) -> list[Any]:
    """Two attention pictures, None without maps, and for each expert `{caption: probability}` of its `TOP` classes.

    With rules for a precision or a coverage, what these say comes last, as HTML.
    """
    has_attention = classifier.has_attention
    (result,) = classifier(picture, top=len(classifier.class_names), attention=has_attention)
    captions = {name: class_caption(classifier.config, index) for index, name in classifier.config.id2label.items()}
    labels = [
        {captions[row.name]: row.probability[expert] for row in result.top(expert, TOP)}
        for expert in _shown_experts(classifier)
    ]
    if classifier.rules is not None:
        labels.append(_verdict(result, classifier.rules))
    if not has_attention:
        return [None, None, *labels]
    shown = shown_picture(picture)
    return [*(draw_attention(shown, result.attention[token], result.region) for token in TOKENS), *labels]


def _verdict(result: ImageResult, rules: AnswerRules) -> str:
    """The answer, or that the image is uncertain, and the image's set of classes, as HTML."""
    lines = []
    if rules.answers is not None:
        asked = f"{100 * rules.precision:g} %"
        lines.append(
            f"Answer: <b>{html.escape(result.rows[0].name)}</b> (right for at least {asked} of such answers)"
            if result.answered
            else f"Answer: <b>uncertain</b> (no class is sure enough to be right for {asked} of such answers)"
        )
    if rules.sets is not None:
        names = ", ".join(f"<b>{html.escape(name)}</b>" for name in result.prediction_set)
        lines.append(f"Possible: {names} (the right class is among them for {100 * rules.coverage:g} % of pictures)")
    return "<br>".join(lines)


def _shown_experts(classifier: ExpertClassifier) -> tuple[str, str, str]:
    """The three rows of the page: both together, fused where they have been calibrated, and each expert."""
    both, *experts = EXPERTS
    return (FUSED if FUSED in classifier.experts else both, *experts)


def introduction(config: DeiTLTConfig, has_attention: bool = True, prior: ClassPrior | None = None) -> str:
    """A few sentences about the model for the top of the page."""
    text = (
        "This DeiT-LT model has two experts: its CLS token for classes with many training images (head), its DIST "
        "token for classes with few (tail). "
    )
    if config.class_counts is not None:
        text += (
            f"Of its {config.num_labels:,} classes, the largest had {max(config.class_counts):,} training images and "
            f"the smallest {min(config.class_counts):,}. "
        )
    if prior is not None:
        text += f"Its answers take into account: {_plain(prior.description)}. "
    text += "Choose a picture to see what each expert and their average say"
    if has_attention:
        text += ", and which patches each token attends to in the last layer, from little (violet) to most (yellow)"
    return f"{text}."


def _plain(text: str) -> str:
    """A text that Markdown does not take for markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|&])", r"\\\1", text)


def build_app(
    classifier: ExpertClassifier, name: str, examples: Sequence[ExamplePicture] = (), note: str | None = None
) -> gradio.Blocks:
    """Build the page of `deitlt app`: a picture, both experts' answers, and where each token looks.

    Args:
        classifier: what answers.
        name: the model's name, the title.
        examples: pictures to try; the page opens with the answer to the first one.
        note: Markdown above the page.

    Raises:
        DeiTLTError: gradio is not installed.

    Example:
        >>> from deitlt_hf import ExpertClassifier, build_app, serve
        >>> app = build_app(ExpertClassifier.from_pretrained("demo-output/student"), "digits")  # doctest: +SKIP
        >>> serve(app, port=7860)  # doctest: +SKIP
    """
    gr = import_gradio()
    has_attention = classifier.has_attention

    def answer(picture: Image.Image, caption: str) -> list[Any]:  # in the order of `page`
        shown = gr.Image(shown_picture(picture), label=f"Picture: {caption}")
        return [gr.HTML(visible=False), shown, *expert_panels(classifier, picture)]

    def answer_upload(path: str) -> list[Any]:
        try:
            changed = answer(read_picture(path), Path(path).name)
        except DeiTLTError as error:
            alert = gr.HTML(_ALERT.format(html.escape(str(error))), visible=True)
            changed = [alert, gr.Image(None, label="Picture"), *[None] * (len(page) - 2)]
        return [*changed, None]  # the upload becomes empty, ready for the next picture

    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(600, 3600)) as app:
        gr.Markdown(f"# {_plain(name)}\n\n{introduction(classifier.config, has_attention, classifier.prior)}")
        if note is not None:
            gr.Markdown(f"**Note:** {note}")
        with gr.Row(equal_height=True):
            with gr.Column(scale=3, min_width=200):
                upload = gr.File(label="Upload a picture", height=150, elem_id="upload")
            choices = [_example_column(gr, example) for example in examples]
        message = gr.HTML(visible=False, elem_id="message")
        verdict = [] if classifier.rules is None else [gr.HTML(elem_id="verdict")]
        page = [message, *_answer_columns(gr, has_attention, _shown_experts(classifier)), *verdict]
        # One at a time: pictures that are answered side by side share the same processor's cores.
        shared = {"concurrency_id": "classifier", "concurrency_limit": 1, "show_progress_on": page[1]}
        upload.upload(answer_upload, upload, [*page, upload], **shared)
        for choice, example in zip(choices, examples, strict=True):
            gr.on(choice, partial(answer, example.image, example.caption), None, page, **shared)
        if examples:  # the page opens with an answer
            app.load(partial(answer, examples[0].image, examples[0].caption), None, page, **shared)
    return app


def _example_column(gr: ModuleType, example: ExamplePicture) -> list[Any]:
    """A small picture above a button with its caption; returns the two events that choose it."""
    with gr.Column(scale=2, min_width=100):
        look = {"height": 90, "container": False, "buttons": [], "alt_text": example.caption}
        picture = _picture_panel(gr, shown_picture(example.image), **look)
        button = gr.Button(example.caption, size="sm", elem_classes="example")
    return [picture.select, button.click]


def _answer_columns(gr: ModuleType, has_attention: bool, experts: Sequence[str]) -> list[Any]:
    """Three columns: the picture and the two maps, each above an expert's classes; returns pictures, then classes."""
    titles = ("Picture", "Where the CLS token looks", "Where the DIST token looks")
    pictures, labels = [], []
    with gr.Row():
        for expert, title in zip(experts, titles, strict=True):
            with gr.Column(min_width=240):
                is_shown = has_attention or not pictures
                pictures.append(_picture_panel(gr, label=title, elem_id=f"picture-{expert}", visible=is_shown))
                heading = f"What the {EXPERT_LABELS[expert]}{' prediction' if expert == FUSED else ''} says"
                labels.append(gr.Label(label=heading, show_heading=False, elem_id=f"label-{expert}"))
    return [*pictures, *labels]


def _picture_panel(gr: ModuleType, value: Image.Image | None = None, **options: Any) -> gradio.Image:
    # PNG, so that the page shows the very pixels that were computed.
    options = {"height": 300, "buttons": ["fullscreen"], "alt_text": options.get("label"), **options}
    return gr.Image(value, format="png", interactive=False, **options)


def read_picture(path: str | os.PathLike[str]) -> Image.Image:
    """The upright RGB picture in an uploaded file; its size is checked before its pixels are decoded."""
    name = Path(path).name
    unreadable = f"{name} is no picture that can be read; upload a PNG, JPEG, WebP, GIF, BMP or TIFF file"
    try:
        with warnings.catch_warnings():
            # Pillow warns of many pixels; the check below refuses them.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
    except Image.DecompressionBombError as error:
        raise DeiTLTError(f"{name} has more than {MAX_PIXELS / 1e6:g} megapixels; upload a smaller picture") from error
    except Exception as error:  # on damaged bytes Pillow's plugins raise errors of any type
        raise DeiTLTError(unreadable) from error
    with opened as image:
        if image.format not in FORMATS:
            raise DeiTLTError(unreadable)
        if image.width * image.height > MAX_PIXELS:
            raise DeiTLTError(
                f"{name} has {image.width * image.height / 1e6:,.1f} megapixels ({image.width} x {image.height}), more "
                f"than the {MAX_PIXELS / 1e6:g} that this page takes; upload a smaller picture"
            )
        try:
            return decode_image(image)
        except BadImage as error:
            raise DeiTLTError(f"{name} is a damaged picture ({error}); upload another one, or save it anew") from error


def shown_picture(picture: Image.Image) -> Image.Image:
    """The picture at a size for the page: small ones enlarged pixel by pixel, large ones shrunk."""
    factor = SMALLEST_SHOWN // max(picture.size)
    if factor > 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return shrink(picture, LARGEST_SHOWN)


def serve(app: gradio.Blocks, host: str | None = None, port: int | None = None) -> None:
    """Show a page at an address of this machine, print the address, and run until interrupted.

    Args:
        app: what `build_app` made.
        host: address to listen on; by default this machine alone can open the page.
        port: by default the first free one from 7860.

    Raises:
        DeiTLTError: the address is in use or not this machine's.

    Example:
        >>> from deitlt_hf import serve
        >>> serve(app, host="0.0.0.0", port=7860)  # doctest: +SKIP
    """
    if host is not None or port is not None:
        check_address(host or "127.0.0.1", port)
    try:
        _, address, _ = app.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            max_file_size=MAX_UPLOAD,
            theme=import_gradio().themes.Default(font_mono="Source Sans Pro"),  # class names are no code
        )
    except OSError as error:
        raise DeiTLTError("all ports that gradio tries from 7860 on are in use; pass a free one with --port") from error
    print(f"{address} (Ctrl-C stops it)", flush=True)
    try:
        while app.is_running:
            time.sleep(0.2)
    finally:
        app.close(verbose=False)


def check_address(host: str, port: int | None) -> None:
    """Raise `DeiTLTError` unless `serve` can listen at a host and port, or at any port where that is None."""
    if port is not None and not 1 <= port <= 65535:
        raise DeiTLTError(f"port is {port}; pass one from 1 to 65535")
    try:
        socket.create_server((host, port or 0)).close()
    except OSError as error:
        reason = (error.strerror or str(error)).split(" (")[0].lower()
        where = host if port is None else f"{host}:{port}"
        raise DeiTLTError(f"cannot listen at {where}: {reason}; pass another --port or --host") from error


def import_gradio() -> ModuleType:
    """Gradio, without its analytics."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise DeiTLTError("the app needs gradio, which is not installed; run pip install 'deitlt-hf[app]'") from error
    return gradio
