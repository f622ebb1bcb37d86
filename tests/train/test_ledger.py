"""The ledger of losses: what goes in comes out, once, and rankings equal loops written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch: pip install 'kpdata[train]'")

from kpdata.errors import TrainError  # noqa: E402
from kpdata.train import ledger  # noqa: E402

NAMES = ("nose", "wrist")


def recorder(folder: Path) -> ledger.Recorder:
    return ledger.Recorder(folder, np.array([11, 12, 2**40]), np.array([1, 1, 7]), NAMES)


def record(book: ledger.Recorder, index: list[int], losses: list[list[float]]) -> None:
    book.record(torch.tensor(index), torch.tensor(losses))


def test_losses_come_back_by_person_keypoint_and_epoch(tmp_path: Path) -> None:
    """Two epochs, batches in any order; NaN stays NaN, a person without a target has no row."""
    book = recorder(tmp_path / "ledger")
    record(book, [2, 0], [[0.5, np.nan], [0.25, 2.0]])
    record(book, [1], [[np.nan, np.nan]])
    book.write(0)
    record(book, [0, 1, 2], [[1, 2], [3, 4], [5, 6]])
    book.write(1)
    found = ledger.read_ledger(tmp_path)
    assert found.keypoints == NAMES
    assert found.epochs.tolist() == [0, 0, 1, 1, 1]
    assert found.annotation_ids.tolist() == [11, 2**40, 11, 12, 2**40]
    assert found.image_ids.tolist() == [1, 7, 1, 1, 7]
    np.testing.assert_array_equal(found.losses, [[0.25, 2], [0.5, np.nan], [1, 2], [3, 4], [5, 6]])
    assert found.losses.dtype == np.float32


def test_an_epoch_does_not_inherit_the_last_one(tmp_path: Path) -> None:
    """Who is not drawn in an epoch has no row in it."""
    book = recorder(tmp_path)
    record(book, [0, 1, 2], [[1, 1]] * 3)
    book.write(0)
    record(book, [1], [[2, 2]])
    book.write(1)
    found = ledger.read_ledger(tmp_path)
    assert found.annotation_ids[found.epochs == 1].tolist() == [12]


def test_an_epoch_that_is_trained_again_stands_once(tmp_path: Path) -> None:
    """After a crash and a resume the epoch's rows are replaced, not doubled."""
    for value in (1.0, 3.0):
        book = recorder(tmp_path)
        record(book, [0], [[value, value]])
        book.write(4)
    found = ledger.read_ledger(tmp_path)
    assert found.losses.tolist() == [[3.0, 3.0]]
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0004.parquet"]


def test_any_parquet_reader_reads_it(tmp_path: Path) -> None:
    """Plain columns: annotation_id, image_id, epoch and a list of numbers."""
    book = recorder(tmp_path)
    record(book, [0], [[1.5, 2.5]])
    book.write(3)
    rows = pq.ParquetFile(tmp_path / "epoch-0003.parquet").read().to_pylist()
    assert rows == [{"annotation_id": 11, "image_id": 1, "epoch": 3, "loss": [1.5, 2.5]}]


def test_an_empty_epoch_is_a_file_without_rows(tmp_path: Path) -> None:
    """Nothing to record is no error."""
    recorder(tmp_path).write(0)
    found = ledger.read_ledger(tmp_path)
    assert found.losses.shape == (0, 2)
    assert ledger.hardest_people(found).num_rows == 0
    assert ledger.noisy_labels(found).num_rows == 0


def test_no_ledger_and_a_damaged_one_are_told(tmp_path: Path) -> None:
    """Sentences name the folder or the file and what to do."""
    with pytest.raises(TrainError, match=r"no ledger of losses.*--ledger"):
        ledger.read_ledger(tmp_path)
    book = recorder(tmp_path)
    record(book, [0], [[1, 1]])
    book.write(0)
    file = tmp_path / "epoch-0000.parquet"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(TrainError, match=r"epoch-0000.parquet: cannot be read as a ledger.*delete it"):
        ledger.read_ledger(tmp_path)


def some_ledger() -> ledger.Ledger:
    """6 people (two with one annotation id, of two data sets), 2 keypoints, 8 epochs; person 3's wrist is wrong."""
    rng = np.random.default_rng(0)
    epochs = np.repeat(np.arange(8), 6)
    base = np.array([1.0, 3.0]) * 0.5 ** epochs[:, None] * rng.uniform(0.9, 1.1, (48, 2))
    base[3::6, 1] = 5.0
    base[4::6, 0] = np.nan
    ids, images = np.tile([1, 1, 2, 3, 4, 5], 8), np.tile([1, 9, 2, 3, 4, 5], 8)
    return ledger.Ledger(NAMES, ids, images, epochs, base.astype(np.float32))


def test_hardest_people_and_keypoints_are_means_of_the_last_epochs() -> None:
    """Equal to a loop over people; the same annotation id in two images is two people."""
    book = some_ledger()
    table = ledger.hardest_people(book, epochs=3)
    expected = {}
    for person in range(6):
        rows = [e * 6 + person for e in (5, 6, 7)]
        expected[int(book.annotation_ids[person]), int(book.image_ids[person])] = float(np.nanmean(book.losses[rows]))
    ranked = sorted(expected, key=lambda key: -expected[key])
    pairs = list(zip(table["annotation_id"].to_pylist(), table["image_id"].to_pylist(), strict=True))
    assert pairs == ranked
    assert table["loss"].to_pylist() == pytest.approx([expected[key] for key in ranked], rel=1e-6)
    assert pairs[0] == (3, 3)
    keypoints = ledger.hardest_keypoints(book, epochs=3).to_pylist()
    assert [row["keypoint"] for row in keypoints] == ["wrist", "nose"]
    assert keypoints[1]["loss"] == pytest.approx(float(np.nanmean(book.losses[30:, 0])), rel=1e-6)
    assert [row["labels"] for row in keypoints] == [18, 15]


def test_a_label_that_no_epoch_learned_comes_first() -> None:
    """The wrong wrist leads and is alone in being "never learned"; ratios are in medians of the keypoint."""
    book = some_ledger()
    rows = ledger.noisy_labels(book, epochs=3).to_pylist()
    assert (rows[0]["annotation_id"], rows[0]["keypoint"], rows[0]["never_learned"]) == (3, "wrist", True)
    assert not any(row["never_learned"] for row in rows[1:])
    means = [np.mean([book.losses[e * 6 + person, 1] for e in (5, 6, 7)]) for person in range(6)]
    assert rows[0]["ratio"] == pytest.approx(5.0 / np.median(means), rel=1e-5)
    assert rows[0]["least"] == 5.0
    assert len(rows) == 11
    assert ledger.noisy_labels(book, limit=2).num_rows == 2
