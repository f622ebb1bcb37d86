"""Synthetic people with exact truth, from a seed: data for demos, tests and benchmarks at any scale, free of rights.

    people = synthesize(200, seed=7)                # a Dataset: keypoints, visibility, boxes, masks
    write_images(people, Path("images"))            # the pictures that it annotates
    predictions, truth = simulate_predictions(people)

Articulated bodies (`body`) stand, walk, sit or lie in a scene (`scene`) and are painted back to front;
which part is on top at a keypoint's pixel decides whether it is visible. Image i depends on the seed, i and the options
only: not on how many images are asked for, nor on the skeleton, so that the same people can be had in every skeleton.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import dataset as datasets
from kpdata import files, schema
from kpdata import skeleton as skeletons
from kpdata.dataset import Dataset
from kpdata.errors import SchemaError, SkeletonError
from kpdata.skeleton import Skeleton
from kpdata.synth.body import POINT
from kpdata.synth.predict import simulate_predictions as simulate_predictions
from kpdata.synth.scene import Block, Options, block, paint

Floats = NDArray[np.float64]

NAME = "synth"  # of the dataset in provenance
_BLOCK = 64  # images at once: bounds memory
_IDS = 100  # annotation ids that an image has for itself
_MIDPOINTS = {"mid_shoulders": "thorax", "mid_hips": "pelvis"}
# Where a protocol puts neck and head top; protocols that nobody measured get MPII's.
_NECK = {"crowdpose": "neck_crowd", "aic": "neck_aic", "halpe": "neck_aic"}
_HEAD = {"crowdpose": "head_crowd", "aic": "head_aic", "halpe": "head_aic"}


class SceneOptions(TypedDict, total=False):
    """The options of `synthesize` that change the scenes."""

    people: tuple[int, int]
    size: tuple[int, int]
    height: tuple[float, float]
    objects: float
    truncation: float
    crowds: float


def synthesize(
    num_images: int,
    *,
    seed: int = 0,
    skeleton: str | Path | Skeleton = "coco_17",
    first: int = 0,
    **options: Unpack[SceneOptions],
) -> Dataset:
    """The annotation of `num_images` scenes (no pictures: see `write_images`), images `first`, `first + 1`, ….

    seed: any whole number from 0 on. skeleton: a name, file or Skeleton whose keypoints the bodies have: limbs, face,
    feet, mid-hips, mid-shoulders, neck and head top. Options:
    people (1, 5): fewest and most people in an image. size (640, 480): width and height, px.
    height (0.3, 0.9): smallest and largest standing height, in image heights.
    objects 0.35: share of images with a thing in front of somebody. truncation 0.15: share of people that an edge cuts.
    crowds 0.0: share of images with a crowd behind the people (one row with `iscrowd`, a mask and no keypoints).

    A keypoint is VISIBLE where the part on top at its pixel is one that it belongs to (its own limb; the front of the
    face), OCCLUDED where another one covers it, ABSENT (coordinates NaN) outside the image. Coordinates have two
    decimals. `bbox` and `area` are those of the visible pixels, whose mask is in `rle`; a person of whom nothing shows
    has no row. Files of CrowdPose have no areas and masks, but `crowd_index`, and count 12 of 14 keypoints; files of
    MPII have head boxes, centre and scale (standing height / 200 px) and no boxes, files of LSP none of these: so here.
    image_id is the number of the image + 1, annotation_id 100 × image_id + the person's number.

    Raises SchemaError for options out of range, SkeletonError for a skeleton with keypoints that the bodies lack.
    """
    if not isinstance(num_images, int) or num_images < 0 or first < 0 or seed < 0:
        raise SchemaError(f"num_images={num_images!r}, first={first}, seed={seed}: expected whole numbers from 0 on")
    chosen, opts = _skeleton(skeleton), Options(**options)
    if opts.crowds and chosen.name in ("mpii_16", "lsp_14"):
        raise SchemaError(f"crowds={opts.crowds}: {chosen.name} has neither boxes nor masks to mark a crowd with")
    stop = first + num_images
    starts = range(first, max(stop, first + 1), _BLOCK)  # one block at least: the columns have types then
    people = _concatenate([_annotate(block(seed, s, min(_BLOCK, stop - s), opts), s) for s in starts])
    points = np.array([_point(mark) for mark in chosen.landmarks], np.intp)
    image_id = np.arange(first, first + num_images) + 1
    generator = {"seed": seed, **{name: list(v) if isinstance(v, tuple) else v for name, v in asdict(opts).items()}}
    return datasets.build(
        _image_columns(people, image_id, points, opts, chosen),
        _person_columns(people, points, chosen),
        num_images=num_images,
        num_persons=len(people.image_id),
        name=NAME,
        provenance={
            "source_format": "synth",
            "area_kind": "none" if chosen.name in ("mpii_16", "lsp_14", "crowdpose_14") else "mask",
            "licence": "CC0-1.0",
            "generator": generator,
        },
        skeletons=[chosen],
    ).with_history("synth", images=num_images, first=first, skeleton=chosen.name, **generator)


def file_name(image_id: int) -> str:
    """`000001.jpg`."""
    return f"{image_id:06d}.jpg"


def render(seed: int, index: int, **options: Unpack[SceneOptions]) -> NDArray[np.uint8]:
    """The picture of image number `index` (from 0) of `synthesize` with the same seed and options: (H, W, 3) RGB."""
    if seed < 0 or index < 0:
        raise SchemaError(f"seed={seed}, index={index}: expected whole numbers from 0 on")
    return _picture(seed, index, Options(**options))


def _picture(seed: int, index: int, options: Options) -> NDArray[np.uint8]:
    from kpdata.synth.picture import picture

    return picture(block(seed, index, 1, options), np.random.default_rng([seed, index, 1]))


def write_images(dataset: Dataset, folder: Path | str, *, quality: int = 90, force: bool = False) -> list[Path]:
    """Write the pictures of a dataset from `synthesize`, or of a selection of it, as JPEG files: their paths.

    The same dataset gives the same bytes with the same version of Pillow. Raises SchemaError where the dataset does not
    say how it was made, DestinationExists (before anything is written) where a file is there and `force` was not said.
    """
    from PIL import Image

    made = dataset.datasets.get(NAME, {}).get("generator")
    if not isinstance(made, Mapping):
        raise SchemaError(
            f"the dataset has no provenance {NAME!r} with a 'generator'", hint="only what synthesize made has pictures"
        )
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in made.items() if k != "seed"}
    scene_options = Options(**options)
    ids = schema.values(dataset.images["image_id"]).tolist()
    targets = [Path(folder) / file_name(image_id) for image_id in ids]
    for target in targets:
        files.refuse_existing(target, force)
    for image_id, target in zip(ids, targets, strict=True):
        buffer = io.BytesIO()
        pixels = _picture(int(made["seed"]), image_id - 1, scene_options)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        files.write_bytes(target, buffer.getvalue(), force=force)
    return targets


# ---------------------------------------------------------------------------------------------------- annotation


@dataclass(frozen=True, slots=True)
class _People:
    """Rows of the persons table before a skeleton is chosen: points (N, P, 2), visibility (N, P), box (N, 4), …"""

    image_id: NDArray[np.int64]
    annotation_id: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    points: Floats
    visibility: NDArray[np.int8]
    box: Floats
    area: Floats
    rle: NDArray[np.object_]
    head: Floats
    extent: Floats
    size: Floats


class _Masks(NamedTuple):
    """Run-length codes of one image's people, their tight boxes (n, 4) and pixel counts (n,)."""

    codes: list[dict[str, Any]]
    boxes: Floats
    areas: Floats


def _annotate(scenes: Block, first: int) -> _People:
    """Look at every image of a block: what is visible, and everybody's mask."""
    width, height = scenes.options.size
    points = np.round(scenes.points, 2)
    inside: NDArray[np.bool_] = np.all((np.rint(points) >= 0) & (np.rint(points) < (width, height)), axis=-1)
    visibility = inside.astype(np.int8)
    count = int(scenes.scene.shape[0])
    starts = np.searchsorted(scenes.image, np.arange(count + 1))
    rows: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    masks: list[_Masks] = []
    for i in range(count):
        own = np.arange(starts[i], starts[i + 1])
        label = paint(scenes, i)
        kind, person = _behind_labels(scenes, i)
        pixel = np.clip(np.rint(points[own]).astype(np.int64), 0, (width - 1, height - 1))
        top = label[pixel[..., 0], pixel[..., 1]]  # (n, P)
        mine = (person[top] == own[:, None]) & ((scenes.body.owners[own] >> kind[top]) & 1 > 0)
        visibility[own] += (inside[own] & mine).astype(np.int8)
        number = scenes.number[own]
        instances = int((number >= 0).sum()) + int((number < 0).any())
        instance = np.concatenate([np.where(number < 0, instances - 1, number), [-1]])
        found, shown = _masks(label, instance[np.where(person < 0, len(own), person - starts[i])], instances)
        rows.append(own[0] + found if len(own) else found)
        masks.append(shown)
    return _rows(scenes, first, np.concatenate(rows), masks, points, visibility)


def _behind_labels(scenes: Block, image: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(T + 1,) kind and person of each label that `paint` gives; background: kind 0, person -1."""
    start, stop = np.searchsorted(scenes.part_image, (image, image + 1))
    kind = np.concatenate([[0], scenes.part_kind[start:stop]])
    return kind, np.concatenate([[-1], scenes.part_person[start:stop]])


def _masks(label: NDArray[np.int32], instance: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], _Masks]:
    """Which of `count` instances show in the image, and their run-length codes; instance: of each label, -1: nobody."""
    from pycocotools import mask

    shown = np.take(instance.astype(np.int8), label)  # (W, H)
    numbers = np.arange(count, dtype=np.int8)
    stack = (shown == numbers[:, None, None]).view(np.uint8)  # (count, W, H): seen from the back, Fortran order
    codes = mask.encode(stack.transpose(2, 1, 0)) if count else []
    # image by image: mask.area fails on 256 codes at once and more (pycocotools 2.0.11 with NumPy 2)
    areas = np.asarray(mask.area(codes), np.float64) if count else np.zeros(0)
    boxes = np.asarray(mask.toBbox(codes), np.float64) if count else np.empty((0, 4))
    found = np.flatnonzero(areas > 0)
    return found, _Masks([codes[k] for k in found.tolist()], boxes[found], areas[found])


def _rows(
    scenes: Block,
    first: int,
    rows: NDArray[np.int64],
    masks: list[_Masks],
    points: Floats,
    visibility: NDArray[np.int8],
) -> _People:
    """The people that show; a crowd is the row of its first member, without keypoints."""
    image_id, crowd = first + 1 + scenes.image[rows], scenes.number[rows] < 0
    number = np.where(crowd, _IDS - 1, scenes.number[rows] + 1)
    seen = np.where(crowd[:, None], 0, visibility[rows]).astype(np.int8)
    texts = [
        json.dumps({"size": list(code["size"]), "counts": code["counts"].decode()}) for m in masks for code in m.codes
    ]
    return _People(
        image_id=image_id,
        annotation_id=image_id * _IDS + number,
        crowd=crowd,
        points=np.where(seen[..., None] > 0, points[rows], np.nan),
        visibility=seen,
        box=np.concatenate([np.empty((0, 4)), *(m.boxes for m in masks)]),
        area=np.concatenate([np.empty(0), *(m.areas for m in masks)]),
        rle=np.array(texts, object),
        head=np.round(scenes.head[rows], 2),
        extent=scenes.extent[rows],
        size=scenes.place[rows, 2],
    )


def _concatenate(parts: list[_People]) -> _People:
    return _People(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(_People)})


# ---------------------------------------------------------------------------------------------------- columns


def _skeleton(wanted: str | Path | Skeleton) -> Skeleton:
    found = wanted if isinstance(wanted, Skeleton) else skeletons.load(wanted)
    marks = found.landmarks or ("",) * len(found)
    if missing := [name for name, mark in zip(found.keypoint_names, marks, strict=True) if _point(mark) < 0]:
        raise SkeletonError(
            f"skeleton {found.name!r}: synthetic bodies have no {', '.join(missing[:5])}{' …' if missing[5:] else ''}",
            hint="coco_17, mpii_16, lsp_14, crowdpose_14 and halpe_26 can be had",
        )
    return found


def _point(landmark: str) -> int:
    """Column of the point that a skeleton's landmark (`upper_neck/mpii`) means; -1: the bodies have none."""
    base, _, family = landmark.partition("/")
    name = {"upper_neck": _NECK.get(family, "upper_neck"), "head_top": _HEAD.get(family, "head_top")}.get(base, base)
    return POINT.get(_MIDPOINTS.get(name, name), -1)


def _image_columns(
    people: _People, image_id: NDArray[np.int64], points: NDArray[np.intp], options: Options, skeleton: Skeleton
) -> dict[str, pa.Array]:
    n = len(image_id)
    columns = {
        "image_id": schema.fixed(image_id, pa.int64()),
        "file_name": schema.strings([file_name(i) for i in image_id.tolist()]),
        "width": schema.fixed(np.full(n, options.size[0]), pa.int32()),
        "height": schema.fixed(np.full(n, options.size[1]), pa.int32()),
    }
    if skeleton.name == "crowdpose_14":
        own = people.visibility[:, points]
        index = crowd_index(people.points[:, points], own, people.box, people.image_id, image_id)
        columns["crowd_index"] = schema.fixed(index, pa.float64())
    return columns


def _person_columns(people: _People, points: NDArray[np.intp], skeleton: Skeleton) -> dict[str, pa.Array]:
    n = len(people.image_id)
    counted = people.visibility[:, points] > 0
    if skeleton.name == "crowdpose_14":
        counted = counted[:, :12]  # as its files count: limbs only
    columns = {
        "annotation_id": schema.fixed(people.annotation_id, pa.int64()),
        "image_id": schema.fixed(people.image_id, pa.int64()),
        "category_id": schema.fixed(np.ones(n), pa.int64()),
        "category": schema.constant("person", n),
        "skeleton": schema.constant(skeleton.name, n),
        "keypoints": schema.rows(people.points[:, points]),
        "visibility": schema.rows(people.visibility[:, points], kind=pa.int8()),
        "num_keypoints": schema.fixed(counted.sum(1), pa.int32()),
        "iscrowd": schema.fixed(people.crowd, pa.bool_()),
    }
    if skeleton.name == "mpii_16":
        columns["head_bbox"] = schema.rows(people.head)
        columns["center"] = schema.rows(np.round(people.extent[:, :2] + people.extent[:, 2:] / 2, 2))
        columns["scale"] = schema.fixed(np.round(people.size / 200, 6), pa.float64())
    if skeleton.name not in ("mpii_16", "lsp_14"):
        columns["bbox"] = schema.rows(people.box)
        columns["bbox_source"] = schema.constant("mask", n)
    if skeleton.name not in ("mpii_16", "lsp_14", "crowdpose_14"):
        columns["area"] = schema.fixed(people.area, pa.float64())
        columns["rle"] = schema.strings(people.rle.tolist())
    return columns


def crowd_index(
    xy: Floats,
    visibility: NDArray[np.integer],
    boxes: Floats,
    image_ids: NDArray[np.integer],
    images: NDArray[np.integer],
) -> Floats:
    """(I,) CrowdIndex of images (Li et al., CrowdPose, CVPR 2019).

    The mean over an image's people of: other people's labelled keypoints in their box / their own in it.

    xy (N, K, 2), visibility (N, K), boxes (N, 4), image_ids (N,), sorted as `images` (I,). People without own keypoints
    in their box do not count; an image without people has 0.
    """
    low, high = boxes[:, None, :2], boxes[:, None, :2] + boxes[:, None, 2:]
    start = np.searchsorted(image_ids, images)
    size = np.searchsorted(image_ids, images, side="right") - start
    at = np.searchsorted(images, image_ids)  # (N,) image of each person
    # all ordered pairs (box of a, keypoints of b) of one image
    a = np.repeat(np.arange(len(xy)), size[at])
    b = np.arange(len(a)) + np.repeat(start[at] - (np.cumsum(size[at]) - size[at]), size[at])
    within = ((xy[b] >= low[a]) & (xy[b] <= high[a])).all(-1) & (visibility[b] > 0)
    hits = within.sum(1)
    own = np.bincount(a, np.where(a == b, hits, 0), len(xy))
    other = np.bincount(a, np.where(a != b, hits, 0), len(xy))
    counted = own > 0
    ratio = np.divide(other, own, out=np.zeros(len(xy)), where=counted)
    people = np.bincount(at, counted, len(images))
    total = np.bincount(at, ratio, len(images))
    return np.divide(total, people, out=np.zeros(len(images)), where=people > 0)
