"""Samples from and to COCO dictionaries, Hugging Face batches and torchvision's tensors."""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from kpdata import skeleton
from kpdata.augment.adapters import (
    CocoTransform,
    HuggingFaceTransform,
    as_picture,
    from_coco,
    from_torchvision,
    to_coco,
    to_torchvision,
)
from kpdata.augment.occlusion import CoarseDropout
from kpdata.augment.sample import Sample
from kpdata.augment.transforms import HorizontalFlip, RandomAffine
from kpdata.errors import FormatError, KpdataError, SchemaError
from kpdata.skeleton import Skeleton

COCO = skeleton.load("coco_17")
TRIO = Skeleton("trio", ("nose", "left_eye", "right_eye"), flip_pairs=frozenset({("left_eye", "right_eye")}))
WIDTH, HEIGHT = 40, 30
FLIP = HorizontalFlip(p=1)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def annotation(**values: Any) -> dict[str, Any]:
    points = [10, 5, 2, 12, 4, 1, 0, 0, 0]
    return {"id": 7, "keypoints": points, "bbox": [8, 3, 10, 20], "area": 150, "category_id": 1, "iscrowd": 0, **values}


# --------------------------------------------------------------------------------------------------------------- COCO


def test_coco_flip_by_hand() -> None:
    """A keypoint flips to W - 1 - x, a box to W - x - w, left becomes right, the absent eye stays absent."""
    before = annotation(segmentation=[[8, 3, 18, 3, 18, 23]])

    image, [after] = CocoTransform(FLIP, TRIO)(picture(), [before], rng())

    assert np.array_equal(image, picture()[:, ::-1])
    assert after == annotation(
        keypoints=[29, 5, 2, 0, 0, 0, 27, 4, 1], bbox=[22, 3, 10, 20], num_keypoints=2,
        segmentation=[[32, 3, 22, 3, 22, 23]],
    )  # fmt: skip
    assert json.loads(json.dumps(after)) == after  # plain numbers
    assert before == annotation(segmentation=[[8, 3, 18, 3, 18, 23]])  # not touched


def test_real_annotations_come_back(real_data: Path) -> None:
    """Nothing is lost on the way to a Sample and back: every field of every real annotation is the same number."""
    folder = real_data / "coco_mini"
    file = json.loads((folder / "person_keypoints_val2017.json").read_text())
    by_image: dict[int, list[Any]] = {}
    for row in file["annotations"]:
        by_image.setdefault(row["image_id"], []).append(row)
    names = {entry["id"]: entry["file_name"] for entry in file["images"]}
    compared = 0
    for image_id, rows in list(by_image.items())[:20]:
        sample = from_coco(folder / "val2017" / names[image_id], rows, COCO, image_id=image_id)
        assert to_coco(sample, rows) == rows
        compared += len(rows)
    assert compared > 20


@pytest.mark.parametrize("compressed", [True, False])
def test_rle_masks_follow(compressed: bool) -> None:
    """A run-length mask of a crowd is flipped and written in the same kind; polygons beside it keep their outline."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:12, 3:9] = True
    if compressed:
        coded = coco_masks.encode(np.asfortranarray(mask, np.uint8))
        rle = {"size": coded["size"], "counts": coded["counts"].decode()}
    else:
        flat = mask.T.reshape(-1)
        edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
        rle = {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, flat.size]).tolist()}
    rows = [annotation(segmentation=rle, iscrowd=1, id=1), annotation(segmentation=[[8, 3, 18, 3, 18, 23]], id=2)]

    _, after = CocoTransform(FLIP, TRIO)(picture(), rows, rng())

    found = after[0]["segmentation"]
    assert type(found["counts"]) is type(rle["counts"])
    counts = found if compressed else coco_masks.frPyObjects(found, HEIGHT, WIDTH)
    assert np.array_equal(coco_masks.decode(counts).astype(bool), mask[:, ::-1])
    assert after[1]["segmentation"] == [[32, 3, 22, 3, 22, 23]] and after[0]["iscrowd"] == 1


def test_rows_are_told_apart_by_id() -> None:
    """Where a transform drops a person, the other keeps its own keys; repeated ids are told apart by order."""

    class Second:
        def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
            return sample.changed(
                keypoints=sample.keypoints[1:], visibility=sample.visibility[1:], bbox=sample.bbox[1:],
                area=sample.area[1:], center=None, scale=None, annotation_ids=sample.annotation_ids[1:],
            )  # fmt: skip

    rows = [annotation(id=1, note="a"), annotation(id=2, note="b")]
    assert [a["note"] for a in CocoTransform(Second(), TRIO)(picture(), rows, rng())[1]] == ["b"]
    same = [annotation(note="a"), annotation(note="b")]
    assert [a["note"] for a in to_coco(from_coco(picture(), same, TRIO), same)] == ["a", "b"]
    nameless = [{"keypoints": [1, 2, 2] * 3, "note": "c"}]
    assert to_coco(from_coco(picture(), nameless, TRIO), nameless) == [{**nameless[0], "num_keypoints": 3}]


def test_nobody_is_a_sample_too() -> None:
    """A picture without annotations is augmented as well; a person without keypoints stays one without."""
    image, after = CocoTransform(FLIP, TRIO)(picture(), [], rng())
    assert after == [] and np.array_equal(image, picture()[:, ::-1])
    [person] = to_coco(from_coco(picture(), [{"id": 3, "bbox": [1, 2, 3, 4]}], TRIO))
    assert person == {"id": 3, "keypoints": [0] * 9, "num_keypoints": 0, "bbox": [1, 2, 3, 4]}


def test_covered_keypoints_are_written_as_occluded() -> None:
    """An occlusion of all the picture turns 2 to 1 in the dictionary, too."""
    whole = CoarseDropout(count=(1, 1), height=(1.0, 1.0), width=(1.0, 1.0))
    rows = [annotation(keypoints=[20, 15, 2, 20, 15, 1, 0, 0, 0])]
    _, [after] = CocoTransform(whole, TRIO)(picture(), rows, rng())
    assert after["keypoints"][2::3] == [1, 1, 0] and after["num_keypoints"] == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"keypoints": [1, 2, 2]}, r"annotation 7: 3 numbers in 'keypoints', expected 9"),
        ({"keypoints": [1, 2, 5] * 3}, r"annotation 7: visibility \[5.0\], expected 0, 1 or 2"),
        ({"keypoints": "abc"}, r"annotation 7: 'keypoints': 'abc', expected numbers"),
        ({"bbox": [1, 2]}, r"annotation 7: 2 numbers in 'bbox', expected 4"),
        ({"area": "big"}, r"annotation 7: 'area': 'big', expected numbers"),
        ({"segmentation": [[1, 2, 3]]}, r"annotation 7: segmentation, expected polygons of x, y pairs"),
        (
            {"segmentation": {"size": [3, 3], "counts": [9]}},
            r"annotation 7: segmentation of size \(3, 3\), the picture",
        ),
        ({"segmentation": {"size": [3, 3], "counts": [5]}}, r"its runs add up to 5"),
    ],
)
def test_bad_annotations_are_named(values: dict[str, Any], words: str) -> None:
    """The message names the annotation, the field, what was found and what was expected."""
    with pytest.raises(SchemaError, match=words):
        from_coco(picture(), [annotation(**values)], TRIO)


def test_what_is_no_annotation_is_named() -> None:
    """By its place in the list."""
    with pytest.raises(SchemaError, match="annotation at place 1: 3, expected a dictionary"):
        from_coco(picture(), [annotation(), 3], TRIO)  # type: ignore[list-item]


# ----------------------------------------------------------------------------------------------------------- pictures


class Tensor:
    """What a torch tensor on a device can do, as far as we use it."""

    def __init__(self, array: Any, steps: tuple[str, ...] = ()) -> None:
        self.array, self.steps = np.asarray(array), steps

    def detach(self) -> Tensor:
        return Tensor(self.array, (*self.steps, "detach"))

    def cpu(self) -> Tensor:
        return Tensor(self.array, (*self.steps, "cpu"))

    def numpy(self) -> np.ndarray:
        assert self.steps == ("detach", "cpu"), "a tensor with a gradient, or on a device, has no NumPy array"
        return self.array


def test_pictures_of_every_kind(tmp_path: Path) -> None:
    """A Pillow image, its bytes, a path, a tensor with the channels first, a grey array: one picture."""
    held = io.BytesIO()
    Image.fromarray(picture()).save(held, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(held.getvalue())
    kinds = [
        picture(), Image.open(path), held.getvalue(), path, str(path), {"bytes": held.getvalue(), "path": None},
        {"bytes": None, "path": str(path)}, Tensor(picture().transpose(2, 0, 1)), picture().transpose(2, 0, 1),
    ]  # fmt: skip
    assert all(np.array_equal(as_picture(kind), picture()) for kind in kinds)
    grey = picture()[..., 0]
    assert np.array_equal(as_picture(grey), np.stack([grey] * 3, -1))


def test_other_pictures_are_refused() -> None:
    """Floats have an unknown range, four channels an unknown meaning; a missing file is named."""
    with pytest.raises(SchemaError, match=r"photo: float32 of shape \(30, 40, 3\), expected a uint8 RGB picture"):
        as_picture(picture().astype(np.float32), "photo")
    with pytest.raises(SchemaError, match=r"uint8 of shape \(30, 40, 4\)"):
        as_picture(np.zeros((30, 40, 4), np.uint8))
    with pytest.raises(FormatError, match=r"gone\.jpg"):
        as_picture("gone.jpg")


# ------------------------------------------------------------------------------------------------------- Hugging Face

POINTS = [[10, 5, 2], [12, 4, 1], [3, 3, 0]]


def flat(points: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(points))


FLIPPED = [[29, 5, 2], [36, 3, 0], [27, 4, 1]]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([POINTS, POINTS], [FLIPPED, FLIPPED]),
        (POINTS, FLIPPED),
        ([flat(POINTS)], [flat(FLIPPED)]),
        (flat(POINTS), flat(FLIPPED)),
        ([p[:2] for p in POINTS], [p[:2] for p in FLIPPED]),
        ([flat(p[:2] for p in POINTS)], [flat(p[:2] for p in FLIPPED)]),
        ([], []),
    ],
)
def test_hugging_face_keeps_the_shape(before: Any, after: Any) -> None:
    """Each layout of a keypoints column comes back in its own layout, flipped by hand."""
    batch = {"image": [Image.fromarray(picture())], "keypoints": [before], "label": ["x"]}

    out = HuggingFaceTransform(FLIP, TRIO)(batch)

    assert out["keypoints"] == [after] and out["label"] == ["x"]
    assert np.array_equal(out["image"][0], picture()[:, ::-1])
    assert batch["keypoints"] == [before] and isinstance(batch["image"][0], Image.Image)  # the caller's are untouched


def test_hugging_face_columns_and_fields() -> None:
    """Visibility and boxes may be columns, or fields of a column of dictionaries."""
    fields = {"points": [p[:2] for p in POINTS], "seen": [2, 1, 0], "box": [[8, 3, 10, 20]], "name": "ann"}
    transform = HuggingFaceTransform(FLIP, TRIO, "photo", "people.points", "people.seen", "people.box")

    out = transform({"photo": [picture()] * 2, "people": [fields] * 2})

    expected = {"points": [p[:2] for p in FLIPPED], "seen": [2, 0, 1], "box": [[22, 3, 10, 20]], "name": "ann"}
    assert out["people"] == [expected] * 2
    assert fields["seen"] == [2, 1, 0]


def test_hugging_face_random_numbers() -> None:
    """A seed, the epoch and the row's number decide; the place in the batch does not. Without a seed rows differ."""
    row = {"image": picture(), "keypoints": POINTS}

    def run(numbers: list[int], epoch: int = 0, seed: int | None = 3) -> list[Any]:
        transform = HuggingFaceTransform(RandomAffine(rotation=40), TRIO, index="row", seed=seed, epoch=epoch)
        batch = {key: [value] * len(numbers) for key, value in row.items()}
        return list(transform({**batch, "row": numbers})["keypoints"])

    assert run([4, 9]) == run([9, 4])[::-1] == [run([4])[0], run([9])[0]]
    assert run([4]) != run([9]) and run([4]) != run([4], epoch=1)
    assert run([4], seed=None) != run([4], seed=None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keypoints": None}, r"no column \['keypoints'\], found \['image'\].*read whole rows"),
        (
            {"keypoints": [[[1, 2]] * 4]},
            r"row 0 of the batch, column 'keypoints': shape \(4, 2\), expected \(P, 3, 2 or 3",
        ),
        ({"keypoints": [[[1, 2], [3]]]}, r"column 'keypoints': .*expected numbers in lists of equal lengths"),
        ({"keypoints": [[[1, 2, 9]] * 3]}, r"column 'keypoints': visibility, expected 0 to 3"),
        ({"image": [np.zeros((3, 4))]}, r"column 'image': float64"),
    ],
)
def test_hugging_face_errors_name_the_column(change: dict[str, Any], words: str) -> None:
    """The row of the batch and the column are said."""
    batch = {"image": [picture()], "keypoints": [POINTS], **change}
    with pytest.raises(SchemaError, match=words):
        HuggingFaceTransform(FLIP, TRIO)({key: value for key, value in batch.items() if value is not None})


def test_hugging_face_options() -> None:
    """A seed needs a column that tells rows apart; a batch of other columns is none of our business."""
    with pytest.raises(SchemaError, match=r"a seed without an index column.*add_column"):
        HuggingFaceTransform(FLIP, TRIO, seed=1)
    assert HuggingFaceTransform(FLIP, TRIO)({"label": [1, 2]}) == {"label": [1, 2]}
    with pytest.raises(SchemaError, match=r"column 'box': shape \(3,\), expected \(1, 4\)"):
        HuggingFaceTransform(FLIP, TRIO, bbox="box")({"image": [picture()], "keypoints": [POINTS], "box": [[1, 2, 3]]})


# -------------------------------------------------------------------------------------------------------- torchvision


class Boxes(Tensor):
    def __init__(self, array: Any, format: Any) -> None:
        super().__init__(array)
        self.format = format


@pytest.mark.parametrize("kind", ["XYXY", "XYWH", "CXCYWH"])
def test_torchvision_boxes(kind: str) -> None:
    """Each of torchvision's box formats, an enum with a value, becomes x, y, w, h."""
    numbers = {"XYXY": [8, 3, 18, 23], "XYWH": [8, 3, 10, 20], "CXCYWH": [13, 13, 10, 20]}[kind]
    target = {
        "image": Tensor(picture().transpose(2, 0, 1)),
        "keypoints": Tensor(np.array([POINTS], np.float32)[..., :2]),
        "visibility": Tensor([[2, 1, 0]]),
        "boxes": Boxes([numbers], types.SimpleNamespace(value=kind)),
        "masks": Tensor(np.ones((1, HEIGHT, WIDTH), np.uint8)),
    }

    sample = from_torchvision(target, TRIO)

    assert sample.bbox.tolist() == [[8, 3, 10, 20]] and sample.visibility.tolist() == [[2, 1, 0]]
    assert np.array_equal(sample.image, picture()) and sample.masks.all()
    assert sample.keypoints.tolist() == [[p[:2] for p in POINTS]]


def test_torchvision_bad_input() -> None:
    """Missing keys, rotated boxes and other numbers of keypoints are refused in words."""
    good = {"image": picture(), "keypoints": np.zeros((1, 3, 2))}
    for change, words in [
        ({"keypoints": None}, r"no \['keypoints'\], found"),
        ({"boxes": Boxes([[1, 2, 3, 4, 5]], "XYXYXYXY")}, "boxes of shape"),
        ({"boxes": Boxes([[1, 2, 3, 4]], "CXCYWHR")}, "boxes of format CXCYWHR, expected XYXY"),
        ({"keypoints": np.zeros((1, 4, 2))}, r"from_torchvision: keypoints: shape \(1, 4, 2\)"),
    ]:
        with pytest.raises(SchemaError, match=words):
            from_torchvision({**good, **change}, TRIO)


def sample() -> Sample:
    xy = np.array([[p[:2] for p in POINTS]], float)
    return Sample(picture(), xy, np.array([[2, 1, 0]], np.int8), TRIO, bbox=np.array([[8.0, 3, 10, 20]]))


def test_to_torchvision_of_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is handed to torchvision's classes: channels first, float32 points, corners, and the size of the canvas."""

    class Made(Tensor):
        def __init__(self, array: Any, **options: Any) -> None:
            super().__init__(array)
            self.options = options

    tv = types.ModuleType("torchvision.tv_tensors")
    tv.Image = tv.KeyPoints = tv.BoundingBoxes = tv.Mask = Made  # type: ignore[attr-defined]
    torch = types.ModuleType("torch")
    torch.from_numpy = np.asarray  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.tv_tensors", tv)
    monkeypatch.setitem(sys.modules, "torch", torch)

    out = to_torchvision(sample())

    assert out["image"].array.shape == (3, HEIGHT, WIDTH) and out["keypoints"].array.dtype == np.float32
    assert out["keypoints"].options == {"canvas_size": (HEIGHT, WIDTH)}
    assert out["boxes"].array.tolist() == [[8, 3, 18, 23]]
    assert out["boxes"].options == {"format": "XYXY", "canvas_size": (HEIGHT, WIDTH)}
    assert out["visibility"].tolist() == [[2, 1, 0]] and "masks" not in out


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what to install; a torchvision before KeyPoints is told apart."""
    monkeypatch.setitem(sys.modules, "torchvision.tv_tensors", None)
    with pytest.raises(KpdataError, match=r"to_torchvision needs torchvision. pip install torchvision"):
        to_torchvision(sample())
    monkeypatch.setitem(sys.modules, "torchvision.tv_tensors", types.ModuleType("old"))
    with pytest.raises(KpdataError, match=r"has no tv_tensors.KeyPoints. pip install --upgrade torchvision"):
        to_torchvision(sample())


def test_torchvision_itself() -> None:
    """There and back through the real classes: equal arrays."""
    tv = pytest.importorskip("torchvision.tv_tensors")
    out = to_torchvision(sample())
    assert isinstance(out["keypoints"], tv.KeyPoints) and isinstance(out["boxes"], tv.BoundingBoxes)
    back = from_torchvision(out, TRIO)
    for name in ("image", "keypoints", "visibility", "bbox"):
        assert np.array_equal(getattr(back, name), getattr(sample(), name))


def test_torchvision_pipelines_take_what_we_give() -> None:
    """torchvision's own resizing moves image and boxes of ours as it says, and what comes back is a Sample again."""
    pytest.importorskip("torchvision.tv_tensors")
    from torchvision.transforms import v2

    before = sample()
    width, height = before.size
    out = v2.Resize((2 * height, 2 * width))(to_torchvision(before))
    back = from_torchvision(out, TRIO)
    assert back.size == (2 * width, 2 * height) and back.bbox is not None and before.bbox is not None
    np.testing.assert_allclose(back.bbox, 2 * before.bbox, atol=1e-4)


def test_hugging_face_itself(tmp_path: Path) -> None:
    """Through the real library: from its own files of Arrow and PNG, by `set_transform`, rows and batches."""
    datasets = pytest.importorskip("datasets")
    pictures = [picture(), picture()[::-1]]
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    columns = {
        "image": [str(tmp_path / f"{number}.png") for number in range(2)],
        "keypoints": [[POINTS], [POINTS, POINTS]],
        "box": [[[8, 3, 10, 20]], [[8, 3, 10, 20]] * 2],
        "row": [0, 1],
    }
    made = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    made.save_to_disk(tmp_path / "saved")
    loaded = datasets.load_from_disk(str(tmp_path / "saved"))

    loaded.set_transform(HuggingFaceTransform(FLIP, TRIO, bbox="box"))

    assert loaded[0]["keypoints"] == [FLIPPED] and loaded[0]["box"] == [[22, 3, 10, 20]]
    assert np.array_equal(loaded[1]["image"], pictures[1][:, ::-1])
    both = loaded[:2]
    assert both["keypoints"] == [[FLIPPED], [FLIPPED, FLIPPED]]
    loaded.set_transform(HuggingFaceTransform(RandomAffine(rotation=40), TRIO, index="row", seed=3))
    assert loaded[1]["keypoints"] == loaded[[0, 1]]["keypoints"][1] != columns["keypoints"][1]
