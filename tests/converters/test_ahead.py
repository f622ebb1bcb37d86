"""Files that were begun to be read early give the same datasets and sentences as all others."""

from __future__ import annotations

import json
import threading

import pytest

from kpdata import converters, files
from kpdata.converters import _ahead, _scanner, _scanning
from kpdata.errors import KpdataError

pytestmark = pytest.mark.skipif(not _scanner.usable(), reason="no C compiler when kpdata was installed")
NAMES = [f"k{i}" for i in range(5)]


@pytest.fixture(autouse=True)
def nothing_begun():
    """No test leaves a file begun to the next one."""
    yield
    for thread in _ahead._threads:
        thread.join()
    _ahead._threads.clear()
    _ahead._begun.clear()


@pytest.fixture
def made(tmp_path):
    """Ground truth and results in two files, with keys that have no column."""
    poses = [{"image_id": i // 3, "category_id": 1, "keypoints": [float(i), 2.5, 1.0] * 5} for i in range(300)]
    truth = {
        "images": [{"id": i, "file_name": f"{i}ä.jpg", "width": 640, "height": 480, "url": "u"} for i in range(100)],
        "annotations": [{"id": i + 1, "area": 7.5, "iscrowd": 0, "seen": "é"} | pose for i, pose in enumerate(poses)],
        "categories": [{"id": 1, "name": "p", "keypoints": NAMES}],
    }
    results = [{"score": i / 300, "center": [i, 1.5]} | pose for i, pose in enumerate(poses)]
    gt, dt = tmp_path / "gt.json", tmp_path / "dt.json"
    gt.write_text(json.dumps(truth, ensure_ascii=False), encoding="utf-8")
    dt.write_text(json.dumps(results), encoding="utf-8")
    return gt, dt


@pytest.fixture
def asked(monkeypatch):
    """The columns of every scan that nobody began, in the words of the scanner."""
    columns = []

    class Spied(_scanner.Scanning):
        def __init__(self, rows, wanted):
            columns.append(wanted)
            super().__init__(rows, wanted)

    monkeypatch.setattr(_scanning, "Scanning", Spied)
    return columns


def read(path):
    return converters.read(path, hashed=False)


def test_what_is_begun_is_what_readers_ask_for(made, asked):
    """The columns named in advance are the readers' own: otherwise the file would be scanned twice."""
    plain = [read(path) for path in made]
    expected = [_scanner.asked([*of], [*of.values()]) for of in (_ahead._ANNOTATIONS, _ahead._IMAGES, _ahead._RESULTS)]
    assert asked == expected
    asked.clear()
    _ahead.begin(made)
    assert [read(path) for path in made] == plain
    assert asked == []


@pytest.mark.parametrize("chunk", [300, 5000])
def test_the_same_dataset_from_parts(made, chunk, monkeypatch):
    """Whoever of the two threads reads which part, and from the disk by slices."""
    plain = [read(path) for path in made]
    monkeypatch.setattr(_scanner, "_CHUNK", chunk)
    monkeypatch.setattr(files, "_BY_SLICES", 1000)
    _ahead.begin(made)
    assert [read(path) for path in reversed(made)] == plain[::-1]


def test_a_file_is_begun_once(made):
    """The second reading of a path reads the file as it is then."""
    _ahead.begin(made)
    first = read(made[1])
    made[1].write_text("[]", encoding="utf-8")
    assert len(first) == 300
    assert len(read(made[1])) == 0


def test_a_file_that_is_named_twice(made):
    """It is scanned once, and read again by the second who asks."""
    _ahead.begin([made[1], made[0], made[1]])
    assert len(_ahead._begun) == 2
    first = read(made[1])
    assert read(made[0]) and read(made[1]) == first


def test_nobody_waits_for_what_fails(made, monkeypatch):
    """A scanner that breaks in the middle costs time only: the files are read in the usual way."""
    plain = [read(path) for path in made]

    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(_scanner.Scanning, "_scanned", broken)
    _ahead.begin(made)
    assert [read(path) for path in made] == plain


BROKEN = [
    "", "[", "{}", "[1]", "x", '{"images": [], "annotations": [{"id": 1}', '[{"image_id": 1, "keypoints": ["a"]}]',
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_the_same_sentences(text, tmp_path):
    """What cannot be read is said in the words of the usual way, and by whoever asks for the file."""
    path = tmp_path / "a.json"
    path.write_text(text)
    said = []
    for paths in ([], [path, tmp_path / "missing.json"]):
        _ahead.begin(paths)
        with pytest.raises(KpdataError) as error:
            read(path)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_nothing_begins_without_the_scanner(made, monkeypatch):
    """The way without the compiled module has nothing to gain from a thread."""
    monkeypatch.setenv("KPDATA_PURE_PYTHON", "1")
    _ahead.begin(made)
    assert not _ahead._threads


def test_a_system_without_threads(made, monkeypatch):
    """Where no thread can be started files are read when they are asked for."""
    plain = [read(path) for path in made]

    def refused(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_scanner, "_CHUNK", 300)
    monkeypatch.setattr(threading.Thread, "start", refused)
    _ahead.begin(made)
    assert not _ahead._begun and not _ahead._threads
    assert [read(path) for path in made] == plain
