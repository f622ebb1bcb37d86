"""COCO results (JSON list): predicted poses, or detector boxes alone.

The third number of a keypoint is a score that evaluators ignore: it goes to `keypoint_scores`, never blanks a
coordinate, and visibility is "unknown" throughout. A `bbox` in the first result changes what evaluators take for the
detection's area (pycocotools coco.py loadRes), so presence and absence of every key are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import files, schema
from kpdata.converters import _coco_parts, _coco_write, _columns, _json, _uncarried, coco
from kpdata.converters._coco_people import WHOLEBODY
from kpdata.converters._columns import Column
from kpdata.converters._source import Source
from kpdata.errors import FormatError
from kpdata.losses import LossReport
from kpdata.skeleton import Skeleton, from_category, load
from kpdata.statistics import people_per_image


def detect(source: Source) -> str | None:
    """A JSON list of objects with an `image_id` and keypoints or a box; an empty list is one too."""
    raw = source.json if source.looks_like_json else None
    if raw == []:
        return "an empty JSON list"
    if not isinstance(raw, list | _json.Rows):
        return None
    first = source.first_row()
    if isinstance(first, dict) and "image_id" in first and ("keypoints" in first or "bbox" in first):
        return "a JSON list of results with 'image_id'" + (
            " and 'keypoints'" if "keypoints" in first else " and boxes only"
        )
    return None


def read(path: Path | Source, *, skeleton: str | None = None) -> ds.Dataset:
    """A COCO results file. skeleton: a name or file; else the number of keypoints says it, where only one data set has
    so many. FormatError names the file, the row and the field of what the schema cannot hold.
    """
    source = Source.of(path)
    return source.decode(lambda raw: decode(raw, source=str(source.path), skeleton=skeleton))


def decode(raw: Any, *, source: str = "memory", skeleton: str | None = None) -> ds.Dataset:
    """The dataset of a parsed results list: one image row an image id, in order of first appearance."""
    if not isinstance(raw, list | _json.Rows):
        raise FormatError(source, f"a JSON {_json.kind(raw)}, expected a list of results")
    with _json.shallow(source):
        return _decode(raw, source, load(skeleton) if skeleton else None)


def _decode(raw: Any, source: str, skeleton: Skeleton | None) -> ds.Dataset:
    results = coco.Annotations(raw, source, results=True)
    ids = results.ids["image_id"].different()
    numbers = results.number_images([])
    images = coco.bare_images(ids, numbers, source)
    people = results.people({}, skeleton)
    facts = {
        "source_format": "coco_results",
        "variant": people.variant,
        "ids": "source",
        "area_kind": "none",
        "number_style": results.number_style(),
        **({"annotation_ids": "assigned"} if results.assigned else {}),
    }
    return ds.build(
        images.columns, people.columns, num_images=images.count, num_persons=results.count,
        name="coco_results", provenance=facts, skeletons=people.skeletons,
    )  # fmt: skip


def encode(dataset: ds.Dataset) -> tuple[list[dict[str, Any]], LossReport]:
    """The results list of a dataset as plain Python, and what it could not hold; see `document`."""
    text, losses = document(dataset)
    return _columns.parsed(text), losses


def document(dataset: ds.Dataset) -> tuple[bytes, LossReport]:
    """The JSON text of the results list of a dataset, and what it could not hold.

    Ground truth becomes predictions of score 1, those of a perfect model.
    People of other sources who have neither keypoints nor a box are left out and counted.
    """
    losses = LossReport("coco_results")
    ours = _coco_parts.of_formats(dataset, dataset.persons, ("coco_results",))
    empty = ~ours & ~schema.valid(dataset.persons["keypoints"]) & ~schema.valid(dataset.persons["bbox"])
    losses.lose("people without keypoints", int(empty.sum()), "a result is a pose or a box")
    extras = _coco_parts.own_extras(dataset.persons["extras"], ours, "extras of people", losses)
    _count_losses(dataset, ours, losses)
    _count_images(dataset, losses)
    if empty.any():
        dataset, ours = dataset.select(~empty), ours[~empty]
        extras = schema.chunk(extras).take(schema.fixed(np.flatnonzero(~empty), pa.int64()))
    style = _coco_parts.common_style(dataset)
    columns = [*_ids(dataset), *_keypoints(dataset, style), *_scalars(dataset, style, ours, losses)]
    return _columns.document(_columns.assemble(len(dataset), columns, extras)), losses


def write(dataset: ds.Dataset, path: Path, *, allow_lossy: bool = False, force: bool = False) -> LossReport:
    """Write a COCO results file."""
    files.refuse_existing(path, force)
    text, losses = document(dataset)
    losses.require(allow_lossy, path)
    files.write_bytes(path, text, force=force)
    return losses


def _ids(dataset: ds.Dataset) -> Iterable[Column]:
    persons = dataset.persons
    yield "image_id", _coco_parts.id_texts(dataset, persons["image_id"]), np.ones(len(dataset), bool)
    present = schema.valid(persons["category_id"])
    ours = _coco_parts.of_formats(dataset, persons, ("coco_results",))
    numbers = np.where(present, schema.values(persons["category_id"]), 1)
    # A result without category is its source's own affair; of other sources it is a person, COCO's 1.
    apart = _apart(dataset, numbers)
    yield "category_id", _columns.scalars(apart), present | ~ours | (apart != numbers)
    given = {
        name
        for name, d in dataset.datasets.items()
        if d.get("source_format") == "coco_results" and d.get("annotation_ids") != "assigned"
    }
    own = all(name in given for name in schema.texts(persons["dataset"]))  # ids of all results, or of none
    yield "id", _columns.scalars(schema.values(persons["annotation_id"])), np.full(len(dataset), own)


def _apart(dataset: ds.Dataset, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Category ids of which none stands for two skeletons: people of one category have one number of keypoints."""
    owners: dict[int, str] = {}
    numbers = numbers.copy()
    for bones, rows in _coco_write.posed(dataset):
        for number in np.unique(numbers[rows]).tolist():
            if owners.setdefault(number, bones.name) != bones.name:
                fresh = _coco_parts.free_number(owners)
                numbers[rows[numbers[rows] == number]] = fresh
                owners[fresh] = bones.name
    return numbers


def _keypoints(dataset: ds.Dataset, style: dict[str, str]) -> Iterable[Column]:
    """`keypoints` (and WholeBody's groups where the source had them apart) with the score as third number."""
    nested = any(d.get("variant") == "wholebody_nested" for d in dataset.datasets.values())
    blocks = [
        (rows, _triples(schema.take(dataset.persons, rows), len(bones)), nested and bones.name == WHOLEBODY)
        for bones, rows in _coco_write.posed(dataset)
    ]
    return _coco_write.keypoint_columns(len(dataset), blocks, style)


def _triples(people: pa.Table, count: int) -> NDArray[np.float64]:
    """(n, K, 3): x, y, score; a labelled keypoint without a score counts as 1, an absent one as 0, 0, 0."""
    xy = schema.matrix(people["keypoints"], 2 * count).reshape(-1, count, 2)
    labelled = schema.matrix(people["visibility"], count) > 0
    scores = schema.matrix(people["keypoint_scores"], count)
    scores = np.where(schema.valid(people["keypoint_scores"])[:, None], scores, labelled)
    block = np.concatenate([xy, scores[..., None]], axis=2)
    block[np.isnan(xy).all(-1) & ~labelled] = 0
    return block


def _scalars(
    dataset: ds.Dataset, style: dict[str, str], ours: NDArray[np.bool_], losses: LossReport
) -> Iterable[Column]:
    persons = dataset.persons
    scored = schema.valid(persons["score"])
    perfect = ~scored & ~ours
    losses.add("score", int(perfect.sum()), "people without a score are written with 1")
    scores = np.where(perfect, 1.0, schema.values(persons["score"], missing=0))
    yield "score", _columns.scalars(scores, style.get("annotations.score")), scored | perfect
    boxes = schema.valid(persons["bbox"]) & (ours | ~schema.valid(persons["keypoints"]))
    yield "bbox", _columns.column_lists(persons["bbox"], style.get("annotations.bbox")), boxes
    for key in ("area", "track_id", "num_keypoints", "iscrowd"):
        items = _columns.column_scalars(persons[key], style.get(f"annotations.{key}"))
        yield key, items, schema.valid(persons[key]) & ours
    for key, shapes, present in _coco_write.segmentations(persons, style):
        yield key, shapes, present & ours


_UNTOLD = (
    "area", "iscrowd", "num_keypoints", "segmentation", "rle", "head_bbox", "center", "scale", "track_id",
    "person_index",
)  # fmt: skip


def _count_losses(dataset: ds.Dataset, ours: NDArray[np.bool_], losses: LossReport) -> None:
    """What annotations say and results cannot: flags, areas, masks, boxes, images."""
    persons = dataset.persons
    flags, offsets = schema.ragged(persons["visibility"])
    occluded = (flags == schema.Visibility.OCCLUDED) & np.repeat(~ours, np.diff(offsets))
    losses.lose("occluded keypoints", int(occluded.sum()), "results hold no visibility")
    for key in _UNTOLD:
        losses.lose(key, int((schema.valid(persons[key]) & ~ours).sum()), f"results hold no {key!r}")
    boxes = schema.valid(persons["bbox"]) & schema.valid(persons["keypoints"]) & ~ours
    losses.lose("bbox", int(boxes.sum()), "a box beside keypoints changes how evaluators measure a detection's area")
    raw = int((schema.valid(persons["visibility_raw"]) & ~ours).sum())
    losses.lose("visibility_raw", raw, "people with third numbers that are no flags")
    numbered = {
        name for name, d in dataset.datasets.items()
        if (d.get("ids"), d.get("annotation_ids")) == ("source", None) and d.get("source_format") != "coco_results"
    }  # fmt: skip
    owners = schema.texts(persons["dataset"])
    losses.lose("ids", sum(name in numbered for name in owners), "results have no annotation ids")
    known = {bones.name for bones, rows in _coco_write.posed(dataset) if ours[rows].all() or _guessed(bones) == bones}
    unknown = {bones.name for bones, _ in _coco_write.posed(dataset)} - known
    losses.lose("skeleton", len(unknown), "results name no keypoints: read them with --skeleton")


def _guessed(bones: Skeleton) -> Skeleton:
    """What a reader takes for the skeleton of results with as many keypoints."""
    return from_category({}, num_keypoints=len(bones))


def _count_images(dataset: ds.Dataset, losses: LossReport) -> None:
    told = schema.valid(dataset.images["file_name"]) | (people_per_image(dataset) == 0)
    losses.lose("images", int(told.sum()), "file names, sizes and images without people: results hold image ids only")
    losses.lose("embedded pictures", dataset.blobs.num_rows, "results hold no pixels")
    _uncarried.beside(dataset, losses, "coco_results")
