"""Where a YOLO data set keeps its labels and photographs: data.yaml, its splits, and the rule from images to labels.

Rules: ultralytics/ultralytics ultralytics/data/utils.py (`img2label_paths`, `check_det_dataset`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from kpdata import files
from kpdata.converters import _image_sizes
from kpdata.converters._source import Source
from kpdata.errors import FormatError

CONFIGS = ("data.yaml", "dataset.yaml")
SPLITS = ("train", "val", "test")
_NOT_LABELS = ("classes.txt", "readme", "license", "notes.txt", "train.txt", "val.txt", "test.txt", "requirements.txt")
Item = tuple[Path | None, str | None]  # photograph, split
_HINT = "--images names the folder of the photographs"


def label_path(image: str) -> str:
    """The label file of an image path: the last `images` folder becomes `labels`, the suffix `.txt`."""
    parts = list(PurePosixPath(image).with_suffix(".txt").parts) if image else []
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return str(PurePosixPath(*parts))


def image_path(label: str, suffix: str) -> str:
    """The image path of a label file: the last `labels` folder becomes `images`."""
    parts = list(PurePosixPath(label).with_suffix(suffix).parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "labels":
            parts[place] = "images"
            break
    return str(PurePosixPath(*parts))


def config_file(path: Path) -> Path | None:
    """The data.yaml of a folder: by its usual names, else the first YAML file in it with `kpt_shape`."""
    if path.is_file():
        return path if path.suffix in (".yaml", ".yml") else None
    for name in CONFIGS:
        if (path / name).is_file():
            return path / name
    for candidate in sorted([*path.glob("*.yaml"), *path.glob("*.yml")]):
        if candidate.is_file() and b"kpt_shape" in files.read_bytes(candidate):
            return candidate
    return None


def load_config(path: Path) -> dict[str, Any]:
    """The parsed data.yaml. FormatError where it is no YAML table."""
    import yaml

    try:
        found = yaml.safe_load(files.read_bytes(path))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise FormatError(path, f"not YAML that can be read ({str(error).splitlines()[0]})") from error
    if not isinstance(found, dict):
        raise FormatError(path, "holds no table of keys", hint="expected train, val, names, kpt_shape, …")
    return found


def label_texts(folder: Path) -> Iterator[Path]:
    """All .txt files below, hidden ones left out, in no order."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, n) for n in names if n.lower().endswith(".txt") and not n.startswith("."))


def is_no_label(path: Path) -> bool:
    """A text file that tools put beside labels: classes.txt, README.roboflow.txt."""
    return path.name.lower().startswith(_NOT_LABELS)


def load(source: Source, images: Path | None) -> dict[str, Any]:
    """The raw data set for `yolo.decode`, with the size of every photograph that has labels.

    FormatError where a photograph with labels cannot be found: YOLO's numbers are fractions of its size.
    """
    path = source.path
    yaml_path = config_file(path)
    config = load_config(yaml_path) if yaml_path else None
    base = yaml_path.parent if yaml_path else path if source.is_folder else path.parent
    root = _root(base, config)
    skipped: list[str] = []
    items = _splits(root, config or {}, skipped) if config else {}
    if not items:
        items = _loose(path if path.suffix.lower() == ".txt" and not source.is_folder else root, skipped)
    if not items:
        raise FormatError(path, "no label file (.txt) in it", hint="expected labels/…/NAME.txt, one for each image")
    finder = _Finder(root, images)
    entries = [_entry(root, label, image, split, finder) for label, (image, split) in items.items()]
    entries.sort(key=lambda entry: (entry["label"], entry["image"] or ""))
    return {"config": config, "files": entries, "skipped": sorted(skipped), "root": str(images or root)}


def _root(base: Path, config: dict[str, Any] | None) -> Path:
    told = (config or {}).get("path")
    root = base / told if isinstance(told, str) and "\0" not in told else base
    return root if root.is_dir() else base


def _splits(root: Path, config: dict[str, Any], skipped: list[str]) -> dict[Path, Item]:
    """Photograph and split by label file, for the splits of a data.yaml; the first that names a file has it."""
    found: dict[Path, Item] = {}
    for split in SPLITS:
        told = config.get(split)
        for entry in told if isinstance(told, list) else [told]:
            if not isinstance(entry, str) or not entry or "\0" in entry:
                continue
            place = root / entry
            if not place.exists() and entry.startswith("../"):
                place = root / entry[3:]  # Roboflow's data.yaml counts from a folder deeper
            pairs = list(_split_pairs(root, Path(os.path.normpath(place))))
            if not pairs:
                skipped.append(f"{split}: {entry}")
            for label, image in pairs:
                known = found.get(label)
                if known is None or known[0] is None:
                    found[label] = (image, known[1] if known else split)
    return found


def _split_pairs(root: Path, place: Path) -> Iterator[tuple[Path, Path | None]]:
    if place.suffix.lower() == ".txt" and place.is_file():
        for line in files.read_bytes(place).decode("utf-8", "replace").splitlines():
            if name := line.strip():
                image = Path(os.path.normpath((place.parent if name.startswith("./") else root) / name))
                yield Path(label_path(image.as_posix())), image if image.is_file() else None
        return
    if place.is_dir():
        for name in _image_sizes.listing(place):
            yield Path(label_path((place / name).as_posix())), place / name
    labels = Path(label_path((place / "x.txt").as_posix())).parent
    for label in label_texts(labels):
        if labels != place or not is_no_label(label):
            yield label, None


def _loose(path: Path, skipped: list[str]) -> dict[Path, Item]:
    """Label files without a data.yaml that says where: those below `labels` folders, else all below."""
    if path.is_file():
        return {path: (None, None)}
    texts = list(label_texts(path))
    inside = [text for text in texts if "labels" in text.relative_to(path).parts[:-1]]
    chosen = inside or texts
    kept = [text for text in chosen if not is_no_label(text)]
    skipped += [text.relative_to(path).as_posix() for text in chosen if is_no_label(text)]
    return dict.fromkeys(kept, (None, None))


def _entry(root: Path, label: Path, image: Path | None, split: str | None, finder: _Finder) -> dict[str, Any]:
    exists = label.is_file()
    text = files.read_bytes(label).removeprefix(b"\xef\xbb\xbf").decode("latin-1") if exists else None
    image = image or finder.find(label)
    if image is None and text and text.strip():
        message = "its numbers are fractions of the image's size, and its photograph was not found"
        raise FormatError(label, message, hint=_HINT)
    width, height = _image_sizes.size(image) if image else (None, None)
    name = None if image is None else finder.name(image)
    return {
        "label": _inside(root, label),
        "text": text,
        "image": name,
        "width": width,
        "height": height,
        "split": split,
    }


def _inside(root: Path, path: Path) -> str:
    """The path relative to the root; from its last `labels` folder on where it lies elsewhere."""
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    parts = path.parts
    start = max((i for i, part in enumerate(parts) if part == "labels"), default=len(parts) - 1)
    return PurePosixPath(*parts[start:]).as_posix()


class _Finder:
    """Photographs of label files: in `--images` by path, then by name; beside the labels by the rule of the paths."""

    def __init__(self, root: Path, images: Path | None) -> None:
        self.root, self.images = root, images
        self._by_stem: dict[str, str] = {}
        self._by_name: dict[str, list[str]] = {}
        self._folders: dict[Path, dict[str, str]] = {}
        for name in _image_sizes.listing(_image_sizes.require_folder(images)) if images else ():
            self._by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), name)
            self._by_name.setdefault(PurePosixPath(name).stem, []).append(name)

    def find(self, label: Path) -> Path | None:
        if self.images is not None:
            parts = PurePosixPath(_inside(self.root, label)).with_suffix("").parts
            for start in range(len(parts)):
                if (name := self._by_stem.get("/".join(parts[start:]))) is not None:
                    return self.images / name
            named = self._by_name.get(label.stem, [])
            return self.images / named[0] if len(named) == 1 else None
        folder = Path(image_path(label.as_posix(), ".jpg")).parent
        if folder not in self._folders:
            names = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
            pictures = [name for name in names if Path(name).suffix.lower() in _image_sizes.SUFFIXES]
            self._folders[folder] = {Path(name).stem: name for name in reversed(pictures)}
        found = self._folders[folder].get(label.stem)
        return None if found is None else folder / found

    def name(self, image: Path) -> str:
        """file_name: relative to `--images` or the data set's folder, else the whole path."""
        for folder in (self.images, self.root):
            if folder is not None and image.is_relative_to(folder):
                return image.relative_to(folder).as_posix()
        return image.as_posix()
