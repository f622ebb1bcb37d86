"""Tables, JSON and the loss report as text."""

from __future__ import annotations

import json

from kpdata.cli import console
from kpdata.losses import LossReport


def test_a_row_stays_a_line(capsys):
    """Line breaks and tabs in a cell become blanks, columns align, numbers to the right."""
    console.table(("what", "n"), [("a\nb\tc", 1), ("d", 1000)], title="T", right=(1,))
    assert capsys.readouterr().out == "\nT\nwhat      n\na b c     1\nd      1000\n"


def test_json_has_no_nan(capsys):
    """JSON knows neither NaN nor infinities: null."""
    console.print_json(
        {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -float("inf")}, "e": "NaN", "f": 10**20}
    )
    assert json.loads(capsys.readouterr().out) == {
        "a": None,
        "b": [None, 1.5],
        "c": {"d": None},
        "e": "NaN",
        "f": 10**20,
    }


def test_loss_report(capsys):
    """Losses and additions by kind with count and sentence; additions alone still say that nothing is lost."""
    report = LossReport("x")
    report.add("made", 2, "from nothing")
    console.loss_report(report)
    out = capsys.readouterr().out
    assert "added  made      2  from nothing" in out
    assert out.endswith("Loss report (x): nothing lost\n")
    report.lose("gone", 1234, "no place")
    console.loss_report(report)
    out = capsys.readouterr().out
    assert "lost   gone  1,234  no place" in out
    assert "nothing lost" not in out
