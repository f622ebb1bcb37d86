"""`kpdata train`: options over files over checkpoints, trials, results, and errors in a sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kpdata.cli.train import _duration

TINY = ("--model", "hrnet_tiny", "--size", "64x64", "--workers", 0, "--device", "cpu", "--batch", 8)


@pytest.fixture
def one_thread():
    torch = pytest.importorskip("torch", reason="needs kpdata[train]")
    pytest.importorskip("cv2", reason="needs kpdata[train]")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained(run, made, tmp_path_factory):
    """A training of two steps, for reading only."""
    pytest.importorskip("torch", reason="needs kpdata[train]")
    out = tmp_path_factory.mktemp("trained") / "run"
    sides = ("--data", made / "coco.json", "--val", made / "coco.json")
    done = run("train", *sides, *TINY, "--max-steps", 2, "--epochs", 3, "--json", "-o", out)
    assert done.code == 0, done.err
    return out, done


def test_numbers_in_json_and_notes_on_stderr(trained):
    """stdout is one JSON object with the result; what the user should know goes to stderr."""
    out, done = trained
    found = json.loads(done.out)
    assert found["steps"] == 2
    assert found["reason"] == "step limit"
    assert found["last_checkpoint"] == str(out / "last.pt")
    assert {"AP", "PCK@0.2"} <= set(found["metrics"])
    assert "random weights" in done.err
    assert "true boxes" in done.err
    assert "0.001 x" in done.err  # the rule behind the learning rate


def test_resume_needs_nothing_but_the_folder(run, trained):
    """Data, model and all else come from the checkpoint; what is said now wins."""
    out, _ = trained
    done = run("train", "--resume", out, "--max-steps", 3, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"] == 3
    assert "resumed at step 2" in done.err
    config = json.loads((out / "run.json").read_text())["config"]
    assert (config["model"], config["max_steps"]) == ("hrnet_tiny", 3)


def test_the_command_line_wins_over_the_file(run, made, tmp_path, one_thread):
    """A file with everything, and one value from the command line."""
    (tmp_path / "train.toml").write_text(
        f"""
        out = "run"
        model = "hrnet_tiny"
        size = [64, 64]
        batch = 4
        workers = 0
        device = "cpu"
        max_steps = 3
        seed = 5
        [[data]]
        path = "{(made / "coco.json").as_posix()}"
        weight = 0.5
        """
    )
    done = run("train", "--config", tmp_path / "train.toml", "--max-steps", 1, "--occluded", "ignore")
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert (config["max_steps"], config["seed"], config["batch"]) == (1, 5, 4)
    assert config["data"][0]["weight"] == 0.5
    assert config["data"][0]["occluded"] == "ignore"


def test_images_for_each_source(run, made, tmp_path, one_thread):
    """One folder for all, or one for each; another number is wrong usage."""
    sides = ("--data", made / "coco.json", "--data", made / "people.kp")
    wrong = run("train", *sides, *["--images", made] * 3, *TINY, "-o", tmp_path / "x")
    assert wrong.code == 2
    assert "one for all, or for each" in wrong.err
    done = run("train", *sides, "--images", made / "images", *TINY, "--max-steps", 1, "-o", tmp_path / "x")
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "x" / "run.json").read_text())["config"]
    assert [one["images"] for one in config["data"]] == [str(made / "images")] * 2


def test_share_and_weight_for_each_source(run, made, tmp_path, one_thread):
    """In the order of --data, or one for all; another number is wrong usage, and 0 is nobody."""
    sides = ("--data", made / "coco.json", "--data", made / "people.kp", "--images", made / "images")
    given = ("--share", 2, "--share", 0.5, "--weight", 0.25)
    done = run("train", *sides, *given, *TINY, "--max-steps", 1, "-o", tmp_path / "x")
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "x" / "run.json").read_text())["config"]
    assert [(one["share"], one["weight"]) for one in config["data"]] == [(2.0, 0.25), (0.5, 0.25)]
    wrong = run("train", *sides, *["--weight", 1] * 3, *TINY, "-o", tmp_path / "y")
    assert wrong.code == 2 and "3 x --weight for 2 x --data" in wrong.err
    none = run("train", *sides, "--share", 0, *TINY, "-o", tmp_path / "y")
    assert none.code == 1 and "share 0.0, expected a number above 0" in none.err


def test_a_dry_run_trains_nothing(run, made, tmp_path, one_thread):
    """A picture, a row a keypoint, and how long it would take."""
    done = run("train", "--data", made / "coco.json", *TINY, "--dry-run", "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["dry-run.png"]
    assert "left_wrist" in done.out
    assert "210 epochs" in done.out
    assert "64 x 64 px, 16 x 16 cells" in done.out
    told = run("train", "--data", made / "coco.json", *TINY, "--dry-run", "--json", "-o", tmp_path / "run")
    assert set(json.loads(told.out)["empty"]) >= {"nose", "left_ankle"}


def test_an_overfitting_trial_that_fails_exits_with_1(run, made, tmp_path, one_thread, monkeypatch):
    """Verdict in words and by exit code: a gate in a script."""
    from kpdata.train import trial

    whole = trial.overfit
    monkeypatch.setattr(trial, "overfit", lambda *args, **more: whole(*args, steps=2, **more))
    done = run("train", "--data", made / "coco.json", *TINY, "--overfit", 3, "-o", tmp_path / "run")
    assert done.code == 1
    assert "Overfitting 3 people FAILED" in done.out
    assert "at most 2 steps: about" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-o", "x"), 1, "no data is given"),
        (("--data", "gone.json", "-o", "x"), 1, "gone.json"),
        (("--data", "COCO"), 1, "no out is given"),
        (("--data", "COCO", "-o", "x", "--size", "192"), 1, "expected WIDTHxHEIGHT"),
        (("--data", "COCO", "-o", "x", "--model", "hrnet_w31"), 1, "did you mean hrnet_w32"),
        (("--data", "COCO", "-o", "x", "--weight-decay", 0.1), 1, "adamw"),
        (("--data", "COCO", "-o", "x", "--preset", "nine"), 1, "finetune_small, none"),
        (("--data", "COCO", "-o", "x", "--optimizer", "sgd"), 2, "sgd"),
        (("--data", "COCO", "-o", "x", "--config", "gone.toml"), 1, "gone.toml"),
        (("--data", "COCO", "-o", "x", "--resume", "gone"), 1, "no such checkpoint"),
        (("--data", "COCO", "-o", "x", "--dry-run", "--overfit", 3), 2, "give one"),
        (("--data", "COCO", "-o", "x", "--overfit", 0), 2, "1 or more"),
        (("--data", "COCO", "-o", "x", "--images", "nowhere"), 1, "nowhere"),
    ],
)
def test_wrong_values(run, made, tmp_path, monkeypatch, one_thread, arguments, code, words):
    """Exit 1 with a sentence, or 2 for wrong usage; nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    done = run("train", *(made / "coco.json" if a == "COCO" else a for a in arguments), "--device", "cpu")
    assert done.code == code, done.err
    assert words in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_landscape_input_is_pointed_out(run, made, tmp_path, one_thread):
    """256x192 is what papers call the input that is 192 px wide."""
    done = run(
        "train", "--data", made / "coco.json", *TINY, "--size", "96x64", "--max-steps", 1, "--epochs", 1,
        "-o", tmp_path / "run",
    )  # fmt: skip
    assert "papers write height first" in done.err


def test_without_torch_a_line_says_what_to_install(run, made, tmp_path, monkeypatch):
    """The extra, not an ImportError."""
    import importlib.util

    whole = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else whole(name, *rest)
    )
    done = run("train", "--data", made / "coco.json", "-o", tmp_path / "run")
    assert done.code == 1
    assert "pip install 'kpdata[train]'" in done.err


def test_help_does_not_import_torch():
    """`kpdata train --help` is instant."""
    code = "import sys, kpdata.cli.train; sys.exit(any(n in sys.modules for n in ('torch', 'numpy', 'cv2')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_durations_in_words():
    """The two largest units."""
    assert [_duration(s) for s in (3, 61, 3600, 12_000, 100_000)] == ["3 s", "1 min", "1 h", "3 h 20 min", "1 d 4 h"]
