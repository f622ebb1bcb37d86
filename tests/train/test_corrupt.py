"""Worse pictures: seeded, graded, and no worse elsewhere than they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="the trainer needs torch: pip install 'kpdata[train]'")
cv2 = pytest.importorskip("cv2", reason="the trainer needs OpenCV: pip install 'kpdata[train]'")

from kpdata import evaluate, schema, synthesize  # noqa: E402
from kpdata.augment.image import read_image  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.dataset import Dataset  # noqa: E402
from kpdata.errors import TrainError  # noqa: E402
from kpdata.synth import write_images  # noqa: E402
from kpdata.train.corrupt import COVERED, KINDS, NOISE, SEVERITIES, Corruption, corruptions  # noqa: E402
from kpdata.train.models import build  # noqa: E402
from kpdata.train.predict import gather, predict  # noqa: E402
from kpdata.train.predictor import Predictor  # noqa: E402
from kpdata.train.robustness import Robustness, plot, robustness  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402

BOXES = np.array([[20.0, 10, 30, 60], [70, 20, 40, 50]])


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Structure at all scales: smoothed noise with edges."""
    rng = np.random.default_rng(0)
    soft = cv2.GaussianBlur(rng.integers(0, 256, (96, 128, 3)).astype(np.float32), (0, 0), 2.5)
    image = np.clip((soft - 127) * 4 + 127, 0, 255).astype(np.uint8)
    image[30:60, 40:90] = (250, 20, 90)
    return image


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a.astype(float) - b).mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_each_severity_is_worse_than_the_one_before(picture: np.ndarray, kind: Any) -> None:
    """The distance from the picture grows from 1 to 5; size and type stay, the picture itself is untouched."""
    before = picture.copy()
    found = [Corruption(kind, severity)(picture, BOXES, 7) for severity in SEVERITIES]
    far = [distance(picture, one) for one in found]
    assert (np.diff([0, *far]) > 0).all(), far
    assert {(one.shape, one.dtype) for one in found} == {(picture.shape, np.dtype(np.uint8))}
    assert np.array_equal(before, picture)


@pytest.mark.parametrize("kind", ["noise", "occlusion"])
def test_the_seed_and_the_picture_decide(picture: np.ndarray, kind: Any) -> None:
    """The same twice; another seed or another picture's number is another draw."""
    one = Corruption(kind, 3, seed=5)
    assert np.array_equal(one(picture, BOXES, 7), one(picture, BOXES, 7))
    assert not np.array_equal(one(picture, BOXES, 7), one(picture, BOXES, 8))
    assert not np.array_equal(one(picture, BOXES, 7), replace(one, seed=6)(picture, BOXES, 7))


def test_noise_has_the_deviation_that_it_states() -> None:
    """On grey, where nothing is clipped, the standard deviation is 0.08 of white, without a shift."""
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = Corruption("noise", 1)(grey, BOXES, 0).astype(float) - 128
    assert abs(noisy.std() / 255 - NOISE[0]) < 0.001
    assert abs(noisy.mean()) < 0.2


@pytest.mark.parametrize("severity", SEVERITIES)
def test_occlusion_covers_a_share_of_each_box_and_nothing_else(picture: np.ndarray, severity: int) -> None:
    """One rectangle of the mean colour within each box; the share is the stated one, up to whole pixels."""
    found = Corruption("occlusion", severity, seed=1)(picture, BOXES, 3)
    changed = (found != picture).any(axis=2)
    colour = np.rint(picture.reshape(-1, 3).mean(axis=0)).astype(np.uint8)
    covered = (found == colour).all(axis=2)
    outside = changed.copy()
    for x, y, w, h in BOXES.astype(int).tolist():
        share = covered[y : y + h, x : x + w].sum() / (w * h)
        assert abs(share - COVERED[severity - 1]) < 0.04
        outside[y : y + h, x : x + w] = False
    assert not outside.any()


def test_occlusion_of_nobody_changes_nothing(picture: np.ndarray) -> None:
    """No boxes, no rectangles; a box that lies outside of the picture neither."""
    assert np.array_equal(Corruption("occlusion", 5)(picture, np.empty((0, 4)), 0), picture)
    assert np.array_equal(Corruption("occlusion", 5)(picture, np.array([[500.0, 500, 40, 40]]), 0), picture)


def test_blur_and_compression_are_opencvs(picture: np.ndarray) -> None:
    """A blur of 2 px is GaussianBlur's in float up to rounding; quality 25 is a round trip as RGB."""
    blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 2.0, borderType=cv2.BORDER_REPLICATE)
    assert np.abs(Corruption("blur", 2)(picture, BOXES, 0) - blurred).max() <= 1.5
    data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 25])[1]
    expected = cv2.cvtColor(cv2.imdecode(data, 1), cv2.COLOR_BGR2RGB)
    assert np.array_equal(Corruption("compression", 1)(picture, BOXES, 0), expected)


@pytest.mark.parametrize(
    ("values", "message"), [(("fog", 1), "fog"), (("blur", 6), "severity 6"), (("blur", 0), "severity 0"),
                            (("blur", 1, -1), "seed -1")]
)  # fmt: skip
def test_unknown_kinds_and_severities_are_refused(values: Sequence[Any], message: str) -> None:
    """Each says what was found."""
    with pytest.raises(TrainError, match=message):
        Corruption(*values)


# ---------------------------------------------------------------------------------------------------------- the report


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("scene")
    dataset = synthesize(4, seed=3, size=(160, 120), people=(1, 2), crowds=0)
    write_images(dataset, folder)
    return dataset, folder


def predictor_for(dataset: Dataset) -> Predictor:
    torch.manual_seed(0)
    spec = NetworkSpec("hrnet_tiny", dataset.skeleton, HeatmapCodec(input_size=(64, 64), sigma=1.0))
    return Predictor((spec, build("hrnet_tiny", len(dataset.skeleton))), device="cpu", flip_test=False, batch=8)


def as_predicted(dataset: Dataset, people: Dataset) -> Dataset:
    """A truth that the network says: its keypoints in place of the dataset's, all visible."""
    shown = schema.rows(np.full(people.visibility.shape, 2, np.int8), kind=pa.int8())
    persons = dataset.persons
    for name, column in (("keypoints", people.persons["keypoints"]), ("visibility", shown)):
        persons = persons.set_column(persons.schema.get_field_index(name), schema.PERSONS.field(name), column)
    return replace(dataset, persons=persons)


def test_each_number_is_that_of_pictures_corrupted_one_by_one(scene: tuple[Dataset, Path], tmp_path: Path) -> None:
    """One pass over 1 + 5 versions gives what predicting from files of each version gives. The truth is what the
    network says of the clean pictures: that scores 1, and the worst version less."""
    dataset, folder = scene
    predictor = predictor_for(dataset)
    truth = as_predicted(dataset, predict(predictor, dataset, folder, nms="none").people)
    job = gather(predictor, truth, folder, nms="none")
    found = robustness(predictor, job, kinds=["occlusion"], seed=4)
    assert found.clean == pytest.approx(1)
    assert found.table[0, 4] < 1
    ids = schema.values(dataset.images["image_id"]).tolist()
    for at in (1, 4):
        (tmp_path / str(at)).mkdir()
        for row, (number, name) in enumerate(zip(ids, schema.texts(dataset.images["file_name"]), strict=True)):
            boxes = job.targets.boxes[job.targets.image == row]
            worse = Corruption("occlusion", at + 1, 4)(read_image(folder / str(name)), boxes, number)
            with (tmp_path / str(at) / str(name)).open("wb") as file:
                Image.fromarray(worse).save(file, format="PNG")
        again = predict(predictor, truth, tmp_path / str(at), nms="none")
        assert found.table[0, at] == evaluate(truth, again.people).stats["AP"]


def test_mpc_is_the_mean_and_rpc_its_share(scene: tuple[Dataset, Path], tmp_path: Path) -> None:
    """By hand from the table; without a clean number there is no share; the curves are drawn."""
    dataset, folder = scene
    predictor = predictor_for(dataset)
    clean = predict(predictor, dataset, folder)
    table = np.array([[0.5, 0.4, 0.3, 0.2, 0.1], [0.6, 0.6, 0.6, 0.6, 0.6]])
    found = Robustness("AP", 0.9, ("blur", "noise"), table, 0, clean)
    assert found.mpc == pytest.approx(0.45)
    assert found.rpc == pytest.approx(0.5)
    assert np.isnan(replace(found, clean=0.0).rpc)
    assert found.to_json()["corruptions"]["blur"]["4"] == 0.2
    plot(found, tmp_path / "curves.png")
    assert cv2.imread(str(tmp_path / "curves.png")).std() > 5


def test_all_is_four_kinds_at_five_severities() -> None:
    """Twenty, each once; a set of none is refused."""
    assert len(set(map(str, corruptions()))) == 20
