"""Pictures that turn out broken while a training runs: other people take the place, and nothing else changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs kpdata[train]")
pytest.importorskip("cv2", reason="the trainer needs kpdata[train]")

from kpdata import synthesize, write  # noqa: E402  (after the skips)
from kpdata.augment.presets import hrnet  # noqa: E402
from kpdata.augment.rng import generator  # noqa: E402
from kpdata.augment.samples import Samples, people  # noqa: E402
from kpdata.errors import FormatError, TrainError  # noqa: E402
from kpdata.synth import write_images  # noqa: E402
from kpdata.train import data as loading  # noqa: E402
from kpdata.train import loop as looping  # noqa: E402
from kpdata.train import watch  # noqa: E402
from kpdata.train.batch import Batch  # noqa: E402
from kpdata.train.checkpoint import load_checkpoint  # noqa: E402
from kpdata.train.config import Config, SourceConfig  # noqa: E402
from kpdata.train.data import Crops, Failure, Source  # noqa: E402
from kpdata.train.training import train  # noqa: E402
from tests.train.loops import assert_equal, contents  # noqa: E402
from tests.train.loops import one_thread as one_thread  # noqa: E402  (for all tests here)

SIZE = (48, 64)
COUNT = 40


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Forty people, one a picture: the dataset and the folder of its pictures."""
    dataset, folder = synthesize(COUNT, seed=2, size=(120, 90), people=(1, 1)), tmp_path_factory.mktemp("whole")
    write_images(dataset, folder)
    return dataset, folder


@pytest.fixture
def photos(scene: tuple[Any, Path], tmp_path: Path) -> tuple[Any, Path]:
    """The same in a folder of the test's own."""
    shutil.copytree(scene[1], tmp_path / "photos")
    return scene[0], tmp_path / "photos"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def picture_of(crops: Crops, row: int) -> Path:
    return Path(str(crops.pictures.places[int(crops.people.image[row])]))


def tensors(batch: Batch, but: int) -> dict[str, np.ndarray]:
    """All of a batch but one person."""
    named = {name: getattr(batch, name) for name in Batch.__slots__}
    return {n: np.delete(t.numpy(), but, 0) for n, t in named.items() if isinstance(t, torch.Tensor)}


# -------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_another_person_takes_the_place(photos: tuple[Any, Path], scene: tuple[Any, Path], damage: Any) -> None:
    """A cut file or one that is gone: the others of the batch stay to the bit, the place has the crop of another person
    by the draw of that place (made by the preset alone), and the batch tells what was wrong."""
    dataset, folder = photos
    made = hrnet(SIZE)
    crops = Crops([Source(dataset, folder)], dataset.skeleton, made, seed=5, replace=True)
    places = [(3, 7), (3, 11), (3, 30), (3, 2)]
    before = crops.__getitems__(places)
    damage(picture_of(crops, 11))
    after = crops.__getitems__(places)
    assert isinstance(before, Batch) and isinstance(after, Batch)
    assert before.replaced == ()
    for name, values in tensors(before, 1).items():
        np.testing.assert_array_equal(values, tensors(after, 1)[name], err_msg=name)
    assert len(after.replaced) == 1 and picture_of(crops, 11).name in after.replaced[0]
    other = int(after.index[1])
    assert other != 11
    alone = {int(one.annotation_ids[0]): one for sample in Samples(dataset, scene[1]) for one in people(sample)}
    expected = made(alone[int(crops.people.annotation_ids[other])], generator(5, 3, 11))
    np.testing.assert_array_equal(after.images[1].numpy(), expected.image)
    assert int(after.annotation_ids[1]) == int(crops.people.annotation_ids[other])
    assert crops.__getitems__(places[1:2]).index.tolist() == [other]  # whatever else is in the batch
    assert {int(crops.__getitems__([(e, 11)]).index[0]) for e in range(12)} - {other, 11}  # not always the same one


def test_the_place_stays_with_its_source(photos: tuple[Any, Path]) -> None:
    """Of two sources, the other person is from the same one: shares and weights mean what they did."""
    dataset, folder = photos
    half = np.arange(len(dataset.images)) < COUNT // 2
    sources = [Source(dataset.select(images=part), folder) for part in (half, ~half)]
    crops = Crops(sources, dataset.skeleton, hrnet(SIZE), replace=True)
    row = int(np.flatnonzero(crops.people.source == 1)[0])
    picture_of(crops, row).unlink()
    found = [crops.__getitems__([(epoch, row)]) for epoch in range(20)]
    assert {int(batch.source[0]) for batch in found} == {1}
    assert row not in {int(batch.index[0]) for batch in found}


def test_without_replace_it_is_a_failure_as_ever(photos: tuple[Any, Path]) -> None:
    """The name of the picture, and no batch."""
    dataset, folder = photos
    crops = Crops([Source(dataset, folder)], dataset.skeleton, hrnet(SIZE))
    cut(picture_of(crops, 0))
    found = crops.__getitems__([(0, 0), (0, 1)])
    assert isinstance(found, Failure) and picture_of(crops, 0).name in found.message


def test_where_nothing_can_be_read_it_says_so(photos: tuple[Any, Path]) -> None:
    """A folder that is gone is no reason to look for ever."""
    dataset, folder = photos
    crops = Crops([Source(dataset, folder)], dataset.skeleton, hrnet(SIZE), replace=True)
    shutil.rmtree(folder)
    found = crops.__getitems__([(0, 0)])
    assert isinstance(found, Failure) and "none that can" in found.message and "still there" in found.hint


@pytest.mark.parametrize("warp", ["cpu", "device"])
@pytest.mark.parametrize("quality", [90, None])
def test_a_damaged_packed_crop(photos: tuple[Any, Path], tmp_path: Path, warp: Any, quality: int | None) -> None:
    """Bytes of a JPEG crop that are none, or raw ones that end too soon: another person takes the place there too."""
    dataset, folder = photos
    crops = Crops([Source(dataset, folder)], dataset.skeleton, hrnet(SIZE), seed=5, replace=True)
    pack = crops.pack_into(tmp_path / "pack", quality=quality)
    shard, last = tmp_path / "pack" / "00000.crops", len(crops) - 1
    start, size = int(pack.columns["offset"][last]), int(pack.columns["bytes"][last])
    places = [(0, 3), (0, last), (0, 4)]
    before = crops.packed(pack, warp=warp).__getitems__(places)
    content = shard.read_bytes()
    shard.write_bytes(content[: start + size // 2] if quality is None else content[:start] + bytes(size))
    fresh = replace(pack, _maps={})
    after = crops.packed(fresh, warp=warp).__getitems__(places)
    assert isinstance(before, Batch) and isinstance(after, Batch)
    named = tensors(after, 1)
    assert all(np.array_equal(values, named[name]) for name, values in tensors(before, 1).items())
    assert int(after.index[1]) != last and len(after.replaced) == 1
    assert f"annotation {int(crops.people.annotation_ids[last])}" in after.replaced[0]
    with pytest.raises(FormatError, match=r"00000\.crops"):
        fresh.read(last)


# ------------------------------------------------------------------------------------------------------------ trainings


def settings(photos: tuple[Any, Path], out: Path, **values: Any) -> Config:
    dataset, folder = photos
    labels = folder.parent / "people.kp"
    if not labels.exists():
        write(dataset, labels)
    defaults: dict[str, Any] = {
        "model": "hrnet_tiny", "size": (64, 64), "epochs": 3, "batch": 4, "warmup": 0, "workers": 2, "device": "cpu",
        "ledger": True, "ema": 0.9, "missing_images": "skip",
    }  # fmt: skip
    return Config(data=(SourceConfig(labels, images=folder),), out=out, **{**defaults, **values})


def breaks(path: Path, at: tuple[int, str] = (0, "train")) -> Any:
    """A log that cuts a file when an epoch's last steps are told of."""

    def hear(line: dict[str, Any]) -> None:
        if (line.get("epoch"), line["event"]) == at and line.get("batch") == line.get("batches"):
            cut(path)

    return hear


def test_resumed_equals_uninterrupted(photos: tuple[Any, Path], tmp_path: Path) -> None:
    """A picture is gone when the training begins, another breaks after the first epoch: a training that is stopped in
    the second one and goes on ends with the same bits; log and run.json name the picture once, and count."""
    dataset, folder = photos
    names = dataset.images["file_name"].to_pylist()
    (folder / names[0]).unlink()
    backup, victim = (folder / names[5]).read_bytes(), folder / names[5]
    whole = train(settings(photos, tmp_path / "whole"), log=breaks(victim))
    victim.write_bytes(backup)
    config = settings(photos, tmp_path / "parts")
    steps = whole.steps // 2
    first = train(replace(config, max_steps=steps), log=breaks(victim))
    assert (first.reason, first.steps) == ("step limit", steps)
    second = train(replace(config, resume=tmp_path / "parts" / "last.pt"))
    assert (second.steps, second.loss, second.replaced) == (whole.steps, whole.loss, whole.replaced)
    assert_equal(contents(tmp_path / "whole/last.pt"), contents(tmp_path / "parts/last.pt"))
    assert 2 <= whole.replaced <= 4  # once in each of two epochs, and where the person fills up an epoch's last batch
    for name in ("whole", "parts"):
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        told = [line for line in lines if "can no longer be read" in line.get("text", "")]
        assert len(told) == 1 and victim.name in told[0]["text"] and told[0]["epoch"] in (1, 2)
        result = json.loads((tmp_path / name / "run.json").read_text())["result"]
        assert result["replaced"] == whole.replaced
        assert len(result["broken"]) == 1 and victim.name in result["broken"][0]


@pytest.mark.parametrize("every", [2, 50])
def test_too_many_end_the_training(
    photos: tuple[Any, Path], tmp_path: Path, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twentieth of an epoch's people is no picture but a disk: the sentence says so, and the training can go on, from
    the midst of an epoch (looked at every two steps) or its end."""
    monkeypatch.setattr(looping, "CHECK_EVERY", every)
    dataset, folder = photos
    names = dataset.images["file_name"].to_pylist()

    def hear(line: dict[str, Any]) -> None:
        if (line.get("epoch"), line["event"], line.get("batch")) == (0, "train", line.get("batches")):
            for name in names[:8]:
                (folder / name).unlink(missing_ok=True)

    with pytest.raises(
        TrainError, match=r"of this epoch's 40 people could not be read, which is more than 5%"
    ) as found:
        train(settings(photos, tmp_path / "run"), log=hear)
    assert "--resume" in found.value.hint
    state = load_checkpoint(tmp_path / "run" / "last.pt").state
    assert state is not None and (state["batches"] < state["batches_per_epoch"]) == (every == 2)
    for name in names[:8]:
        shutil.copy(folder / names[9], folder / name)
    assert train(settings(photos, tmp_path / "run", resume=tmp_path / "run" / "last.pt")).reason == "finished"


def test_a_picture_to_measure_on_has_no_substitute(photos: tuple[Any, Path], tmp_path: Path) -> None:
    """Numbers of other people would not compare: the training ends with the picture's name, and what goes on measures
    without it."""
    people = synthesize(4, seed=9, size=(120, 90), people=(1, 1))
    write_images(people, tmp_path / "val")
    write(people, tmp_path / "val.kp")
    victim = tmp_path / "val" / people.images["file_name"].to_pylist()[2]
    val = (SourceConfig(tmp_path / "val.kp", images=tmp_path / "val"),)
    config = settings(photos, tmp_path / "run", val=val, epochs=2, workers=0, flip_test=False)
    with pytest.raises(TrainError, match=victim.name):
        train(config, log=breaks(victim))
    lines: list[dict[str, Any]] = []
    result = train(replace(config, resume=tmp_path / "run" / "last.pt"), log=lines.append)
    assert (result.reason, result.replaced) == ("finished", 0)
    assert any("1 picture cannot be read" in line.get("text", "") for line in lines)


def test_without_the_flag_it_is_refused(photos: tuple[Any, Path], tmp_path: Path) -> None:
    """As ever: the run ends, with the picture's name and a checkpoint; which goes on with the flag, too."""
    victim = photos[1] / photos[0].images["file_name"].to_pylist()[5]
    config = settings(photos, tmp_path / "run", missing_images="refuse", batch=5)
    with pytest.raises(TrainError, match=victim.name) as found:
        train(config, log=breaks(victim))
    last = tmp_path / "run" / "last.pt"
    assert "--resume" in found.value.hint and last.is_file()
    result = train(replace(config, resume=last, missing_images="skip"))
    assert (result.reason, len(result.broken)) == ("finished", 1) and result.replaced >= 2


def test_going_on_without_the_flag_wants_the_same_people(photos: tuple[Any, Path], tmp_path: Path) -> None:
    """A picture was left out and is back: another table with as many batches is refused, not trained on."""
    missing = photos[1] / photos[0].images["file_name"].to_pylist()[0]
    content = missing.read_bytes()
    missing.unlink()
    config = settings(photos, tmp_path / "run", batch=13, workers=0, max_steps=1)
    assert train(config).reason == "step limit"
    missing.write_bytes(content)
    again = replace(config, resume=tmp_path / "run" / "last.pt", max_steps=None)
    with pytest.raises(TrainError, match=r"pictures left out \(--missing-images skip\) \[1\], not \[0\]"):
        train(replace(again, missing_images="refuse"))
    assert train(again).reason == "finished"


def test_a_sentence_names_some() -> None:
    """A disk that goes is thousands of pictures: twenty are named, the others counted, all are kept."""
    counts = watch.Replaced()
    text = counts.add([f"picture {i}: gone" for i in range(1500)])
    assert text.startswith("1,500 pictures") and text.endswith("picture 19: gone; and 1,480 more")
    assert len(counts.broken) == 1500


def test_counting() -> None:
    """Each picture is named once, each person counted, a twentieth of an epoch allowed."""
    counts = watch.Replaced()
    assert counts.add([]) == ""
    assert counts.add(["a: cut", "a: cut", "b: gone"]).endswith("2 pictures can no longer be read, and other people "
        "take the place of those in them: a: cut; b: gone")  # fmt: skip
    assert counts.add(["a: cut"]) == ""
    assert (counts.epoch, counts.total, list(counts.broken)) == (4, 4, ["a: cut", "b: gone"])
    assert counts.too_many(80) is None
    assert "4 of this epoch's 79 people" in counts.too_many(79).message
    assert loading._OTHERS >= 10
