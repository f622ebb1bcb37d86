"""`kpdata export`: the file, what is said of it, and errors in a sentence."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch", reason="needs kpdata[train]")
pytest.importorskip("onnx", reason="needs kpdata[export]")
pytest.importorskip("onnxruntime", reason="needs kpdata[export]")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny network as it starts."""
    from kpdata import skeleton
    from kpdata.codec import HeatmapCodec
    from kpdata.train.checkpoint import Checkpoint, save_checkpoint
    from kpdata.train.models import build
    from kpdata.train.spec import NetworkSpec

    path = tmp_path_factory.mktemp("export") / "best.pt"
    spec = NetworkSpec("hrnet_tiny", skeleton.load("crowdpose_14"), HeatmapCodec((64, 64), target="dark"))
    save_checkpoint(path, Checkpoint(spec, dict(build("hrnet_tiny", 14).state_dict())))
    return path


def test_a_file_and_a_table(run, checkpoint, tmp_path):
    """Input, outputs and differences on stdout; what was loaded and written on stderr; the spec in the file."""
    from kpdata.train.export import read_exported_spec

    done = run("export", checkpoint, tmp_path / "model.onnx", "--pixels")
    assert done.code == 0, done.err
    assert "images (B, 64, 64, 3) uint8 RGB" in done.out
    assert "keypoints, scores, heatmaps" in done.out
    assert "maps differ from torch by" in done.out
    assert "loaded" in done.err
    assert f"Wrote  {tmp_path / 'model.onnx'}" in done.err
    spec, contract = read_exported_spec(tmp_path / "model.onnx")
    assert (spec.skeleton.name, contract.decoding) == ("crowdpose_14", "dark")


def test_json_of_maps_alone(run, checkpoint, tmp_path):
    """--json is one object, with the contract; --batch fixes the batch, --no-decode leaves the decoding out."""
    done = run("export", checkpoint, tmp_path / "m.onnx", "--no-decode", "--batch", 4, "--opset", 18, "--json")
    found = json.loads(done.out)
    assert found["path"] == str(tmp_path / "m.onnx")
    assert found["contract"]["input_shape"] == [4, 3, 64, 64]
    assert found["contract"]["outputs"] == ["heatmaps"]
    assert found["contract"]["opset"] == 18
    assert found["keypoints_differ"] is None


def test_errors_are_sentences(run, checkpoint, tmp_path):
    """No overwriting unasked, no traceback for a file that is no network, usage errors for numbers that are none."""
    target = tmp_path / "model.onnx"
    target.write_bytes(b"")
    done = run("export", checkpoint, target)
    assert (done.code, "--force overwrites it" in done.err) == (1, True)
    done = run("export", target, tmp_path / "other.onnx")
    assert done.code == 1
    assert "model.onnx" in done.err
    for batch in ("0", "many", "-1"):
        done = run("export", checkpoint, target, f"--batch={batch}")
        assert (done.code, "expected a whole number above 0" in done.err) == (2, True)
    done = run("export", checkpoint, tmp_path / "other.onnx", "--opset", 99)
    assert (done.code, "opset 99, expected 13 to 20" in done.err) == (1, True)
    assert target.read_bytes() == b""


def test_without_torch(run, checkpoint, tmp_path, monkeypatch):
    """The extra that is missing is named."""
    from kpdata.cli import export

    monkeypatch.setattr(export, "find_spec", lambda name: None)
    done = run("export", checkpoint, tmp_path / "model.onnx")
    assert (done.code, "pip install 'kpdata[train]'" in done.err) == (1, True)
