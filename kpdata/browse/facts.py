"""What the table of people says besides the failures: surroundings, suspicions, lint, another model, losses.

Every function gives arrays or columns for people asked for by annotation id, in that order.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import checks, files, schema
from kpdata.arrays import lookup, pairs_in_images
from kpdata.checks.view import View
from kpdata.dataset import Dataset
from kpdata.errors import BrowseError
from kpdata.eval import suspects
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.eval.part import Part
from kpdata.geometry import box_iou

_BORDER = 1.0  # px: boxes are often rounded to whole pixels (as in eval.slices)
_EPOCHS = 5  # of a ledger, the last ones
_EXCHANGED = 0.5  # gain in similarity from which on twins count as exchanged (as in eval.suspects)


def missing(column: pa.ChunkedArray) -> Ints:
    """(R,) ids; -1 where null."""
    ids: Ints = schema.values(column, missing=-1).astype(np.int64)
    return ids


def pick(values: NDArray[np.generic], rows: Ints) -> NDArray[np.generic]:
    """`values` at `rows`; anything (a zero) where a row is -1: the caller makes it null."""
    return np.concatenate([values, np.zeros((1, *values.shape[1:]), values.dtype)])[rows]


# --------------------------------------------------------------------------------------------------------- surroundings


def surroundings(view: View) -> tuple[Floats, Bools, Bools]:
    """(N,) each of a dataset's people: crowding, truncated, and whether the latter is known.

    crowding: the greatest IoU of the person's box with another's in the image, crowds left out, 0 without others.
    truncated: the box touches an edge of the image (within 1 px). Boxes: the file's, else the keypoints' extent.
    """
    box, crowd = view.size_box, view.crowd
    rows = np.flatnonzero(~crowd & np.isfinite(box).all(1))
    image = view.image_row[rows]
    a, b = pairs_in_images(image, image)
    a, b = a[a < b], b[a < b]
    iou = np.nan_to_num(box_iou(box[rows[a]], box[rows[b]]))
    crowding = np.zeros(len(box))
    np.maximum.at(crowding, rows[a], iou)
    np.maximum.at(crowding, rows[b], iou)
    size = view.person_size
    known = np.isfinite(box).all(1) & np.isfinite(size).all(1)
    with np.errstate(invalid="ignore"):
        cut = (box[:, :2] <= _BORDER).any(1) | (box[:, :2] + box[:, 2:] >= size - _BORDER).any(1)
    return crowding, np.asarray(known & cut), np.asarray(known)


# ----------------------------------------------------------------------------------------------------------------- lint


def findings(dataset: Dataset, images: Path | None) -> tuple[Ints, list[str], Floats, list[str], dict[str, int]]:
    """What the lint says.

    Returns annotation ids (F,) of the people it says something of, the words for each, how bad (F,) (errors, then
    warnings, then notes), the sentences that concern no single person, and counts by level.
    """
    table = checks.validate(dataset, images=images)
    names = ("level", "code", "keypoint", "message")
    levels, codes, keypoints, messages = (schema.texts(table[name]) for name in names)
    ids = missing(table["annotation_id"])
    words: dict[int, dict[str, list[str]]] = {}
    weight: dict[int, float] = {}
    rest: dict[str, list[str]] = {}
    cost = dict(zip(checks.LEVELS, (1e6, 1e3, 1.0), strict=True))
    for level, code, keypoint, message, person in zip(levels, codes, keypoints, messages, ids.tolist(), strict=True):
        if person < 0:
            rest.setdefault(f"{level}: {code}", []).append(str(message))
        else:
            text = f"{keypoint} {message}" if keypoint else str(message)
            words.setdefault(person, {}).setdefault(f"{level}: {code}", []).append(text)
            weight[person] = weight.get(person, 0.0) + cost[str(level)]
    spare = [_first(kind, said) for kind, said in rest.items()]
    counts = {level: levels.count(level) for level in checks.LEVELS}
    texts = ["; ".join(_first(kind, said) for kind, said in kinds.items()) for kinds in words.values()]
    return np.array(list(words), np.int64), texts, np.array(list(weight.values()), np.float64), spare, counts


def _first(kind: str, said: list[str]) -> str:
    """warning: keypoint-outside-bbox: nose at …, expected … (and 6 more)"""
    return f"{kind}: {said[0]}" + (f" (and {len(said) - 1:,} more)" if len(said) > 1 else "")


# ----------------------------------------------------------------------------------------------------------- suspicions


def suspicions(gt: Dataset, suspected: Iterable[tuple[Part, pa.Table]], table: pa.Table) -> dict[str, pa.Array]:
    """suspicion, suspect, suspect_keypoints and proposed_keypoints for the rows of a failures table.

    A label that a review has confirmed (`review.confirmed`) is not suspected. Of several suspicions of a person the
    strongest says how sure, all say what and where, and where two propose a place the stronger is taken.
    """
    count = table.num_rows
    people, lone = missing(table["annotation_id"]), missing(table["detection_id"])
    lone = np.where(people >= 0, -1, lone)  # a prediction that has a person is no suspicion of its own
    score, words = np.full(count, np.nan), dict[int, list[str]]()
    cells: list[tuple[Ints, Ints, Floats]] = []
    confirmed = confirmed_ids(gt)
    for part, found in suspected:
        ids = missing(found["annotation_id"])
        named, nobody = _row_of(people, ids), _row_of(lone, missing(found["detection_id"]))
        rows = np.where(ids >= 0, named, nobody)
        kept = np.flatnonzero((rows >= 0) & ~np.isin(ids, confirmed))[::-1]  # the strongest is written last
        rows, found = rows[kept], schema.take(found, kept)
        proposed = proposals(part, found)
        s, k = np.nonzero(np.isfinite(proposed).all(-1) & _inside(table, rows, proposed))
        cells.append((rows[s], k, proposed[s, k]))
        score[rows] = schema.values(found["score"])
        for row, text in zip(rows.tolist()[::-1], schema.texts(found["words"])[::-1], strict=True):
            words.setdefault(row, []).append(str(text))
    told = ["; ".join(words[row]) if row in words else None for row in range(count)]
    suspected = np.isfinite(score)
    return {
        "suspicion": schema.fixed(score, pa.float64(), suspected),
        "suspect": schema.strings(told),
        **_cells(table, cells, suspected),
    }


def _inside(table: pa.Table, rows: Ints, proposed: Floats) -> Bools:
    """(S, K) of people whom nobody labelled only what lies in the image becomes a label; of others, everything."""
    edges = [np.where(schema.valid(table[n]), schema.values(table[n]), np.inf)[rows] for n in ("width", "height")]
    with np.errstate(invalid="ignore"):
        inside = ((proposed >= 0) & (proposed <= np.stack(edges, axis=1)[:, None] - 1)).all(-1)
    return np.asarray(inside | schema.valid(table["annotation_id"])[rows, None])


def _row_of(keys: Ints, wanted: Ints) -> Ints:
    """Rows whose key is wanted; keys of -1 are nobody's."""
    known = np.flatnonzero(keys >= 0)
    return np.append(known, -1)[lookup(keys[known], wanted)]


def _cells(table: pa.Table, cells: Iterable[tuple[Ints, Ints, Floats]], suspected: Bools) -> dict[str, pa.Array]:
    """suspect_keypoints and proposed_keypoints from (row, keypoint, place): lists of each row's own length."""
    widths = _widths(table)
    start = np.cumsum(widths) - widths
    flat = np.full((int(widths.sum()), 2), np.nan)
    for row, k, place in cells:
        flat[start[row] + k] = place
    filled = np.isfinite(flat).all(1)
    owner = np.repeat(np.arange(len(widths)), widths)
    column = np.arange(len(flat)) - start[owner]
    kept = suspected[owner]
    many = np.where(suspected, np.bincount(owner[filled], minlength=len(widths)), 0)
    return {
        "suspect_keypoints": schema.lists(column[filled & kept], many, suspected, pa.int32()),
        "proposed_keypoints": schema.lists(flat[kept].reshape(-1), np.where(suspected, 2 * widths, 0), suspected),
    }


def _widths(table: pa.Table) -> Ints:
    """(R,) number of keypoints of each row: half the length of whichever list of places it has."""
    both = [schema.lengths(schema.chunk(table[name])) // 2 for name in ("keypoints", "predicted_keypoints")]
    return np.maximum(*both)


def proposals(part: Part, found: pa.Table) -> Floats:
    """(S, K, 2) px: what each suspicion of `suspects.suspects` would make of the label; NaN where it would stay."""
    count, k = found.num_rows, len(part.skeleton)
    out = np.full((count, k, 2), np.nan)
    if not count:
        return out
    kind = np.array([suspects.KINDS.index(str(text)) for text in schema.texts(found["kind"])])
    g = lookup(part.truth_rows, missing(found["truth_row"]))
    d = lookup(part.detection_rows, missing(found["detection_row"]))
    step = np.stack([schema.values(found[f"proposed_{axis}"]) - schema.values(found[axis]) for axis in "xy"], axis=1)
    labelled = np.where((g >= 0)[:, None], part.truth.labelled[g], False)
    own, theirs = part.truth.keypoints[g], part.detections.keypoints[d]
    shifted = labelled & (kind == suspects.SHIFTED)[:, None]
    out[shifted] = (own + step[:, None])[shifted]
    twin = part.skeleton.flip_index() if part.skeleton.flip_pairs else np.arange(k)
    turned = _exchanged(part, g, own, theirs, twin) & labelled & labelled[:, twin]
    turned &= (kind == suspects.LEFT_RIGHT)[:, None]
    out[turned] = own[:, twin][turned]
    seen = (theirs != 0).any(-1) & np.isfinite(theirs).all(-1) & part.mask
    everybody = seen & (kind == suspects.UNLABELLED_PERSON)[:, None]
    out[everybody] = theirs[everybody]
    single = np.isin(kind, (suspects.WRONG_PERSON, suspects.MISPLACED, suspects.UNLABELLED_KEYPOINT))
    names = {name: i for i, name in enumerate(part.skeleton.keypoint_names)}
    rows = np.flatnonzero(single)
    columns = np.array([names.get(str(text), -1) for text in schema.texts(found["keypoint"])], np.int64)[rows]
    out[rows, columns] = theirs[rows, columns]
    return out


def _exchanged(part: Part, g: Ints, own: Floats, theirs: Floats, twin: NDArray[np.intp]) -> Bools:
    """(S, K) twins that fit the prediction better exchanged, by the rule of `suspects`: a pair gains over 0.5."""
    spread = 2 * np.square(2 * part.params.sigmas) * (part.truth.area[g, None] + np.spacing(1))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        same, turned = (
            np.nan_to_num(np.exp(-np.square(gap).sum(-1) / spread)) for gap in (theirs - own, theirs[:, twin] - own)
        )
    gain = turned - same
    return np.asarray((gain + gain[:, twin]) / 2 > _EXCHANGED)


def confirmed_ids(dataset: Dataset) -> Ints:
    """Annotation ids that reviews have confirmed (`decision: reject` of a suspicion), from the history."""
    entries = [entry.get("confirmed") for entry in dataset.history if entry.get("op") == "review"]
    return np.array([i for ids in entries if isinstance(ids, list) for i in ids if isinstance(i, int)], np.int64)


# -------------------------------------------------------------------------------------------------- errors and ledger


def off_by(table: pa.Table, width: int) -> Floats:
    """(R, K) how far off the keypoints of rows are, to order them by: in sigma units, of rows that have none in px."""
    sigma, px = (schema.matrix(table[name], width) for name in ("error_sigma", "error_px"))
    return np.where(schema.valid(table["error_sigma"])[:, None], sigma, px)


def losses(ledger: Path) -> tuple[Ints, Floats]:
    """Annotation ids (P,) of a training's ledger and the mean loss (P,) of their keypoints in its last epochs.

    ledger: the folder of a training, its folder `ledger`, or a Parquet file, with the columns annotation_id, epoch and
    loss (a list of a number a keypoint; those that are not finite do not count). The mean runs over the last 5 epochs:
    crops are drawn anew each epoch, so that one says little. BrowseError where it has not these columns.
    """
    ids, epoch, total, count = zip(*(_read_losses(file) for file in _parquet_files(ledger)), strict=True)
    when = np.concatenate(epoch)
    late = when >= np.unique(when)[-_EPOCHS:].min(initial=np.iinfo(np.int64).max)
    person, place = np.unique(np.concatenate(ids)[late], return_inverse=True)
    sums, counts = (np.bincount(place, np.concatenate(x)[late], len(person)) for x in (total, count))
    with np.errstate(invalid="ignore"):
        return person, sums / counts


def _parquet_files(ledger: Path) -> list[Path]:
    """The files of the last epochs: each holds at least one."""
    if not ledger.exists():
        raise BrowseError(f"{ledger}: there is no such ledger", hint="`kpdata train --ledger` writes one")
    inside = ledger / "ledger" if (ledger / "ledger").is_dir() else ledger
    found = sorted(inside.glob("*.parquet")) if inside.is_dir() else [inside]
    if not found:
        raise BrowseError(f"{inside}: no .parquet file in this folder, expected a training's ledger")
    return found[-_EPOCHS:]


def _read_losses(file: Path) -> tuple[Ints, Ints, Floats, Floats]:
    """(rows,) annotation ids, epochs, sums and counts of the losses."""
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file).read()
        flat, offsets = schema.ragged(table["loss"].cast(pa.list_(pa.float64())))
        ids = missing(table["annotation_id"].cast(pa.int64()))
        epoch = missing(table["epoch"].cast(pa.int64()))
    except (pa.ArrowException, KeyError) as error:
        expected = "expected the columns annotation_id, epoch and loss (a list of numbers)"
        raise BrowseError(f"{file}: not a training's ledger ({error}); {expected}") from error
    except OSError as error:
        raise files.unreadable(file, error) from error
    owner = np.repeat(np.arange(len(ids)), np.diff(offsets))
    known = np.isfinite(flat)
    total = np.bincount(owner[known], flat[known], len(ids)).astype(np.float64)
    return ids, epoch, total, np.bincount(owner[known], minlength=len(ids)).astype(np.float64)
