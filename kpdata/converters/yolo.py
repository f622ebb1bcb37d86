"""YOLO-pose labels (Ultralytics): a folder of text files, a row a person, all numbers as fractions of the image.

A row is `class cx cy w h` (the box by its centre) and K times `x y v` or, with two dimensions, `x y`. `data.yaml` says
where the splits are, `kpt_shape: [K, 2 or 3]`, class `names`, `flip_idx`, and lately `kpt_names` and `kpt_oks_sigmas`.
v: 0 not labelled, 1 hidden, 2 visible. With two dimensions a keypoint is absent where x or y is negative, so 0, 0 is
one; the others are of unknown visibility. Numbers are taken times width and height, without a half pixel.
Sizes are those of the photographs as displayed (EXIF-rotated), since the labels do not state them.

Source: ultralytics/ultralytics ultralytics/data/utils.py `verify_image_label`, ultralytics/data/converter.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import schema
from kpdata import skeleton as skeletons
from kpdata.converters import _rows, _yolo_files
from kpdata.converters._source import Source
from kpdata.converters._yolo_write import encode as encode
from kpdata.converters._yolo_write import write as write
from kpdata.errors import FormatError, SkeletonError
from kpdata.skeleton import Skeleton, load

FORMAT = "yolo"
_NUMERIC = str.maketrans("", "", "0123456789+-.eE \t\r\n\v\f")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TRIED = 20  # text files of a folder that detection looks at
_LOW, _HIGH = -0.01, 1.01  # verify_image_label skips an image with a value outside


def detect(source: Source) -> str | None:
    """A data.yaml with `kpt_shape`, or text files whose rows have 5 + 2K or 5 + 3K numbers from -1 % to 101 %."""
    path = source.path
    if not source.is_folder:
        if path.suffix.lower() == ".txt":
            return "a text file with rows of YOLO-pose labels" if _looks_like_rows(path) else None
        if path.suffix.lower() not in (".yaml", ".yml"):
            return None
        return "a data.yaml with kpt_shape" if re.search(rb"^kpt_shape\s*:", source.data, re.MULTILINE) else None
    config = _yolo_files.config_file(path)
    if config is not None and re.search(rb"^kpt_shape\s*:", config.read_bytes(), re.MULTILINE):
        return f"a folder with {config.name} that states kpt_shape"
    tried = 0
    for text in _yolo_files.label_texts(path):
        if _yolo_files.is_no_label(text):
            continue
        if _looks_like_rows(text):
            return f"a folder with YOLO-pose labels ({text.relative_to(path).as_posix()})"
        tried += 1
        if tried == _TRIED:
            break
    return None


def _looks_like_rows(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            words = file.readline(1 << 16).removeprefix(b"\xef\xbb\xbf").decode("latin-1").split()
    except OSError:
        return False
    if len(words) < 7 or ((len(words) - 5) % 3 and (len(words) - 5) % 2):
        return False
    if not all(_NUMBER.fullmatch(word) for word in words):
        return False
    box = [float(word) for word in words[:5]]
    return box[0] >= 0 and box[0] == int(box[0]) and all(_LOW <= number <= _HIGH for number in box[1:])


def read(path: Path | Source, *, skeleton: str | None = None, images: str | Path | None = None) -> ds.Dataset:
    """A folder with data.yaml, that file itself, a folder of label files, or one label file.

    skeleton: a name or file; else kpt_names, the 17 of COCO for K = 17, or keypoint_0, keypoint_1, …
    images: folder of the photographs; else they are looked for where data.yaml or the labels' paths say. file_name is
    relative to that folder, or to the data set's. A photograph without label file is an image without people.
    FormatError where a photograph is missing, rows differ in length, or a row holds anything but numbers.
    """
    source = Source.of(path)
    told = None if images is None else Path(images)
    raw = _yolo_files.load(source, told)
    found = decode(raw, source=str(source.path), skeleton=skeleton)
    datasets = {name: {**facts, "images_root": raw["root"]} for name, facts in found.datasets.items()}
    return replace(found, datasets=datasets)


def decode(raw: Mapping[str, Any], *, source: str = "memory", skeleton: str | None = None) -> ds.Dataset:
    """The dataset of `{"config": data.yaml or None, "files": [{label, text, image, width, height, split}]}`. Pure.

    Ids are 1..N in the order of the files. `text` None is an image without label file. FormatError names the file and
    the line.
    """
    config = _plain_config(raw.get("config"), source)
    findings: list[dict[str, Any]] = []
    for name in raw.get("skipped", ()):
        findings.append(
            {"level": "note", "code": "not-labels", "file": name, "message": f"{name}: no labels, left out"}
        )
    told = load(skeleton) if skeleton else None
    labels = _Labels(raw["files"], source)
    shape = _shape(config, labels, told, source)
    classes = _classes(config, shape, labels, told, source, findings)
    columns, used = _person_columns(labels, shape, classes, raw["files"], source)
    _note_rows(labels, shape, config, raw["files"], findings)
    provenance = {
        "source_format": FORMAT,
        "variant": "pose",
        "ids": "assigned",
        "area_kind": "none",
        "dimensions": shape.dimensions,
        "digits": digits(labels.values[:, 1:]),
        **({"config": config} if config is not None else {}),
        **({"findings": findings} if findings else {}),
    }
    images = _image_columns(raw["files"])
    return ds.build(
        images, columns, num_images=len(raw["files"]), num_persons=len(labels.values), name=FORMAT,
        provenance=provenance, skeletons=used,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- rows


class _Labels:
    """All rows: values (N, C), the number of the file and the line of each."""

    def __init__(self, entries: list[dict[str, Any]], source: str) -> None:
        self.source = source
        self.names = [str(entry["label"]) for entry in entries]
        tokens: list[str] = []
        lengths: list[int] = []
        files: list[int] = []
        lines: list[int] = []
        for number, entry in enumerate(entries):
            text = entry["text"] or ""
            if text.translate(_NUMERIC):
                self._refuse_text(number, text)
            for line, row in enumerate(text.splitlines(), 1):
                if words := row.split():
                    tokens += words
                    lengths.append(len(words))
                    files.append(number)
                    lines.append(line)
        self.file, self.line = np.array(files, np.int64), lines
        width = Counter(lengths).most_common(1)[0][0] if lengths else 0
        if odd := [row for row, length in enumerate(lengths) if length != width]:
            message = f"{lengths[odd[0]]} numbers, the other rows have {width}"
            raise FormatError(self.where(odd[0]), message, hint="mend or remove that row")
        self.values = self._numbers(tokens, width).reshape(len(lengths), width) if lengths else np.empty((0, 5))

    def _numbers(self, tokens: list[str], width: int) -> NDArray[np.float64]:
        try:
            values = np.array(list(map(float, tokens)), np.float64)
        except ValueError:
            place = next(i for i, token in enumerate(tokens) if not _NUMBER.fullmatch(token))
            raise FormatError(self.where(place // width), f"found {tokens[place][:40]!r}, expected a number") from None
        if not np.isfinite(values).all():
            place = int((~np.isfinite(values)).argmax())
            raise FormatError(self.where(place // width), f"found {tokens[place][:40]!r}, a number too large")
        return values

    def _refuse_text(self, number: int, text: str) -> None:
        for line, row in enumerate(text.splitlines(), 1):
            for word in row.split():
                if word.translate(_NUMERIC):
                    where = f"{self.source}/{self.names[number]}, line {line}"
                    raise FormatError(where, f"found {word[:40]!r}, expected numbers", hint="is it a label file?")

    def where(self, row: int) -> str:
        """The file and line of a row, for messages."""
        return f"{self.source}/{self.names[int(self.file[row])]}, line {self.line[row]}"


@dataclass(frozen=True)
class _Shape:
    count: int
    dimensions: int


def _shape(config: Mapping[str, Any] | None, labels: _Labels, told: Skeleton | None, source: str) -> _Shape:
    """K and dimensions from kpt_shape, else from the rows' length, the skeleton, and what stands where v would."""
    rows, width = len(labels.values), labels.values.shape[1]
    if config is not None and "kpt_shape" in config:
        found = config["kpt_shape"]
        if not (isinstance(found, list) and len(found) == 2 and all(type(n) is int for n in found)
                and found[0] > 0 and found[1] in (2, 3)):  # fmt: skip
            raise FormatError(source, f"kpt_shape is {str(found)[:40]}, expected [number of keypoints, 2 or 3]")
        shape = _Shape(*found)
        expected = 5 + shape.count * shape.dimensions
        if rows and width != expected:
            message = f"{width} numbers, expected {expected} (kpt_shape {found})"
            raise FormatError(labels.where(0), message, hint="mend kpt_shape in data.yaml, or the labels")
        return _known(shape, told, source)
    if not rows:
        return _known(_Shape(len(told) if told else 0, 3), told, source)
    numbers = width - 5
    if numbers < 2 or (numbers % 2 and numbers % 3):
        message = f"{width} numbers, expected 5 + 2K or 5 + 3K for K keypoints"
        raise FormatError(labels.where(0), message, hint="rows of boxes or outlines hold no keypoints")
    flags = labels.values[:, 7::3]
    three = numbers % 3 == 0 and (numbers % 2 or bool(np.isin(flags, (0, 1, 2)).all()))
    if told is not None and len(told) in (numbers / 2, numbers / 3):
        three = numbers == 3 * len(told)
    return _known(_Shape(numbers // (3 if three else 2), 3 if three else 2), told, source)


def _known(shape: _Shape, told: Skeleton | None, source: str) -> _Shape:
    if told is not None and len(told) != shape.count:
        message = f"{shape.count} keypoints, the skeleton {told.name!r} has {len(told)}"
        raise FormatError(source, message, hint="--skeleton names another one, or leave it out")
    return shape


def digits(values: NDArray[np.float64]) -> int:
    """Significant digits that the numbers were written with: 6 to 15, or 17 for more."""
    flat = np.abs(values[values != 0])
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        exponent = np.floor(np.log10(flat))
        for count in range(6, 16):
            scaled = flat * 10.0 ** (count - 1 - exponent)
            if (np.abs(scaled - np.rint(scaled)) <= 8 * np.spacing(scaled)).all():
                return count
    return 17


# ------------------------------------------------------------------------------------------------------------- config


def _plain_config(config: Any, source: str) -> dict[str, Any] | None:
    """data.yaml as JSON holds it: the keys of `names` as text."""
    if config is None:
        return None
    try:
        found = json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(source, f"data.yaml holds what is no plain value ({error})") from error
    if not isinstance(found, dict):
        raise FormatError(source, "data.yaml is no table of keys")
    return found


def _table(config: Mapping[str, Any] | None, key: str) -> dict[int, Any]:
    """`names` or `kpt_names` by class number, from a list or a table."""
    found = (config or {}).get(key)
    if isinstance(found, list):
        return dict(enumerate(found))
    items = found.items() if isinstance(found, dict) else ()
    return {int(number): item for number, item in items if re.fullmatch(r"\d{1,9}", number)}


@dataclass
class _Classes:
    names: dict[int, str]
    skeletons: dict[int, Skeleton]


def _classes(
    config: Mapping[str, Any] | None, shape: _Shape, labels: _Labels, told: Skeleton | None, source: str,
    findings: list[dict[str, Any]],
) -> _Classes:  # fmt: skip
    """Names and skeletons of the classes that are named or used."""
    names = {number: name for number, name in _table(config, "names").items() if isinstance(name, str)}
    numbers = labels.values[:, 0]
    odd = (numbers != np.floor(numbers)) | (np.abs(numbers) >= 2**31)
    if odd.any():
        row = int(odd.argmax())
        raise FormatError(labels.where(row), f"class {numbers[row]:g}, expected a whole number")
    used = sorted({*np.unique(numbers).astype(np.int64).tolist(), *names} or {0})
    flip = _flip_index(config, shape, findings)
    found: dict[int, Skeleton] = {}
    by_name: dict[str, Skeleton] = {}
    for number in used if shape.count else ():
        skeleton = told or _skeleton(config, number, names.get(number), shape, flip, source, findings)
        while skeleton.name in by_name and by_name[skeleton.name] != skeleton:
            skeleton = replace(skeleton, name=f"{skeleton.name}_{number}")
        found[number] = by_name.setdefault(skeleton.name, skeleton)
    _check_flip(flip, found, findings)
    return _Classes(names, found)


def _skeleton(
    config: Mapping[str, Any] | None, number: int, title: str | None, shape: _Shape, flip: list[int] | None,
    source: str, findings: list[dict[str, Any]],
) -> Skeleton:  # fmt: skip
    """A class's skeleton: the built-in of its kpt_names, COCO's for 17 without names, else one of its own."""
    keypoints = _keypoint_names(config, number, shape, source)
    coco = skeletons.load("coco_17")
    if keypoints is None and shape.count == 17 and flip in (None, coco.flip_index().tolist()):
        if not any(finding["code"] == "assumed-skeleton" for finding in findings):
            message = "17 keypoints without kpt_names: taken as COCO's; --skeleton names another"
            findings.append({"level": "note", "code": "assumed-skeleton", "message": message})
        return coco
    try:
        if keypoints is None:
            names = tuple(f"keypoint_{index}" for index in range(shape.count))
            found = Skeleton(f"keypoints_{shape.count}", names, flip_pairs=_pairs(flip, names))
        else:
            category = {"name": title or f"class_{number}", "keypoints": keypoints}
            found = skeletons.from_category(category, num_keypoints=shape.count)
            if found.name in skeletons.names():
                return found
            if found.flip_pairs is None:
                found = replace(found, flip_pairs=_pairs(flip, found.keypoint_names))
        sigmas = (config or {}).get("kpt_oks_sigmas")
        if isinstance(sigmas, list) and sigmas and all(type(s) in (int, float) for s in sigmas):
            values = tuple(float(sigma) for sigma in sigmas)
            found = replace(found, sigmas=values, sigma_source="kpt_oks_sigmas of data.yaml")
    except (SkeletonError, OverflowError) as error:
        raise FormatError(source, f"data.yaml, class {number}: {error}") from error
    return found


def _keypoint_names(config: Mapping[str, Any] | None, number: int, shape: _Shape, source: str) -> list[str] | None:
    told = (config or {}).get("kpt_names")
    flat = isinstance(told, list) and all(isinstance(name, str) for name in told)
    found = told if flat else _table(config, "kpt_names").get(number)
    if not found:
        return None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise FormatError(source, f"data.yaml, kpt_names of class {number}: expected a list of names")
    if len(found) != shape.count:
        message = f"data.yaml, kpt_names of class {number}: {len(found)} names, expected {shape.count} (kpt_shape)"
        raise FormatError(source, message)
    return found


def _flip_index(config: Mapping[str, Any] | None, shape: _Shape, findings: list[dict[str, Any]]) -> list[int] | None:
    """flip_idx where it swaps columns in pairs; None, and a finding, for anything else."""
    found = (config or {}).get("flip_idx")
    if found is None:
        return None
    ok = isinstance(found, list) and len(found) == shape.count and all(type(index) is int for index in found)
    if ok and sorted(found) == list(range(shape.count)) and all(found[found[i]] == i for i in found):
        return list(found)
    message = f"flip_idx {str(found)[:60]} does not swap the {shape.count} keypoints in pairs: not used"
    findings.append({"level": "error", "code": "bad-flip-idx", "message": message})
    return None


def _pairs(flip: list[int] | None, names: tuple[str, ...]) -> frozenset[tuple[str, str]] | None:
    """Twins that a flip_idx names; unknown without one, and for an identity, which most say by mistake."""
    pairs = frozenset((names[i], names[j]) for i, j in enumerate(flip or ()) if i < j)
    return pairs or None


def _check_flip(flip: list[int] | None, found: Mapping[int, Skeleton], findings: list[dict[str, Any]]) -> None:
    for skeleton in {s.name: s for s in found.values()}.values():
        if flip is None or skeleton.flip_pairs is None or skeleton.flip_index().tolist() == flip:
            continue
        if flip == list(range(len(flip))):
            message = f"flip_idx swaps nothing, though {skeleton.name!r} has left and right keypoints"
            code = "identity-flip-idx"
        else:
            message, code = f"flip_idx {flip} does not swap left and right of {skeleton.name!r}", "wrong-flip-idx"
        hint = f"training would mix them up; expected {skeleton.flip_index().tolist()}"
        findings.append({"level": "error", "code": code, "message": f"{message}: {hint}"})


# ------------------------------------------------------------------------------------------------------------ columns


def _image_columns(entries: list[dict[str, Any]]) -> dict[str, pa.Array]:
    def sizes(key: str) -> pa.Array:
        present = np.array([entry[key] is not None for entry in entries], bool)
        return schema.fixed(np.array([entry[key] or 0 for entry in entries], np.int64), pa.int32(), present)

    extras: list[str | None] = []
    for entry in entries:
        own: dict[str, Any] = {}
        if not entry["image"] or _yolo_files.label_path(entry["image"]) != entry["label"]:
            own["label"] = entry["label"]
        if entry["text"] is None:
            own["no_label_file"] = True
        extras.append(json.dumps(own) if own else None)
    return {
        "image_id": schema.fixed(np.arange(1, len(entries) + 1), pa.int64()),
        "file_name": schema.strings([entry["image"] for entry in entries]),
        "width": sizes("width"),
        "height": sizes("height"),
        "split": schema.strings([entry["split"] for entry in entries]),
        "extras": schema.strings(extras),
    }


def _person_columns(
    labels: _Labels, shape: _Shape, classes: _Classes, entries: list[dict[str, Any]], source: str
) -> tuple[dict[str, pa.Array], list[Skeleton]]:
    values, count = labels.values, len(labels.values)
    size = np.array([[e["width"] or 0, e["height"] or 0] for e in entries], np.float64).reshape(-1, 2)[labels.file]
    if (size == 0).any():
        row = int((size == 0).any(1).argmax())
        raise FormatError(labels.where(row), "the size of its image is not known", hint="--images names the folder")
    box = np.concatenate([(values[:, 1:3] - values[:, 3:5] / 2) * size, values[:, 3:5] * size], axis=1)  # (N, 4)
    block = values[:, 5:].reshape(count, shape.count, shape.dimensions) if count else np.empty((0, shape.count, 3))
    number = values[:, 0].astype(np.int64)
    columns = {
        "annotation_id": schema.fixed(np.arange(1, count + 1), pa.int64()),
        "image_id": schema.fixed(labels.file + 1, pa.int64()),
        "category_id": schema.fixed(number, pa.int64()),
        "category": schema.strings([classes.names.get(n) for n in number.tolist()]),
        "bbox": schema.rows(box),
        "bbox_source": schema.constant("annotated", count),
    }
    if shape.count:
        columns["skeleton"] = schema.strings([classes.skeletons[n].name for n in number.tolist()])
        columns |= _keypoint_columns(block, size, shape)
    unique = {skeleton.name: skeleton for skeleton in classes.skeletons.values()}
    used = [unique[name] for name in dict.fromkeys(classes.skeletons[n].name for n in number.tolist())]
    return columns, used or list(unique.values())


def _keypoint_columns(block: NDArray[np.float64], size: NDArray[np.float64], shape: _Shape) -> dict[str, pa.Array]:
    """block (N, K, 2 or 3) fractions and flags, size (N, 2) px."""
    count = len(block)
    xy = block[..., :2] * size[:, None]
    if shape.dimensions == 2:
        visibility = np.where((block < 0).any(2), 0, schema.Visibility.UNKNOWN).astype(np.int8)
        raw: NDArray[np.bool_] = np.zeros(count, bool)
        third = visibility.astype(np.float64)
    else:
        third = block[..., 2]
        known = np.isin(third, (0, 1, 2))
        visibility = np.where(known, third, np.where(third > 0, schema.Visibility.UNKNOWN, 0)).astype(np.int8)
        xy[(block == 0).all(2)] = np.nan  # the format's empty value
        raw = np.logical_not(known.all(1))
    spread = _rows.spread([(np.flatnonzero(raw), third[raw])], count) if raw.any() else None
    return {
        "keypoints": schema.rows(xy.reshape(count, 2 * shape.count)),
        "visibility": schema.rows(visibility, kind=pa.int8()),
        "visibility_raw": schema.lists(*spread) if spread else pa.nulls(count, pa.list_(pa.float64())),
    }


def _note_rows(
    labels: _Labels, shape: _Shape, config: Mapping[str, Any] | None, entries: list[dict[str, Any]],
    findings: list[dict[str, Any]],
) -> None:  # fmt: skip
    """Rows for which Ultralytics skips the whole image, and exact repeats, of which it keeps one."""
    values = labels.values
    if not len(values):
        return
    xy = values[:, 5:].reshape(len(values), -1, shape.dimensions)[..., :2].reshape(len(values), -1)
    outside = (xy > _HIGH).any(1) | (values < _LOW).any(1)
    known = _table(config, "names")
    stranger = ~np.isin(values[:, 0], list(known)) if known else np.zeros(len(values), bool)
    rows = np.column_stack([labels.file, values])
    _, first = np.unique(rows, axis=0, return_index=True)
    repeated = np.ones(len(values), bool)
    repeated[first] = False
    checks = (
        (
            outside,
            "warning",
            "outside-image",
            "numbers outside -1 % to 101 % of the image: the trainer skips the image",
        ),
        (stranger, "error", "unknown-class", "its class is not in names"),
        (repeated, "warning", "repeated-row", "an exact repeat of another row: the trainer keeps one"),
    )
    for mask, level, code, message in checks:
        for row in np.flatnonzero(mask).tolist():
            file = int(labels.file[row])
            findings.append(
                {"level": level, "code": code, "image_id": file + 1, "annotation_id": row + 1,
                 "file": str(entries[file]["label"]), "message": f"line {labels.line[row]}: {message}"}
            )  # fmt: skip
