"""data.yaml of a dataset: a YOLO source's own at its new place, or one that Ultralytics trains from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from kpdata import dataset as ds
from kpdata.converters import _yolo_files
from kpdata.converters._labelme_shapes import is_absolute
from kpdata.errors import SkeletonError
from kpdata.losses import LossReport
from kpdata.skeleton import Skeleton, from_category
from kpdata.skeleton import names as built_in

FORMAT = "yolo"


def native_config(dataset: ds.Dataset) -> dict[str, Any] | bool | None:
    """The data.yaml of the one YOLO source (None: it had none); False for any other dataset."""
    facts = list(dataset.datasets.values())
    if len(facts) != 1 or facts[0].get("source_format") != FORMAT or facts[0].get("remapped"):
        return False
    found = facts[0].get("config")
    return dict(found) if found is not None else None


def config_of(
    dataset: ds.Dataset, classes: dict[int, str] | None, skeletons: Mapping[int, Skeleton], dimensions: int,
    entries: list[dict[str, Any]], losses: LossReport,
) -> dict[str, Any] | None:  # fmt: skip
    """data.yaml: the source's own without `path`, else one that Ultralytics trains from."""
    native = native_config(dataset)
    if classes is None:
        return _own_config(native, entries, dimensions, losses) if isinstance(native, dict) else None
    # No `path`: Ultralytics then counts from this file, where `path: .` would count from the working directory.
    config: dict[str, Any] = {}
    for split in _yolo_files.SPLITS:
        if folders := _folders(entries, split):
            config[split] = folders
    for key, other in (("train", "val"), ("val", "train")):
        if key not in config and (stand_in := config.get(other, config.get("test"))) is not None:
            config[key] = stand_in
            losses.add("data.yaml", 1, f"{key!r} is required and there is none: it names the other split's images")
    config = {key: config[key] for key in _yolo_files.SPLITS if key in config} | {"names": classes}
    different = list({skeleton.name: skeleton for skeleton in skeletons.values()}.values())
    if different:
        config["kpt_shape"] = [len(different[0]), dimensions]
        config |= _skeleton_keys(classes, skeletons, different, losses)
    return config


def _skeleton_keys(
    classes: Mapping[int, str], skeletons: Mapping[int, Skeleton], different: list[Skeleton], losses: LossReport
) -> dict[str, Any]:
    """flip_idx, kpt_names and kpt_oks_sigmas, each where it is known and holds for all classes."""
    found: dict[str, Any] = {}
    flips = [None if s.flip_pairs is None else s.flip_index().tolist() for s in different]
    if flips[0] is not None and all(flip == flips[0] for flip in flips):
        found["flip_idx"] = flips[0]
    else:
        losses.add(
            "flip_idx", 1, "left/right twins are not known, or differ by class: left out, training does not flip"
        )
    named = [s for s in different if s.keypoint_names != tuple(f"keypoint_{i}" for i in range(len(s)))]
    if named:
        fallback = different[0]
        found["kpt_names"] = {n: list(skeletons.get(n, fallback).keypoint_names) for n in classes}
    if different[0].sigmas is not None and all(s.sigmas == different[0].sigmas for s in different):
        found["kpt_oks_sigmas"] = list(different[0].sigmas)
    for number, skeleton in skeletons.items():
        lost = skeleton.name not in built_in() and (
            skeleton.edges or skeleton.name not in _read_back(skeleton, classes[number])
        )
        losses.lose("skeleton", int(bool(lost)), "edges and the name of a skeleton of one's own have no place")
    return found


def _read_back(skeleton: Skeleton, title: str) -> tuple[str, str]:
    """Names that a reader may give a skeleton: of the class, or of the number of keypoints."""
    try:
        category = {"name": title, "keypoints": list(skeleton.keypoint_names)}
        named = from_category(category, num_keypoints=len(skeleton)).name
    except SkeletonError:
        named = ""
    return named, f"keypoints_{len(skeleton)}"


def _folders(entries: list[dict[str, Any]], split: str) -> str | list[str] | None:
    """Image folders of a split: one where the usual one holds all, else each."""
    labels = [entry["label"] for entry in entries if entry["split"] == split]
    if all(label.startswith(f"labels/{split}/") for label in labels):
        return f"images/{split}" if labels else None
    parents = sorted({str(PurePosixPath(_yolo_files.image_path(label, ".jpg")).parent) for label in labels})
    return parents[0] if len(parents) == 1 else parents


def _own_config(
    native: Mapping[str, Any], entries: list[dict[str, Any]], dimensions: int, losses: LossReport
) -> dict[str, Any]:
    """The source's data.yaml with what must hold at the new place: no `path`, splits inside the folder."""
    config = {key: value for key, value in native.items() if key != "path"}
    moved = int("path" in native)
    for key in ("names", "kpt_names"):
        if isinstance(config.get(key), dict):
            config[key] = {int(n) if n.isascii() and n.isdigit() else n: item for n, item in config[key].items()}
    for split in _yolo_files.SPLITS:
        told = config.get(split)
        listed = told if isinstance(told, list) else [told]
        inside = [
            e for e in listed if isinstance(e, str) and not is_absolute(e) and ".." not in e and not e.endswith(".txt")
        ]
        if told and inside != listed and (folders := _folders(entries, split)):
            config[split], moved = folders, moved + 1
    shape = config.get("kpt_shape")
    if isinstance(shape, list) and shape[1] != dimensions:
        config["kpt_shape"] = [shape[0], dimensions]
    losses.add("data.yaml paths", moved, "paths count from the new folder; `path` is left out, which says just that")
    return config
