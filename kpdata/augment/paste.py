"""People and objects cut out of other pictures and pasted in front of people.

A `Pasteboard` holds the cut-outs, each with the ids of where it is from; `PastePerson` and `PasteObject` draw from it.
The labels of whoever stands behind follow the rules of `kpdata.augment.occlusion`; what was pasted, from where and how,
stands in `sample.extras["pasted"]`, a tuple of a JSON-ready dictionary for each: `image_id`, `annotation_id`, `matrix`
(pixel of the cut-out's picture -> pixel of the sample) and `row`, its row among the people or None.

Copy and paste with a soft edge is Dwibedi et al., Cut, Paste and Learn, ICCV 2017, arXiv:1708.01642; objects of other
classes as occluders of people: Sarandi et al., arXiv:1808.09316. No published top-down recipe pastes people.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kpdata import schema
from kpdata.augment import kernels
from kpdata.augment.image import opencv, warp
from kpdata.augment.occlusion import (
    Covered,
    Floats,
    Ints,
    Mask,
    Pixels,
    Range,
    boxes_of_masks,
    check_covered,
    check_range,
    check_share,
    covered_keypoints,
    hide,
    occlude,
    rasterise,
    segmentation,
)
from kpdata.augment.reading import read_image
from kpdata.augment.sample import Sample
from kpdata.augment.samples import PER_PERSON
from kpdata.dataset import Dataset
from kpdata.errors import SchemaError
from kpdata.geometry import box_from_keypoints
from kpdata.skeleton import Skeleton

# ------------------------------------------------------------------------------------------------------- the pasteboard


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """Somebody or something, cut out. Coordinates are px of the picture that it is from.

    image (h, w, 3) and mask (h, w) bool: the smallest rectangle that holds the mask; origin: its left column and top
    row. A person has keypoints (K, 2), visibility (K,), bbox (4,) and area as labelled, an object has None and NaN.
    """

    image: Pixels
    mask: Mask
    origin: tuple[int, int]
    image_id: int | None = None
    annotation_id: int | None = None
    keypoints: Floats | None = None
    visibility: NDArray[np.int8] | None = None
    bbox: Floats = field(default_factory=lambda: np.full(4, np.nan))
    area: float = float("nan")

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x, y, w, h of the pixels of the mask."""
        height, width = self.mask.shape
        return float(self.origin[0]), float(self.origin[1]), float(width), float(height)


@dataclass(frozen=True, slots=True, eq=False)
class Pasteboard:
    """Cut-outs of people of one skeleton, or (skeleton None) of objects. SchemaError where there is none.

    It is held in memory: a cut-out takes 4 bytes a pixel of its rectangle.
    """

    cutouts: tuple[Cutout, ...]
    skeleton: Skeleton | None = None
    boxes: Floats = field(init=False)  # (N, 4) of the masks
    _image_ids: Ints = field(init=False)
    _annotation_ids: Ints = field(init=False)

    def __post_init__(self) -> None:
        if not self.cutouts:
            hint = "a cut-out needs a mask or a polygon of at least `smallest` px squared that is no crowd"
            raise SchemaError("a Pasteboard without cut-outs", hint=hint)
        if any((cutout.keypoints is None) != (self.skeleton is None) for cutout in self.cutouts):
            raise SchemaError("a Pasteboard holds people, who have keypoints, and a skeleton, or objects, and none")
        object.__setattr__(self, "boxes", np.array([cutout.box for cutout in self.cutouts]))
        for name in ("image_id", "annotation_id"):
            ids = [getattr(cutout, name) for cutout in self.cutouts]
            object.__setattr__(self, f"_{name}s", np.array([-1 if i is None else i for i in ids], np.int64))

    def __len__(self) -> int:
        return len(self.cutouts)

    def free_for(self, sample: Sample) -> Ints:
        """Rows of the cut-outs that are of another picture and of nobody who is in the sample already, by their ids."""
        there = np.zeros(len(self), bool)
        if sample.image_id is not None:
            there |= (self._image_ids == sample.image_id) & (self._image_ids >= 0)
        if sample.annotation_ids is not None:
            there |= np.isin(self._annotation_ids, sample.annotation_ids) & (self._annotation_ids >= 0)
        return np.flatnonzero(~there)

    @classmethod
    def from_samples(cls, samples: Iterable[Sample], *, smallest: float = 32.0, whole: float = 0.5) -> Pasteboard:
        """The people of samples that have masks or polygons; pixels as in the sample.

        smallest: px; people whose mask has fewer than smallest² pixels are left out, and so are crowds
        (`extras["iscrowd"]`) and people without a labelled keypoint. whole: least share of the labelled keypoints that
        lie on the mask, so that nobody is pasted of whom only pieces could be seen. SchemaError where nobody is left or
        the samples have several skeletons.
        """
        cutouts: list[Cutout] = []
        skeletons: list[Skeleton] = []
        for sample in samples:
            skeletons += [] if sample.skeleton in skeletons else [sample.skeleton]
            if len(skeletons) > 1:
                raise SchemaError(f"samples of several skeletons: {', '.join(s.name for s in skeletons)}, expected one")
            cutouts += _people_of(sample, smallest, whole)
        return cls(tuple(cutouts), skeletons[0] if skeletons else None)

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        images_dir: Path | str,
        *,
        of: Literal["people", "objects"] = "people",
        limit: int = 256,
        seed: int = 0,
        smallest: float = 32.0,
        whole: float = 0.5,
    ) -> Pasteboard:
        """At most `limit` cut-outs of a dataset with masks or polygons, chosen by `seed`; each picture is read once.

        of: "people" have a skeleton and a labelled keypoint; "objects" have none, as the other categories of a COCO
        instances file. smallest, whole, crowds: as in `from_samples`; what is chosen and then found too small leaves.
        SchemaError names an annotation whose mask is of another size than its picture; FormatError a picture that
        cannot be read.
        """
        if of not in ("people", "objects"):
            raise SchemaError(f"of={of!r}, expected 'people' or 'objects'")
        rows = _candidates(dataset, of, smallest)
        if len(rows) > limit:
            rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
        cutouts = _cut_rows(dataset, Path(images_dir), rows, of)
        kept = tuple(c for c in cutouts if c.mask.sum() >= smallest**2 and _share_seen(c) >= whole)
        return cls(kept, dataset.skeleton if of == "people" else None)


def _share_seen(cutout: Cutout) -> float:
    """Share of the labelled keypoints that lie on the mask; 1 for objects."""
    if cutout.keypoints is None or cutout.visibility is None:
        return 1.0
    on_mask = covered_keypoints((cutout.keypoints - cutout.origin)[None], cutout.mask)[0]
    labelled = cutout.visibility > 0
    return float((on_mask & labelled).sum() / max(labelled.sum(), 1))


def _people_of(sample: Sample, smallest: float, whole: float) -> Iterator[Cutout]:
    masks = segmentation(sample)
    if masks is None:
        return
    crowd = np.asarray(sample.extras.get("iscrowd", np.zeros(len(masks), bool)))
    good = (masks.sum((1, 2)) >= max(smallest**2, 1)) & ~crowd & (sample.visibility > 0).any(1)
    boxes = boxes_of_masks(masks)
    for i in np.flatnonzero(good).tolist():
        cutout = _cut(
            sample.image,
            masks[i],
            boxes[i],
            image_id=sample.image_id,
            annotation_id=None if sample.annotation_ids is None else int(sample.annotation_ids[i]),
            keypoints=sample.keypoints[i],
            visibility=sample.visibility[i],
            bbox=np.asarray(sample.bbox)[i],
            area=float(np.asarray(sample.area)[i]),
        )
        if _share_seen(cutout) >= whole:
            yield cutout


def _cut(image: Pixels, mask: Mask, box: Floats, **facts: Any) -> Cutout:
    x, y, width, height = box.astype(int).tolist()
    window = slice(y, y + height), slice(x, x + width)
    return Cutout(image[window].copy(), mask[window].copy(), (x, y), **facts)


def _candidates(dataset: Dataset, of: str, smallest: float) -> Ints:
    """Rows of `persons` that may be cut out: with a mask, large enough as far as the table says, no crowd."""
    persons = dataset.persons
    masked = schema.valid(persons["segmentation"]) | schema.valid(persons["rle"])
    crowd = schema.values(persons["iscrowd"], missing=False).astype(bool)
    small = schema.values(persons["area"]) < smallest**2 / 2  # the exact number is that of the mask, later
    skeleton = schema.valid(persons["skeleton"])
    kind = ~skeleton
    if of == "people":
        kind = skeleton & (dataset.visibility > 0).any(1)
    rows: Ints = np.flatnonzero(masked & ~crowd & ~small & kind & (dataset.image_rows() >= 0))
    return rows


def _cut_rows(dataset: Dataset, images_dir: Path, rows: Ints, of: str) -> Iterator[Cutout]:
    """The cut-outs of these people or objects, picture by picture."""
    images = dataset.image_rows()[rows]
    order = np.argsort(images, kind="stable")
    names = schema.texts(dataset.images["file_name"])
    sizes = np.stack([schema.values(dataset.images[side]) for side in ("width", "height")], axis=1)
    known = schema.valid(dataset.images["width"]) & schema.valid(dataset.images["height"])
    people = _people_columns(dataset, rows) if of == "people" else None
    image, last = np.zeros((0, 0, 3), np.uint8), -1
    for i in order.tolist():
        place = int(images[i])
        if place != last:
            size = (int(sizes[place, 0]), int(sizes[place, 1])) if known[place] else None
            image, last = read_image(images_dir / (names[place] or ""), size), place
        person = schema.take(dataset.persons, rows[i : i + 1]).to_pylist()[0]
        mask = _mask(person, (image.shape[1], image.shape[0]))
        facts = {} if people is None else {name: column[i] for name, column in people.items()}
        if mask.any():
            ids = {"image_id": person["image_id"], "annotation_id": person["annotation_id"]}
            yield _cut(image, mask, boxes_of_masks(mask[None])[0], **ids, **facts)


def _people_columns(dataset: Dataset, rows: Ints) -> dict[str, NDArray[Any]]:
    return {
        "keypoints": dataset.keypoints[rows],
        "visibility": dataset.visibility[rows],
        "bbox": schema.matrix(dataset.persons["bbox"], 4)[rows],
        "area": schema.values(dataset.persons["area"])[rows],
    }


def _mask(person: dict[str, Any], size: tuple[int, int]) -> Mask:
    """(H, W) bool of a row's run-length mask or polygons."""
    mask: Mask
    if person["rle"] is None:
        mask = rasterise([[np.reshape(polygon, (-1, 2)) for polygon in person["segmentation"]]], size)[0]
        return mask
    mask = kernels.decode_rle(json.loads(person["rle"]))
    if mask.shape != size[::-1]:
        raise SchemaError(
            f"annotation {person['annotation_id']}: a mask of {mask.shape[1]} x {mask.shape[0]} px in a picture of "
            f"{size[0]} x {size[1]} px",
            hint="is this the picture that was annotated?",
        )
    return mask


# ------------------------------------------------------------------------------------------------------------- pasting


def paste(
    sample: Sample,
    cutout: Cutout,
    matrix: Floats,
    *,
    feather: float = 1.0,
    labelled: bool = False,
    covered: Covered = "occluded",
    modal: bool = False,
) -> Sample:
    """The sample with the cut-out in front of everybody; `matrix` (3, 3): pixel of its picture -> pixel of the sample.

    feather: px, sigma of the Gaussian that softens the edge; 0: a hard edge. What is more than half opaque covers what
    lies behind. covered, modal: as in `kpdata.augment.occlusion`.

    labelled: a person becomes the last row of the sample. Keypoints, box, area follow the matrix, left and right change
    places under a mirror; keypoints that were visible but lie beside the pasted pixels (the mask left them out) are
    treated as `covered` says; those outside the picture keep what they were, as after any crop. Its annotation id
    is that of the cut-out (-1: none) where the sample has ids, its entry in `extras["rows"]` is -1; masks are made
    where the sample has polygons.
    Nothing happens where no pixel of the cut-out is in the picture.
    """
    window, alpha, pixels = _placed(sample, cutout, matrix, feather)
    opaque = alpha >= 0.5
    if not opaque.any():
        return sample
    image, cover = sample.image.copy(), np.zeros(sample.image.shape[:2], bool)
    behind = image[window]
    image[window] = np.rint(behind + (pixels - behind.astype(np.float32)) * alpha[..., None])
    cover[window] = opaque
    row = len(sample.keypoints) if labelled else None
    note = {"image_id": cutout.image_id, "annotation_id": cutout.annotation_id, "matrix": matrix.tolist(), "row": row}
    out = occlude(sample, cover, image, covered, modal)
    out = out.changed(extras={**out.extras, "pasted": (*out.extras.get("pasted", ()), note)})
    return _with_person(out, cutout, matrix, cover, covered) if labelled else out


def _placed(
    sample: Sample, cutout: Cutout, matrix: Floats, feather: float
) -> tuple[tuple[slice, slice], NDArray[np.float32], Pixels]:
    """The window of the picture that the cut-out reaches, and there its opacity (h, w) 0 to 1 and pixels (h, w, 3)."""
    margin = 3 * feather + 1
    low, sides = np.split(kernels.warp_boxes(np.array(cutout.box), matrix), 2)
    first = np.clip(np.floor(low - margin), 0, sample.size).astype(int)
    stop = np.clip(np.ceil(low + sides + margin), 0, sample.size).astype(int)
    window = slice(first[1], stop[1]), slice(first[0], stop[0])
    width, height = (stop - first).tolist()
    if min(width, height) < 1:
        return window, np.zeros((0, 0), np.float32), np.zeros((0, 0, 3), np.uint8)
    local = kernels.translate(-first[0], -first[1]) @ matrix @ kernels.translate(*cutout.origin)
    mask = np.repeat(cutout.mask[..., None], 3, axis=2) * np.uint8(255)
    alpha: NDArray[np.float32] = warp(mask, local, (width, height))[..., 0].astype(np.float32) / np.float32(255)
    pixels = warp(cutout.image, local, (width, height), "replicate")
    if feather > 0:
        alpha = np.asarray(opencv("pasting with a soft edge").GaussianBlur(alpha, (0, 0), feather), np.float32)
    else:
        alpha = (alpha >= 0.5).astype(np.float32)
    return window, alpha, pixels


def _with_person(sample: Sample, cutout: Cutout, matrix: Floats, cover: Mask, covered: Covered) -> Sample:
    """One row more: the person of the cut-out, whose pixels in the picture are `cover` (H, W)."""
    if cutout.keypoints is None or cutout.visibility is None:
        raise SchemaError(
            "labelled=True: this cut-out is an object, without keypoints", hint="labelled=False pastes it"
        )
    xy, visibility = (
        kernels.warp_keypoints(cutout.keypoints, matrix)[None],
        cutout.visibility[None],
    )  # (1, K, 2), (1, K)
    if kernels.mirrors(matrix):
        xy, visibility = (kernels.swap(array, sample.skeleton) for array in (xy, visibility))
    inside = covered_keypoints(xy, np.ones_like(cover))
    beside = inside & ~covered_keypoints(xy, cover) & (visibility > schema.Visibility.OCCLUDED)
    new: dict[str, Any] = {
        "keypoints": xy,
        "visibility": hide(visibility, beside, covered),
        "bbox": kernels.warp_boxes(cutout.bbox, matrix)[None],
        "area": kernels.warp_area(np.array([cutout.area]), matrix),
        "center": np.full((1, 2), np.nan),
        "scale": np.full((1, 2), np.nan),
    }
    if sample.annotation_ids is not None:
        new["annotation_ids"] = np.array([-1 if cutout.annotation_id is None else cutout.annotation_id], np.int64)
    values = {name: np.concatenate([getattr(sample, name), row]) for name, row in new.items()}
    masks = segmentation(sample)
    if masks is not None:
        values |= {"masks": np.concatenate([masks, cover[None]])}
    more = {"iscrowd": False, "rows": -1}  # `samples.PER_PERSON`: no crowd, and no row of the dataset's people
    longer = {name: np.append(sample.extras[name], more[name]) for name in PER_PERSON if name in sample.extras}
    return sample.changed(**values, polygons=None, extras={**sample.extras, **longer})


# ---------------------------------------------------------------------------------------------------------- transforms


@dataclass(frozen=True, slots=True, eq=False)
class Pastes:
    """What is pasted, in this order: rows of the board (n,), and matrices (n, 3, 3) from the cut-out's picture."""

    rows: Ints
    matrices: Floats


@dataclass(frozen=True, slots=True)
class PastePerson:
    """Other people of the board in front of, or beside, the people of a sample.

    count: fewest and most of them. size: least and most length of the longer side of the cut-out, as a share of the
    longer side of the box of a person in the sample, drawn for each, beside whom it is put: its centre is up to
    `reach` box widths and heights away. In a sample without people it keeps its size, times `size`, and lies anywhere.
    mirror: probability of a mirrored cut-out. Nobody of the same picture, nobody who is there already (by their ids)
    and nobody twice is pasted; fewer than the fewest where the board has no more.

    labelled: True for training on whole pictures (the pasted person is a person: a row more, see `paste`); False for
    top-down crops, where only the person of the crop is to be found. feather, covered, modal: see `paste`.

    SkeletonError for a labelled board with unknown twins that is to be mirrored; SchemaError from `apply` for a sample
    of another skeleton.
    """

    board: Pasteboard
    labelled: bool
    count: tuple[int, int] = (1, 1)
    size: Range = (0.8, 1.25)
    reach: float = 0.75
    mirror: float = 0.5
    feather: float = 1.0
    covered: Covered = "occluded"
    modal: bool = False

    def __post_init__(self) -> None:
        if self.board.skeleton is None:
            raise SchemaError("PastePerson: the board holds objects", hint="PasteObject pastes them")
        _check(self.count, self.size, self.reach, self.mirror, self.feather, self.covered)
        if self.labelled and self.mirror:
            self.board.skeleton.flip_index()

    def draw(self, sample: Sample, rng: np.random.Generator) -> Pastes:
        """Who is pasted and where."""
        return _draw(self, sample, rng)

    def apply(self, sample: Sample, drawn: Pastes) -> Sample:
        """The sample with the drawn people in front."""
        if self.labelled and self.board.skeleton != sample.skeleton:
            own = "" if self.board.skeleton is None else self.board.skeleton.name
            raise SchemaError(f"a person of skeleton {own!r} pasted into a sample of {sample.skeleton.name!r}")
        return _paste_all(self, sample, drawn, self.labelled)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample, rng))


@dataclass(frozen=True, slots=True)
class PasteObject:
    """Objects of the board, or people as mere objects, in front of the people of a sample; without labels.

    Options as in `PastePerson`; the sizes are smaller, so that a part of the person can still be seen.
    """

    board: Pasteboard
    count: tuple[int, int] = (1, 1)
    size: Range = (0.2, 0.6)
    reach: float = 0.5
    mirror: float = 0.5
    feather: float = 1.0
    covered: Covered = "occluded"
    modal: bool = False

    def __post_init__(self) -> None:
        _check(self.count, self.size, self.reach, self.mirror, self.feather, self.covered)

    def draw(self, sample: Sample, rng: np.random.Generator) -> Pastes:
        """What is pasted and where."""
        return _draw(self, sample, rng)

    def apply(self, sample: Sample, drawn: Pastes) -> Sample:
        """The sample behind the drawn objects."""
        return _paste_all(self, sample, drawn, labelled=False)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample, rng))


def _check(count: object, size: object, reach: object, mirror: object, feather: object, covered: str) -> None:
    check_range("count", count, 0, whole=True)
    check_range("size", size, 0.01)
    check_share("mirror", mirror)
    check_range("reach", (0, reach), 0)
    check_range("feather", (0, feather), 0)
    check_covered(covered)


def _draw(self: PastePerson | PasteObject, sample: Sample, rng: np.random.Generator) -> Pastes:
    board, count, size, reach = self.board, self.count, self.size, self.reach
    free, beside = board.free_for(sample), _boxes(sample)
    number = int(rng.integers(count[0], count[1] + 1))
    rows = rng.permutation(free)[:number]  # nobody twice
    dice = rng.random((count[1], 5))[: len(rows)]  # (n,) target, size, x, y, mirror
    own = board.boxes[rows]  # (n, 4)
    factor = size[0] + (size[1] - size[0]) * dice[:, 1]
    if len(beside):
        target = beside[(dice[:, 0] * len(beside)).astype(np.intp)]
        factor = factor * target[:, 2:].max(1) / own[:, 2:].max(1)
    else:
        target, reach = np.tile([0.0, 0.0, *sample.size], (len(rows), 1)), 0.5
    to = target[:, :2] + target[:, 2:] * (0.5 + reach * (2 * dice[:, 2:4] - 1)) - 0.5  # box centre, then pixel index
    start = own[:, :2] + own[:, 2:] / 2 - 0.5
    linear = np.stack([factor * np.where(dice[:, 4] < self.mirror, -1, 1), factor], axis=1)  # (n, 2): x, y
    matrices = np.zeros((len(rows), 3, 3))
    matrices[:, [0, 1], [0, 1]] = linear
    matrices[:, :2, 2] = to - linear * start
    matrices[:, 2, 2] = 1
    return Pastes(rows, matrices)


def _paste_all(self: PastePerson | PasteObject, sample: Sample, drawn: Pastes, labelled: bool) -> Sample:
    how: dict[str, Any] = {"feather": self.feather, "covered": self.covered, "modal": self.modal, "labelled": labelled}
    for row, matrix in zip(drawn.rows.tolist(), drawn.matrices, strict=True):
        sample = paste(sample, self.board.cutouts[row], matrix, **how)
    return sample


def _boxes(sample: Sample) -> Floats:
    """(T, 4) boxes of people, no crowds: their own, or the extent of their keypoints where that is no single point."""
    own = np.asarray(sample.bbox)
    known = np.isfinite(own).all(1) & (own[:, 2:] > 0).all(1)
    boxes = np.where(known[:, None], own, box_from_keypoints(sample.keypoints, sample.visibility))
    single = ~np.asarray(sample.extras.get("iscrowd", np.zeros(len(own), bool)), bool)
    there: Floats = boxes[single & np.isfinite(boxes).all(1) & (boxes[:, 2:].max(1, initial=0) > 0)]
    return there
