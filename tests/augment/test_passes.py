"""A dataset through a preset by several processes: what comes out is what one process gives, in its order."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kpdata.augment import passes, presets
from kpdata.augment.crops import HalfBody
from kpdata.augment.trial import Trial
from kpdata.dataset import Dataset
from kpdata.errors import KpdataError
from kpdata.synth import synthesize, write_images

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    """Eight pictures of made-up people, one of which is missing."""
    folder, dataset = tmp_path_factory.mktemp("people"), synthesize(8, seed=3, size=(320, 240))
    write_images(dataset, folder / "images")
    sorted((folder / "images").iterdir())[2].unlink()
    return dataset, folder / "images"


def test_parts_are_the_whole(people: tuple[Dataset, Path]) -> None:
    """Cases of the parts, one after the other, are those of all; no image is torn."""
    dataset, images = people
    trial = Trial(presets.hrnet(), samples=1)
    rows = np.random.default_rng(0).permutation(len(dataset))
    shares = trial.shares(dataset, rows, 3)
    where = [set(dataset.image_rows()[share].tolist()) for share in shares]
    assert len(shares) == 3 and not where[0] & where[1] and not where[1] & where[2]
    whole = [case.row for case in trial.cases(dataset, rows, images)]
    assert [case.row for share in shares for case in trial.cases(dataset, share, images)] == whole


def test_processes_change_nothing(
    people: tuple[Dataset, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures to the byte, labels, measures, counts and names of missing pictures: as one process has them."""
    dataset, images = people
    found = []
    for name, cores in (("one", 1), ("two", 2)):
        monkeypatch.setattr(passes, "FEWEST", 1)
        monkeypatch.setattr(passes, "_cores", lambda cores=cores: cores)
        (tmp_path / name).mkdir()
        trial = Trial(presets.occlusion_heavy(), samples=2, seed=5)
        job = passes.Job(images, frozenset([1]), stats=True, folder=tmp_path / name)
        outcomes = list(passes.outcomes(dataset, trial, np.arange(len(dataset)), job))
        files = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        labels = [(w.file_name, w.keypoints.tolist(), w.origin) for each in outcomes for w in each.written]
        turns = [each.draws.turn.tolist() for each in outcomes if each.draws]
        shown = [each.case.row for each in outcomes if each.case]
        found.append((files, str(labels), turns, shown, trial.pictures, trial.unusable))
    assert found[0] == found[1]
    assert found[0][4] == 7 and len(found[0][5]) == 1 and len(found[0][0]) > 10


def test_errors_cross_over(people: tuple[Dataset, Path]) -> None:
    """What a process refuses comes back as an error that can be sent, in the same words."""
    dataset, images = people
    preset = presets.hrnet()
    wrong = replace(preset, crop=replace(preset.crop, half_body=HalfBody(upper=("hoof",))))
    passes._begin(dataset, Trial(wrong), passes.Job(images))
    with pytest.raises(KpdataError, match=r"upper names \['hoof'\]") as told:
        passes._share(np.arange(3))
    sent = pickle.loads(pickle.dumps(told.value))
    assert str(sent) == str(told.value)
