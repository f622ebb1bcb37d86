"""Files the size of COCO's person_keypoints_val2017.json, made on the spot: 5,000 images, 11,004 people.

    python -m benchmarks.workload FOLDER [--times 10]

Poses, boxes and visibility are kpdata's synthetic people; masks become polygons of 8 to 44 corners with two decimals,
as in COCO, because most of such a file's bytes are polygons. `--times` repeats the images and people under new ids.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kpdata.converters import coco
from kpdata.synth import synthesize

IMAGES, PEOPLE = 5000, 11004


def document(times: int = 1, seed: int = 0) -> dict[str, Any]:
    """A COCO document: half of the images have people, as in val2017."""
    rng = np.random.default_rng(seed)
    raw, _ = coco.encode(synthesize(IMAGES, seed=seed, people=(0, 9), crowds=0.05))
    people = raw["annotations"][:PEOPLE]
    for person, corners in zip(people, rng.integers(8, 45, len(people)).tolist(), strict=True):
        person.pop("bbox_source", None)
        person["bbox"] = [round(number + float(rng.random()), 2) for number in person["bbox"]]
        person["area"] = round(person["area"] + float(rng.random()), 5)
        if not person["iscrowd"]:
            person["segmentation"] = [outline(person["bbox"], corners, rng)]
            person["keypoints"] = [round(number) for number in person["keypoints"]]
    for image in raw["images"]:
        name = image["file_name"]
        image.update(license=4, coco_url=f"images/val2017/{name}", flickr_url=f"photos/{name}")
        image["date_captured"] = "2013-11-14 17:02:52"
    raw["annotations"] = people
    rng.shuffle(raw["annotations"])
    return {"info": {"description": "synthetic", "year": 2026}, "licenses": [], **repeated(raw, times)}


def outline(bbox: list[float], corners: int, rng: np.random.Generator) -> list[float]:
    """A star-shaped polygon of so many corners inside a box."""
    x, y, w, h = bbox
    angle, radius = np.linspace(0, 2 * np.pi, corners, endpoint=False), rng.uniform(0.3, 0.5, corners)
    points = np.stack([x + w * (0.5 + radius * np.cos(angle)), y + h * (0.5 + radius * np.sin(angle))], 1)
    rounded: list[float] = np.round(points.ravel(), 2).tolist()
    return rounded


def repeated(raw: dict[str, Any], times: int) -> dict[str, Any]:
    """The same images and people `times` times, under ids of their own."""
    images = [{**image, "id": image["id"] + k * 10**6} for k in range(times) for image in raw["images"]]
    people = [
        {**person, "id": person["id"] + k * 10**9, "image_id": person["image_id"] + k * 10**6}
        for k in range(times)
        for person in raw["annotations"]
    ]
    return {**raw, "images": images, "annotations": people}


def main() -> None:
    """Write FOLDER/gt.json, or FOLDER/gt_x10.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=1)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    raw = document()
    for times in sorted({1, given.times}):
        name = "gt.json" if times == 1 else f"gt_x{times}.json"
        (given.folder / name).write_bytes(orjson.dumps(repeated(raw, times)))


if __name__ == "__main__":
    main()
