"""A dataset without predictions as a failures table: a row a person, with what the labels alone say."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.checks.view import View
from kpdata.dataset import Dataset
from kpdata.eval.failures import FAILURES, LARGE, SIZES, SMALL
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.geometry import box_from_keypoints

_PAD, _LEAST_PAD = 0.15, 8.0  # of the crop: a share of its longer side, and px (as in eval.failures)


def annotation_table(dataset: Dataset) -> pa.Table:
    """Rows of FAILURES, kind "annotation", of everybody with a skeleton who is no crowd, in the dataset's order.

    Columns of predictions, matches and errors are null. area: the file's, else its box's, else the keypoints' extent's.
    """
    view = View(dataset)
    tables, order = [], []
    for name, rows in dataset.groups():
        rows = rows[~view.crowd[rows]]
        if name is None or not len(rows):
            continue
        tables.append(_rows_of(view, name, rows))
        order.append(rows)
    if not tables:
        return schema.table(FAILURES, 0, {})
    return schema.take(pa.concat_tables(tables), np.argsort(np.concatenate(order), kind="stable"))


def _rows_of(view: View, name: str, rows: Ints) -> pa.Table:
    data, count = view.dataset, len(rows)
    width = len(data.skeletons[name])
    xy = schema.matrix(view.rows_of("keypoints", rows), 2 * width).reshape(count, width, 2)
    visibility = schema.matrix(view.rows_of("visibility", rows), width)
    labelled = visibility > 0
    drawn = labelled & np.isfinite(xy).all(2)
    shown = np.where(drawn[..., None], xy, np.nan)
    persons = data.persons
    columns = {
        "skeleton": schema.constant(name, count),
        "kind": schema.constant("annotation", count),
        "image_id": schema.fixed(schema.values(persons["image_id"])[rows], pa.int64()),
        "annotation_id": schema.fixed(schema.values(persons["annotation_id"])[rows], pa.int64()),
        "labelled": schema.fixed(labelled.sum(1), pa.int32()),
        "occluded": schema.fixed((visibility == schema.Visibility.OCCLUDED).sum(1), pa.int32()),
        "keypoints": schema.rows(shown),
        "visibility": schema.rows(visibility, kind=pa.int8()),
    }
    return schema.table(FAILURES, count, columns | _area(view, rows) | _crop(view, rows, shown, drawn))


def _area(view: View, rows: Ints) -> dict[str, pa.Array]:
    own = schema.values(view.dataset.persons["area"])[rows]
    area = np.where(own > 0, own, view.size_box[rows, 2:].prod(1))
    known = np.isfinite(area)
    size = np.where(known, (area >= SMALL).astype(np.int64) + (area > LARGE), -1)
    return {
        "area": schema.fixed(np.nan_to_num(area), pa.float64(), known),
        "size": schema.strings([SIZES[number] for number in size.tolist()]),
    }


def _crop(view: View, rows: Ints, xy: Floats, drawn: Bools) -> dict[str, pa.Array]:
    """file_name, width, height, and x0 … y1 around keypoints and box, padded, cut at the image."""
    own = np.where(view.tight_bbox[rows, None], view.bbox[rows], np.nan)
    boxes = [box_from_keypoints(xy, drawn.astype(np.int8)), own]
    low = np.fmin.reduce([box[:, :2] for box in boxes])
    high = np.fmax.reduce([box[:, :2] + box[:, 2:] for box in boxes])
    known = np.isfinite(low).all(1) & np.isfinite(high).all(1)
    pad = np.maximum(_PAD * (high - low).max(1, keepdims=True), _LEAST_PAD)
    size = view.person_size[rows]
    edge = np.where(np.isnan(size), np.inf, size)
    inside = np.clip(low - pad, 0, edge), np.clip(high + pad, 0, edge)
    some = (inside[1] > inside[0]).all(1, keepdims=True)
    corners = np.where(some, np.hstack(inside).reshape(len(rows), 4), np.hstack([low - pad, high + pad]))
    names = np.array([*schema.texts(view.dataset.images["file_name"]), None], object)[view.image_row[rows]]
    columns = {
        name: schema.fixed(corners[:, i], pa.float64(), known) for i, name in enumerate(("x0", "y0", "x1", "y1"))
    }
    for i, name in enumerate(("width", "height")):
        columns[name] = schema.fixed(np.nan_to_num(size[:, i]), pa.int32(), ~np.isnan(size[:, i]))
    return columns | {"file_name": schema.strings(names.tolist())}


def annotation_statistics(dataset: Dataset) -> tuple[dict[str, float], dict[str, pa.Table]]:
    """Counts of images, people and labelled keypoints, and by skeleton a row a keypoint, then "all": keypoint,
    labelled, occluded, visible."""
    view, tables, total = View(dataset), {}, 0
    for group in view.groups:
        levels = (schema.Visibility.OCCLUDED, schema.Visibility.VISIBLE)
        counts = [group.labelled.sum(0), *((group.visibility == level).sum(0) for level in levels)]
        columns = [schema.fixed(np.append(column, column.sum()), pa.int64()) for column in counts]
        names = schema.strings([*group.skeleton.keypoint_names, "all"])
        tables[group.skeleton.name] = pa.Table.from_arrays(
            [names, *columns], ["keypoint", "labelled", "occluded", "visible"]
        )
        total += int(counts[0].sum())
    stats = {"images": dataset.images.num_rows, "people": len(dataset), "labelled keypoints": total}
    return {name: float(number) for name, number in stats.items()}, tables
