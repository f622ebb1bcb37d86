"""Numbers within a training: equal to pycocotools and to loops written out, for people where they stand."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch: pip install 'kpdata[train]'")
pytest.importorskip("cv2", reason="the trainer needs OpenCV: pip install 'kpdata[train]'")

from pycocotools.coco import COCO  # noqa: E402
from pycocotools.cocoeval import COCOeval  # noqa: E402
from torch import nn  # noqa: E402

from kpdata import converters, evaluate, read, schema, synthesize  # noqa: E402
from kpdata.augment.presets import hrnet  # noqa: E402
from kpdata.codec import HeatmapCodec, flip_heatmaps  # noqa: E402
from kpdata.dataset import Dataset  # noqa: E402
from kpdata.errors import TrainError  # noqa: E402
from kpdata.eval.evaluation import Evaluation  # noqa: E402
from kpdata.skeleton import Skeleton, load  # noqa: E402
from kpdata.synth import write_images  # noqa: E402
from kpdata.train.data import Crops, Source  # noqa: E402
from kpdata.train.mixed import skeletons_of, union  # noqa: E402
from kpdata.train.predictor import heatmaps  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402
from kpdata.train.validation import Validator  # noqa: E402

SIZE = (64, 64)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    """Eight small pictures with their people."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("scene")
    dataset = synthesize(8, seed=3, size=(160, 120), people=(1, 3), crowds=0.3)
    write_images(dataset, folder)
    return dataset, folder


def spec_of(skeleton: Skeleton, target: Any = "gaussian") -> NetworkSpec:
    return NetworkSpec("hrnet_tiny", skeleton, HeatmapCodec(input_size=SIZE, sigma=1.0, target=target))


def make(
    sources: list[Source], skeleton: Skeleton, target: Any = "gaussian", **values: Any
) -> tuple[Validator, NetworkSpec]:
    spec = spec_of(skeleton, target)
    preset = hrnet(size=SIZE, convention=spec.convention)
    return Validator(Crops(sources, skeleton, preset, augment=False), sources, spec, **values), spec


class Oracle(nn.Module):
    """Draws the truth: the next people of the table at each call."""

    def __init__(self, crops: Crops, spec: NetworkSpec) -> None:
        super().__init__()
        self.crops, self.spec, self.at = crops, spec, 0

    def forward(self, images: Any) -> Any:
        places = [(0, self.at + i) for i in range(len(images))]
        self.at += len(images)
        batch = self.crops.__getitems__(places)
        maps, _ = self.spec.codec.encode(batch.keypoints.numpy().astype(float), batch.visibility.numpy())
        return torch.from_numpy(maps)


def test_the_truth_scores_1_where_it_stands(scene: tuple[Dataset, Path]) -> None:
    """Maps of the truth give each person's keypoints in the picture within half a cell, AP near 1 and loss 0."""
    dataset, folder = scene
    validator, spec = make([Source(dataset, folder)], dataset.skeleton, "dark", flip_test=False, batch=5)
    points, scores, losses = validator.predict(Oracle(validator.crops, spec))
    people = validator.crops.people
    labelled = (people.visibility > 0) & (scores > 0.5)
    cell = people.sides[:, 0] / (SIZE[0] / 4)
    error = np.linalg.norm(points - people.keypoints, axis=2) / cell[:, None]
    assert labelled.sum() > 100
    assert np.quantile(error[labelled], 0.9) < 0.5
    assert losses.max() == pytest.approx(0, abs=1e-9)
    numbers = validator(Oracle(validator.crops, spec))
    assert list(numbers) == ["AP", "AP50", "AP75", "AR", "PCK@0.2", "loss"]
    assert numbers["AP50"] > 0.99
    assert numbers["PCK@0.2"] > 0.95


def test_ap_is_that_of_pycocotools(scene: tuple[Dataset, Path], tmp_path: Path) -> None:
    """Predictions with errors of all sizes score what COCOeval says of the same points written to files."""
    dataset, folder = scene
    validator, _ = make([Source(dataset, folder)], dataset.skeleton)
    people = validator.crops.people
    rng = np.random.default_rng(0)
    spread = people.sides.max(1)[:, None, None] * rng.uniform(0, 0.06, (len(people), 1, 1))
    points = np.nan_to_num(people.keypoints, nan=30.0) + rng.normal(0, 1, people.keypoints.shape) * spread
    scores = rng.uniform(0.1, 1, points.shape[:2])
    numbers = validator.numbers(points, scores)

    converters.write(dataset, tmp_path / "gt.json", "coco", allow_lossy=True)
    rows = [
        {
            "image_id": int(people.image_ids[i]), "category_id": 1,
            "keypoints": np.concatenate([points[i], scores[i][:, None]], 1).ravel().tolist(),
            "score": float(scores[i][scores[i] > 0.2].mean()),
        }
        for i in range(len(people))
    ]  # fmt: skip
    (tmp_path / "dt.json").write_text(json.dumps(rows))
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(str(tmp_path / "gt.json"))
        official = COCOeval(gt, gt.loadRes(str(tmp_path / "dt.json")), "keypoints")
        official.evaluate()
        official.accumulate()
        official.summarize()
    assert 0.1 < official.stats[0] < 0.95
    assert [numbers[name] for name in ("AP", "AP50", "AP75", "AR")] == pytest.approx(
        [official.stats[i] for i in (0, 1, 2, 5)], abs=1e-12
    )


def test_pck_is_a_loop_over_torsos_and_diagonals(scene: tuple[Dataset, Path]) -> None:
    """A keypoint counts within 0.2 of its person's torso; of the box's diagonal where that is not labelled."""
    dataset, folder = scene
    validator, spec = make([Source(dataset, folder)], dataset.skeleton)
    people, names = validator.crops.people, spec.skeleton.keypoint_names
    rng = np.random.default_rng(1)
    points = np.nan_to_num(people.keypoints) + rng.normal(0, 5, people.keypoints.shape)
    a, b = names.index("left_shoulder"), names.index("right_hip")
    right = total = torsos = 0
    for i in range(len(people)):
        length = float(np.hypot(*people.bbox[i, 2:]))
        if people.visibility[i, a] and people.visibility[i, b]:
            length = float(np.linalg.norm(people.keypoints[i, a] - people.keypoints[i, b]))
            torsos += 1
        for k in range(len(names)):
            if people.visibility[i, k]:
                total += 1
                right += float(np.linalg.norm(points[i, k] - people.keypoints[i, k])) <= 0.2 * length
    assert 0.1 < right / total < 0.95
    assert validator.numbers(points, np.ones(points.shape[:2]))["PCK@0.2"] == pytest.approx(right / total)
    assert f"the torso for {torsos}" in validator.words
    assert f"measured on {len(people)} people in their true boxes, with the flip test: AP by OKS" in validator.words


@pytest.mark.parametrize("target", ["gaussian", "udp"])
def test_the_flip_test_is_the_codecs(scene: tuple[Dataset, Path], target: Any) -> None:
    """Maps are the mean of those of the crop and of the mirrored crop as `flip_heatmaps` gives them."""
    dataset, folder = scene
    validator, spec = make([Source(dataset, folder)], dataset.skeleton, target)
    torch.manual_seed(0)
    net = nn.Conv2d(3, 17, 5, stride=4, padding=2)
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        ours = heatmaps(net, images, spec, flip=validator.flip).numpy()
        plain, mirrored = net(images).numpy(), net(images.flip(3)).numpy()
    expected = (plain + flip_heatmaps(mirrored, spec.skeleton, shift=spec.flip_shift)) / 2
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_sources_of_two_skeletons_have_numbers_of_their_own(tmp_path: Path) -> None:
    """On the union each source is scored on its own keypoints; without sigmas for all, PCK decides."""
    sources = []
    for name in ("coco_17", "mpii_16"):
        dataset = synthesize(3, seed=5, skeleton=name, size=(160, 120), people=(1, 2))
        write_images(dataset, tmp_path / name)
        sources.append(Source(dataset, tmp_path / name, name=f"{name}.json"))
    validator, spec = make(sources, union(skeletons_of(sources)), flip_test=False)
    people = validator.crops.people
    numbers = validator.numbers(np.nan_to_num(people.keypoints), np.ones(people.visibility.shape))
    assert next(iter(numbers)) == "PCK@0.2"
    assert numbers["PCK@0.2"] == numbers["coco_17 PCK@0.2"] == numbers["mpii_16 PCK@0.2"] == 1.0
    assert numbers["coco_17 AP"] == pytest.approx(1.0)
    assert "AP" not in numbers
    part = validator.parts[1]
    found = validator.predictions(part, np.nan_to_num(people.keypoints), np.ones(people.visibility.shape))
    assert found.skeleton == load("mpii_16")
    assert "no sigmas, so no AP" in validator.words
    assert len(spec.skeleton) > 17


def moved(validator: Validator, seed: int = 0) -> tuple[Any, Any]:
    """Keypoints some px off, and scores."""
    truth, rng = validator.crops.people.keypoints, np.random.default_rng(seed)
    return np.nan_to_num(truth) + rng.normal(0, 2, truth.shape), rng.uniform(0.3, 1, truth.shape[:2])


def test_mpii_is_measured_in_heads(tmp_path: Path) -> None:
    """PCKh@0.5 decides where there are head boxes: within half of 0.6 of the head box's diagonal, and neither pelvis
    nor thorax counts (HRNet's `lib/dataset/mpii.py`)."""
    dataset = synthesize(5, seed=3, skeleton="mpii_16", size=(160, 120), people=(1, 3))
    write_images(dataset, tmp_path)
    validator, spec = make([Source(dataset, tmp_path)], dataset.skeleton)
    points, scores = moved(validator)
    people, names = validator.crops.people, spec.skeleton.keypoint_names
    heads = schema.matrix(dataset.persons["head_bbox"], 4)[people.rows]
    right = total = 0
    for i in range(len(people)):
        for k, name in enumerate(names):
            if people.visibility[i, k] and name not in ("pelvis", "thorax"):
                total += 1
                far = np.linalg.norm(points[i, k] - people.keypoints[i, k])
                right += float(far) <= 0.5 * 0.6 * float(np.hypot(*heads[i, 2:]))
    numbers = validator.numbers(points, scores)
    assert 0.2 < right / total < 0.98
    assert next(iter(numbers)) == "PCKh@0.5" and numbers["PCKh@0.5"] == pytest.approx(right / total)
    assert "PCKh@0.5 decides" in validator.words


@pytest.mark.parametrize(("name", "metric", "first"), [("crowdpose_14", "crowdpose", "AP"), ("aic_14", "aic", "mAP")])
def test_the_protocol_is_that_of_eval(tmp_path: Path, name: str, metric: str, first: str) -> None:
    """CrowdPose and AI Challenger have areas and numbers of their own: what `kpdata eval` finds in the written files is
    what the training goes by, and plain OKS would be another number."""
    dataset = synthesize(5, seed=3, skeleton=name, size=(160, 120), people=(1, 3))
    place = dataset.images.schema.get_field_index("crowd_index")
    crowded = schema.fixed(np.linspace(0, 0.9, 5), schema.IMAGES.field(place).type)
    # an area that plain OKS takes, and these do not
    area = schema.fixed(
        0.3 * schema.matrix(dataset.persons["bbox"], 4)[:, 2:].prod(1), schema.PERSONS.field("area").type
    )
    at = dataset.persons.schema.get_field_index("area")
    dataset = replace(
        dataset, images=dataset.images.set_column(place, schema.IMAGES.field(place), crowded),
        persons=dataset.persons.set_column(at, schema.PERSONS.field(at), area),
    )  # fmt: skip
    write_images(dataset, tmp_path)
    validator, _ = make([Source(dataset, tmp_path)], dataset.skeleton)
    points, scores = moved(validator)
    numbers = validator.numbers(points, scores)
    dataset.save(tmp_path / "gt.kp")
    validator.predictions(validator.parts[0], points, scores).save(tmp_path / "predictions.kp")
    found = evaluate(read(tmp_path / "gt.kp"), read(tmp_path / "predictions.kp"))
    assert isinstance(found, Evaluation) and found.metric == metric
    assert numbers["AP"] == found.stats[first]
    assert numbers.get("AP(H)") == found.stats.get("AP(H)")
    plain = evaluate(read(tmp_path / "gt.kp"), read(tmp_path / "predictions.kp"), metric="oks")
    assert numbers["AP"] != plain.stats["AP"]


def test_what_cannot_be_measured_is_told_at_once(scene: tuple[Dataset, Path]) -> None:
    """Crops with chance in them are refused before anything runs."""
    dataset, folder = scene
    sources = [Source(dataset, folder)]
    crops = Crops(sources, dataset.skeleton, hrnet(size=SIZE))
    with pytest.raises(TrainError, match="crops with chance"):
        Validator(crops, sources, spec_of(dataset.skeleton))


def test_unknown_left_and_right_mean_no_flip_test(scene: tuple[Dataset, Path]) -> None:
    """A skeleton whose twins are not known is measured without its mirror image, and the words say so."""
    dataset, folder = scene
    bones = replace(dataset.skeleton, flip_pairs=None)
    unpaired = replace(dataset, skeletons={bones.name: bones})
    validator, _ = make([Source(unpaired, folder)], bones)
    assert "without a flip test (left and right of 'coco_17' are not known)" in validator.words
    assert validator.flip is None
