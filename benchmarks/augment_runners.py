"""One tool makes training crops in a process of its own and says how long a crop took.

    python -m benchmarks.augment_runners TOOL SUBJECT WORKLOAD.json [check]

SUBJECT: `jpeg`, file to crop and heatmaps; `pixels`, a decoded picture to a crop, geometry and colour; `geometry`, the
same without colour; `targets`, keypoints to heatmaps; `decoding quarter`, `decoding dark`, heatmaps to keypoints. One
thread. A pass takes every person of the workload once; times are CPU seconds a person, a pass each. `check`: what the
tool does to the truth, instead of times. Only NumPy, OpenCV and the standard library stand outside the tools'
functions, so that each tool runs in its own environment.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.augment_recipe import (
    ROTATION,
    SCALE,
    SIGMA,
    SIZE,
    STRIDE,
    Array,
    Person,
    Photo,
    center_scale,
    official_crop,
    official_dark,
    official_draw,
    official_quarter,
    official_targets,
    read_rgb,
)  # fmt: skip

cv2.setNumThreads(1)
MEAN, DEVIATION = np.array((0.485, 0.456, 0.406), np.float32), np.array((0.229, 0.224, 0.225), np.float32)
COLOUR = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
HUE = 0.05  # of a turn
BATCH = 32  # kornia works on batches
PASS_SECONDS, PASSES = 4.0, 9  # passes stop at either

Crops = Callable[[list[Photo], Array], Any]  # all people of the photos once, with a generator
Geometry = Callable[[Photo, Person, Array], tuple[Array, Array]]  # one crop (H, W, 3) uint8 and its keypoints (17, 2)


def read_workload(path: str, pixels: bool) -> list[Photo]:
    """The photos of a workload; pixels: decoded."""
    photos = []
    for line in json.loads(Path(path).read_text())["photos"]:
        people = [
            Person(np.array(p["keypoints"], float), np.array(p["visibility"], np.int8), np.array(p["box"], float))
            for p in line["people"]
        ]
        photos.append(Photo(line["path"], tuple(line["size"]), people, read_rgb(line["path"]) if pixels else None))
    return photos


def _turbo(path: str) -> Array:
    import simplejpeg

    return simplejpeg.decode_jpeg(Path(path).read_bytes(), "RGB")


def official(decode: Callable[[str], Array], floats: bool) -> Crops:
    """A picture is decoded for each of its people. floats: normalised to (3, H, W) float32, as the official loader."""

    def crops(photos: list[Photo], rng: Array) -> Iterator[Any]:
        for photo in photos:
            for person in photo.people:
                image = decode(photo.path)
                crop, keypoints, visibility = official_crop(image, person, official_draw(person, rng))
                if floats:
                    crop = ((crop.astype(np.float32) / 255 - MEAN) / DEVIATION).transpose(2, 0, 1).copy()
                yield crop, official_targets(keypoints, visibility)

    return crops


def official_geometry(photo: Photo, person: Person, rng: Array) -> tuple[Array, Array]:
    return official_crop(photo.pixels, person, official_draw(person, rng))[:2]


def sample_of(photo: Photo, people: list[Person], pixels: Array) -> Any:
    """A kpdata Sample of some people of a photo."""
    from kpdata.augment import Sample

    columns = [np.stack([getattr(p, name) for p in people]) for name in ("keypoints", "visibility", "box")]
    return Sample(pixels, columns[0], columns[1], _skeleton(), bbox=columns[2])


@cache
def _skeleton() -> Any:
    from kpdata.skeleton import load

    return load("coco_17")


def kpdata_top_down(**options: Any) -> Any:
    """Turned, scaled, flipped as the recipe says; without half body, which peers' pipelines do not have."""
    from kpdata.augment import TopDown

    return TopDown(SIZE, rotation=ROTATION, scale=SCALE, flip=0.5, **options)


def kpdata_persons(decoder: str = "simplejpeg", reduce: bool = False) -> Crops:
    """From the file to crop and heatmaps, person by person: only what the crop shows is decoded."""
    if decoder == "OpenCV":
        sys.modules["simplejpeg"] = None  # type: ignore[assignment] - kpdata takes it where it is installed
    from kpdata.augment import HalfBody, PersonCrops
    from kpdata.codec import HeatmapCodec

    transform, codec = kpdata_top_down(half_body=HalfBody()), HeatmapCodec(SIZE, STRIDE, SIGMA)
    made: list[Any] = []

    def crops(photos: list[Photo], rng: Array) -> Iterator[Any]:
        if not made:
            made.append(PersonCrops(dataset_of(photos), "", transform, reduce=reduce))
        epoch = int(rng.integers(2**31))
        for index in range(len(made[0])):
            crop = made[0][epoch, index]
            yield crop.image, codec.encode(crop.keypoints, crop.visibility)

    return crops


def dataset_of(photos: list[Photo]) -> Any:
    """The workload as a Dataset; its file names are whole paths."""
    from kpdata.converters import coco

    images, annotations = [], []
    for number, photo in enumerate(photos):
        images.append({"id": number, "file_name": photo.path, "width": photo.size[0], "height": photo.size[1]})
        for person in photo.people:
            flat = np.concatenate([person.keypoints, person.visibility[:, None]], axis=1).ravel().tolist()
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0, "keypoints": flat,
                "num_keypoints": int((person.visibility > 0).sum()), "bbox": person.box.tolist(), "area": 1.0,
            })  # fmt: skip
    kind = {"id": 1, "name": "person", "keypoints": list(_skeleton().keypoint_names), "skeleton": []}
    return coco.decode({"images": images, "annotations": annotations, "categories": [kind]}, source="the workload")


def kpdata_jpeg(once: bool) -> Crops:
    """The same of whole pictures. once: a picture is decoded once for all its people, not once for each."""
    from kpdata.augment import HalfBody, people, read_image
    from kpdata.codec import HeatmapCodec

    transform, codec = kpdata_top_down(half_body=HalfBody()), HeatmapCodec(SIZE, STRIDE, SIGMA)

    def crops(photos: list[Photo], rng: Array) -> Iterator[Any]:
        for photo in photos:
            for group in [photo.people] if once else [[person] for person in photo.people]:
                whole = sample_of(photo, group, read_image(photo.path, photo.size))
                for one in people(whole):
                    crop = transform(one, rng)
                    yield crop.image, codec.encode(crop.keypoints, crop.visibility)

    return crops


def kpdata_geometry(colour: str) -> Geometry:
    """One warp; colour: "" none, "kpdata" our ColorJitter, "albumentations" theirs through the bridge."""
    transform = kpdata_top_down()
    if colour == "kpdata":
        from kpdata.augment import ColorJitter

        paint: Any = ColorJitter(**COLOUR, hue=HUE * 360)
    elif colour == "albumentations":
        import albumentations

        from kpdata.augment import Pixels

        paint = Pixels([albumentations.ColorJitter(**COLOUR, hue=HUE, p=1)])

    def crop(photo: Photo, person: Person, rng: Array) -> tuple[Array, Array]:
        made = transform(sample_of(photo, [person], photo.pixels), rng)
        made = paint(made, rng) if colour else made
        return made.image, made.keypoints[0]

    return crop


def _box_crop(photo: Photo, person: Person) -> tuple[Array, Array]:
    """The padded box cut out of the picture, as far as it goes, and the keypoints in it: where peers start."""
    center, scale = center_scale(person)
    low = np.clip(np.floor(center - scale * 100), 0, np.array(photo.size) - 2).astype(int)
    high = np.clip(np.ceil(center + scale * 100), low + 2, photo.size).astype(int)
    return photo.pixels[low[1] : high[1], low[0] : high[0]], person.keypoints - low


def albumentations_geometry(colour: bool, resized_first: bool) -> Geometry:
    """Flip, Affine, Resize and ColorJitter on the box. resized_first: the affine works on 256 x 192 px."""
    import albumentations as A

    cv2.setNumThreads(1)
    affine = [
        A.HorizontalFlip(p=0.5),
        A.Affine(rotate=(-ROTATION, ROTATION), scale=(1 - SCALE, 1 + SCALE), p=1),
    ]
    resize = [A.Resize(SIZE[1], SIZE[0])]
    steps = [*resize, *affine] if resized_first else [*affine, *resize]
    paint = [A.ColorJitter(**COLOUR, hue=HUE, p=1)] if colour else []
    pipeline = A.Compose(
        [*steps, *paint],
        keypoint_params=A.KeypointParams(format="xy", remove_invisible=False),
        seed=0,
    )

    def crop(photo: Photo, person: Person, rng: Array) -> tuple[Array, Array]:
        image, keypoints = _box_crop(photo, person)
        made = pipeline(image=image, keypoints=keypoints)
        return made["image"], np.asarray(made["keypoints"])

    return crop


def torchvision_geometry(colour: bool) -> Geometry:
    """The same of torchvision.transforms.v2."""
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = [
        v2.RandomHorizontalFlip(0.5),
        v2.RandomAffine(ROTATION, scale=(1 - SCALE, 1 + SCALE), interpolation=v2.InterpolationMode.BILINEAR),
        v2.Resize((SIZE[1], SIZE[0])),
    ]
    pipeline = v2.Compose([*steps, *([v2.ColorJitter(**COLOUR, hue=HUE)] if colour else [])])

    def crop(photo: Photo, person: Person, rng: Array) -> tuple[Array, Array]:
        image, keypoints = _box_crop(photo, person)
        pixels = tv_tensors.Image(torch.from_numpy(image.transpose(2, 0, 1).copy()))
        points = tv_tensors.KeyPoints(torch.from_numpy(keypoints).float(), canvas_size=image.shape[:2])
        made, moved = pipeline(pixels, points)
        return made.permute(1, 2, 0).contiguous().numpy(), moved.numpy()

    return crop


def kornia_batch(colour: bool) -> Callable[[list[Array], list[Array]], tuple[Array, Array]]:
    """The same of kornia, on a batch that OpenCV resized: crops (B, H, W, 3) uint8, keypoints (B, 17, 2)."""
    import kornia.augmentation as K
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    paint = [K.ColorJitter(**COLOUR, hue=HUE, p=1)] if colour else []
    pipeline = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomAffine(ROTATION, scale=(1 - SCALE, 1 + SCALE), p=1),
        *paint,
        data_keys=["input", "keypoints"],
    )

    def run(images: list[Array], keypoints: list[Array]) -> tuple[Array, Array]:
        pixels = np.stack([cv2.resize(image, SIZE) for image in images])
        ratio = [np.array(SIZE) / image.shape[1::-1] for image in images]
        points = np.stack([(k + 0.5) * r - 0.5 for k, r in zip(keypoints, ratio, strict=True)])
        batch = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float() / 255
        made, moved = pipeline(batch, torch.from_numpy(points).float())
        crops = (made * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return crops, moved.numpy()

    return run


GEOMETRY: dict[str, Callable[[bool], Geometry]] = {
    "official recipe": lambda colour: official_geometry,
    "kpdata": lambda colour: kpdata_geometry("kpdata" if colour else ""),
    "kpdata + albumentations": lambda colour: kpdata_geometry("albumentations"),
    "albumentations": lambda colour: albumentations_geometry(colour, resized_first=False),
    "albumentations resized first": lambda colour: albumentations_geometry(colour, resized_first=True),
    "torchvision": torchvision_geometry,
}
JPEG: dict[str, Callable[[], Crops]] = {
    "official recipe": lambda: official(read_rgb, floats=True),
    "official recipe simplejpeg": lambda: official(_turbo, floats=True),
    "official recipe uint8": lambda: official(read_rgb, floats=False),
    "official recipe uint8 simplejpeg": lambda: official(_turbo, floats=False),
    "kpdata with OpenCV decoding": lambda: kpdata_persons("OpenCV"),
    "kpdata": kpdata_persons,
    "kpdata reduced": lambda: kpdata_persons(reduce=True),
    "kpdata whole pictures": lambda: kpdata_jpeg(once=False),
    "kpdata decoding once": lambda: kpdata_jpeg(once=True),
}


def crops_of(tool: str, subject: str) -> Crops:
    """The tool's pass over the photos."""
    if subject == "jpeg":
        return JPEG[tool]()
    if tool == "kornia":
        return _in_batches(kornia_batch(subject == "pixels"))
    one = GEOMETRY[tool](subject == "pixels")
    return lambda photos, rng: (one(photo, person, rng) for photo in photos for person in photo.people)


def _in_batches(run: Callable[[list[Array], list[Array]], tuple[Array, Array]]) -> Crops:
    def crops(photos: list[Photo], rng: Array) -> Iterator[Any]:
        cut = [_box_crop(photo, person) for photo in photos for person in photo.people]
        for start in range(0, len(cut), BATCH):
            images, keypoints = zip(*cut[start : start + BATCH], strict=True)
            yield run(list(images), list(keypoints))

    return crops


def codec_passes(tool: str, subject: str, photos: list[Photo]) -> Callable[[], list[Array]]:
    """All people's heatmaps (`targets`), or the keypoints of noisy ones (`decoding`, quarter offset, and DARK)."""
    from kpdata.codec import HeatmapCodec

    people = [person for photo in photos for person in photo.people]
    lows = np.stack([person.box[:2] for person in people])[:, None]
    sides = np.stack([person.box[2:] for person in people])[:, None]
    keypoints = (np.stack([person.keypoints for person in people]) - lows) / np.maximum(sides, 1) * SIZE
    keypoints = np.clip(keypoints, 20, np.array(SIZE) - 20)  # a map of noise alone has no one maximum
    visibility = np.stack([person.visibility for person in people])
    name, _, refine = subject.partition(" ")
    codec = HeatmapCodec(SIZE, STRIDE, SIGMA, refine=refine or None)  # type: ignore[arg-type]
    if name == "targets":
        if tool == "kpdata":
            return lambda: list(codec.encode(keypoints, visibility)[0])
        return lambda: [official_targets(k, v)[0] for k, v in zip(keypoints, visibility, strict=True)]
    maps = codec.encode(keypoints, visibility)[0]
    maps += np.random.default_rng(0).random(maps.shape, np.float32) * 0.02
    if tool == "kpdata":
        return lambda: list(codec.decode(maps)[0])
    refined = official_quarter if refine == "quarter" else official_dark
    return lambda: [refined(person) * STRIDE for person in maps]


def passes(tool: str, subject: str, photos: list[Photo]) -> list[float]:
    """CPU seconds a person, of each pass after a first one."""
    if subject.startswith(("targets", "decoding")):
        coded = codec_passes(tool, subject, photos)

        def once(number: int) -> None:
            coded()
    else:
        crops = crops_of(tool, subject)

        def once(number: int) -> None:
            for _ in crops(photos, np.random.default_rng(number)):
                pass

    count = sum(len(photo.people) for photo in photos)
    times: list[float] = []
    once(0)
    while len(times) < PASSES and sum(times) < PASS_SECONDS:
        start = time.process_time()
        once(len(times) + 1)
        times.append(time.process_time() - start)
    return [seconds / count for seconds in times]


def main() -> None:
    """Run one tool and print one JSON line."""
    tool, subject, workload, *checked = sys.argv[1:]
    photos = read_workload(workload, pixels=subject in ("pixels", "geometry"))
    if checked:
        from benchmarks.augment_checks import check

        print(json.dumps(check(tool, subject, photos)))
    else:
        print(json.dumps({"times": passes(tool, subject, photos)}))


if __name__ == "__main__":
    main()
