"""The compiled scanner and the way without it come to the same columns; every number is the nearest double."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import threading
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata import converters, files
from kpdata.converters import _json, _rows, _scanner, _scanning, coco, coco_results
from kpdata.converters._source import Source
from kpdata.errors import KpdataError
from tests.strategies import json_values

pytestmark = pytest.mark.skipif(_scanning.compiled is None, reason="no C compiler when kpdata was installed")


def both(monkeypatch, read):
    """What `read` comes to with the scanner and without: a value or a sentence."""
    found = []
    for pure in ("", "1"):
        with monkeypatch.context() as patch:
            patch.setenv("KPDATA_PURE_PYTHON", pure)
            try:
                found.append(read())
            except KpdataError as error:
                found.append(str(error))
    return found


def scan(data: bytes, keys: dict[str, int]):
    scanned = _scanning.scan(_json.Rows(data, 1, len(data) - 1), list(keys), list(keys.values()))
    try:
        return None if scanned is None else list(scanned)
    except _json.NotScannable:
        return None


def floats(texts):
    """Numbers as the scanner reads them out of one list."""
    scanned = scan(('[{"x": [' + ",".join(texts) + "]}]").encode(), {"x": _scanning.NUMBERS})
    assert scanned is not None
    [(_, [found], _)] = scanned
    return found.numbers


def halfway(rng):
    """A decimal exactly between two doubles: the even one is nearest."""
    low = struct.unpack("d", struct.pack("Q", rng.getrandbits(52) | (1023 + rng.randrange(60)) << 52))[0]
    middle = (Fraction(low) + Fraction(float(np.nextafter(low, np.inf)))) / 2
    text = format(Decimal(middle.numerator) / Decimal(middle.denominator), "f")
    return text if "." in text else text + ".0"


def number(rng):
    """A JSON number of one of many makes."""
    makes = [
        lambda: repr(float(np.float32(rng.uniform(-700, 700)))),
        lambda: repr(rng.uniform(-1e3, 1e3)),
        lambda: repr(struct.unpack("d", struct.pack("Q", rng.getrandbits(64) & 0x7FEFFFFFFFFFFFFF))[0]),
        lambda: f"{rng.uniform(0, 1):.{rng.randrange(1, 25)}f}",
        lambda: f"{rng.uniform(0, 10) * 10.0 ** rng.randrange(-70, 70):.{rng.randrange(1, 22)}e}",
        lambda: str(rng.getrandbits(rng.randrange(1, 59))),
        lambda: f"{rng.getrandbits(63)}e{rng.randrange(-400, 330)}",
        lambda: halfway(rng),
        lambda: rng.choice(["0.0", "-0.0", "0", "1e22", "1e23", "9007199254740993.0", "5e-324", "1e400", "-1E-5"]),
    ]
    return rng.choice(makes)()


def test_numbers_are_the_nearest_doubles():
    """Every bit as Python's own float(), of short, long, tiny, huge and half-way numbers."""
    rng = random.Random(1)
    texts = [number(rng) for _ in range(60_000)]
    wanted = np.array([float(text) for text in texts])
    assert floats(texts).view(np.int64).tolist() == wanted.view(np.int64).tolist()


def test_the_negative_zero_of_integers():
    """-0 is the integer 0, for which there is no sign; -0.0 keeps it."""
    assert np.signbit(floats(["-0", "-0.0"])).tolist() == [False, True]


BROKEN = [
    '[{"x": 01}]', '[{"x": 1.}]', '[{"x": .5}]', '[{"x": 1e}]', '[{"x": +1}]', '[{"x": NaN}]', '[{"x": "a\nb"}]',
    '[{"x": "\\q"}]', '[{"x": "\\u12g4"}]', '[{"x": tru}]', '[{"x": 1]', '[{"x": 1},]', '[{"x" 1}]', '[{x: 1}]',
    '[{"x": 1} {"x": 2}]', '[{"y": [1,]}]', '[{"y": {"a"}}]', '[{"y": {"a": 1,}}]', '[{"x": -}]', '[{"x": 1}]]',
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_broken_json_is_not_taken(text):
    """What no JSON reader takes is left to the one that words the error."""
    with pytest.raises(ValueError):
        json.loads(text, parse_constant=lambda _: int("no constant"))
    assert scan(text.encode(), {"x": _scanning.SCALAR}) is None


LEFT = [
    '[{"x": 1, "x": 2}]', '[{"y": 1, "y": 2}]', '[{"\\u0078": 1}]', '[{"x": [1]}]', '[{"x": 1234567890123456789}]',
    '[1]', '[{"x": 1}, []]',
]  # fmt: skip


@pytest.mark.parametrize("text", LEFT)
def test_the_unusual_is_left_to_the_other_way(text):
    """Keys that stand twice or escaped, lists for numbers, big integers, rows that are no objects."""
    assert json.loads(text)
    assert scan(text.encode(), {"x": _scanning.SCALAR}) is None


def test_the_scanner_is_used(real_data):
    """It takes real files: otherwise the other tests here would compare one thing with itself."""
    data = (real_data / "coco_mini" / "person_keypoints_val2017.json").read_bytes()
    rows = _json.stream(data)["annotations"]
    assert scan(data[rows.start - 1 : rows.stop + 1], {"id": _scanning.SCALAR, "keypoints": _scanning.NUMBERS})


@given(st.lists(st.dictionaries(st.sampled_from(["x", "y", "ü", ""]), json_values(), max_size=4), max_size=4))
def test_any_rows(rows):
    """Scalars and the members of other keys are those of the standard library, or the scanner takes nothing."""
    data = json.dumps(rows, ensure_ascii=False).encode("utf-8", "surrogatepass")
    scanned = scan(data, {"x": _scanning.SCALAR}) if rows else None
    if scanned is None:
        return
    [(count, [found], members)] = scanned
    back = [json.loads("{" + dict(members).get(row, "") + "}") for row in range(count)]
    assert (found is None) == all("x" not in row for row in rows)
    for row, item in zip(found.rows.tolist(), found.items(), strict=True) if found else ():
        back[row]["x"] = item
    assert back == rows


def test_all_real_files(real_data, monkeypatch):
    """COCO-shaped files and results: one dataset, whichever way it was read."""
    seen = 0
    for path in sorted(real_data.rglob("*.json*")):
        if path.stat().st_size > 30_000_000 or "labelme" in path.parts:
            continue
        short, long = both(monkeypatch, lambda path=path: converters.read(path))
        assert short == long, path
        seen += 1
    assert seen > 20


def people(count, rng):
    """Annotations with everything that occurs: masks, polygons, texts, other keys, integers and floats."""
    return [
        {
            "id": i + 1, "image_id": i // 2, "category_id": 1, "iscrowd": int(i % 5 == 0), "area": rng.uniform(1, 9e4),
            "bbox": [rng.randrange(100), 1.5, 20, 30.25], "num_keypoints": 17,
            "keypoints": [rng.choice([rng.randrange(600), rng.uniform(0, 600)]) for _ in range(51)],
            "segmentation": {"counts": [5, 7], "size": [3, 4]} if i % 5 == 0 else [[1.5, 2, 3, 4, 5, 6]] * (i % 3),
            **({} if i % 4 else {"note": 'ü "quoted" \u2603 ' + "}, {" * (i % 8), "deep": {"a": [1.50, 2e-7, None]}}),
        }
        for i in range(count)
    ]  # fmt: skip


def document(count, seed=0):
    rng = random.Random(seed)
    images = [{"id": i, "file_name": f"{i}ä.jpg", "width": 640, "height": 480, "url": "a/b"} for i in range(count // 2)]
    names = [f"k{i}" for i in range(17)]
    return {
        "images": images,
        "annotations": people(count, rng),
        "categories": [{"id": 1, "name": "p", "keypoints": names}],
    }


@pytest.mark.parametrize("style", [{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_many_parts(style, monkeypatch, tmp_path):
    """Parts in two threads, read from the disk by slices, with borders inside of texts: the same as without."""
    monkeypatch.setattr(_scanner, "_CHUNK", 3000)
    monkeypatch.setattr(_json, "_WINDOW", 7)
    monkeypatch.setattr(files, "_BY_SLICES", 1000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document(400), **style), encoding="utf-8")
    short, long = both(monkeypatch, lambda: coco.read(path))
    assert short == long
    assert len(short) == 400
    kept = ("image_id", "category_id", "keypoints")
    people = document(500)["annotations"]
    results = [{key: row[key] for key in kept} | {"score": i / 7, "center": [i, 0.5]} for i, row in enumerate(people)]
    path.write_text(json.dumps(results, **style), encoding="utf-8")
    assert Source(path)._slices is not None
    short, long = both(monkeypatch, lambda: converters.read(path))
    assert short == long
    assert short.persons.equals(coco_results.decode(results).persons)
    path.write_text(path.read_text(encoding="utf-8")[:-1000], encoding="utf-8")
    short, long = both(monkeypatch, lambda: converters.read(path))
    assert short == long
    assert "cut off" in short


ODD = {
    "an integer of 20 digits": {"track": 12345678901234567890, "score": 12345678901234567890},
    "a key that stands twice": {"score": 0.5, "sc\\u006fre": 0.25},
    "a list of another length": {"keypoints": [1.5, 2.5]},
    "a list in the list": {"keypoints": [[1, 2, 1]] * 17},
    "no list": {"keypoints": None},
    "a lone surrogate": {"note": "\ud800"},
    "a NaN": {"keypoints": [float("nan"), 1.0, 1.0] * 17},
    "a number beyond all doubles": {"score": "1e400"},
}


@pytest.mark.parametrize("fault", ODD)
@pytest.mark.parametrize("row", [0, 230])
def test_what_the_scanner_meets_late(fault, row, monkeypatch, tmp_path):
    """Rows that it does not take, or that no reader takes, first or after parts that are columns already."""
    monkeypatch.setattr(_scanner, "_CHUNK", 3000)
    rng = random.Random(1)
    rows = [
        {"image_id": i // 3, "category_id": 1, "keypoints": [rng.random() for _ in range(51)], "score": rng.random()}
        for i in range(300)
    ]
    rows[row] = rows[row] | ODD[fault]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows).replace("\\\\u006f", "\\u006f").replace('"1e400"', "1e400"), encoding="utf-8")
    short, long = both(monkeypatch, lambda: converters.read(path, hashed=False))
    assert short == long
    assert isinstance(short, str) or len(short) == 300


def scanning_of(count):
    data = json.dumps([{"x": [float(i)] * 50} for i in range(count)]).encode()
    return _scanner.Scanning(_json.Rows(data, 1, len(data) - 1), _scanner.asked(["x"], [_scanning.NUMBERS]))


def test_nobody_waits_for_a_thread_that_died(monkeypatch):
    """A part whose thread ended in the middle of it is given up."""
    monkeypatch.setattr(_scanner, "_CHUNK", 1000)
    monkeypatch.setattr(_scanner, "workers", lambda: 1)
    scanning, scanned = scanning_of(50), _scanner.Scanning._scanned

    def deadly(self, *of):
        if threading.current_thread() is not threading.main_thread():
            raise SystemExit
        return scanned(self, *of)

    monkeypatch.setattr(_scanner.Scanning, "_scanned", deadly)

    def die():
        with pytest.raises(SystemExit):
            scanning.work()

    dying = threading.Thread(target=die)
    dying.start()
    dying.join()
    with pytest.raises(_json.NotScannable):
        list(scanning.parts())


def test_an_error_ends_the_scanning(monkeypatch):
    """Whoever feeds columns and fails leaves no thread at work, though the traceback is kept."""
    monkeypatch.setattr(_scanner, "_CHUNK", 1000)
    made = []
    stop = _scanner.Scanning.stop
    monkeypatch.setattr(_scanner.Scanning, "stop", lambda self: made.append(self) or stop(self))

    class Full:
        kind = _scanning.NUMBERS

        def take(self, found):
            raise KeyboardInterrupt

    data = json.dumps([{"x": [0.5] * 50}] * 500).encode()
    with pytest.raises(KeyboardInterrupt) as kept:
        _rows.scan(_json.Rows(data, 1, len(data) - 1), {"x": Full()}, _rows.Extras())
    assert kept.tb and len(made) == 1 and not made[0]._parts


def test_numbers_of_another_kind_later(tmp_path):
    """Integers first and reals later are one column, where assertions are compiled away too."""
    code = """
import json, sys
from kpdata import converters
from kpdata.converters import _scanner
_scanner._CHUNK = 2000
pose = {"image_id": 1, "category_id": 1, "keypoints": [1.5] * 15}
rows = [pose | {"score": i % 2 if i < 50 else 0.25 * i} for i in range(100)]
open(sys.argv[1], "w").write(json.dumps(rows))
print(converters.read(sys.argv[1]).persons["score"].to_pylist()[48:52])
"""
    done = subprocess.run(
        [sys.executable, "-O", "-c", code, str(tmp_path / "a.json")], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[0.0, 1.0, 12.5, 12.75]", done.stderr


def test_scanning_ends_with_whoever_reads():
    """Other threads stop when nobody takes their parts any more."""
    scanning = scanning_of(60_000)
    parts = scanning.parts()
    next(parts)
    parts.close()
    scanning.work()
    with scanning._changed:
        assert scanning._changed.wait_for(lambda: not scanning._working, timeout=60)
    assert len(list(scanning._cuts)) > 0


def test_damaged_files(monkeypatch, tmp_path):
    """Cut, flipped and swapped bytes: the same dataset or the same sentence both ways."""
    rng, data = random.Random(3), json.dumps(document(12)).encode()
    path = tmp_path / "a.json"
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.choice(b'0123456789.-+eE"{}[],: \\ntfalu\xff')
        path.write_bytes(bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])]))
        short, long = both(monkeypatch, lambda: coco.read(path))
        assert short == long
