"""The loss report: counts by kind, the first sentence of each, and nothing written where something would be lost."""

from __future__ import annotations

import pytest

from kpdata.errors import LossyWrite
from kpdata.losses import LossReport


def test_counts_add_up():
    """The same kind is counted together, its first sentence stays, and a count of zero leaves no trace."""
    report = LossReport("coco")
    report.lose("bbox", 2, "first")
    report.lose("bbox", 3, "second")
    report.lose("area", 0, "never")
    report.add("score", 4)
    assert report.to_json() == {"losses": {"bbox": 5}, "additions": {"score": 4}, "examples": {"bbox": "first"}}


def test_truth_is_loss():
    """Additions are no losses."""
    report = LossReport("coco")
    report.add("score", 1)
    assert not report
    assert str(report) == "nothing lost"
    report.lose("keypoint scores", 12345)
    assert report
    assert str(report) == "keypoint scores: 12,345"


def test_merge():
    """Two reports of one write: counts add up, the first's sentence stays."""
    one, two = LossReport("coco"), LossReport("remap")
    one.lose("x", 1, "mine")
    two.lose("x", 2, "theirs")
    two.lose("y", 1, "only theirs")
    two.add("z", 3, "made")
    one.merge(two)
    assert one.to_json() == {
        "losses": {"x": 3, "y": 1}, "additions": {"z": 3}, "examples": {"x": "mine", "y": "only theirs", "z": "made"},
    }  # fmt: skip


def test_require():
    """A loss is refused with target, format and counts, unless it was allowed."""
    report = LossReport("yolo")
    report.require(False, "x.json")
    report.lose("crowds", 2)
    report.require(True, "x.json")
    with pytest.raises(
        LossyWrite, match=r"x\.json: yolo cannot hold all .*\(crowds: 2\); nothing was written.*--allow"
    ):
        report.require(False, "x.json")
