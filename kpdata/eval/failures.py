"""Who fails, and how: the table behind the report and the browser, a row a person, worst first.

`failures` has a row for every person that counts (found or missed) and for every detection that was matched with
nobody. `matches` is the complete record for `--matches`: a row for every ground truth and for every detection, those
that count neither way among them. Both come from the same pairs and say the same of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import files, schema
from kpdata.arrays import lookup
from kpdata.errors import EvaluationError, WriteError
from kpdata.eval.errors import KeypointErrors, Kind, duplicates, proximity
from kpdata.eval.keypoints import distances, sigma_units
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.eval.part import ANALYSIS_OKS, Pairing, Part
from kpdata.eval.prepare import Sides
from kpdata.geometry import box_from_keypoints

# What happened to a person or a detection. Of a matched person: the kind of keypoint error that costs most.
KINDS = ("good", "jitter", "inversion", "swap", "miss", "missed person", "duplicate", "background", "ignored", "cut")
_MATCHED = (Kind.GOOD, Kind.JITTER, Kind.INVERSION, Kind.SWAP, Kind.MISS)  # in the order of KINDS
_MISSED, _DUPLICATE, _BACKGROUND, _IGNORED, _CUT = range(5, 10)
_PAD, _LEAST_PAD = 0.15, 8.0  # of the crop: a share of its longer side, and px
SMALL, LARGE = 32**2, 96**2  # COCO's bounds of "medium", square px
SIZES = ("small", "medium", "large", None)
_FARTHEST = 1e6  # px: predictions beyond are not shown

_LIST, _BYTES = pa.list_(pa.float64()), pa.list_(pa.int8())
FAILURES = pa.schema(
    [
        ("skeleton", pa.string()),
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("width", pa.int32()),  # of the image, px
        ("height", pa.int32()),
        ("annotation_id", pa.int64()),  # of the ground truth; null: background
        ("detection_id", pa.int64()),  # annotation_id of the prediction; null: missed person
        ("kind", pa.string()),  # one of KINDS
        ("severity", pa.float64()),  # 0…1: the order of the rows
        ("oks", pa.float64()),  # of the match; null where there is none
        ("score", pa.float64()),  # of the prediction; null: missed person
        ("area", pa.float64()),  # of the ground truth, square px
        ("size", pa.string()),  # small, medium or large: COCO's bounds of that area
        ("labelled", pa.int32()),  # ground truth keypoints that count
        ("occluded", pa.int32()),  # of these
        ("x0", pa.float64()),  # the crop: both skeletons and the ground truth's box, padded, cut at the image
        ("y0", pa.float64()),
        ("x1", pa.float64()),
        ("y1", pa.float64()),
        ("keypoints", _LIST),  # 2K, ground truth px, NaN where not labelled
        ("visibility", _BYTES),  # K, schema.Visibility
        ("predicted_keypoints", _LIST),  # 2K, px, NaN where there is none (also at 0, 0, as results write nothing)
        ("keypoint_scores", _LIST),  # K; null where the predictions have none
        ("error_px", _LIST),  # K, NaN where not labelled
        ("error_sigma", _LIST),  # K, as it enters OKS: the mean of exp(-z² / 2)
        ("classes", _BYTES),  # K, errors.Kind
    ]
)
_SHARED = ("skeleton", "image_id", "annotation_id", "detection_id", "kind", "oks", "score", "area")
MATCHES = pa.schema(
    [("side", pa.string())]  # "ground truth" or "prediction"
    + [FAILURES.field(name) for name in (*_SHARED, "error_px", "error_sigma", "classes")]
)


def failures(
    sides: Sides, pairings: Sequence[Pairing], errors: Sequence[KeypointErrors], *, by_confidence: bool = True
) -> pa.Table:
    """(R rows of FAILURES) every person that counts and every unmatched detection, worst first.

    pairings, errors: `part.pair` and `errors.classify` of each of `sides.parts`, in that order.

    `kind` of a matched person is the kind of error whose keypoints lose the most similarity together (on ties the
    graver: miss, swap, inversion, jitter), "good" where no keypoint has one. Of the others it is "missed person",
    "duplicate" (a detection that resembles a person whom a better one has found) or "background" (nobody there).

    Order: by `severity`, the confident and wrong first; ties by image and ids. Scores of different models have
    different scales, so confidence is the share of this skeleton's predictions that score no higher. severity is
    confidence × (1 − OKS) of a match, confidence of an unmatched detection; of a missed person, the share of people
    that are no larger × the share of the skeleton's keypoints that are labelled: how easy it was to find.
    by_confidence=False: predictions are all taken as equally sure, as those of single people have no scores.

    Raises EvaluationError where there is not one pairing and one classification a part.
    """
    _one_each(sides, pairings, errors)
    tables = [
        _table(FAILURES, sides, part, pairing, found, _failed(part, pairing, found), sure=not by_confidence)
        for part, pairing, found in zip(sides.parts, pairings, errors, strict=True)
    ]
    whole = pa.concat_tables(tables) if tables else schema.table(FAILURES, 0, {})
    keys = [schema.values(whole[name], missing=-1) for name in ("detection_id", "annotation_id", "image_id")]
    return schema.take(whole, np.lexsort((*keys, -schema.values(whole["severity"]))))


def matches(sides: Sides, pairings: Sequence[Pairing], errors: Sequence[KeypointErrors]) -> pa.Table:
    """(rows of MATCHES) of each part every ground truth, then every detection, in the order of the two datasets.

    A pair stands in two rows, one a side. Besides the kinds of `failures`: "ignored" is a crowd, a person without
    labelled keypoints or of no listed category or image, and a detection matched with one; "cut" is a detection that
    is not among the best `max_dets` of its image. Arguments and errors as of `failures`.
    """
    _one_each(sides, pairings, errors)
    tables = [
        _table(MATCHES, sides, part, pairing, found, rows, side)
        for part, pairing, found in zip(sides.parts, pairings, errors, strict=True)
        for side, rows in _everyone(part, pairing, found)
    ]
    return pa.concat_tables(tables) if tables else schema.table(MATCHES, 0, {})


def write_parquet(table: pa.Table, path: Path, *, force: bool = False) -> None:
    """Write a table as one Parquet file. DestinationExists without `force`; WriteError where the disk refuses, and for
    a name that promises another format."""
    import pyarrow.parquet as pq

    expect_parquet(path)
    with files.replacing(path, force=force) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def expect_parquet(path: Path) -> None:
    """WriteError for the name of another kind of file, such as x.csv; no ending at all is fine."""
    if path.suffix not in ("", ".parquet", ".pq"):
        hint = f"call it {path.with_suffix('.parquet').name}; pandas.read_parquet(...).to_csv(...) makes a table of it"
        raise WriteError(f"{path} would be a Parquet file, which its name does not say", hint=hint)


def worst_of_each(table: pa.Table, limit: int) -> Ints:
    """(≤ limit,) rows of a failures table: the worst of each kind in turn, in the table's order; "good" only last.

    The first rows alone would often be of one kind, and show one problem many times.
    """
    numbers = {kind: i for i, kind in enumerate(KINDS)}
    kind = np.array([numbers[str(text)] for text in schema.texts(table["kind"])], np.int64)
    order = np.argsort(kind, kind="stable")
    starts = np.searchsorted(kind[order], np.arange(len(KINDS)))
    turn = np.empty(len(kind), np.int64)
    turn[order] = np.arange(len(kind)) - starts[kind[order]]
    turn[kind == 0] += len(kind)
    chosen: Ints = np.sort(np.argsort(turn, kind="stable")[: max(limit, 0)])
    return chosen


def dominant(found: KeypointErrors) -> NDArray[np.int8]:
    """(P,) position in KINDS (0 to 4): the error kind whose keypoints lose most similarity; 0 where none is wrong."""
    loss = np.stack([np.where(found.kind == kind, 1 - found.similarity, 0).sum(1) for kind in _MATCHED[1:]])  # (4, P)
    has = np.stack([(found.kind == kind).any(1) for kind in _MATCHED[1:]])
    graver_first = np.where(has, loss, -1.0)[::-1]
    kind = np.where(has.any(0), len(loss) - graver_first.argmax(0), 0)
    return kind.astype(np.int8)


# ---------------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows to write, as places in a Part's arrays; -1 where there is none."""

    truth: Ints  # (R,) row of Part.truth
    detection: Ints  # (R,) row of Part.detections
    pair: Ints  # (R,) place in the Pairing
    kind: NDArray[np.int8]  # (R,) place in KINDS


def _one_each(sides: Sides, pairings: Sequence[Pairing], errors: Sequence[KeypointErrors]) -> None:
    if not len(sides.parts) == len(pairings) == len(errors):
        raise EvaluationError(
            f"{len(pairings)} pairings and {len(errors)} classifications for {len(sides.parts)} skeletons: expected "
            "one of each"
        )


def _failed(part: Part, pairing: Pairing, found: KeypointErrors) -> _Rows:
    pairs, missed, spurious = len(pairing.truth), len(pairing.missed), len(pairing.spurious)
    kinds = [dominant(found), np.full(missed, _MISSED, np.int8), _unmatched(part, pairing)]
    return _Rows(
        truth=np.concatenate([pairing.truth, pairing.missed, np.full(spurious, -1)]),
        detection=np.concatenate([pairing.detection, np.full(missed, -1), pairing.spurious]),
        pair=np.concatenate([np.arange(pairs), np.full(missed + spurious, -1)]),
        kind=np.concatenate(kinds),
    )


def _unmatched(part: Part, pairing: Pairing) -> NDArray[np.int8]:
    """(S,) place in KINDS of each of `pairing.spurious`."""
    twice = duplicates(part, pairing, proximity(part, ANALYSIS_OKS))
    return np.where(twice, _DUPLICATE, _BACKGROUND).astype(np.int8)


def _everyone(part: Part, pairing: Pairing, found: KeypointErrors) -> list[tuple[str, _Rows]]:
    """("ground truth", its rows) and ("prediction", theirs): all of a part, in table order."""
    people, results, kinds = len(part.truth_rows), len(part.detection_rows), dominant(found)
    by_truth, by_detection = _places(people, pairing.truth), _places(results, pairing.detection)
    truth_kind, detection_kind = np.full(people, _IGNORED, np.int8), np.full(results, _CUT, np.int8)
    detection_kind[part.matches.dt_row] = _IGNORED  # took part; what is said below overrules it
    truth_kind[pairing.truth], truth_kind[pairing.missed] = kinds, _MISSED
    detection_kind[pairing.detection], detection_kind[pairing.spurious] = kinds, _unmatched(part, pairing)
    return [
        ("ground truth", _Rows(np.arange(people), _at(pairing.detection, by_truth), by_truth, truth_kind)),
        ("prediction", _Rows(_at(pairing.truth, by_detection), np.arange(results), by_detection, detection_kind)),
    ]


def _places(count: int, rows: Ints) -> Ints:
    """(count,) place of each row in `rows`, -1 where it is not there."""
    place = np.full(count, -1)
    place[rows] = np.arange(len(rows))
    return place


def _at(values: Ints, place: Ints) -> Ints:
    """`values` at `place`; -1 where that is -1."""
    return np.append(values, -1)[place]


# ------------------------------------------------------------------------------------------------------------- columns


def _table(
    wanted: pa.Schema,
    sides: Sides,
    part: Part,
    pairing: Pairing,
    found: KeypointErrors,
    rows: _Rows,
    side: str = "",
    *,
    sure: bool = False,
) -> pa.Table:
    """The rows with the columns of `wanted`; columns of nobody (a background's ground truth) are null."""
    count = len(rows.kind)
    columns = _facts(sides, part, pairing, rows) | _errors(part, pairing, found, rows)
    if "side" in wanted.names:
        columns["side"] = schema.constant(side, count)
    if "severity" in wanted.names:
        seen = _predicted(part)
        columns |= _judgement(part, pairing, rows, sure) | _poses(part, rows, seen) | _crop(sides, part, rows, seen)
    return schema.table(wanted, count, {name: columns[name] for name in wanted.names})


def _facts(sides: Sides, part: Part, pairing: Pairing, rows: _Rows) -> dict[str, pa.Array]:
    person, result, pair = rows.truth >= 0, rows.detection >= 0, rows.pair >= 0
    ids = schema.values(sides.gt.persons["annotation_id"])[part.truth_rows]
    names = schema.values(sides.predictions.persons["annotation_id"])[part.detection_rows]
    return {
        "skeleton": schema.constant(part.skeleton.name, len(rows.kind)),
        "image_id": schema.fixed(_images(part, rows), pa.int64()),
        "annotation_id": schema.fixed(_pick(ids, rows.truth), pa.int64(), person),
        "detection_id": schema.fixed(_pick(names, rows.detection), pa.int64(), result),
        "kind": schema.repeated([KINDS[number] for number in rows.kind.tolist()]),
        "oks": schema.fixed(_pick(pairing.oks, rows.pair), pa.float64(), pair),
        "score": schema.fixed(_pick(part.detections.score, rows.detection), pa.float64(), result),
        "area": schema.fixed(_pick(part.truth.area, rows.truth), pa.float64(), person),
    }


def _pick(values: NDArray[Any], rows: Ints) -> NDArray[Any]:
    """`values` at `rows`; where a row is -1, anything (a zero): the caller makes it null."""
    return np.concatenate([values, np.zeros((1, *values.shape[1:]), values.dtype)])[rows]


def _images(part: Part, rows: _Rows) -> Ints:
    own, theirs = _pick(part.truth.image_id, rows.truth), _pick(part.detections.image_id, rows.detection)
    images: Ints = np.where(rows.truth >= 0, own, theirs)
    return images


def _errors(part: Part, pairing: Pairing, found: KeypointErrors, rows: _Rows) -> dict[str, pa.Array]:
    """error_px, error_sigma and classes of the matched."""
    pair = rows.pair >= 0
    return {
        "error_px": schema.rows(_pick(distances(part, pairing), rows.pair), pair),
        "error_sigma": schema.rows(_pick(sigma_units(part, pairing), rows.pair), pair),
        "classes": schema.rows(_pick(found.kind.astype(np.int8), rows.pair), pair, pa.int8()),
    }


def _judgement(part: Part, pairing: Pairing, rows: _Rows, sure: bool) -> dict[str, pa.Array]:
    """severity (see `failures`), size, labelled, occluded."""
    person = rows.truth >= 0
    labelled = part.truth.labelled.sum(1)
    hidden = (part.truth.labelled & (part.visibility == schema.Visibility.OCCLUDED)).sum(1)
    score = part.detections.score
    confidence = np.ones(len(score)) if sure else _share_below(score, score)
    easy = _share_below(part.truth.area[part.counted()], part.truth.area) * labelled / max(int(part.mask.sum()), 1)
    lost = np.where(rows.pair >= 0, 1 - _pick(pairing.oks, rows.pair), 1.0)
    severity = np.where(rows.detection >= 0, _pick(confidence, rows.detection) * lost, _pick(easy, rows.truth))
    area = _pick(part.truth.area, rows.truth)
    size = np.where(person, (area >= SMALL).astype(np.int64) + (area > LARGE), -1)
    return {
        "severity": schema.fixed(np.nan_to_num(severity), pa.float64()),
        "size": schema.strings([SIZES[number] for number in size.tolist()]),
        "labelled": schema.fixed(_pick(labelled, rows.truth), pa.int32(), person),
        "occluded": schema.fixed(_pick(hidden, rows.truth), pa.int32(), person),
    }


def _share_below(many: Floats, values: Floats) -> Floats:
    """Share of `many` that are no larger than each value; 0 for NaN."""
    known = np.sort(many[~np.isnan(many)])
    share = np.searchsorted(known, values, side="right") / max(len(known), 1)
    return np.where(np.isnan(values), 0.0, share)


def _poses(part: Part, rows: _Rows, seen: Bools) -> dict[str, pa.Array]:
    person, result = rows.truth >= 0, rows.detection >= 0
    own = np.where(part.truth.labelled[..., None], part.truth.keypoints, np.nan)
    theirs = np.where(seen[..., None], part.detections.keypoints, np.nan)
    visibility = np.where(part.truth.labelled, part.visibility, 0).astype(np.int8)
    scored = np.asarray(result & ~np.isnan(_pick(part.keypoint_scores, rows.detection)).all(axis=1), np.bool_)
    return {
        "keypoints": schema.rows(_pick(own, rows.truth), person),
        "visibility": schema.rows(_pick(visibility, rows.truth), person, pa.int8()),
        "predicted_keypoints": schema.rows(_pick(theirs, rows.detection), result),
        "keypoint_scores": schema.rows(_pick(part.keypoint_scores, rows.detection), scored),
    }


def _predicted(part: Part) -> Bools:
    """(M, K) keypoints to show: results files write nothing as 0, 0, and a remap leaves some without source."""
    places = part.detections.keypoints
    return np.asarray((places != 0).any(2) & (np.abs(places) < _FARTHEST).all(2) & part.mask)


def _crop(sides: Sides, part: Part, rows: _Rows, seen: Bools) -> dict[str, pa.Array]:
    """file_name, width, height, and x0, y0, x1, y1: null where nothing has a finite place."""
    images, place = sides.gt.images, lookup(schema.values(sides.gt.images["image_id"]), _images(part, rows))
    box = _union(part, rows, seen)  # (R, 4) x0, y0, x1, y1
    known = np.asarray(np.isfinite(box).all(axis=1), np.bool_)
    pad = np.maximum(_PAD * (box[:, 2:] - box[:, :2]).max(1, keepdims=True), _LEAST_PAD)
    box = np.concatenate([box[:, :2] - pad, box[:, 2:] + pad], axis=1)
    size = np.stack([_edge(images[name])[place] for name in ("width", "height")], axis=1)
    inside = np.clip(box, 0, np.tile(np.where(np.isnan(size), np.inf, size), 2))
    some = (inside[:, 2:] > inside[:, :2]).all(1, keepdims=True)
    box = np.where(some, inside, box)  # of somebody wholly outside the image the skeletons are all there is to see
    names = np.array([*schema.texts(images["file_name"]), None], object)[place]
    columns = {name: schema.fixed(box[:, i], pa.float64(), known) for i, name in enumerate(("x0", "y0", "x1", "y1"))}
    for i, name in enumerate(("width", "height")):
        columns[name] = schema.fixed(np.nan_to_num(size[:, i]), pa.int32(), ~np.isnan(size[:, i]))
    return columns | {"file_name": schema.strings(names.tolist())}


def _edge(column: pa.ChunkedArray) -> Floats:
    """Sizes of the images, and one that is not known (NaN) for images that are not listed."""
    return np.append(np.where(schema.valid(column), schema.values(column).astype(np.float64), np.nan), np.nan)


def _union(part: Part, rows: _Rows, seen: Bools) -> Floats:
    """(R, 4) corners around the labelled keypoints, the predicted ones and the ground truth's box; NaN: nothing."""
    boxes = [
        _corners(box_from_keypoints(part.truth.keypoints, part.truth.labelled.astype(np.int8)), rows.truth),
        _corners(np.where(part.truth.bbox[:, 2:].min(1) > 0, part.truth.bbox.T, np.nan).T, rows.truth),
        _corners(box_from_keypoints(part.detections.keypoints, seen.astype(np.int8)), rows.detection),
    ]
    low = np.fmin.reduce([box[:, :2] for box in boxes])
    high = np.fmax.reduce([box[:, 2:] for box in boxes])
    return np.concatenate([low, high], axis=1)


def _corners(boxes: Floats, rows: Ints) -> Floats:
    """x, y, w, h at `rows` as x0, y0, x1, y1; NaN where a row is -1."""
    chosen = np.where((rows >= 0)[:, None], _pick(boxes, rows), np.nan)
    return np.concatenate([chosen[:, :2], chosen[:, :2] + chosen[:, 2:]], axis=1)
