"""COCO and MPII as one training: how often each is drawn, what each weighs, and what each is measured at."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs kpdata[train]")
pytest.importorskip("cv2", reason="needs kpdata[train]")

import torch
from typer.testing import CliRunner

from kpdata import synthesize
from kpdata.cli.main import app
from kpdata.synth import write_images
from kpdata.train.config import Config, SourceConfig
from kpdata.train.losses import heatmap_loss
from kpdata.train.prepare import prepare
from kpdata.train.setup import Setup, set_up
from kpdata.train.training import train

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[SourceConfig, ...]:
    """Eight people each, as COCO (drawn half as often) and as MPII (twice, of a quarter of the weight)."""
    found = []
    for name, share, weight in (("coco_17", 0.5, 1.0), ("mpii_16", 2.0, 0.25)):
        folder = tmp_path_factory.mktemp(name)
        made = synthesize(8, seed=3, people=(1, 1), size=(96, 96), skeleton=name, truncation=0.0)
        write_images(made, folder / "images")
        made.save(folder / f"{name}.kp")
        found.append(SourceConfig(folder / f"{name}.kp", folder / "images", share=share, weight=weight))
    return tuple(found)


def config(sources: tuple[SourceConfig, ...], out: Path, **values: Any) -> Config:
    usual = {"model": "hrnet_tiny", "size": (64, 64), "batch": 4, "workers": 0, "device": "cpu", "flip_test": False}
    return Config(**{"data": sources, "val": sources, "out": out, "preset": "none", **usual, **values})


@pytest.fixture(scope="module")
def setup(sources: tuple[SourceConfig, ...], tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return set_up(config(sources, tmp_path_factory.mktemp("setup")), say=lambda text: None)


def test_shares_say_how_often(setup):
    """An epoch draws four people of COCO and sixteen of MPII; two epochs show everybody of COCO."""
    loader = setup.loader()
    epochs = [[one for batch in loader for one in zip(batch.source.tolist(), batch.index.tolist(), strict=True)]
              for _ in range(2)]  # fmt: skip
    for drawn in epochs:
        assert Counter(source for source, _ in drawn) == {0: 4, 1: 16}
    assert len({index for drawn in epochs for source, index in drawn if source == 0}) == 8


def test_weights_are_those_of_the_loss(setup):
    """A batch of both costs the mean of its people's own losses, those of MPII a quarter."""
    assert setup.source_weights is not None
    assert setup.source_weights.tolist() == [1.0, 0.25]
    batch = setup.crops.__getitems__([(0, 0), (0, 9), (0, 3), (0, 12)])
    assert batch.source.tolist() == [0, 1, 0, 1]
    images, targets, weights = prepare(batch, setup.spec, setup.policies)
    maps = setup.net.eval()(images).detach()
    whole, errors = heatmap_loss(
        maps, targets, weights, known=batch.known, source=batch.source, source_weights=setup.source_weights
    )
    own = [float(errors[i].nansum() / batch.known[i].sum()) for i in range(4)]
    assert float(whole) == pytest.approx((own[0] + own[1] / 4 + own[2] + own[3] / 4) / 4, rel=1e-5)
    assert batch.known.sum(1).tolist() == [19, 16, 19, 16]  # COCO has the middles of hips and shoulders as well


def test_each_source_is_measured(sources, tmp_path):
    """An evaluation has the means, then the numbers of each source by its name; the union has both skeletons."""
    train(config(sources, tmp_path / "run", max_steps=1, epochs=1))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    found = next(line for line in lines if line["event"] == "evaluation")
    assert {"coco_17 PCK@0.2", "mpii_16 PCK@0.2"} <= set(found)
    both = (found["coco_17 PCK@0.2"] + found["mpii_16 PCK@0.2"]) / 2
    assert found["PCK@0.2"] == pytest.approx(both)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [one["share"] for one in record["config"]["data"]] == [0.5, 2.0]
    assert record["result"]["steps"] == 1


def four(real_data: Path) -> tuple[SourceConfig, ...]:
    """Photographs of COCO, MPII, CrowdPose and LSPET with their published labels."""
    return tuple(
        SourceConfig(real_data / path, real_data / images)
        for path, images in (
            ("coco_mini/person_keypoints_train2017.json", "coco_mini/train2017"),
            ("mpii/test_mpii.json", "mpii/images"),
            ("crowdpose/mmpose/test_crowdpose.json", "crowdpose/mmpose"),
            ("lspet/joints.mat", "lspet/images"),
        )
    )


def test_four_published_sets_are_one_training(real_data: Path, tmp_path: Path) -> None:
    """COCO, MPII, CrowdPose and LSPET on one skeleton, as they were published: everybody whose photograph is there is
    trained on (counted here by plain loops), two steps are taken, and each is measured by its own rules."""
    sources = four(real_data)
    made = config(sources, tmp_path / "run", max_steps=2, epochs=1, missing_images="skip", preset="hrnet", batch=8)
    found = set_up(made, say=lambda text: None).crops.people
    crowds = json.loads(sources[2].path.read_text())["annotations"]
    expected = [
        86,  # counted in test_data.py
        len({row["image"] for row in json.loads(sources[1].path.read_text())}),
        sum(any(v > 0 for v in one["keypoints"][2::3]) for one in crowds),
        len(list((real_data / "lspet" / "images").glob("*.jpg"))),
    ]
    assert expected[1:] == [5, 4, 40]
    assert Counter(found.source.tolist()) == dict(enumerate(expected))
    columns = [set(found.known[found.source == number].sum(1).tolist()) for number in range(4)]
    assert columns == [{17 + 2}, {16}, {14 + 2}, {14 + 2}]  # and the middles of hips and shoulders, which MPII labels
    result = train(made)
    assert result.steps == 2
    assert 0 < result.metrics["loss"] < 1
    told = ("person_keypoints_train2017 AP", "test_mpii PCK@0.2", "test_crowdpose AP(H)", "joints PCK@0.2")
    assert set(told) <= set(result.metrics)


def test_a_dry_run_of_four_published_sets(real_data: Path, tmp_path: Path) -> None:
    """The command: 135 people, who give every keypoint of the union some target, and a picture of their inputs."""
    words: list[str] = []
    for one in four(real_data):
        words += ["--data", str(one.path), "--images", str(one.images)]
    options = ("--missing-images", "skip", "--model", "hrnet_tiny", "--size", "64x64", "--batch", "8", "--workers", "0")
    out = ("--device", "cpu", "--dry-run", "--json", "--out", str(tmp_path / "trial"))
    done = CliRunner().invoke(app, ["train", *words, *options, *out])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["people"] == 135
    names = set(told["empty"])
    assert {"nose", "upper_neck", "neck", "neck_lsp_14", "head_top", "top_head", "head_top_lsp_14"} <= names
    assert len(names) == 25 and all(share < 1 for share in told["empty"].values())
    assert (tmp_path / "trial" / "dry-run.png").stat().st_size > 10_000
