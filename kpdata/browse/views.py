"""The questions that a reviewer asks of failures, each as a list of rows with a sentence that says what it shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.browse.facts import off_by
from kpdata.errors import BrowseError
from kpdata.eval.errors import Kind
from kpdata.eval.oks import Bools, Floats
from kpdata.skeleton import Skeleton

if TYPE_CHECKING:
    from kpdata.browse.people import People, View

SURE, WRONG = 0.5, 0.75  # share of predictions that score no higher; OKS, or share of right keypoints
CROWDED, OCCLUDED = 0.3, 0.5  # IoU with a neighbour's box; share of the labelled keypoints
CHANGED = 0.05  # OKS: a step of COCO's thresholds (as in eval.comparison); or share of right keypoints
HARDEST = 0.1  # share of the people with a loss
FEW = 5  # labelled keypoints
NOVEL = 0.95  # share of training poses that are nearer to theirs
KEYPOINTS = 30  # views of single keypoints: the most missed ones of larger skeletons
# Whatever else the data say.
_EVERYBODY = ("everybody", "All people, the worst first.")


def views(people: People) -> tuple[View, ...]:
    """The views that show somebody, "everybody" first. Rows point into `people.table`.

    Of predictions: worst, missed, false positives, inversions, swaps, "missed NAME" for each keypoint, suspicious, lost
    (with another model), loss (with a ledger), never seen (with the training data), crowded, occluded, truncated,
    findings. Of annotations alone: findings, few keypoints, crowded, occluded, truncated, loss, never seen.
    """
    from kpdata.browse.people import View

    table = people.table
    made = [View(*_EVERYBODY, np.arange(table.num_rows)), *_whole(table), *_missed_keypoints(table, people.skeletons)]
    made += _of_labels(table)
    return tuple(view for view in made if len(view.rows))


def find(people: People, name: str) -> View:
    """The view of that name. BrowseError lists those that show somebody."""
    for view in people.views:
        if view.name == name:
            return view
    known = ", ".join(view.name for view in people.views)
    raise BrowseError(f"no view {name!r} shows anybody here", hint=f"expected one of: {known}")


def _view(name: str, sentence: str, mask: Bools, by: Floats | None = None) -> View:
    """The rows of a mask, by falling `by` or in the table's order."""
    from kpdata.browse.people import View

    rows = np.flatnonzero(mask)
    if by is not None:
        rows = rows[np.argsort(-by[rows], kind="stable")]
    return View(name, sentence, rows)


def _is(table: pa.Table, *kinds: str) -> Bools:
    return schema.among(table["kind"], kinds)


def _whole(table: pa.Table) -> Iterator[View]:
    """Views of what became of people and predictions."""
    by_oks = schema.valid(table["oks"])
    yield _worst(table, by_oks)
    yield _view("missed", "Labelled people whom no prediction matched; the easiest to find first.",
                _is(table, "missed person"))  # fmt: skip
    yield _view(
        "false positives",
        "Predictions of nobody: background, and second ones of people found already; the surest first. "
        "Some are people whom nobody labelled.",
        _is(table, "background", "duplicate"),
        None if by_oks.any() else np.nan_to_num(schema.values(table["score"], missing=0.0)),
    )
    inverted, swapped = _count(table, Kind.INVERSION), _count(table, Kind.SWAP)
    yield _view("inversions", "Left and right taken for each other; most keypoints first.", inverted > 0, inverted)
    yield _view("swaps", "Keypoints put on another person; most keypoints first.", swapped > 0, swapped)


def _worst(table: pa.Table, by_oks: Bools) -> View:
    """severity is confidence × (1 - OKS), of single people the share of keypoints that are not right."""
    oks, severity = schema.values(table["oks"]), schema.values(table["severity"])
    if not by_oks.any():
        words = f"Found, and fewer than {WRONG:.0%} of the keypoints are right."
        return _view("worst", words, schema.valid(table["classes"]) & (severity > 1 - WRONG))
    with np.errstate(invalid="ignore", divide="ignore"):
        sure = by_oks & (severity >= SURE * (1 - oks))
    return _view(
        "worst",
        f"Found with OKS below {WRONG} although the model was surer than of half of its predictions: sure and wrong.",
        sure & (oks < WRONG),
    )


def _count(table: pa.Table, kind: Kind) -> Floats:
    """(R,) number of keypoints of one kind of error."""
    flat, offsets = schema.ragged(table["classes"])
    hits = np.concatenate([np.zeros(1), np.cumsum(flat == kind)])
    count: Floats = hits[offsets[1:]] - hits[offsets[:-1]]
    return count


def _missed_keypoints(table: pa.Table, skeletons: Mapping[str, Skeleton]) -> Iterator[View]:
    """A view a keypoint of those that are near no place where they could belong; the greatest error first."""
    for name, skeleton in skeletons.items():
        mine = schema.among(table["skeleton"], (name,)) & schema.valid(table["classes"])
        rows = np.flatnonzero(mine)
        if not len(rows):
            continue
        part = schema.take(table.select(["classes", "error_sigma", "error_px"]), rows)
        missed = schema.matrix(part["classes"], len(skeleton)) == Kind.MISS
        far = off_by(part, len(skeleton))
        most = np.sort(np.argsort(-missed.sum(0), kind="stable")[:KEYPOINTS])
        for k in most.tolist():
            by, mask = np.zeros(len(mine)), np.zeros(len(mine), bool)
            mask[rows], by[rows] = missed[:, k], np.nan_to_num(far[:, k], posinf=np.finfo(float).max)
            label = skeleton.keypoint_names[k]
            yield _view(
                f"missed {label}" if len(skeletons) == 1 else f"missed {label} ({name})",
                f"{label} predicted near no place where it could belong; the farthest first.", mask, by,
            )  # fmt: skip


def _of_labels(table: pa.Table) -> Iterator[View]:
    """Views of labels and surroundings."""
    better = f"by more than {CHANGED} (OKS, or share of right keypoints); most first."
    ranked = (
        ("suspicious", "suspicion", 0.0, "Labels that the model contradicts and is probably right; the surest first."),
        ("lost", "lost", CHANGED, f"People whom the other model found better {better}"),
    )
    for name, column, least, sentence in ranked:
        value = schema.values(table[column])
        yield _view(name, sentence, schema.valid(table[column]) & (value > least), value)
    loss, known = schema.values(table["loss"]), schema.valid(table["loss"])
    if known.any():
        most = known & (loss >= np.quantile(loss[known], 1 - HARDEST))
        yield _view(
            "loss", f"The {HARDEST:.0%} of people whom the training learned least; highest loss first.", most, loss
        )
    yield _never_seen(table)
    yield _view("findings", "People of whom the lint says something.", schema.valid(table["findings"]))
    whole = schema.lengths(schema.chunk(table["visibility"]))  # of a small skeleton
    few = _is(table, "annotation") & (schema.values(table["labelled"]) < np.minimum(FEW, whole))
    yield _view("few keypoints", f"Fewer than {FEW} labelled keypoints.", few)
    yield _view("crowded", f"People whose box overlaps with another's by more than {CROWDED} (IoU).",
                schema.values(table["crowding"], missing=0.0) > CROWDED)  # fmt: skip
    yield _view("occluded", "People most of whose labelled keypoints are occluded.",
                schema.values(table["occluded_share"], missing=0.0) > OCCLUDED)  # fmt: skip
    yield _view("truncated", "People whose box touches the edge of the image.",
                schema.values(table["truncated"]) & schema.valid(table["truncated"]))  # fmt: skip


def _never_seen(table: pa.Table) -> View:
    """Of predictions: who fails; of annotations alone everybody whose pose is strange."""
    distance, novelty = (
        schema.values(table["train_distance"], missing=0.0),
        schema.values(table["novelty"], missing=0.0),
    )
    return _view(
        "never seen",
        f"Who fails in a pose that is farther from every training pose than {NOVEL:.0%} of these are from each other; "
        "the farthest first.",
        (novelty > NOVEL) & ~_is(table, "good"), distance,
    )  # fmt: skip
