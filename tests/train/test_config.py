"""Values of a training: files, layers, types, and the numbers that follow from others."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata.errors import TrainError
from kpdata.train.config import NAMES, Config, SourceConfig, from_toml, parse_size, resolve, resumable

DATA = (SourceConfig(Path("a.json")),)


def config(**values: Any) -> Config:
    return Config(**{"data": DATA, "out": Path("run"), **values})


def toml(folder: Path, text: str) -> Path:
    path = folder / "train.toml"
    path.write_text(text)
    return path


def test_a_file_has_the_names_of_the_fields_and_paths_from_its_folder(tmp_path):
    """All three ways to write sources; a relative path starts at the file, an absolute one stays."""
    path = toml(
        tmp_path,
        """
        out = "run"
        size = "96x128"
        epochs = 3
        lr = 1
        milestones = [0.5, 0.9]
        data = ["a.json", "/b.kp"]
        skeleton = "horse.toml"
        [[val]]
        path = "v.json"
        images = "photos"
        weight = 2
        absent = "negative"
        [keypoint_weights]
        nose = 2
        """,
    )
    found = resolve(from_toml(path))
    assert (found.out, found.size, found.epochs, found.milestones) == (tmp_path / "run", (96, 128), 3, (0.5, 0.9))
    assert found.lr == 1.0
    assert isinstance(found.lr, float)
    assert [one.path for one in found.data] == [tmp_path / "a.json", Path("/b.kp")]
    assert found.val == (SourceConfig(tmp_path / "v.json", tmp_path / "photos", weight=2.0, absent="negative"),)
    assert found.keypoint_weights == {"nose": 2.0}
    assert found.skeleton == str(tmp_path / "horse.toml")


def test_later_layers_win_and_none_is_not_given():
    """What the command line leaves out stays what the file says."""
    found = resolve({"data": DATA, "out": Path("a"), "epochs": 5, "batch": 4}, {"epochs": 7, "batch": None})
    assert (found.epochs, found.batch) == (7, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch = 3", "did you mean epochs"),
        ("batch-size = 3", "did you mean batch"),
        ('epochs = "3"', "epochs is '3', expected a whole number"),
        ("epochs = true", "epochs is True, expected a whole number"),
        ('lr = "fast"', "lr is 'fast', expected a number"),
        ('optimizer = "adm"', "did you mean adam"),
        ("size = [192]", "size is .192., expected a list of 2 whole numbers"),
        ('size = "big"', "expected WIDTHxHEIGHT"),
        ("ledger = 1", "expected true or false"),
        ("out = 3", "out is 3, expected a path"),
        ("data = [3]", r"data\[0\] is 3, expected a path or a table"),
        ('[[data]]\nimages = "x"', r"data\[0\] has no path"),
        ('[[data]]\npath = "x"\nwieght = 2', "did you mean weight"),
        ('[[data]]\npath = "x"\noccluded = "ignored"', "did you mean ignore"),
        ('[[data]]\npath = "x"\nweight = 0', "expected a number above 0"),
        ('keypoint_weights = {nose = "x"}', "expected a table of numbers"),
        ("epochs = ", "not TOML"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(tmp_path, text, words):
    """Unknown keys, wrong types and words that are close to a known one; the message names the file."""
    path = toml(tmp_path, text)
    with pytest.raises(TrainError, match=words) as told:
        from_toml(path)
    assert "train.toml" in str(told.value)


def test_a_file_that_is_not_there(tmp_path):
    """A sentence, no traceback."""
    with pytest.raises(TrainError, match=r"gone\.toml"):
        from_toml(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": ()}, "no data to train on"),
        ({"epochs": 0}, "epochs is 0, expected 1 or more"),
        ({"lr": 0.0}, "lr is 0.0, expected a number above 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"flip": 1.5}, "flip is 1.5"),
        ({"milestones": (90.0,)}, "shares of the epochs"),
        ({"keypoint_weights": {"nose": -1.0}}, "0 or more"),
        ({"patience": 3}, "patience stops by the evaluation"),
        ({"init": Path("a"), "resume": Path("b")}, "both given"),
    ],
)
def test_values_out_of_range(values, words):
    """Said when the Config is made, not in the second epoch."""
    with pytest.raises(TrainError, match=words):
        config(**values)


def test_nothing_given_says_how_to_give_it():
    """The option and the key."""
    with pytest.raises(TrainError, match="--data FILE"):
        resolve({"out": Path("x")})
    with pytest.raises(TrainError, match="--out DIR"):
        resolve({"data": DATA})


@pytest.mark.parametrize(
    ("height", "target", "sigma", "kernel"),
    [
        (256, "gaussian", 2.0, None),
        (256, "dark", 2.0, 11),  # DARK and UDP at 256 x 192, mmpose 1.3.2: kernel 11
        (384, "udp", 3.0, 17),  # and 17 at 384 x 288
        (128, "dark", 1.0, 3),  # DARK's own 128 x 96
        (64, "gaussian", 1.0, None),
    ],
)
def test_targets_follow_the_size_as_published(height, target, sigma, kernel):
    """Sigma 2 at 256 px, 3 at 384, 1 at 128; the blur's kernel with it."""
    codec = config(size=(height * 3 // 4 // 32 * 32, height), target=target).codec
    assert (codec.sigma, codec.kernel) == (sigma, kernel)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "size": st.tuples(st.sampled_from([64, 96]), st.sampled_from([64, 128])),
            "lr": st.floats(1e-6, 1) | st.none(),
            "epochs": st.integers(1, 500),
            "target": st.sampled_from(["gaussian", "dark", "udp"]),
            "milestones": st.lists(st.floats(0.01, 1), max_size=3).map(tuple),
            "ema": st.floats(0.01, 0.999) | st.none(),
            "packed": st.just(Path("p")) | st.none(),
            "keypoint_weights": st.dictionaries(st.text(max_size=3), st.floats(0, 9)),
            "val": st.just((SourceConfig(Path("v"), Path("w"), share=0.5),)),
        },
    )
)
def test_json_and_back(values):
    """What a checkpoint keeps gives the same Config."""
    made = config(**values)
    assert Config.from_json(made.to_json()) == made


def test_sizes_are_width_first():
    """As everywhere in kpdata."""
    assert parse_size("192x256") == (192, 256)
    assert parse_size("96×128") == (96, 128)
    for wrong in ("192", "192x", "-1x2", "1x2x3"):
        with pytest.raises(TrainError, match="WIDTHxHEIGHT"):
            parse_size(wrong)


def test_resume_takes_a_folder(tmp_path):
    """`--resume run` means run/last.pt; where there is none it is said."""
    with pytest.raises(TrainError, match="no such checkpoint"):
        resumable(tmp_path)
    (tmp_path / "last.pt").touch()
    assert resumable(tmp_path) == tmp_path / "last.pt"


def test_every_field_is_a_key_of_a_file():
    """Nothing that the command line sets is missing in the file."""
    assert {f.name for f in fields(Config)} == set(NAMES)
