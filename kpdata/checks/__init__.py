"""The lint: every fault of a dataset in one run. One function a check (in this folder), dataset in, findings out.

Levels: an *error* is what breaks a tool or a number (`kpdata validate` exits 1); a *warning* is wrong in most cases,
and right in some; a *note* is a property to know of. Nothing is capped, mended or dropped.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.arrays import lookup
from kpdata.checks import keypoints, people
from kpdata.checks import source as sources
from kpdata.checks.view import Check, Faults, View
from kpdata.dataset import Dataset
from kpdata.errors import FormatError, SchemaError

LEVELS = ("error", "warning", "note")

# A row is one fault. file: the image's file name where the fault is of an image or a person, else the annotation file.
FINDINGS = pa.schema(
    [
        ("level", pa.string()),
        ("code", pa.string()),
        ("dataset", pa.string()),
        ("file", pa.string()),
        ("image_id", pa.int64()),
        ("annotation_id", pa.int64()),
        ("keypoint", pa.string()),
        ("message", pa.string()),
    ]
)

# These read the pictures, and so need their folder.
PICTURE_CHECKS: dict[str, Check] = {
    "image-missing": sources.image_missing,
    "image-unreadable": sources.image_unreadable,
    "image-size": sources.image_size,
    "image-rotated": sources.image_rotated,
}

CHECKS: dict[str, Check] = {
    "annotation-id-repeated": sources.annotation_id_repeated,
    "image-unknown": sources.image_unknown,
    "category-unknown": sources.category_unknown,
    "category-skeletons": sources.category_skeletons,
    "category-edges": sources.category_edges,
    "category-flips": sources.category_flips,
    "category-sigmas": sources.category_sigmas,
    "visibility-value": keypoints.visibility_value,
    "keypoint-not-finite": keypoints.keypoint_not_finite,
    "number-not-finite": people.number_not_finite,
    "num-keypoints": people.num_keypoints,
    "unlabelled-with-coordinates": keypoints.unlabelled_with_coordinates,
    "labelled-at-origin": keypoints.labelled_at_origin,
    "keypoint-outside-image": keypoints.keypoint_outside_image,
    "keypoint-outside-bbox": keypoints.keypoint_outside_bbox,
    "keypoints-at-one-point": keypoints.keypoints_at_one_point,
    "bbox-size": people.bbox_size,
    "bbox-outside-image": people.bbox_outside_image,
    "area-not-positive": people.area_not_positive,
    "area-above-bbox": people.area_above_bbox,
    "area-is-bbox": people.area_is_bbox,
    "duplicate-people": people.duplicate_people,
    "left-right-swapped": keypoints.left_right_swapped,
    "limb-length": keypoints.limb_length,
    "visibility-unused": keypoints.visibility_unused,
    "people-without-keypoints": people.people_without_keypoints,
    "image-without-facts": sources.image_without_facts,
    **PICTURE_CHECKS,
}


def validate(dataset: Dataset, *, images: Path | None = None, checks: Sequence[str] | None = None) -> pa.Table:
    """All faults of a dataset, a table of `FINDINGS`: errors, then warnings, then notes.

    Within a level: what its reader found, what concerns a whole dataset, then images, then people, in the order of the
    tables. images: the folder that file names start from; with it the pictures are opened and decoded. checks: codes of
    CHECKS to run alone, without the reader's findings.

    Raises SchemaError for an unknown code, or one of PICTURE_CHECKS without `images`; FormatError where `images` is no
    folder. Findings never raise.
    """
    chosen = _chosen(checks, images)
    view = View(dataset, images)
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and huge numbers are what we look for
        parts = [_listed(view, code, faults) for code in chosen for faults in CHECKS[code](view) if len(faults.rows)]
    if checks is None:
        parts = [*_by_reader(view), *parts]
    if not parts:
        return schema.table(FINDINGS, 0, {})
    together = pa.concat_tables([table for table, _ in parts])
    return schema.take(together, np.lexsort(np.concatenate([place for _, place in parts]).T[::-1]))


def summary(findings: pa.Table) -> dict[str, dict[str, int]]:
    """Number of findings by level (all three, the worst first) and code (the most frequent first)."""
    counts = Counter(zip(schema.texts(findings["level"]), schema.texts(findings["code"]), strict=True)).most_common()
    return {level: {str(code): n for (own, code), n in counts if own == level} for level in LEVELS}


def _chosen(checks: Sequence[str] | None, images: Path | None) -> Iterable[str]:
    if images is not None and not images.is_dir():
        raise FormatError(images, "there is no such folder", hint="images: the folder that the file names start from")
    if checks is None:
        return CHECKS
    for code in checks:
        if code not in CHECKS:
            near = difflib.get_close_matches(code, CHECKS, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"expected some of {', '.join(CHECKS)}"
            raise SchemaError(f"no check is named {code!r}", hint=hint)
        if code in PICTURE_CHECKS and images is None:
            raise SchemaError(f"the check {code!r} opens the pictures", hint="say which folder they are in")
    return dict.fromkeys(checks)


# ------------------------------------------------------------------------------------------------ faults to table rows

Listed = tuple[pa.Table, NDArray[np.int64]]  # rows of FINDINGS, and (F, 3) level, table and row to sort them by
_TABLES = ("reader", "datasets", "images", "persons")


def _listed(view: View, code: str, faults: Faults) -> Listed:
    """The rows of FINDINGS of some faults, and where they belong."""
    rows, count, data = faults.rows, len(faults.rows), view.dataset
    columns: dict[str, Any] = {
        "level": schema.constant(faults.level, count),
        "code": schema.constant(code, count),
        "message": schema.strings(faults.messages),
        "keypoint": schema.constant(None, count) if faults.keypoints is None else schema.strings(faults.keypoints),
    }
    number, image = rows, np.full(count, -1)
    if faults.table == "persons":
        number, image = view.person_dataset[rows], view.image_row[rows]
        columns["annotation_id"] = _values(data.persons["annotation_id"], rows)
        columns["image_id"] = _values(data.persons["image_id"], rows)
    elif faults.table == "images":
        number, image = view.image_dataset[rows], rows
        columns["image_id"] = _values(data.images["image_id"], rows)
    columns["dataset"] = schema.strings([view.names[i] for i in number.tolist()])
    columns["file"] = _files(view, number, image)
    place = np.full(count, LEVELS.index(faults.level)), np.full(count, _TABLES.index(faults.table)), rows
    return schema.table(FINDINGS, count, columns), np.stack(place, axis=1)


def _values(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> pa.Array:
    return schema.fixed(schema.values(column)[rows], pa.int64(), schema.valid(column)[rows])


def _files(view: View, number: NDArray[np.int64], image: NDArray[np.int64]) -> pa.Array:
    """(F,) the image's file name; where there is no image (row -1) or it has no name, that of the dataset's source."""
    known = schema.chunk(view.dataset.images["file_name"])
    names = schema.texts(known.take(schema.fixed(np.maximum(image, 0), pa.int64(), image >= 0)))
    return schema.strings([name or _source_file(view, i) for name, i in zip(names, number.tolist(), strict=True)])


def _source_file(view: View, number: int) -> str | None:
    files = view.facts(number).get("files") or [{}]
    name = files[0].get("name")
    return name if isinstance(name, str) else None


def _by_reader(view: View) -> Iterable[Listed]:
    """What readers found, which the tables cannot show any more (`findings` in provenance)."""
    for number, name in enumerate(view.names):
        found = [f for f in view.facts(number).get("findings") or () if isinstance(f, dict)]
        if not found:
            continue
        levels = [f["level"] if f.get("level") in LEVELS else "warning" for f in found]
        ids = {
            key: [f[key] if type(f.get(key)) is int else None for f in found] for key in ("image_id", "annotation_id")
        }
        images = np.array([-1 if i is None else i for i in ids["image_id"]], np.int64)
        row = lookup(schema.values(view.dataset.images["image_id"]), images)
        files = schema.texts(
            _files(view, np.full(len(found), number), np.where([i is None for i in ids["image_id"]], -1, row))
        )
        columns = {
            "level": schema.strings(levels),
            "code": schema.strings([str(f.get("code", "reader")) for f in found]),
            "dataset": schema.constant(name, len(found)),
            "file": schema.strings([_text(f, "file") or file for f, file in zip(found, files, strict=True)]),
            **{key: _whole(items) for key, items in ids.items()},
            "keypoint": schema.strings([_text(f, "keypoint") for f in found]),
            "message": schema.strings([_text(f, "message") or "" for f in found]),
        }
        place = (
            np.array([LEVELS.index(level) for level in levels]),
            np.zeros(len(found), np.int64),
            np.arange(len(found)),
        )
        yield schema.table(FINDINGS, len(found), columns), np.stack(place, axis=1)


def _text(finding: dict[str, Any], key: str) -> str | None:
    return finding[key] if isinstance(finding.get(key), str) else None


def _whole(items: Sequence[int | None]) -> pa.Array:
    present = np.array([item is not None for item in items], bool)
    return schema.fixed(np.array([item or 0 for item in items], np.int64), pa.int64(), present)
