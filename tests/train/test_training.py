"""From values to a folder with checkpoints, logs, pictures and a record: the whole way, small."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs kpdata[train]")
pytest.importorskip("cv2", reason="needs kpdata[train]")

import torch

from kpdata import converters, synthesize
from kpdata.draw import load_image
from kpdata.errors import DestinationExists, MissingExtra, TrainError, WriteError
from kpdata.skeleton import load
from kpdata.synth import write_images
from kpdata.train.checkpoint import load_checkpoint, open_network, save_checkpoint
from kpdata.train.config import Config, SourceConfig
from kpdata.train.logs import Logs, heat, inputs
from kpdata.train.setup import recipe, set_up
from kpdata.train.spec import NetworkSpec
from kpdata.train.training import train

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO file of 12 people beside their pictures."""
    folder = tmp_path_factory.mktemp("people")
    made = synthesize(12, seed=3, people=(1, 1), size=(96, 96))
    write_images(made, folder / "images")
    converters.write(made, folder / "a.json", "coco", allow_lossy=True)
    return folder / "a.json"


def config(people: Path, out: Path, **values: Any) -> Config:
    source = (SourceConfig(people),)
    usual = {"model": "hrnet_tiny", "size": (64, 64), "epochs": 2, "batch": 4, "workers": 0, "device": "cpu"}
    return Config(data=source, val=source, out=out, **{**usual, **values})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def done(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training, for reading only."""
    out = tmp_path_factory.mktemp("done") / "run"
    heard: list[dict[str, Any]] = []
    train(config(people, out), log=heard.append)
    assert lines(out) == json.loads(json.dumps(heard))
    return out


def test_what_lies_in_the_folder(done):
    """Checkpoints, log, record, and a picture of each evaluation that can be opened."""
    names = {path.name for path in done.iterdir()}
    assert names == {"best.pt", "last.pt", "log.jsonl", "run.json", "predictions-0000.png", "predictions-0001.png"}
    assert load_image(done / "predictions-0001.png").shape[1] > 600


def test_the_record_holds_what_it_takes_to_repeat_it(done, people):
    """The data's own SHA-256, every value, the network, versions; and the result, beside the log's numbers."""
    record = json.loads((done / "run.json").read_text())
    assert record["data"][0]["files"][0]["sha256"] == hashlib.sha256(people.read_bytes()).hexdigest()
    assert Config.from_json(record["config"]) == config(people, done)
    assert record["versions"]["torch"] == torch.__version__
    assert record["people"] == record["data"][0]["people"] == 12
    assert NetworkSpec.from_json(record["network"]).skeleton == load("coco_17")
    last = [line for line in lines(done) if line["event"] == "evaluation"][-1]
    assert record["result"]["metrics"]["AP"] == last["AP"]
    assert record["result"]["steps"] == 6


def test_the_checkpoint_opens_as_a_network(done):
    """`best.pt` alone rebuilds net and spec, and gives maps of the right shape."""
    spec, net, _ = open_network(done / "best.pt")
    assert spec.input_size == (64, 64)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 17, 16, 16)


def test_resumed_equals_uninterrupted(done, people, tmp_path):
    """Stopped in the middle of the second epoch and gone on with: the same weights to the bit, the log without a gap
    and without a line twice."""
    stopped = config(people, tmp_path / "run", max_steps=4)
    train(stopped)
    with (tmp_path / "run" / "log.jsonl").open("a") as file:  # what a killed process had written after last.pt
        file.write('{"event": "train", "step": 5, "epoch": 1}\n{"event": "tr')
    train(replace(stopped, max_steps=None, resume=tmp_path / "run"))
    one, other = (load_checkpoint(folder / "last.pt").weights for folder in (done, tmp_path / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    steps = [line["step"] for line in lines(tmp_path / "run") if line["event"] == "train"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 6
    assert json.loads((tmp_path / "run" / "run.json").read_text())["resumed_at_step"] == 4


def test_a_training_is_not_overwritten(done, people, tmp_path):
    """Refused before anything is read; with force it goes, and files that are not its own stay."""
    with pytest.raises(DestinationExists):
        train(config(people, done))
    out = tmp_path / "run"
    train(config(people, out, max_steps=1))
    (out / "thoughts.txt").write_text("mine")
    (out / "predictions-0077.png").touch()
    train(config(people, out, max_steps=1), force=True)
    assert (out / "thoughts.txt").read_text() == "mine"
    assert not (out / "predictions-0077.png").exists()


def test_a_folder_that_is_no_training_is_not_cleared(people, tmp_path):
    """Somebody's folder called `ledger` in somebody's folder stays, whatever --force says."""
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "book.txt").write_text("mine")
    train(config(people, tmp_path, max_steps=1), force=True)
    assert (tmp_path / "ledger" / "book.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "hrnet_w23"}, "did you mean hrnet_w32"),
        ({"size": (60, 64)}, "sides that 32 divides"),
        ({"preset": "hrnt"}, r"no preset is named 'hrnt', expected one of hrnet, .*, none"),
        ({"device": "tpu9"}, "device 'tpu9'"),
        ({"init": Path("gone.pth")}, r"gone\.pth"),
        ({"resume": Path("gone.pt")}, "no such checkpoint"),
        ({"keypoint_weights": {"nase": 2.0}}, "nase"),
        ({"loss": "ohkm", "hard": 18}, "hard is 18"),
        ({"weight_decay": 0.1}, "adamw"),
        ({"warp": "device"}, "needs packed crops"),
        ({"skeleton": "horse"}, "no skeleton is named"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(people, tmp_path, values, words):
    """One sentence each, and no file left behind."""
    with pytest.raises(Exception, match=words) as told:
        train(config(people, tmp_path / "run", **values))
    assert type(told.value).__module__ == "kpdata.errors"
    left = {path.name for path in (tmp_path / "run").glob("*")}
    assert not left & {"best.pt", "last.pt"}


def test_a_checkpoint_of_another_network(done, people, tmp_path):
    """What differs is said: size and sigma alike."""
    with pytest.raises(TrainError, match="input size") as told:
        train(config(people, tmp_path / "run", size=(64, 96), resume=done))
    assert "--init" in told.value.hint


def test_start_from_other_weights(done, people, tmp_path):
    """`init` takes all tensors of our checkpoint, and says so; a network of BGR goes on with BGR."""
    checkpoint = load_checkpoint(done / "best.pt")
    bgr = replace(checkpoint, spec=checkpoint.spec.changed(colour="bgr"))
    save_checkpoint(tmp_path / "bgr.pt", bgr)
    said: list[str] = []
    setup = set_up(config(people, tmp_path / "run", init=tmp_path / "bgr.pt"), say=said.append)
    assert any("loaded" in text and "bgr.pt" in text for text in said)
    assert setup.spec.colour == "bgr"
    weights = setup.net.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in checkpoint.weights.items())


def test_missing_pictures_are_refused_or_skipped(people, tmp_path):
    """Counted and named; `skip` goes on without their people."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((people.parent / "images").iterdir())[1:]:
        (folder / path.name).write_bytes(path.read_bytes())
    source = (SourceConfig(people, folder),)
    refused = replace(config(people, tmp_path / "run"), data=source)
    with pytest.raises(TrainError, match="1 picture is not there"):
        set_up(refused, say=lambda text: None)
    said: list[str] = []
    setup = set_up(replace(refused, missing_images="skip"), say=said.append)
    assert len(setup.crops) == 11
    assert any("1 picture is not there" in text for text in said)


def broken(people: Path, folder: Path) -> SourceConfig:
    """The same data with one picture cut in half and one that is no picture."""
    shutil.copytree(people.parent / "images", folder)
    cut, text, *_ = sorted(folder.iterdir())
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    text.write_text("not a picture")
    return SourceConfig(people, folder)


def test_broken_pictures_are_skipped_counted_and_named(people, tmp_path):
    """Who stands in them is neither learnt from nor measured; resumed in the middle it equals the uninterrupted."""
    source = broken(people, tmp_path / "images")
    names = sorted(path.name for path in source.images.iterdir())[:2]
    skip = replace(config(people, tmp_path / "whole"), data=(source,), val=(source,), missing_images="skip", batch=3)
    said: list[str] = []
    train(skip, log=lambda line: said.append(line.get("text", "")))
    told = [text for text in said if "2 pictures cannot be read" in text]
    assert len(told) == 1 and all(name in told[0] for name in names)
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["people"] == record["people_measured"] == 10
    stopped = replace(skip, out=tmp_path / "run", max_steps=4)
    train(stopped)
    train(replace(stopped, max_steps=None, resume=tmp_path / "run"))
    one, other = (load_checkpoint(tmp_path / name / "last.pt").weights for name in ("whole", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_broken_picture_is_refused_with_its_name(people, tmp_path):
    """Without `skip` the training ends at it, and says which it is."""
    source = broken(people, tmp_path / "images")
    first = sorted(source.images.iterdir())[0].name
    with pytest.raises(TrainError, match=r"\.png|\.jpg") as told:
        train(replace(config(people, tmp_path / "run", batch=12), data=(source,), val=()))
    assert first in told.value.message or sorted(source.images.iterdir())[1].name in told.value.message


def test_weights_of_other_targets_are_told(done, people, tmp_path):
    """The head of `init` draws what its own training drew: another `target` is said, the same is not."""
    said: list[str] = []
    values = {"init": done / "best.pt"}
    set_up(config(people, tmp_path / "run", **values), say=said.append)
    assert not any("targets of kind" in text for text in said)
    set_up(config(people, tmp_path / "run", target="udp", **values), say=said.append)
    assert any("learnt targets of kind gaussian" in text and "--target gaussian" in text for text in said)


def test_a_batch_of_more_people_than_there_are(people, tmp_path):
    """All of them, and it is said: the published 128 on a folder of 12."""
    said: list[str] = []
    setup = set_up(config(people, tmp_path / "run", batch=128), say=said.append)
    assert setup.config.batch == 12
    assert any("batch 128 is more than the 12 people" in text for text in said)


def test_two_sources_on_a_union(people, tmp_path):
    """COCO and MPII: the network has the keypoints of both, and each source its own policy and weight."""
    made = synthesize(6, seed=4, people=(1, 1), size=(96, 96), skeleton="mpii_16")
    write_images(made, tmp_path / "images")
    converters.write(made, tmp_path / "b.kp")
    sources = (
        SourceConfig(people),
        SourceConfig(tmp_path / "b.kp", tmp_path / "images", weight=0.5, absent="negative"),
    )
    setup = set_up(replace(config(people, tmp_path / "run"), data=sources), say=lambda text: None)
    names = set(setup.spec.skeleton.keypoint_names)
    assert {"left_eye", "left_wrist"} <= names
    assert len(names) > 17
    assert setup.source_weights.tolist() == [1.0, 0.5]
    assert setup.policies.shape == (2, 4)
    assert setup.policies[0].tolist() != setup.policies[1].tolist()


def test_packed_crops(people, tmp_path):
    """Made once, used again; the people are the same."""
    for _ in range(2):
        setup = set_up(config(people, tmp_path / "run", packed=tmp_path / "pack"), say=lambda text: None)
        assert setup.crops.pack is not None
        assert len(next(iter(setup.loader()))) == 4


def test_presets_are_cut_as_the_target_wants():
    """UDP's targets get UDP's crops whatever the preset; `none` has nothing random; flip can be taken away."""
    spec = NetworkSpec("hrnet_tiny", load("coco_17"))
    udp = spec.changed(codec=replace(spec.codec, target="udp"))
    assert recipe("finetune_small", udp).crop.convention == "udp"
    assert recipe("vitpose", spec).crop.convention == "official"
    plain = recipe("none", spec).crop
    assert (plain.rotation, plain.scale, plain.flip, plain.half_body) == (0, 0, 0, None)
    assert recipe("hrnet", spec, 0.0).crop.flip == 0
    assert recipe("hrnet", spec).crop.flip == 0.5


def test_logs_hold_no_nan_and_forget_later_lines(tmp_path):
    """JSON has no NaN; a resumed log ends at the step of its checkpoint, a new one is empty."""
    with Logs(tmp_path) as logs:
        for step in (1, 2, 3):
            logs({"event": "train", "step": step, "loss": float("nan"), "at": Path("x"), "n": np.float32(2)})
    assert lines(tmp_path)[0] == {"event": "train", "step": 1, "loss": None, "at": "x", "n": 2.0}
    with Logs(tmp_path, step=2) as logs:
        logs({"event": "train", "step": 3})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert "loss" not in lines(tmp_path)[2]
    with Logs(tmp_path):
        pass
    assert lines(tmp_path) == []


def test_a_full_disk_is_told(tmp_path):
    """The log names its file; that closing it fails as well does not hide the sentence."""

    class Full:
        name = "log.jsonl"

        def write(self, text):
            raise OSError(28, "No space left on device")

        close = flush = lambda self: self.write("")

    with pytest.raises(WriteError, match=r"log\.jsonl: cannot be written \(No space left"), Logs(tmp_path) as logs:
        logs._file.close()
        logs._file = Full()
        logs({"event": "train"})


def test_tensorboard(tmp_path, monkeypatch):
    """Numbers by event and name, read back by TensorBoard itself; without the package a line says what to install."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs kpdata[log]")
    with Logs(tmp_path, tensorboard=True) as logs:
        logs({"event": "evaluation", "step": 7, "AP": 0.5, "better": True})
        logs.picture("predictions", np.zeros((4, 4, 3), np.uint8), 7)
    found = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("evaluation/AP")] == [(7, 0.5)]
    assert found.Tags()["images"] == ["predictions"]
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match="tensorboard"):
        Logs(tmp_path, tensorboard=True)


def test_pictures_are_the_inputs_and_cells_lie_where_the_codec_has_them():
    """Normalising and back is the identity, for BGR too; a target's hottest shown pixel is its keypoint's."""
    spec = NetworkSpec("hrnet_tiny", load("coco_17"), colour="bgr")
    spec = spec.changed(codec=replace(spec.codec, input_size=(64, 96)))
    rgb = np.random.default_rng(0).integers(0, 256, (96, 64, 3)).astype(np.uint8)
    mean, std = np.array(spec.mean), np.array(spec.std)
    fed = torch.from_numpy(((rgb[..., ::-1] / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32))
    assert np.array_equal(inputs(fed, spec)[0], rgb)
    xy = np.full((1, 17, 2), np.nan)
    xy[0, 3] = 20, 40
    maps, _ = spec.codec.encode(xy, np.isfinite(xy).all(2).astype(np.int8) * 2)
    red = heat(np.zeros((96, 64, 3), np.uint8), maps[0], spec)[..., 0].astype(int)
    factor = red.shape[0] // 96
    y, x = np.argwhere(red == red.max()).mean(0)
    assert np.hypot((x + 0.5) / factor - 0.5 - 20, (y + 0.5) / factor - 0.5 - 40) < 0.51
