"""`kpdata predict`: a file of predictions that `kpdata eval` can score, and numbers on worse pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="the trainer needs torch: pip install 'kpdata[train]'")
pytest.importorskip("cv2", reason="the trainer needs OpenCV: pip install 'kpdata[train]'")

from kpdata import converters, schema  # noqa: E402
from kpdata.cli import predict as command  # noqa: E402
from kpdata.cli.main import Commands  # noqa: E402
from kpdata.cli.main import app as kpdata  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.dataset import open_dataset  # noqa: E402
from kpdata.skeleton import load  # noqa: E402
from kpdata.train.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from kpdata.train.models import build  # noqa: E402
from kpdata.train.predict import predict  # noqa: E402
from kpdata.train.predictor import Predictor  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402

app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
app.command("predict")(command.predict)
app.callback()(lambda: None)


def run_with(application: typer.Typer, *arguments: object) -> tuple[int, str, str]:
    """Exit code, results and notes; no traceback, and nothing unforeseen."""
    done = CliRunner().invoke(application, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert "Traceback" not in done.output
    assert "kpdata itself failed" not in done.output
    return done.exit_code, done.stdout, done.stderr


def run(*arguments: object) -> tuple[int, str, str]:
    return run_with(app, "predict", *arguments)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = NetworkSpec("hrnet_tiny", load("coco_17"), HeatmapCodec((64, 64), sigma=1.0))
    path = tmp_path_factory.mktemp("net") / "best.pt"
    save_checkpoint(path, Checkpoint(spec, build("hrnet_tiny", 17).state_dict()))
    return path


def test_pictures_beside_the_data_are_found(made: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Without --images as `kpdata train` finds them; where there are none, the places that were tried."""
    plain = ("--device", "cpu", "--no-flip-test")
    for number, more in enumerate(((), ("--images", made / "images"))):
        code, _, notes = run(checkpoint, made / "coco.json", *more, "-o", tmp_path / f"{number}.json", *plain)
        assert code == 0, notes
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    (tmp_path / "alone.json").write_bytes((made / "coco.json").read_bytes())
    code, _, notes = run(checkpoint, tmp_path / "alone.json", "-o", tmp_path / "p.json", *plain)
    assert code == 1
    assert "its pictures were not found in" in notes and "--images DIR" in notes


def test_results_find_their_ground_truth(made: Path, checkpoint: Path, tmp_path: Path) -> None:
    """COCO results equal to the library's predictions, and `kpdata eval` scores them without --gt."""
    out = tmp_path / "deep" / "preds.json"
    code, text, notes = run(checkpoint, made / "coco.json", "--images", made / "images", "-o", out, "--device", "cpu")
    assert code == 0, notes
    truth = converters.read(made / "coco.json")
    expected = predict(Predictor(checkpoint, device="cpu"), truth, made / "images").people
    rows = json.loads(out.read_text())
    assert len(rows) == len(expected) > 5
    assert f"{len(rows)} people in true boxes" in text
    found = np.array([row["keypoints"] for row in rows]).reshape(len(rows), 17, 3)
    np.testing.assert_allclose(found[..., :2], expected.keypoints, atol=1e-6)
    np.testing.assert_allclose([row["score"] for row in rows], schema.values(expected.persons["score"]))
    assert [row["image_id"] for row in rows] == schema.values(expected.persons["image_id"]).tolist()
    assert not any("bbox" in row for row in rows)
    code, text, notes = run_with(kpdata, "eval", out, "--no-why")
    assert code == 0, notes
    assert "Average Precision" in text


def test_a_kp_folder_holds_the_same(made: Path, checkpoint: Path, tmp_path: Path) -> None:
    """`.kp` predictions on the network's skeleton, evaluated by their note; --json says what was made."""
    out = tmp_path / "preds.kp"
    code, text, notes = run(
        checkpoint, made / "people.kp", "--images", made / "images", "-o", out, "--device", "cpu", "--json",
        "--nms", "none", "--no-flip-test",
    )  # fmt: skip
    assert code == 0, notes
    said = json.loads(text)
    stored = open_dataset(out)
    assert said["people"] == len(stored) > 5
    assert said["boxes"] == "true boxes"
    assert stored.skeleton == load("coco_17")
    assert stored.history[-1]["flip_test"] is False
    code, _, notes = run_with(kpdata, "eval", out, "--no-why")
    assert code == 0, notes
    assert run(checkpoint, made / "people.kp", "--images", made / "images", "-o", out)[0] == 1  # it is there already


def test_corrupted_pictures_are_scored(made: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A table with five severities of each kind, mPC and rPC, the same in --json, and a picture of the curves."""
    arguments = (checkpoint, made / "coco.json", "--images", made / "images", "--device", "cpu", "--no-flip-test")
    plot = tmp_path / "curves.png"
    code, text, notes = run(*arguments, "--corrupt", "occlusion", "--seed", 3, "--json", "--plot", plot)
    assert code == 0, notes
    found = json.loads(text)["robustness"]
    assert found["metric"] == "AP"
    assert found["seed"] == 3
    assert list(found["corruptions"]) == ["occlusion"]
    values = list(found["corruptions"]["occlusion"].values())
    assert len(values) == 5
    assert found["mPC"] == pytest.approx(np.mean(values))
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_wrong_usage_is_told(made: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Nothing to write, a strange ending, options that would do nothing, an unknown kind: 2 and a sentence."""
    base, out = (checkpoint, made / "coco.json", "--images", made / "images"), tmp_path / "p.json"
    for more, words in (
        ((), "nothing to write"), (("-o", tmp_path / "p.csv"), "ends in"), (("-o", out, "--seed", 1), "--corrupt"),
        (("-o", out, "--box-score-above", 0.5), "--boxes"), (("--corrupt", "fog"), "fog"),
    ):  # fmt: skip
        code, _, notes = run(*base, *more)
        assert code == 2, more
        assert words in notes
    assert not out.exists()


def test_bad_input_is_told(made: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A cut checkpoint, no folder of pictures, a detector's file that is none: 1 and a sentence with the file."""
    out = tmp_path / "p.json"
    cut = tmp_path / "cut.pt"
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    truth, images = made / "coco.json", made / "images"
    for arguments, words in (
        ((cut, truth, "--images", images), "cut.pt"),
        ((checkpoint, truth, "--images", tmp_path / "none"), "no such folder"),
        ((checkpoint, truth, "--images", tmp_path), "pictures are not there"),
        ((checkpoint, truth, "--images", images, "--boxes", truth), "coco.json"),
        ((checkpoint, truth, "--images", images, "--device", "cuda:99"), "cuda:99"),
    ):
        code, _, notes = run(*arguments, "-o", out)
        assert code == 1, notes
        assert words in notes
    assert not out.exists()
