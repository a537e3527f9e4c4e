"""`deitlt set-expert`: which expert a saved student answers with by default."""

from __future__ import annotations

from collections.abc import Sequence

from deitlt_hf.cli.console import OneLineParser, quiet_libraries
from deitlt_hf.cli.next_steps import say_next
from deitlt_hf.errors import printable


def run(argv: Sequence[str]) -> None:
    parser = OneLineParser(
        prog="deitlt set-expert",
        description="Change which expert a saved student answers with by default, in its config.json and its card.",
    )
    parser.add_argument("directory", help="of a student: a run's, or one that was saved or downloaded")
    parser.add_argument(
        "expert", help="average, cls (or head), distillation (or dist, tail), or fused after deitlt calibrate"
    )
    options = parser.parse_args(argv)

    from deitlt_hf.evaluation.measures import EXPERT_LABELS, FUSED, expert_named

    expert = expert_named(options.expert)  # a typo answers before torch is imported
    label = "fused prediction" if expert == FUSED else EXPERT_LABELS[expert]

    from deitlt_hf.cards.model_card import has_own_card
    from deitlt_hf.inference.default_expert import set_expert

    quiet_libraries()
    changed = set_expert(options.directory, options.expert)
    where = printable(options.directory)
    if not changed:
        print(f"{where} answers with the {label} already; nothing is changed")
        return
    own = "; README.md was edited by hand and stays as it is" if has_own_card(options.directory) else ""
    print(f"{where} now answers with the {label}; changed: {' and '.join(changed)}{own}")
    say_next(["evaluate", options.directory], ["app", options.directory])
