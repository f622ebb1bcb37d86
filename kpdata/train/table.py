"""Who is trained on: the people of one or several datasets as one struct of arrays, with the pictures they stand in."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kpdata import geometry, schema, threads
from kpdata.augment import kernels
from kpdata.augment.crops import TopDown
from kpdata.augment.reading import Pixels, read_image
from kpdata.augment.trial import MARGIN
from kpdata.errors import FormatError, TrainError
from kpdata.skeleton import Skeleton
from kpdata.train.mixed import Source, onto

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Missing = Literal["refuse", "skip"]
Absences = Sequence[Sequence[int]]
"""Of each source the rows of its images table whose pictures were not there, or could not be read."""

_NAMED = 5  # missing pictures that a message names


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Pictures by number: files or the bytes of embedded ones, names for messages, sizes (I, 2), -1 where not told."""

    places: list[str | bytes]
    names: list[str]
    sizes: Ints

    def __len__(self) -> int:
        return len(self.places)

    def read(self, number: int) -> Pixels:
        """(H, W, 3) uint8 RGB. FormatError names a picture that is missing, broken, or of another size than told."""
        width, height = self.sizes[number].tolist()
        size = (width, height) if width > 0 and height > 0 else None
        return read_image(self.places[number], size, name=self.names[number])


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """N people with K keypoints, in the order of sources, their images, and the rows in a source.

    center, sides: the crop before any chance, proportions fixed and padded, as `crops.TopDown` cuts it.
    """

    keypoints: Floats  # (N, K, 2) px of the picture, NaN where there is no coordinate
    visibility: NDArray[np.int8]  # (N, K)
    known: Bools  # (N, K)
    bbox: Floats  # (N, 4) px, of the file, else the keypoints' extent a fifth larger
    area: Floats  # (N,) as in the source
    center: Floats  # (N, 2) px
    sides: Floats  # (N, 2) px
    source: Ints  # (N,)
    image: Ints  # (N,) number in `Pictures`
    rows: Ints  # (N,) in the source's persons table
    image_ids: Ints  # (N,)
    annotation_ids: Ints  # (N,)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: NDArray[Any]) -> People:
        """The people at these positions, or of this mask."""
        return replace(self, **{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


def gather(
    sources: Sequence[Source],
    skeleton: Skeleton,
    crop: TopDown,
    *,
    missing: Missing = "refuse",
    absent: Absences | None = None,
) -> tuple[People, Pictures, list[str], list[list[int]]]:
    """Who can be trained or measured on, the pictures, sentences about who was left out, and the pictures left out.

    As the official loader does (leoxiaobin/deep-high-resolution-net.pytorch, `lib/dataset/coco.py`), without: crowds,
    people whose source says an area of 0 or less, people without a labelled keypoint, boxes without extent. Nor people
    whose image is not listed, or whose keypoints lie on one spot where there is no box to take.

    missing: what a picture that is not there means: `refuse` (TrainError, which counts and names them), or `skip`: who
    stands in it is left out, and so is who stands in one that cannot be read, for which every picture is decoded once,
    in threads. So the table does not depend on when a picture is met. absent: the pictures that a training which goes
    on has left out when it began: with `skip` it leaves out these again and no others, whatever has happened to them,
    so that the table is the same.
    TrainError where nobody is left, or a folder is not there.
    """
    parts: list[People] = []
    places: list[str | bytes] = []
    names: list[str] = []
    sizes: list[Ints] = []
    notes: list[str] = []
    left: list[list[int]] = []
    for number, source in enumerate(sources):
        people, rows, notes_here = _usable(source, skeleton, crop)
        found, lost = _pictures(source, rows)
        known = np.array(absent[number], np.int64) if absent is not None and missing == "skip" else None
        gone, told = _gone(source, found, rows, lost, missing, known)
        notes += [f"{source.name}: {note}" for note in notes_here + told]
        left.append(gone.tolist())
        people = people.take(~np.isin(people.image, gone))
        used, within = np.unique(people.image, return_inverse=True)
        parts.append(replace(people, image=within + len(places), source=np.full(len(people), number)))
        kept = np.isin(rows, used)
        places += [found.places[i] for i in np.flatnonzero(kept).tolist()]
        names += [found.names[i] for i in np.flatnonzero(kept).tolist()]
        sizes.append(found.sizes[kept])
    joined = (
        {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(People)} if parts else {}
    )
    if not joined or not len(joined["rows"]):
        raise TrainError("nobody to train on: " + ("; ".join(notes) or "the datasets have no people"))
    return People(**joined), Pictures(places, names, np.concatenate(sizes)), notes, left


def _usable(source: Source, skeleton: Skeleton, crop: TopDown) -> tuple[People, Ints, list[str]]:
    """People who can be cropped, by image; rows of their images (sorted, unique); how many were left out, and why."""
    dataset = source.dataset
    persons, image = dataset.persons, dataset.image_rows()
    placed = onto(dataset, skeleton)
    labelled = ((placed.visibility > 0) & np.isfinite(placed.keypoints).all(axis=2)).any(axis=1)
    area, crowd = schema.values(persons["area"]), schema.values(persons["iscrowd"])
    bbox, center, sides = _crops(source, placed.keypoints, placed.visibility, crop)
    extent = np.isfinite(center).all(axis=1) & np.isfinite(sides).all(axis=1) & (sides > 0).all(axis=1)
    reasons = {
        "crowds": ~crowd, "people whose image is not listed": image >= 0,
        "people without a labelled keypoint": labelled, "people with an area of 0": ~(area <= 0),
        "people whose box has no extent": extent,
    }  # fmt: skip
    left, notes = np.ones(len(dataset), bool), []
    for what, fine in reasons.items():
        if out := int((left & ~fine).sum()):
            notes.append(f"{out:,} of {len(dataset):,} rows left out: {what}")
        left &= fine
    order = np.flatnonzero(left)
    order = order[np.argsort(image[order], kind="stable")]
    people = People(
        placed.keypoints, placed.visibility, placed.known, bbox, area, center, sides,
        np.zeros(len(dataset), np.int64), image, np.arange(len(dataset)),
        schema.values(persons["image_id"]), schema.values(persons["annotation_id"]),
    )  # fmt: skip
    return people.take(order), np.unique(image[order]), notes


def _crops(source: Source, xy: Floats, visibility: NDArray[np.int8], crop: TopDown) -> tuple[Floats, Floats, Floats]:
    """Boxes (N, 4), centres and sides (N, 2) as `TopDown` takes them; NaN or sides of 0 for who has none."""
    persons, ratio = source.dataset.persons, crop.size[0] / crop.size[1]
    box = schema.matrix(persons["bbox"], 4)
    tight = geometry.box_from_keypoints(xy, visibility)
    tight = np.where((tight[:, 2:] > 0).any(axis=1, keepdims=True), tight, np.nan)
    margin = tight[:, 2:] * (MARGIN / 2)
    around = np.concatenate([tight[:, :2] - margin, tight[:, 2:] + 2 * margin], axis=1)
    box = np.where(np.isfinite(box).all(axis=1, keepdims=True), box, around)
    cut = box
    if crop.clean:
        sizes = np.stack([schema.values(source.dataset.images[side], -1) for side in ("width", "height")], axis=1)
        cut = kernels.clean_boxes(box, sizes[source.dataset.image_rows()])  # type: ignore[arg-type]  # a size a row
    wrong = (cut[:, 2:] < 0).any(axis=1) | (crop.clean & (cut[:, 2:] == 0).any(axis=1))
    center, sides = kernels.box_to_center_scale(np.where(wrong[:, None], np.nan, cut), ratio, crop.padding)
    middle, extent = kernels.mpii_crop(schema.matrix(persons["center"], 2), schema.values(persons["scale"]))
    given = np.isfinite(np.concatenate([middle, extent], axis=1)).all(axis=1, keepdims=True)
    return box, np.where(given, middle, center), np.where(given, kernels.fix_aspect(extent, ratio), sides)


# ------------------------------------------------------------------------------------------------------------ pictures


@dataclass(frozen=True, slots=True, eq=False)
class _Absent:
    rows: Ints  # of the images table
    names: list[str]  # or what is wrong with them, by name


def _pictures(source: Source, rows: Ints) -> tuple[Pictures, _Absent]:
    """The pictures of these rows of the images table, and those that are not there."""
    images = schema.take(source.dataset.images.select(["image_id", "file_name", "width", "height"]), rows)
    names, ids = schema.texts(images["file_name"]), schema.values(images["image_id"])
    titles = [name or f"image {number}" for name, number in zip(names, ids.tolist(), strict=True)]
    sizes = np.stack([schema.values(images[side], -1).astype(np.int64) for side in ("width", "height")], axis=1)
    places: list[str | bytes]
    if source.images is None:
        blobs = _embedded(source)
        places, there = [blobs.get(number, b"") for number in ids.tolist()], np.isin(ids, list(blobs))
    else:
        folder = os.fspath(source.images)
        if not os.path.isdir(folder):  # noqa: PTH112  # paths are texts here: 150,000 Path objects take half a second
            raise TrainError(f"{source.name}: {folder}: no such folder of images", hint="say where the images are")
        paths = [os.path.join(folder, name) if name else "" for name in names]  # noqa: PTH118
        places, there, titles = list(paths), _present(paths), [path or t for path, t in zip(paths, titles, strict=True)]
    gone = np.flatnonzero(~there)
    return Pictures(places, titles, sizes), _Absent(rows[gone], [titles[i] for i in gone.tolist()])


def _gone(
    source: Source, pictures: Pictures, rows: Ints, lost: _Absent, missing: Missing, known: Ints | None
) -> tuple[Ints, list[str]]:
    """The rows of the images table that are left out, and what to say of them. known: those that it has to be."""
    if known is not None:
        if not len(known):
            return known, []
        count = f"{len(known):,} {'picture is' if len(known) == 1 else 'pictures are'}"
        return known, [f"{count} left out, as when this training began"]
    told = _missing(source, lost, missing)
    if missing == "refuse":
        return lost.rows, told
    broken = _unreadable(pictures, rows, lost.rows)
    if broken.names:
        told.append(_told(broken, "picture cannot be read", "pictures cannot be read"))
    return np.union1d(lost.rows, broken.rows), told


def _unreadable(pictures: Pictures, rows: Ints, gone: Ints) -> _Absent:
    """Which of the pictures of these rows cannot be read, with what is wrong; those that are gone are not tried."""
    there = np.flatnonzero(~np.isin(rows, gone)).tolist()

    def problem(number: int) -> str:
        try:
            pictures.read(number)
        except FormatError as found:
            return found.message
        return ""

    with ThreadPoolExecutor(threads.workers()) as pool:  # decoders let go of the interpreter
        problems = dict(zip(there, pool.map(problem, there), strict=True))
    broken = [number for number, why in problems.items() if why]
    return _Absent(rows[broken], [problems[number] for number in broken])


def _present(paths: list[str]) -> Bools:
    """(I,) bool: the file is there. Each folder is listed once: on a network, asking for each file takes minutes."""
    listed: dict[str, set[str]] = {}
    for folder in {os.path.dirname(path) for path in paths}:  # noqa: PTH120
        try:
            listed[folder] = set(os.listdir(folder))  # noqa: PTH208
        except OSError:
            listed[folder] = set()
    pairs = (os.path.split(path) for path in paths)
    return np.array([name in listed[folder] for folder, name in pairs], bool)


def _embedded(source: Source) -> dict[int, bytes]:
    """Pictures that lie in the dataset, by image id; LabelMe's are Base64 of a picture file."""
    found: dict[int, bytes] = {}
    blobs = source.dataset.blobs
    for number, cell in zip(schema.values(blobs["image_id"]).tolist(), schema.chunk(blobs["data"]), strict=True):
        data: bytes = cell.as_py()
        try:
            found[number] = base64.b64decode(data, validate=True)
        except binascii.Error:
            found[number] = data
    return found


def _told(absent: _Absent, one: str, several: str) -> str:
    """How many pictures are so, and the first by name."""
    names = absent.names
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{len(names):,} {one if len(names) == 1 else several}: {', '.join(names[:_NAMED])}{more}"


def _missing(source: Source, absent: _Absent, missing: Missing) -> list[str]:
    """What to say of pictures that are not there. TrainError where that is not to be."""
    if not absent.names:
        return []
    what = _told(absent, "picture is not there", "pictures are not there")
    if missing == "refuse":
        hint = "--missing-images skip trains without them; or is this the folder of another split?"
        raise TrainError(f"{source.name}: {what}", hint=hint)
    return [what]
