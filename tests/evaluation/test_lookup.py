"""What the mouse over a figure says, and the script that sorts tables."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from deitlt_hf.evaluation import lookup
from deitlt_hf.evaluation.figures.hover import say_at, strips_of


def test_a_strip_reaches_halfway_to_its_neighbours():
    figure = Figure()
    axes = figure.add_axes((0.1, 0.2, 0.5, 0.6))
    axes.set_xlim(0, 10)
    figure.add_axes((0.7, 0.2, 0.2, 0.6))  # of which nothing is said
    say_at(axes, [4, 2, 4, 12], ["b", "a", "c", "outside"])
    first, second = strips_of(figure)  # the middles are at 20 and at 30 percent of the width
    assert first[:4] == pytest.approx((10, 20, 15, 60))
    assert second[:4] == pytest.approx((25, 20, 35, 60))
    assert (first.lines, second.lines) == (["a"], ["b", "c"])
    say_at(axes, [5] * 9, list("abcdefghi"))
    (strip,) = strips_of(figure)
    assert strip.lines == [*"abcdef", "and 3 more"]


def test_another_bundle_is_no_script_and_one_line(tmp_path, monkeypatch, caplog):
    (tmp_path / "html").mkdir()
    spec = ModuleSpec("itables", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(lookup, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: spec)))
    monkeypatch.setattr(lookup, "_text", lookup._text.__wrapped__)
    assert lookup.lookup_script() is None  # no file
    bundle = tmp_path / "html" / "dt_bundle.js"
    bundle.write_text("window.DataTable = 1")
    assert lookup.lookup_script() is None  # a file that exports nothing
    assert caplog.text.count("cannot be sorted: itables") == 2
    bundle.write_text("var $a='<script>';export{b as jQuery,$a as default}")
    text = lookup.lookup_script().text
    assert text.startswith("var $a='\\x3Cscript>';")
    assert text.endswith("})($a);\n")
