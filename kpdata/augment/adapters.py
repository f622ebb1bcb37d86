"""Samples from and to what other training code holds: COCO annotations, Hugging Face data sets, torchvision.

- `CocoTransform(transform, skeleton)`: (picture, annotations) in and out, for any loop over plain dictionaries.
- `HuggingFaceTransform(transform, skeleton)`: what `dataset.set_transform` takes.
- `from_torchvision`, `to_torchvision`: `tv_tensors` in and out.

Neither datasets nor torch are imported: tensors are recognised by what they can do. Pixels keep kpdata's meaning: an
integer keypoint is the centre of a pixel, box edges are continuous (`kpdata.geometry`).
"""

from __future__ import annotations

import importlib
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata.augment import kernels
from kpdata.augment.kernels import Floats
from kpdata.augment.maps import Transform
from kpdata.augment.occlusion import segmentation
from kpdata.augment.reading import read_image
from kpdata.augment.rng import generator
from kpdata.augment.sample import Sample
from kpdata.errors import KpdataError, SchemaError
from kpdata.schema import Visibility
from kpdata.skeleton import Skeleton

Annotation = Mapping[str, Any]

# ------------------------------------------------------------------------------------------------------------ arrays


def as_array(value: Any) -> NDArray[Any]:
    """A NumPy array of a tensor (anything with `detach`, `cpu` or `numpy`), a list or an array."""
    for step in ("detach", "cpu", "numpy"):
        value = getattr(value, step)() if callable(getattr(value, step, None)) else value
    return np.asarray(value)


def _floats(value: Any, where: str) -> Floats:
    """The numbers of a tensor, array or nested list (None: NaN); SchemaError says `where`."""
    try:
        return as_array(value).astype(np.float64)
    except (TypeError, ValueError) as error:  # text, or lists of different lengths
        raise SchemaError(f"{where}: {reprlib.repr(value)}, expected numbers in lists of equal lengths") from error


def as_picture(value: Any, where: str = "image") -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of a Pillow image, an array (H, W), (H, W, 3) or (3, H, W), such a tensor, a path, or Hugging
    Face's `{"bytes": …, "path": …}`. SchemaError says `where` for anything else: floats have an unknown range."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | Path | bytes):
        return read_image(value, orientation="exif", name=where if isinstance(value, bytes) else None)
    if callable(getattr(value, "convert", None)):
        value = value.convert("RGB")
    array = as_array(value)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim == 3 and array.shape[2] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        hint = "augment before pictures become floats"
        raise SchemaError(f"{where}: {array.dtype} of shape {array.shape}, expected a uint8 RGB picture", hint=hint)
    return np.ascontiguousarray(array)


# -------------------------------------------------------------------------------------------------- COCO annotations


def from_coco(image: Any, annotations: Sequence[Annotation], skeleton: Skeleton, image_id: int | None = None) -> Sample:
    """A Sample of a picture (`as_picture`) and its annotations in COCO's form, in their order.

    keypoints: 3K numbers x, y, v (v: 0, 1 or 2; x = y = 0 with v 0 becomes NaN); a person without that key has none.
    bbox x, y, w, h; area; segmentation as polygons or RLE; id. Crowds come along. SchemaError names the annotation and
    its field.
    """
    picture, count = as_picture(image), len(skeleton)
    for row, annotation in enumerate(annotations):
        if not isinstance(annotation, Mapping):
            raise SchemaError(f"annotation at place {row}: {annotation!r}, expected a dictionary as COCO has them")
    rows = [_numbers(a, "keypoints", 3 * count) for a in annotations]
    flat = np.reshape([np.zeros(3 * count) if row is None else row for row in rows], (len(rows), count, 3))
    xy, seen = flat[..., :2].copy(), flat[..., 2]
    if not np.isin(seen, (0, 1, 2)).all():
        row = int(np.argmax(~np.isin(seen, (0, 1, 2)).all(axis=1)))
        raise SchemaError(f"{_named(annotations[row])}: visibility {np.unique(seen[row]).tolist()}, expected 0, 1 or 2")
    xy[(seen == 0) & (xy == 0).all(axis=-1)] = np.nan
    ids = [a.get("id") for a in annotations]
    boxes, areas = ([_numbers(a, key, n) for a in annotations] for key, n in (("bbox", 4), ("area", 1)))
    sample = Sample(
        picture,
        xy,
        seen.astype(np.int8),
        skeleton,
        bbox=np.reshape([np.full(4, np.nan) if box is None else box for box in boxes], (-1, 4)),
        area=np.reshape([np.full(1, np.nan) if area is None else area for area in areas], -1),
        polygons=tuple(_polygons(a) for a in annotations) if any("segmentation" in a for a in annotations) else None,
        annotation_ids=np.array(ids, np.int64) if all(isinstance(i, Integral) for i in ids) else None,
        image_id=image_id,
    )
    return _with_masks(sample, annotations)


def to_coco(sample: Sample, annotations: Sequence[Annotation] = ()) -> list[dict[str, Any]]:
    """The people as COCO annotations of plain numbers; bbox, area and segmentation where they are known.

    annotations: those that the sample was made of; their other keys are kept. They belong to the rows of the sample
    by order where there are as many with the same ids or none, else by id. num_keypoints is counted. Absent keypoints
    are 0, 0, 0; a visibility of 3 becomes 2. Points outside the picture stay (`kernels.absent_outside` for a data set
    that is written). Polygons are not cut; a person with a mask and no polygon gets an RLE.
    """
    people, ids = len(sample.keypoints), sample.annotation_ids
    seen = np.where(sample.visibility == Visibility.UNKNOWN, np.int8(2), sample.visibility)
    lost = (seen == 0) | ~np.isfinite(sample.keypoints).all(-1)
    flat = np.concatenate([sample.keypoints, seen[..., None]], axis=-1)
    flat[lost] = 0
    before: list[Annotation] = [{}] * people
    if len(annotations) == people and (ids is None or ids.tolist() == [a.get("id") for a in annotations]):
        before = list(annotations)
    elif ids is not None:
        known = {a.get("id"): a for a in annotations}
        before = [known.get(i, {}) for i in ids.tolist()]
    rows = zip(
        before, flat.reshape(people, 3 * len(sample.skeleton)).tolist(), (~lost).sum(axis=1).tolist(), strict=True
    )
    return [
        {**old, "keypoints": points, "num_keypoints": labelled, **_shape(sample, row, old)}
        for row, (old, points, labelled) in enumerate(rows)
    ]


@dataclass(frozen=True)
class CocoTransform:
    """A transform of kpdata for loops over pictures and annotations: `image, annotations = t(image, annotations, rng)`.

    The picture comes back as (H, W, 3) uint8, the annotations as new dictionaries (`to_coco`). rng: for instance
    `kpdata.augment.rng.generator(seed, epoch, index)`. Errors are those of `from_coco` and of the transform.
    """

    transform: Transform
    skeleton: Skeleton

    def __call__(
        self, image: Any, annotations: Sequence[Annotation], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
        after = self.transform(from_coco(image, annotations, self.skeleton), rng)
        return after.image, to_coco(after, annotations)


def _named(annotation: Annotation) -> str:
    return f"annotation {annotation.get('id', 'without id')}"


def _numbers(annotation: Annotation, key: str, count: int) -> Floats | None:
    """(count,) numbers of a field; None without it. SchemaError for another count, or what is no number."""
    value = annotation.get(key)
    if value is None:
        return None
    array = _floats(value, f"{_named(annotation)}: {key!r}").reshape(-1)
    if len(array) != count:
        raise SchemaError(f"{_named(annotation)}: {len(array)} numbers in {key!r}, expected {count}")
    return array


def _with_masks(sample: Sample, annotations: Sequence[Annotation]) -> Sample:
    """The sample with masks where an annotation has an RLE: then all have masks, drawn from polygons where need be."""
    coded = {row: a["segmentation"] for row, a in enumerate(annotations) if isinstance(a.get("segmentation"), Mapping)}
    if not coded:
        return sample
    size, drawn = sample.image.shape[:2], segmentation(sample)
    masks = np.zeros((len(sample.keypoints), *size), bool) if drawn is None else drawn
    for row, rle in coded.items():
        mask = kernels.decode_rle(dict(rle))
        if mask.shape != size:
            where = _named(annotations[row])
            raise SchemaError(f"{where}: segmentation of size {mask.shape}, the picture is {size}")
        masks[row] = mask
    return sample.changed(masks=masks)


def _polygons(annotation: Annotation) -> tuple[Floats, ...]:
    found = annotation.get("segmentation") or ()
    if isinstance(found, Mapping):
        return ()
    try:
        return tuple(np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in found)
    except (TypeError, ValueError) as error:
        message = f"{_named(annotation)}: segmentation, expected polygons of x, y pairs, or an RLE"
        raise SchemaError(message) from error


def _shape(sample: Sample, row: int, old: Annotation) -> dict[str, Any]:
    """Box, area, outline and ids of a person, as far as they are known."""
    assert sample.bbox is not None and sample.area is not None  # Sample fills them
    box, area, out = sample.bbox[row], sample.area[row], dict[str, Any]()
    if np.isfinite(box).all() or "bbox" in old:
        out["bbox"] = np.nan_to_num(box).tolist()
    if np.isfinite(area) or "area" in old:
        out["area"] = float(np.nan_to_num(area))
    if sample.polygons is not None and sample.polygons[row]:
        out["segmentation"] = [polygon.reshape(-1).tolist() for polygon in sample.polygons[row]]
    elif sample.masks is not None and ("segmentation" in old or sample.masks[row].any()):
        kind = old.get("segmentation")
        out["segmentation"] = kernels.encode_rle(
            sample.masks[row], like=dict(kind) if isinstance(kind, Mapping) else None
        )
    if sample.annotation_ids is not None:
        out["id"] = int(sample.annotation_ids[row])
    if sample.image_id is not None:
        out["image_id"] = sample.image_id
    return out


# ------------------------------------------------------------------------------------------------------ Hugging Face


@dataclass
class HuggingFaceTransform:
    """What `dataset.set_transform` takes: a batch of columns in, the same columns with augmented rows out.

    image: the column of pictures (`as_picture`); they come back as (H, W, 3) uint8. keypoints: the column of all people
    of a picture, (P, K, 2), (P, K, 3), flat (P, 2K), (P, 3K), or of one person without the P; it keeps its shape, as
    nested lists. The third number, or else the column `visibility` ((P, K), or (K,)), is 0 to 3; without either, points
    with finite numbers are visible. bbox: a column of (P, 4) or (4,) x, y, w, h. `objects.keypoints` names a field of a
    column of dictionaries. Other columns are left alone; a batch with none of the columns comes back as it is.

    seed None: new random numbers at every access. A seed gives equal numbers in every worker for equal `epoch` and
    number in the column `index`; set `epoch` before each epoch (workers see it if they are started anew, that is,
    without `persistent_workers`). SchemaError names the column and the row of the batch.
    """

    transform: Transform
    skeleton: Skeleton
    image: str = "image"
    keypoints: str = "keypoints"
    visibility: str | None = None
    bbox: str | None = None
    index: str | None = None
    seed: int | None = None
    epoch: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.seed is not None and self.index is None:
            hint = "dataset = dataset.add_column('row', range(len(dataset))), then index='row'"
            raise SchemaError(
                "HuggingFaceTransform: a seed without an index column: rows are told apart by it", hint=hint
            )

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        columns = [c for c in (self.image, self.keypoints, self.visibility, self.bbox, self.index) if c is not None]
        roots = {column.partition(".")[0] for column in columns}
        if not roots & set(batch):
            return dict(batch)
        if missing := sorted(roots - set(batch)):
            hint = "read whole rows (dataset[i]): a picture alone would not be augmented with its keypoints"
            raise SchemaError(f"HuggingFaceTransform: no column {missing}, found {sorted(batch)}", hint=hint)
        out = {name: list(values) if name in roots else values for name, values in batch.items()}
        for row in range(len(out[self.image.partition(".")[0]])):
            self._augment(out, row)
        return out

    def _augment(self, batch: dict[str, Any], row: int) -> None:
        """One row, in place of the lists that the caller made."""
        where = f"HuggingFaceTransform: row {row} of the batch, column"
        found = _floats(_cell(batch, row, self.keypoints, where), f"{where} {self.keypoints!r}")
        points = _people(found, len(self.skeleton), f"{where} {self.keypoints!r}")
        xy, seen = points[..., :2], _seen(points)
        if self.visibility is not None:
            shape = np.shape(
                stated := _floats(_cell(batch, row, self.visibility, where), f"{where} {self.visibility!r}")
            )
            if np.size(stated) != seen.size:
                raise SchemaError(f"{where} {self.visibility!r}: shape {shape}, expected {seen.shape}")
            seen = np.reshape(stated, seen.shape)
        if not np.isin(seen, list(Visibility)).all():
            raise SchemaError(f"{where} {self.visibility or self.keypoints!r}: visibility, expected 0 to 3")
        boxes = None if self.bbox is None else _floats(_cell(batch, row, self.bbox, where), f"{where} {self.bbox!r}")
        picture = as_picture(_cell(batch, row, self.image, where), f"{where} {self.image!r}")
        if boxes is not None and boxes.size != 4 * len(xy):
            raise SchemaError(f"{where} {self.bbox!r}: shape {boxes.shape}, expected ({len(xy)}, 4), one a person")
        bbox = None if boxes is None else boxes.reshape(-1, 4)
        after = self.transform(
            Sample(picture, xy, seen.astype(np.int8), self.skeleton, bbox=bbox), self._rng(batch, row)
        )
        if after.keypoints.shape != xy.shape:
            raise SchemaError(f"{where} {self.keypoints!r}: {len(xy)} people became {len(after.keypoints)}")
        joined = np.concatenate([after.keypoints, after.visibility[..., None]], axis=-1)[..., : points.shape[2]]
        _put(batch, row, self.image, after.image)
        _put(batch, row, self.keypoints, joined.reshape(found.shape).tolist())
        if self.visibility is not None:
            _put(batch, row, self.visibility, after.visibility.reshape(shape).tolist())
        if self.bbox is not None and boxes is not None and after.bbox is not None:
            _put(batch, row, self.bbox, after.bbox.reshape(boxes.shape).tolist())

    def _rng(self, batch: Mapping[str, Any], row: int) -> np.random.Generator:
        if self.seed is None or self.index is None:
            return np.random.default_rng()
        return generator(self.seed, self.epoch, int(_cell(batch, row, self.index, "HuggingFaceTransform: column")))


def _cell(batch: Mapping[str, Any], row: int, column: str, where: str) -> Any:
    name, _, key = column.partition(".")
    value = batch[name][row]
    if key and not (isinstance(value, Mapping) and key in value):
        raise SchemaError(
            f"{where} {name!r}: no field {key!r}, found {sorted(value) if isinstance(value, Mapping) else value!r}"
        )
    return value[key] if key else value


def _put(batch: dict[str, Any], row: int, column: str, value: Any) -> None:
    name, _, key = column.partition(".")
    batch[name][row] = {**batch[name][row], key: value} if key else value


def _people(array: Floats, count: int, where: str) -> Floats:
    """(P, K, 2 or 3) keypoints of any shape that `HuggingFaceTransform` takes."""
    if not array.size:
        return np.zeros((0, count, 2))
    for width in (2, 3):
        if array.ndim <= 3 and (array.shape[-2:] == (count, width) or array.shape[-1] == count * width):
            return array.reshape(-1, count, width)
    raise SchemaError(
        f"{where}: shape {array.shape}, expected (P, {count}, 2 or 3) or flat, (P, {2 * count} or {3 * count})"
    )


def _seen(points: Floats) -> NDArray[Any]:
    """(P, K) the third number of (P, K, 3) points; of (P, K, 2), 2 where they are finite and 0 elsewhere."""
    if points.shape[2] == 3:
        return points[..., 2]
    return np.where(np.isfinite(points).all(axis=2), np.int8(Visibility.VISIBLE), np.int8(Visibility.ABSENT))


# ------------------------------------------------------------------------------------------------------- torchvision


def from_torchvision(target: Mapping[str, Any], skeleton: Skeleton) -> Sample:
    """A Sample of torchvision's tensors, or of plain ones, on any device.

    image: (3, H, W) uint8. keypoints: (P, K, 2) px, `tv_tensors.KeyPoints` or a tensor; with a third number it is the
    visibility. visibility: (P, K) of 0 to 3; without it, finite points are visible. boxes: (P, 4) in their own `format`
    (XYXY, XYWH, CXCYWH; a plain tensor is XYXY). masks: (P, H, W). Only image and keypoints must be there.

    SchemaError for missing keys, rotated boxes, shapes that do not fit.
    """
    if missing := [key for key in ("image", "keypoints") if target.get(key) is None]:
        raise SchemaError(f"from_torchvision: no {missing}, found {sorted(target)}")
    points = _people(as_array(target["keypoints"]).astype(np.float64), len(skeleton), "from_torchvision: keypoints")
    seen = _seen(points)
    seen = seen if target.get("visibility") is None else as_array(target["visibility"])
    boxes, masks = target.get("boxes"), target.get("masks")
    return Sample(
        as_picture(target["image"], "from_torchvision: image"),
        points[..., :2],
        seen.astype(np.int8),
        skeleton,
        bbox=None if boxes is None else _box_corners(boxes),
        masks=None if masks is None else as_array(masks).astype(bool),
    )


def to_torchvision(sample: Sample) -> dict[str, Any]:
    """The sample as torchvision's tensors.

    `image` (tv_tensors.Image, 3 x H x W), `keypoints` (KeyPoints, (P, K, 2) float32), `visibility` ((P, K) int64),
    `boxes` (BoundingBoxes, XYXY float32) where all are known, `masks` (Mask) if present.

    torchvision's own geometry moves KeyPoints up to 1.2 px off the picture and swaps no left and right: transform with
    kpdata first. KpdataError without torchvision, or with one that has no KeyPoints yet.
    """
    tv, torch = _torchvision(), importlib.import_module("torch")
    height, width = sample.image.shape[:2]
    canvas = {"canvas_size": (height, width)}
    out = {
        "image": tv.Image(torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1)))),
        "keypoints": tv.KeyPoints(torch.from_numpy(sample.keypoints.astype(np.float32)), **canvas),
        "visibility": torch.from_numpy(sample.visibility.astype(np.int64)),
    }
    if sample.bbox is not None and np.isfinite(sample.bbox).all():
        corners = np.concatenate([sample.bbox[:, :2], sample.bbox[:, :2] + sample.bbox[:, 2:]], axis=1)
        out["boxes"] = tv.BoundingBoxes(torch.from_numpy(corners.astype(np.float32)), format="XYXY", **canvas)
    if sample.masks is not None:
        out["masks"] = tv.Mask(torch.from_numpy(sample.masks))
    return out


def _torchvision() -> Any:
    try:
        module = importlib.import_module("torchvision.tv_tensors")
    except ImportError as error:
        raise KpdataError("to_torchvision needs torchvision", hint="pip install torchvision") from error
    if not hasattr(module, "KeyPoints"):
        raise KpdataError("this torchvision has no tv_tensors.KeyPoints", hint="pip install --upgrade torchvision")
    return module


def _box_corners(boxes: Any) -> Floats:
    """(P, 4) x, y, w, h of torchvision's boxes."""
    told = getattr(boxes, "format", "XYXY")
    name, array = str(getattr(told, "value", told)).upper(), _floats(boxes, "from_torchvision: boxes")
    if array.size % 4:
        raise SchemaError(f"from_torchvision: boxes of shape {array.shape}, expected (P, 4)")
    array = array.reshape(-1, 4)
    first, second = array[:, :2], array[:, 2:]
    if name == "XYWH":
        return array
    if name == "CXCYWH":
        return np.concatenate([first - second / 2, second], axis=1)
    if name == "XYXY":
        return np.concatenate([first, second - first], axis=1)
    raise SchemaError(f"from_torchvision: boxes of format {name}, expected XYXY, XYWH or CXCYWH")
