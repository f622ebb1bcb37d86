"""A network at work: the right crop, colours, flip and decoding, and people where they stand in the picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch: pip install 'kpdata[train]'")
cv2 = pytest.importorskip("cv2", reason="the trainer needs OpenCV: pip install 'kpdata[train]'")

from torch import Tensor, nn  # noqa: E402

from kpdata import schema, synthesize  # noqa: E402
from kpdata.augment.crops import TopDown, people, to_image  # noqa: E402
from kpdata.augment.sample import Sample  # noqa: E402
from kpdata.augment.samples import samples  # noqa: E402
from kpdata.codec import HeatmapCodec, Target, flip_heatmaps  # noqa: E402
from kpdata.dataset import Dataset  # noqa: E402
from kpdata.errors import EvaluationError, FormatError, TrainError  # noqa: E402
from kpdata.skeleton import Skeleton, load  # noqa: E402
from kpdata.synth import write_images  # noqa: E402
from kpdata.train.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from kpdata.train.models import build  # noqa: E402
from kpdata.train.nms import oks_nms, rescored  # noqa: E402
from kpdata.train.predict import predict  # noqa: E402
from kpdata.train.predictor import Predictor  # noqa: E402
from kpdata.train.spec import Colour, NetworkSpec  # noqa: E402
from kpdata.train.targets import true_boxes  # noqa: E402

SIZE = (64, 96)  # not square: width and height are not mistaken for each other
BOXES = np.array([[30.0, 20, 40, 70], [5, 8, 90, 30], [100, 60, 80, 90]])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (120, 160, 3)).astype(np.float32)
    return np.clip((cv2.GaussianBlur(image, (0, 0), 2) - 127) * 4 + 127, 0, 255).astype(np.uint8)


def spec_of(bones: Skeleton | None = None, target: Target = "gaussian", colour: Colour = "rgb") -> NetworkSpec:
    return NetworkSpec("hrnet_tiny", bones or load("coco_17"), HeatmapCodec(SIZE, target=target), colour)


def network(count: int = 17, seed: int = 0) -> nn.Module:
    """hrnet_tiny whose maps differ from place to place: larger weights than the published start."""
    torch.manual_seed(seed)
    net = build("hrnet_tiny", count).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.normal_(0, (2 / (module.weight[0].numel())) ** 0.5)
    return net


def by_hand(net: nn.Module, spec: NetworkSpec, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One person the way a training sees it: TopDown, NumPy's normalisation, codec, `to_image`."""
    bones = spec.skeleton
    sample = Sample(image, np.zeros((1, len(bones), 2)), np.zeros((1, len(bones)), np.int8), bones, bbox=box[None])
    crop = TopDown(SIZE, convention=spec.convention)(sample, np.random.default_rng(0))
    pixels = crop.image[..., ::-1] if spec.colour == "bgr" else crop.image
    plain = ((pixels / 255 - np.array(spec.mean)) / np.array(spec.std)).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.no_grad():
        maps = net(torch.from_numpy(plain)).numpy()
        mirrored = net(torch.from_numpy(plain[..., ::-1].copy())).numpy()
    maps = (maps + flip_heatmaps(mirrored, bones, shift=spec.codec.target != "udp")) / 2
    xy, scores = spec.codec.decode(maps)
    return to_image(xy[0], crop), scores[0]


@pytest.mark.parametrize("target", ["gaussian", "dark", "udp"])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_each_person_is_what_the_training_crop_gives(picture: np.ndarray, target: Target, colour: Colour) -> None:
    """Crop, colours, flip test and decoding of every codec are those of the parts one by one."""
    spec, net = spec_of(target=target, colour=colour), network()
    found = Predictor((spec, net), device="cpu", batch=2)(picture, BOXES)
    expected = [by_hand(net, spec, picture, box) for box in BOXES]
    np.testing.assert_allclose(found.keypoint_scores, [scores for _, scores in expected], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.keypoints, [xy for xy, _ in expected], atol=0.02)
    np.testing.assert_allclose(found.scores, rescored(found.keypoint_scores))
    # 30 x 20 + (40 x 70): a side of 70 needs a width of 46.67 at 2 : 3, and a quarter more of each
    assert found.areas[0] == pytest.approx(70 / 96 * 64 * 1.25 * 70 * 1.25)


class Bright(nn.Module):
    """A map of each channel's brightness, cell by cell; K = 3, so columns say which colour came first."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 4)


THREE = Skeleton("three", ("red", "green", "blue"), flip_pairs=frozenset())


@pytest.mark.parametrize(("target", "tolerance"), [("gaussian", 0.6), ("udp", 0.3)])
def test_a_bright_spot_is_found_where_it_is(target: Target, tolerance: float) -> None:
    """Spots of one colour each, in a picture three times as large as the crop: px of the picture, in their columns."""
    spots, image = np.array([[130.0, 90], [200, 210], [110, 240]]), np.zeros((300, 400, 3), np.uint8)
    for channel, (x, y) in enumerate(spots):
        layer = np.exp(-((np.arange(400) - x) ** 2) / 200)[None] * np.exp(-((np.arange(300) - y) ** 2) / 200)[:, None]
        image[..., channel] = np.rint(255 * layer)
    spec = replace(spec_of(THREE, target), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    found = Predictor((spec, Bright()), device="cpu")(image, [[70, 60, 160, 220]])
    px = 4 * 1.25 * 240 / 96  # of the picture a cell
    assert np.abs(found.keypoints[0] - spots).max() < tolerance * px
    bgr = Predictor((spec.changed(colour="bgr"), Bright()), device="cpu")(image, [[70, 60, 160, 220]])
    assert np.abs(bgr.keypoints[0] - spots[::-1]).max() < tolerance * px


def test_the_flip_test_can_be_left_out(picture: np.ndarray) -> None:
    """Then the maps are those of the crop alone; a skeleton without twins says so and goes without."""
    spec, net = spec_of(), network()
    single, double = (Predictor((spec, net), device="cpu", flip_test=flip) for flip in (False, True))
    pixels = single.cut(picture, BOXES).pixels
    assert np.abs(single.maps(pixels) - double.maps(pixels)).max() > 0.01
    unknown = replace(load("coco_17"), flip_pairs=None)
    blind = Predictor((spec_of(unknown), net), device="cpu")
    assert np.array_equal(blind.maps(pixels), single.maps(pixels))
    assert any("not known" in note for note in blind.notes)


def test_batches_change_nothing(picture: np.ndarray) -> None:
    """One at a time, or all at once; nobody is nobody."""
    spec, net = spec_of(), network()
    one, many = (Predictor((spec, net), device="cpu", batch=batch)(picture, BOXES) for batch in (1, 50))
    np.testing.assert_allclose(one.keypoints, many.keypoints, atol=1e-3)
    nobody = Predictor((spec, net), device="cpu")(picture, [])
    assert nobody.keypoints.shape == (0, 17, 2)
    assert len(nobody) == 0


def test_a_checkpoint_brings_all_that_it_takes(picture: np.ndarray, tmp_path: Path) -> None:
    """The file gives what spec and network in memory give."""
    spec, net = spec_of(target="udp", colour="bgr"), network()
    save_checkpoint(tmp_path / "best.pt", Checkpoint(spec, net.state_dict()))
    stored = Predictor(tmp_path / "best.pt", device="cpu")
    assert stored.spec == spec
    found, expected = stored(picture, BOXES), Predictor((spec, net), device="cpu")(picture, BOXES)
    assert np.array_equal(found.keypoints, expected.keypoints)
    assert np.array_equal(found.keypoint_scores, expected.keypoint_scores)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [([[1, 2, 0, 5]], "box 0"), ([[1, 2, 3, 4], [1, 2, np.nan, 4]], "box 1"), ([[1, 2, 3]], r"\(1, 3\)"),
     ([[1, 2, 3, -1]], "above 0"), ([[np.inf, 2, 3, 1]], "finite")],
)  # fmt: skip
def test_bad_boxes_are_told(picture: np.ndarray, boxes: Any, message: str) -> None:
    """Zero size, NaN, endless, three numbers: the row is named."""
    with pytest.raises(TrainError, match=message):
        Predictor((spec_of(), network()), device="cpu")(picture, boxes)


def test_bad_pictures_files_and_devices_are_told(picture: np.ndarray, tmp_path: Path) -> None:
    """Floats, a cut checkpoint, one that is missing, a batch of 0, an unknown device."""
    spec, net = spec_of(), network()
    predictor = Predictor((spec, net), device="cpu")
    for wrong in (picture / 255, picture[..., 0], picture.tolist()):
        with pytest.raises(TrainError, match="expected uint8 RGB"):
            predictor(wrong, BOXES)
    save_checkpoint(tmp_path / "best.pt", Checkpoint(spec, net.state_dict()))
    whole = (tmp_path / "best.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("cut.pt", "none.pt"):
        with pytest.raises(TrainError, match=name):
            Predictor(tmp_path / name, device="cpu")
    with pytest.raises(TrainError, match="batch 0"):
        Predictor((spec, net), batch=0)
    with pytest.raises(TrainError, match="expected cpu"):
        Predictor((spec, net), device="abacus")


# --------------------------------------------------------------------------------------------------- a whole dataset


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    folder = tmp_path_factory.mktemp("scene")
    dataset = synthesize(6, seed=3, size=(160, 120), people=(1, 3), crowds=0)
    write_images(dataset, folder)
    return dataset, folder


@pytest.fixture(scope="module")
def predictor(scene: tuple[Dataset, Path]) -> Predictor:
    return Predictor((spec_of(scene[0].skeleton), network()), device="cpu", batch=4)


def one_by_one(predictor: Predictor, dataset: Dataset, folder: Path, boxes: np.ndarray) -> np.ndarray:
    """Keypoints (N, K, 2) of each person of the dataset in these boxes, a call a person."""
    from kpdata.augment.image import read_image

    names = schema.texts(dataset.images["file_name"])
    found = [
        predictor(read_image(folder / str(names[row])), box[None]).keypoints[0]
        for row, box in zip(dataset.image_rows().tolist(), boxes, strict=True)
    ]
    return np.array(found)


def results(path: Path, dataset: Dataset, boxes: np.ndarray, scores: np.ndarray, **more: Any) -> Path:
    """A detector's file in COCO's form."""
    ids = schema.values(dataset.persons["image_id"]).tolist()
    rows = [
        {"image_id": i, "category_id": 1, "bbox": box, "score": score, **more}
        for i, box, score in zip(ids, boxes.tolist(), scores.tolist(), strict=True)
    ]
    path.write_text(json.dumps(rows))
    return path


def test_a_dataset_gives_everybody_what_a_call_a_person_gives(
    scene: tuple[Dataset, Path], predictor: Predictor
) -> None:
    """In true boxes, batches across pictures: keypoints, scores, ids and categories of each person in its image."""
    dataset, folder = scene
    found = predict(predictor, dataset, folder, nms="none")
    boxes = schema.matrix(dataset.persons["bbox"], 4)
    order = np.argsort(dataset.image_rows(), kind="stable")
    np.testing.assert_allclose(found.people.keypoints, one_by_one(predictor, dataset, folder, boxes)[order], atol=1e-3)
    for name in ("image_id", "category_id"):
        assert np.array_equal(schema.values(found.people.persons[name]), schema.values(dataset.persons[name])[order])
    each = schema.matrix(found.people.persons["keypoint_scores"], len(dataset.skeleton))
    np.testing.assert_allclose(schema.values(found.people.persons["score"]), rescored(each))
    assert found.boxes == "true boxes"


def test_a_detectors_boxes_are_scored_by_box_and_keypoints(
    scene: tuple[Dataset, Path], predictor: Predictor, tmp_path: Path
) -> None:
    """Each box's pose, with the box's score times the keypoints'; low ones and those without extent are left out."""
    dataset, folder = scene
    boxes = schema.matrix(dataset.persons["bbox"], 4) + np.array([1.0, 2, 3, 4])
    scores = np.linspace(0.1, 0.9, len(boxes))
    boxes[-1, 2] = 0
    file = results(tmp_path / "boxes.json", dataset, boxes, scores)
    found = predict(predictor, dataset, folder, boxes=file, box_score_above=0.3, nms="none")
    kept = np.flatnonzero((scores > 0.3) & (np.arange(len(boxes)) < len(boxes) - 1))
    kept = kept[np.argsort(dataset.image_rows()[kept], kind="stable")]
    own = dataset.select(persons=kept)
    np.testing.assert_allclose(
        found.people.keypoints, one_by_one(predictor, own, folder, boxes[np.sort(kept)]), atol=1e-3
    )
    each = schema.matrix(found.people.persons["keypoint_scores"], 17)
    np.testing.assert_allclose(schema.values(found.people.persons["score"]), rescored(each, scores[kept]))
    assert any("without an extent" in note for note in found.notes)
    assert any("0.3 or less" in note for note in found.notes)


def test_boxes_that_say_the_same_twice_give_one_person(
    scene: tuple[Dataset, Path], predictor: Predictor, tmp_path: Path
) -> None:
    """A second box half a px off, with a lower score, is dropped by `oks`, and kept by `none`; `soft` lowers it;
    `soft-order` has the people of `soft` in their order under the scores that they had (the official code's)."""
    dataset, folder = scene
    boxes, count = schema.matrix(dataset.persons["bbox"], 4), len(dataset)
    twice = dataset.select()
    twice = replace(twice, persons=pa.concat_tables([dataset.persons, dataset.persons]))
    scores = np.concatenate([np.linspace(0.8, 0.9, count), np.linspace(0.3, 0.4, count)])
    file = results(tmp_path / "boxes.json", twice, np.concatenate([boxes, boxes]), scores)
    made = {
        nms: predict(predictor, dataset, folder, boxes=file, nms=nms).people
        for nms in ("oks", "soft", "soft-order", "none")
    }
    everybody = made["none"]
    assert len(everybody) == 2 * count
    sides = np.maximum(boxes[:, 2], boxes[:, 3] * 64 / 96) * 1.25
    areas = dict(zip(map(tuple, np.round(one_by_one(predictor, dataset, folder, boxes)[:, 0], 1)),
                     sides**2 * 96 / 64, strict=True))  # fmt: skip
    of = np.array([areas[tuple(np.round(xy, 1))] for xy in everybody.keypoints[:, 0]])
    expected = oks_nms(
        everybody.keypoints, schema.values(everybody.persons["score"]), of, np.array(dataset.skeleton.sigmas),
        images=schema.values(everybody.persons["image_id"]),
    )  # fmt: skip
    assert len(made["oks"]) == len(expected) <= count
    assert np.array_equal(made["oks"].keypoints, everybody.keypoints[expected])
    assert len(made["soft"]) == 2 * count
    before, after = (np.sort(schema.values(made[nms].persons["score"])) for nms in ("none", "soft"))
    assert (after <= before).all()
    assert after.sum() < before.sum()
    assert np.array_equal(made["soft-order"].keypoints, made["soft"].keypoints)
    assert np.array_equal(np.sort(schema.values(made["soft-order"].persons["score"])), before)


def test_missing_and_broken_pictures_are_refused_or_skipped(
    scene: tuple[Dataset, Path], predictor: Predictor, tmp_path: Path
) -> None:
    """Counted and named; skipping drops their people alone, and says so."""
    dataset, folder = scene
    names = [str(name) for name in schema.texts(dataset.images["file_name"])]
    for name in names[1:]:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(TrainError, match=f"1 of 6 pictures are not there: {names[0]}"):
        predict(predictor, dataset, tmp_path)
    whole = (tmp_path / names[1]).read_bytes()
    (tmp_path / names[1]).write_bytes(whole[: len(whole) // 2])
    found = predict(predictor, dataset, tmp_path, missing="skip", nms="none")
    rows = dataset.image_rows()
    assert len(found.people) == int((rows > 1).sum())
    assert set(schema.values(found.people.persons["image_id"])) == set(
        schema.values(dataset.images["image_id"])[2:][np.isin(np.arange(2, 6), rows)]
    )
    assert any(names[0] in note for note in found.notes)
    assert any(names[1] in note for note in found.notes)
    (tmp_path / names[0]).write_bytes((folder / names[0]).read_bytes())
    with pytest.raises(FormatError, match=names[1]):
        predict(predictor, dataset, tmp_path)
    with pytest.raises(TrainError, match="no such folder"):
        predict(predictor, dataset, tmp_path / "nowhere")


def test_detector_files_that_are_none_are_told(
    scene: tuple[Dataset, Path], predictor: Predictor, tmp_path: Path
) -> None:
    """Without scores, without boxes, of other categories, of images that are not listed."""
    dataset, folder = scene
    boxes, scores = schema.matrix(dataset.persons["bbox"], 4), np.full(len(dataset), 0.5)
    rows = json.loads(results(tmp_path / "a.json", dataset, boxes, scores).read_text())

    def refused(name: str, error: type[Exception], match: str, **values: Any) -> None:
        file = tmp_path / name
        file.write_text(json.dumps([{k: v for k, v in {**row, **values}.items() if v is not None} for row in rows]))
        with pytest.raises(error, match=match):
            predict(predictor, dataset, folder, boxes=file)

    refused("b.json", TrainError, "b.json: .* have no 'score'", score=None)
    refused("c.json", TrainError, r"categories \[3\], expected \[1\]", category_id=3)
    refused("d.json", EvaluationError, "d.json: ", image_id=10**9)
    ignored = predict(predictor, dataset, folder, boxes=tmp_path / "a.json", unknown_images="ignore", nms="none")
    assert len(ignored.people) == len(dataset)
    with pytest.raises(TrainError, match="nobody to predict"):
        predict(predictor, dataset, folder, boxes=tmp_path / "a.json", box_score_above=0.9)
    with pytest.raises(TrainError, match="nms"):
        predict(predictor, dataset, folder, nms="hard")  # type: ignore[arg-type]


def test_crowds_and_people_without_keypoints_are_left_out(scene: tuple[Dataset, Path], predictor: Predictor) -> None:
    """As the official evaluation does; where nobody has any, all boxes are taken."""
    dataset, folder = scene
    persons, count = dataset.persons, len(dataset)
    crowd = np.arange(count) == 0
    blank = np.arange(count) == 1
    visibility = np.where(blank[:, None], 0, dataset.visibility).astype(np.int8)

    def changed(name: str, column: Any) -> None:
        nonlocal persons
        persons = persons.set_column(persons.schema.get_field_index(name), schema.PERSONS.field(name), column)

    changed("iscrowd", schema.fixed(crowd, pa.bool_()))
    changed("visibility", schema.rows(visibility, kind=pa.int8()))
    found = predict(predictor, replace(dataset, persons=persons), folder, nms="none")
    assert len(found.people) == count - 2
    assert any(f"1 of {count} left out: crowds" in note for note in found.notes)
    changed("visibility", schema.rows(np.zeros_like(visibility), kind=pa.int8()))
    assert len(predict(predictor, replace(dataset, persons=persons), folder, nms="none").people) == count - 1


def test_people_with_mpiis_center_and_scale_get_its_crop(scene: tuple[Dataset, Path], predictor: Predictor) -> None:
    """The crop of `TopDown`, which knows center and scale; who has neither these nor a box gets that of the keypoints,
    a fifth larger."""
    dataset, folder = scene
    count = len(dataset)
    rng = np.random.default_rng(0)
    center, scale = rng.uniform(20, 100, (count, 2)), rng.uniform(0.2, 0.6, count)
    marked = np.arange(count) % 2 == 0
    persons = dataset.persons
    for name, column in (
        ("bbox", schema.rows(np.zeros((count, 4)), np.zeros(count, bool))),
        ("center", schema.rows(center, marked)), ("scale", schema.fixed(scale, pa.float64(), marked)),
    ):  # fmt: skip
        persons = persons.set_column(persons.schema.get_field_index(name), schema.PERSONS.field(name), column)
    bare = replace(dataset, persons=persons)
    targets, notes = true_boxes(bare, predictor.spec)
    assert notes == []
    order = np.argsort(dataset.image_rows(), kind="stable")
    crop = TopDown(SIZE)
    for person in [one for sample in samples(bare, folder) for one in people(sample)]:
        row = int(person.extras["rows"][0])
        box = targets.boxes[order.tolist().index(row)]
        if marked[row]:
            expected = crop.matrix(person, crop.draw(person, rng))
            found = predictor.cut(np.zeros((9, 9, 3), np.uint8), box[None]).matrices[0]
            np.testing.assert_allclose(found, expected, atol=1e-9)
        else:
            xy = person.keypoints[0][person.visibility[0] > 0]
            low, high = xy.min(axis=0), xy.max(axis=0)
            np.testing.assert_allclose(box, [*(low - (high - low) / 10), *((high - low) * 1.2)])


def test_another_skeleton_is_predicted_and_said(scene: tuple[Dataset, Path]) -> None:
    """A network of MPII's sixteen keypoints on people of COCO's: its own columns, and a sentence."""
    dataset, folder = scene
    found = predict(Predictor((spec_of(load("mpii_16")), network(16)), device="cpu"), dataset, folder)
    assert found.people.skeleton == load("mpii_16")
    assert any("'mpii_16'" in note and "coco_17" in note for note in found.notes)


def test_without_sigmas_there_is_no_nms(scene: tuple[Dataset, Path]) -> None:
    """Unless asked for; then a sentence says what lacks."""
    dataset, folder = scene
    predictor = Predictor((spec_of(replace(load("coco_17"), sigmas=None, sigma_source=None)), network()), device="cpu")
    assert predict(predictor, dataset, folder).people.history[-1]["nms"] == "none"
    with pytest.raises(TrainError, match="no sigmas"):
        predict(predictor, dataset, folder, nms="soft")


def test_embedded_pictures_need_no_folder(scene: tuple[Dataset, Path], predictor: Predictor) -> None:
    """Pictures in the dataset give what those in the folder give; one that is in neither is told."""
    dataset, folder = scene
    names = [str(name) for name in schema.texts(dataset.images["file_name"])]
    data = [(folder / name).read_bytes() for name in names]
    blobs = pa.table(
        [schema.chunk(dataset.images["image_id"]), schema.strings(names), pa.array(data, pa.large_binary())],
        schema=schema.BLOBS,
    )
    found = predict(predictor, replace(dataset, blobs=blobs), None).people
    assert np.array_equal(found.keypoints, predict(predictor, dataset, folder).people.keypoints)
    with pytest.raises(TrainError, match="1 of 6 pictures are not there"):
        predict(predictor, replace(dataset, blobs=blobs.slice(1)), None)
