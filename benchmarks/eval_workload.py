"""Ground truth and results of COCO val2017's scale and statistics, for evaluators.

    python -m benchmarks.eval_workload FOLDER [--times 10]

Ground truth: 5,000 images, 2,475 of them with people; 6,352 people with labelled keypoints (52 % medium, 48 % large),
4,425 without (mostly small) and 227 crowds; integer keypoints of which 65 % are labelled, boxes with two decimals.
Results: about 104,000 on 4,925 images, 21 an image, 1 in 100 images with more than 75, as a top-down estimator writes
them with `json.dump`: float32 numbers printed as doubles, no `bbox`, the confidence as third number. A detection is
the work of `kpdata.synth.simulate_predictions` (a good one and two worse ones a person) or background.

Poses are kpdata's synthetic people, stretched to boxes whose sizes and places follow val2017's distributions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from benchmarks import workload
from kpdata import schema
from kpdata.arrays import lookup
from kpdata.converters import coco
from kpdata.dataset import Dataset
from kpdata.synth import synthesize
from kpdata.synth.predict import simulate_predictions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

IMAGES, WITH_PEOPLE, WITH_BACKGROUND, RESULTS = 5000, 2475, 4851, 104_125
COUNTS = (6352, 4425, 227)  # people with labelled keypoints, without, crowds
# By these three: square root of the area in pixels (median, spread of its logarithm, least, most).
SIDES = ((92, 0.62, 32.3, 420), (24, 0.75, 3, 300), (120, 0.6, 20, 400))
WIDTHS, HEIGHTS = np.array([640, 640, 640, 480, 427, 500]), np.array([480, 427, 426, 640, 640, 375])
SHIFT = 10**6  # between the image ids of two copies
CARE = 0.5  # median factor of all errors of a person
# What each of three passes gets wrong (shares of the keypoints), and the mean of its boxes' scores.
PASSES = (
    ({"jitter": 0.34, "inversion": 0.04, "swap": 0.02, "miss": 0.12, "missed_people": 0.05}, 0.85),
    ({"jitter": 0.4, "inversion": 0.06, "swap": 0.06, "miss": 0.3, "missed_people": 0.15}, 0.45),
    ({"jitter": 0.4, "inversion": 0.06, "swap": 0.08, "miss": 0.4, "missed_people": 0.15}, 0.35),
)


@dataclass(frozen=True)
class People:
    """All people of the ground truth, N: whatever the file leaves out is here too."""

    kind: Ints  # (N,) place in COUNTS
    image: Ints  # (N,) place in the images
    bbox: Floats  # (N, 4) x, y, w, h
    area: Floats  # (N,)
    keypoints: Floats  # (N, 17, 2) where each keypoint is, whole numbers
    visibility: Ints  # (N, 17) as in the file


@dataclass(frozen=True)
class Images:
    """The images, I."""

    id: Ints
    width: Ints
    height: Ints


def write(folder: Path, times: int = 1) -> None:
    """Write gt.json, dt.json and dt_bbox.json (or gt_x10.json and dt_x10.json) into a folder."""
    rng = np.random.default_rng(0)
    images, poses = _images(rng), _poses()
    people = _people(images, poses, rng)
    raw = document(images, people)
    name = "" if times == 1 else f"_x{times}"
    with _finished(folder / f"gt{name}.json") as out:
        json.dump(workload.repeated(raw, times), out)
    with _finished(folder / f"dt{name}.json") as out:
        for copy in range(times):
            found = results(images, people, poses, seed=copy + 1)
            _dump(out, found, images.id + copy * SHIFT, first=copy == 0)
        out.write("]")
    if times == 1:
        with _finished(folder / "dt_bbox.json") as out:
            _dump(out, found, images.id, first=True, boxes=True)
            out.write("]")


@contextmanager
def _finished(path: Path) -> Iterator[TextIO]:
    """A text file that gets its name when it is whole."""
    unfinished = path.with_name(f"unfinished_{path.name}")
    with unfinished.open("w") as out:
        yield out
    unfinished.replace(path)


def _images(rng: np.random.Generator) -> Images:
    ids = np.sort(rng.choice(np.arange(1, 581_929), IMAGES, replace=False))
    shape = rng.integers(0, len(WIDTHS), IMAGES)
    return Images(ids, WIDTHS[shape], HEIGHTS[shape])


def _poses() -> Floats:
    """(P, 17, 2) whole bodies of synthetic people, each in a box from 0 to 1."""
    made = synthesize(1500, seed=1, people=(1, 3), crowds=0)
    xy = made.keypoints[(made.visibility > 0).all(1)]
    low, high = xy.min(1, keepdims=True), xy.max(1, keepdims=True)
    return np.asarray(0.04 + 0.92 * (xy - low) / np.maximum(high - low, 1))


def _people(images: Images, poses: Floats, rng: np.random.Generator) -> People:
    kind = np.repeat([0, 1, 2], COUNTS)
    n = len(kind)
    crowded = rng.permutation(IMAGES)[:WITH_PEOPLE]
    weight = np.minimum(rng.pareto(1.6, WITH_PEOPLE) + 0.8, 11)
    image = np.concatenate([crowded, rng.choice(crowded, n - WITH_PEOPLE, p=weight / weight.sum())])
    image = rng.permutation(image)
    median, spread, least, most = np.array(SIDES)[kind].T
    side = np.clip(np.exp(rng.normal(np.log(median), spread)), least, most)
    tall = np.exp(rng.normal(np.where(kind == 2, -0.6, 0.64), 0.45))  # crowds are broad
    covered = np.clip(rng.normal(0.53, 0.09, n), 0.2, 0.9)  # the mask's share of the box
    frame = np.stack([images.width, images.height], 1)[image]
    size = np.minimum(side[:, None] / np.sqrt(covered)[:, None] * np.stack([tall**-0.5, tall**0.5], 1), frame - 2)
    bbox = np.round(np.concatenate([rng.random((n, 2)) * (frame - size), size], 1), 2)
    area = np.round(np.minimum(side**2, 0.95 * bbox[:, 2] * bbox[:, 3]), 4)
    pose = poses[rng.integers(0, len(poses), n)]
    xy = np.rint(bbox[:, None, :2] + pose * bbox[:, None, 2:])
    return People(kind, image, bbox, area, xy, _visibility(kind, rng))


def _visibility(kind: Ints, rng: np.random.Generator) -> Ints:
    """(N, 17): a share of a person's own, and legs cut off for a third of them; somebody labelled has a keypoint."""
    labelled = rng.random((len(kind), 17)) < rng.beta(2.4, 1.0, len(kind))[:, None]
    labelled[np.ix_(rng.random(len(kind)) < 0.35, np.arange(13, 17))] = False
    labelled[:, 5] |= ~labelled.any(1)
    labelled &= (kind == 0)[:, None]
    return np.where(labelled, np.where(rng.random(labelled.shape) < 0.82, 2, 1), 0)


def document(images: Images, people: People) -> dict[str, Any]:
    """The COCO document, people in no order."""
    rng = np.random.default_rng(1)
    n, crowd = len(people.kind), people.kind == 2
    shown = np.where(people.visibility[..., None] > 0, people.keypoints, 0)
    triples = np.concatenate([shown, people.visibility[..., None]], 2).reshape(n, -1).astype(int).tolist()
    ids = np.where(crowd, 900_100_000_000, 0) + rng.choice(np.arange(183_000, 2_583_000), n, replace=False)
    corners, runs = rng.integers(8, 45, n).tolist(), rng.integers(40, 200, n).tolist()
    boxes, areas, image, counts = people.bbox.tolist(), people.area.tolist(), people.image.tolist(), people.visibility
    labelled = (counts > 0).sum(1).tolist()
    rows = []
    for i in rng.permutation(n).tolist():
        size = [int(images.height[image[i]]), int(images.width[image[i]])]
        mask = {"counts": rng.integers(1, 900, runs[i]).tolist(), "size": size}
        rows.append({
            "segmentation": mask if crowd[i] else [workload.outline(boxes[i], corners[i], rng)],
            "num_keypoints": labelled[i], "area": areas[i], "iscrowd": int(crowd[i]), "keypoints": triples[i],
            "image_id": int(images.id[image[i]]), "bbox": boxes[i], "category_id": 1, "id": int(ids[i]),
        })  # fmt: skip
    return {"info": {"description": "synthetic"}, "licenses": [], "images": _image_rows(images, rng),
            "annotations": rows, "categories": [_category()]}  # fmt: skip


def _image_rows(images: Images, rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {"license": 4, "file_name": f"{images.id[i]:012d}.jpg", "coco_url": f"images/val2017/{images.id[i]:012d}.jpg",
         "height": int(images.height[i]), "width": int(images.width[i]), "date_captured": "2013-11-14 17:02:52",
         "flickr_url": f"photos/{images.id[i]}_z.jpg", "id": int(images.id[i])}
        for i in rng.permutation(IMAGES).tolist()
    ]  # fmt: skip


def _category() -> dict[str, Any]:
    return dict(coco.encode(synthesize(1, seed=0, people=(1, 1)))[0]["categories"][0])


@dataclass(frozen=True)
class Results:
    """Detections in the order of the file, M."""

    image: Ints  # (M,) place in the images
    keypoints: NDArray[np.float32]  # (M, 17, 3)
    score: NDArray[np.float32]  # (M,)


def results(images: Images, people: People, poses: Floats, *, seed: int) -> Results:
    """What a detector of average quality finds, best box of an image first."""
    rng = np.random.default_rng([seed, 3])
    truth = _everything(images, people)
    parts = [_pass(truth, images, errors, box, seed * 10 + i, rng) for i, (errors, box) in enumerate(PASSES)]
    parts.append(_background(images, poses, RESULTS - sum(len(part[0]) for part in parts), rng))
    image, xy, confidence, box = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    score = confidence.astype(np.float32).mean(1) * box.astype(np.float32)
    triples = np.concatenate([xy, confidence[..., None]], 2).astype(np.float32)
    order = np.lexsort((-box, image))
    return Results(image[order], triples[order], score[order])


def _everything(images: Images, people: People) -> Dataset:
    """The ground truth as it would be if every keypoint of everybody, crowds too, were labelled."""
    sure = People(
        np.zeros_like(people.kind), people.image, people.bbox, people.area, people.keypoints,
        np.full_like(people.visibility, 2),
    )  # fmt: skip
    return coco.decode(document(images, sure))


Part = tuple[Ints, Floats, Floats, Floats]  # image (M,), xy (M, 17, 2), confidence (M, 17), score of the box (M,)


def _pass(
    truth: Dataset, images: Images, errors: dict[str, float], box: float, seed: int, rng: np.random.Generator
) -> Part:
    """One detection of nearly everybody, with these errors, which are larger for some people and smaller for others."""
    made, record = simulate_predictions(truth, seed=seed, false_positives=0, **errors)
    own = lookup(schema.values(truth.persons["annotation_id"]), schema.values(record["gt_annotation_id"]))
    own_xy = truth.keypoints[own]
    care = np.exp(rng.normal(np.log(CARE), 0.6, (len(made), 1, 1)))
    image = np.searchsorted(images.id, schema.values(made.persons["image_id"]))
    scores = np.clip(rng.normal(box, 0.12, len(made)), 0.02, 0.999)
    xy = own_xy + care * (made.keypoints - own_xy)  # no longer rounded: estimators do not round
    return image, xy, schema.matrix(made.persons["keypoint_scores"], 17), scores


def _background(images: Images, poses: Floats, count: int, rng: np.random.Generator) -> Part:
    """Poses anywhere, many in some images and none in others."""
    chosen = rng.permutation(IMAGES)[:WITH_BACKGROUND]
    weight = rng.gamma(1.1, 1.0, WITH_BACKGROUND)
    image = np.concatenate([chosen, rng.choice(chosen, count - WITH_BACKGROUND, p=weight / weight.sum())])
    frame = np.stack([images.width, images.height], 1)[image]
    size = np.minimum(np.exp(rng.normal(np.log(45), 0.8, (count, 1))) * [0.8, 1.5], frame - 2)
    corner = rng.random((count, 2)) * (frame - size)
    pose = poses[rng.integers(0, len(poses), count)] + rng.normal(0, 0.05, (count, 17, 2))
    confidence = np.clip(rng.beta(1.4, 5, (count, 17)), 0.003, 0.998)
    return image, corner[:, None] + pose * size[:, None], confidence, rng.beta(1.0, 8, count)


def _dump(out: TextIO, found: Results, ids: Ints, *, first: bool, boxes: bool = False) -> None:
    """Append results to an open file, with the standard library's separators, 20,000 at a time."""
    triples = found.keypoints.reshape(len(found.image), -1).astype(np.float64)
    low, high = (extreme(found.keypoints[..., :2], axis=1).astype(np.float64) for extreme in (np.min, np.max))
    extents = np.round(np.concatenate([low - 4, high - low + 8], 1), 3)
    for start in range(0, len(triples), 20_000):
        part = slice(start, start + 20_000)
        columns = (ids[found.image[part]], triples[part], found.score[part].astype(np.float64), extents[part])
        rows = [
            {"image_id": image, "category_id": 1, "keypoints": row, "score": score, **({"bbox": box} if boxes else {})}
            for image, row, score, box in zip(*(column.tolist() for column in columns), strict=True)
        ]
        out.write(("[" if first and not start else ", ") + json.dumps(rows)[1:-1])


def main() -> None:
    """Write FOLDER/gt.json, dt.json and dt_bbox.json, or with --times 10 gt_x10.json and dt_x10.json (1.1 GB)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=1)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    write(given.folder, given.times)


if __name__ == "__main__":
    main()
