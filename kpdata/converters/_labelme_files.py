"""LabelMe files on disk: which JSON files below a folder are LabelMe's, and the pose_classes.yaml beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import orjson

from kpdata import files
from kpdata.converters import _json
from kpdata.converters._source import Source
from kpdata.errors import FormatError

POSE_CLASSES = "pose_classes.yaml"
_SNIFFED = 1 << 16  # bytes looked at from each end of a file in a folder


def is_labelme(raw: Any) -> bool:
    return isinstance(raw, dict) and isinstance(raw.get("shapes"), list) and ("imagePath" in raw or "imageData" in raw)


def json_files(folder: Path) -> list[Path]:
    """All JSON files below, sorted by path; hidden ones (`._photo.json`, `.ipynb_checkpoints/`) left out."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(".kp")]
        found += [Path(parent, n) for n in names if n.lower().endswith(".json") and not n.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def sniff(path: Path) -> bool:
    """The file looks like LabelMe's from its two ends: an embedded picture may lie between the keys."""
    try:
        with path.open("rb") as file:
            ends = file.read(_SNIFFED)
            if path.stat().st_size > 2 * _SNIFFED:
                file.seek(-_SNIFFED, os.SEEK_END)
            ends += file.read()
    except OSError:
        return False
    return b'"shapes"' in ends and (b'"imagePath"' in ends or b'"imageData"' in ends)


def load_folder(folder: Path) -> dict[str, Any]:
    documents, others = {}, []
    for path in json_files(folder):
        name = path.relative_to(folder).as_posix()
        data = files.read_bytes(path)
        if b'"shapes"' not in data and data.strip():
            others.append(name)
            continue
        document = _parse(data, path)
        if is_labelme(document):
            documents[name] = document
        else:
            others.append(name)
    if not documents:
        raise FormatError(
            folder, "no LabelMe file in this folder", hint="expected JSON files with 'shapes' and 'imagePath'"
        )
    return {"files": documents, "others": others, "pose_classes": _load_classes(folder)}


def load_file(source: Source) -> dict[str, Any]:
    name = source.path.name.removesuffix(".gz")
    document = _parse(source.data, source.path)
    if not is_labelme(document):
        raise FormatError(source.path, "no list 'shapes' beside 'imagePath' in it", hint="is it a LabelMe file?")
    return {"files": {name: document}, "pose_classes": _load_classes(source.path.parent)}


def _parse(data: bytes, path: Path) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        return _json.load(data, path)  # takes NaN and a byte order mark, and words every other error


def _load_classes(folder: Path) -> Any:
    import yaml

    path = folder / POSE_CLASSES
    if not path.is_file():
        return None
    try:
        found = yaml.safe_load(files.read_bytes(path))
        json.dumps(found)  # dates, sets and recursion are YAML but no data of this kind
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise FormatError(path, f"not YAML that can be read ({str(error).splitlines()[0]})") from error
    return found
