"""The numbers of a score as lines for a terminal, in the form of each benchmark's own evaluator."""

from __future__ import annotations

from collections.abc import Mapping

from kpdata.eval import protocols

_ROWS = (
    ("all", "0.50:0.95", ""),
    ("all", "0.50", "50"),
    ("all", "0.75", "75"),
    ("medium", "0.50:0.95", "m"),
    ("large", "0.50:0.95", "l"),
)


def lines(stats: Mapping[str, float], max_dets: int) -> list[str]:
    """oks: the ten lines as pycocotools' `summarize` prints them (cocoeval.py:430–456); crowdpose: nine in the same
    form; wholebody: a table with a row a group; aic: three."""
    if "AP" not in stats:
        return _table(stats) if "whole_AP" in stats else _shares(stats)
    found = [
        _line(key, iou, f"area={area:>6s}", max_dets, stats[key + suffix])
        for key in ("AP", "AR")
        for area, iou, suffix in _ROWS
        if key + suffix in stats
    ]
    levels = {key: level for key, level in protocols.CROWD_LEVELS.items() if key in stats}
    return found + [_line("AP", "0.50:0.95", f"type={v:>6s}", max_dets, stats[k]) for k, v in levels.items()]


def _line(kind: str, iou: str, which: str, most: int, value: float) -> str:
    title = {"AP": "Average Precision  (AP)", "AR": "Average Recall     (AR)"}[kind]
    return f" {title} @[ IoU={iou:<9} | {which} | maxDets={most:>3d} ] = {value:0.3f}"


def _table(stats: Mapping[str, float]) -> list[str]:
    """A row a group of keypoints, a column a number."""
    names = [name.removeprefix("whole_") for name in stats if name.startswith("whole_")]
    rows = [[f"{stats[f'{group}_{name}']:6.3f}" for name in names] for group in protocols.GROUPS]
    head = " " * 10 + " ".join(f"{name:>6s}" for name in names)
    return [head, *(f"{group:<10s}" + " ".join(row) for group, row in zip(protocols.GROUPS, rows, strict=True))]


def _shares(stats: Mapping[str, float]) -> list[str]:
    ranges = {"mAP": "0.50:0.95", "mAP50": "0.50", "mAP75": "0.75"}
    return [f" Share of people found @[ OKS > {ranges[name]:<9} ] = {value:0.3f}" for name, value in stats.items()]
