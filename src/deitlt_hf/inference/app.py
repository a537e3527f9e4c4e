"""A page in the browser: a picture goes in, both experts' answers and where their tokens look come out."""

from __future__ import annotations

import html
import os
import re
import socket
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from PIL import Image

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.attention import TOKENS, draw_attention
from deitlt_hf.evaluation.measures import EXPERT_LABELS, EXPERTS
from deitlt_hf.inference.app_examples import ExamplePicture, class_caption
from deitlt_hf.inference.app_uploads import read_picture, shown_picture
from deitlt_hf.inference.classifying import ImageResult
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig

if TYPE_CHECKING:
    import gradio

    from deitlt_hf.inference.classifier import ExpertClassifier

MAX_UPLOAD = "200mb"  # 50 megapixels that no format compresses: the page says more of them than gradio would
TOP = 5
_ALERT_STYLE = "border-left: 6px solid #D55E00; padding: 0.6em 1em; background: var(--block-background-fill)"

# What an upload or an example changes on the page, in the order of `build_app`'s components.
Page = list[Any]


def expert_panels(classifier: ExpertClassifier, picture: Image.Image) -> list[Any]:
    """Where the CLS and the DIST token look, and what the average, the CLS and the DIST expert say.

    Args:
        classifier: what answers.
        picture: upright RGB.

    Returns:
        Two pictures, None for models without attention maps; three dictionaries of the `TOP` classes, see
        `expert_labels`.

    Example:
        >>> cls_map, dist_map, *labels = expert_panels(classifier, picture)  # doctest: +SKIP
    """
    has_attention = classifier.runtime == "torch"
    (result,) = classifier(picture, top=len(classifier.class_names), attention=has_attention)
    labels = [expert_labels(result, expert, classifier.config) for expert in EXPERTS]
    if not has_attention:
        return [None, None, *labels]
    shown = shown_picture(picture)
    return [*(draw_attention(shown, result.attention[token], result.region) for token in TOKENS), *labels]


def expert_labels(result: ImageResult, expert: str, config: DeiTLTConfig) -> dict[str, float]:
    """An expert's `TOP` classes with their captions, and its probabilities in [0, 1].

    Args:
        result: with all classes.
        expert: `"average"`, `"cls"` or `"distillation"`.
        config: the student's, for the classes' groups and numbers of training images.

    Example:
        >>> from deitlt_hf.inference.classifying import ClassRow
        >>> config = DeiTLTConfig(id2label={0: "owl", 1: "lynx"}, class_counts=[134, 6])
        >>> rows = [ClassRow("lynx", {"average": 0.5, "cls": 0.2, "distillation": 0.8})]
        >>> expert_labels(ImageResult(None, rows), "cls", config)
        {'lynx (6 training images)': 0.2}
    """
    captions = {name: class_caption(config, index) for index, name in config.id2label.items()}
    return {captions[row.name]: row.probability[expert] for row in result.top(expert, TOP)}


def introduction(config: DeiTLTConfig, has_attention: bool = True) -> str:
    """What the page says of the model, in Markdown.

    Example:
        >>> "the largest had 134 training images" in introduction(DeiTLTConfig(num_labels=2, class_counts=[134, 6]))
        True
    """
    said = [
        "This model has two experts: its CLS token for classes with many training images (head), its DIST token for "
        "classes with few (tail)."
    ]
    if config.class_counts is not None:
        said.append(
            f"Of its {config.num_labels:,} classes, the largest had {max(config.class_counts):,} training images and "
            f"the smallest {min(config.class_counts):,}."
        )
    said.append("Choose a picture to see what each expert and their average say")
    if has_attention:
        said[-1] += ", and which patches each token attends to in the last layer, from little (violet) to most (yellow)"
    return " ".join(said) + "."


def build_app(
    classifier: ExpertClassifier, name: str, examples: Sequence[ExamplePicture] = (), note: str | None = None
) -> gradio.Blocks:
    """The page, ready for `serve`.

    Args:
        classifier: what answers.
        name: of the model, for the title.
        examples: pictures to try.
        note: something to say above the page, in Markdown.

    Raises:
        DeiTLTError: gradio is not installed.

    Example:
        >>> app = build_app(ExpertClassifier.from_pretrained("student"), "student")  # doctest: +SKIP
        >>> serve(app)  # doctest: +SKIP
    """
    gr = import_gradio()
    has_attention = classifier.runtime == "torch"

    def answer(picture: Image.Image, label: str) -> Page:
        return [
            gr.HTML(visible=False),
            gr.Image(shown_picture(picture), label=label),
            *expert_panels(classifier, picture),
        ]

    def answer_upload(path: str) -> Page:
        try:
            page = answer(read_picture(path), f"Picture: {Path(path).name}")
        except DeiTLTError as error:
            page = [gr.HTML(_alert(str(error)), visible=True), gr.Image(None, label="Picture"), *[None] * 5]
        return [*page, None]  # the upload, ready for the next picture

    def answer_example(example: ExamplePicture) -> Page:
        return answer(example.image, f"Picture: {example.caption}")

    with gr.Blocks(title=f"DeiT-LT: {name}", analytics_enabled=False, delete_cache=(600, 3600)) as app:
        gr.Markdown(f"# DeiT-LT: {_plain(name)}\n\n{introduction(classifier.config, has_attention)}")
        if note is not None:
            gr.Markdown(f"**Note:** {note}")
        with gr.Row(equal_height=True):
            with gr.Column(scale=3, min_width=200):
                upload = gr.File(label="Upload a picture", height=150, elem_id="upload")
            choices = [_example_column(gr, example) for example in examples]
        page = [gr.HTML(visible=False, elem_id="message"), *_answer_columns(gr, has_attention)]
        # One at a time: pictures that are answered side by side share the same processor's cores.
        shared = {"concurrency_id": "classifier", "concurrency_limit": 1, "show_progress_on": page[1]}
        upload.upload(answer_upload, upload, [*page, upload], **shared)
        for choice, example in zip(choices, examples, strict=True):
            gr.on(choice, partial(answer_example, example), None, page, **shared)
    return app


def _example_column(gr: ModuleType, example: ExamplePicture) -> list[Any]:
    """A small picture above a button with its caption; the two events that choose it."""
    with gr.Column(scale=2, min_width=100):
        picture = _picture_panel(
            gr, shown_picture(example.image), height=90, container=False, buttons=[], alt_text=example.caption
        )
        button = gr.Button(example.caption, size="sm", elem_classes="example")
    return [picture.select, button.click]


def _answer_columns(gr: ModuleType, has_attention: bool) -> list[Any]:
    """A column for the average and each expert: the picture or a map, above the classes; pictures first."""
    titles = ("Picture", "Where the CLS token looks", "Where the DIST token looks")
    pictures, labels = [], []
    with gr.Row():
        for expert, title in zip(EXPERTS, titles, strict=True):
            with gr.Column(min_width=240):
                is_shown = has_attention or not pictures
                pictures.append(_picture_panel(gr, label=title, elem_id=f"picture-{expert}", visible=is_shown))
                heading = f"What the {EXPERT_LABELS[expert]} says"
                labels.append(gr.Label(label=heading, show_heading=False, elem_id=f"label-{expert}"))
    return [*pictures, *labels]


def _picture_panel(gr: ModuleType, value: Image.Image | None = None, **options: Any) -> gradio.Image:
    # PNG, for the page is to show the very pixels that were computed.
    options = {"height": 300, "buttons": ["fullscreen"], "alt_text": options.get("label"), **options}
    return gr.Image(value, format="png", interactive=False, **options)


def _alert(message: str) -> str:
    return f'<div role="alert" style="{_ALERT_STYLE}">{html.escape(message)}</div>'


def _plain(text: str) -> str:
    """The text in Markdown, with nothing in it that Markdown would take for markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|&])", r"\\\1", text)


def serve(app: gradio.Blocks, host: str | None = None, port: int | None = None) -> None:
    """Show the page at an address of this machine, print the address, and go on until interrupted.

    Args:
        app: from `build_app`.
        host: address to listen at; by default gradio's, which is 127.0.0.1 and what a Space needs in a Space.
        port: 1 to 65535; by default the first free one from 7860 on.

    Raises:
        DeiTLTError: the address cannot be listened at.
        KeyboardInterrupt: Ctrl-C, after the server was closed.

    Example:
        >>> serve(build_app(classifier, "student"), port=8000)  # doctest: +SKIP
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
    """Raise `DeiTLTError` unless `serve` can listen at a host and port, or at any port where that is None.

    Example:
        >>> check_address("127.0.0.1", 70000)
        Traceback (most recent call last):
            ...
        deitlt_hf.errors.DeiTLTError: port is 70000; pass one from 1 to 65535
    """
    if port is not None and not 1 <= port <= 65535:
        raise DeiTLTError(f"port is {port}; pass one from 1 to 65535")
    try:
        socket.create_server((host, port or 0)).close()
    except OSError as error:
        reason = (error.strerror or str(error)).split(" (")[0].lower()
        where = host if port is None else f"{host}:{port}"
        raise DeiTLTError(f"cannot listen at {where}: {reason}; pass another --port or --host") from error


def import_gradio() -> ModuleType:
    """Gradio, without its analytics.

    Raises:
        DeiTLTError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise DeiTLTError("the app needs gradio, which is not installed; run pip install 'deitlt-hf[app]'") from error
    return gradio
