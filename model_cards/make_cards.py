"""Write the cards of the paper's six settings anew, beside this file: `python model_cards/make_cards.py`."""

from __future__ import annotations

from pathlib import Path

from deitlt_hf.cards.paper_settings import PAPER_SETTINGS, paper_card

for name in PAPER_SETTINGS:
    path = Path(__file__).with_name(f"{name}.md")
    path.write_text(str(paper_card(name)), encoding="utf-8", newline="\n")
    print(path)
