"""MPII Human Pose as it is passed around: official struct, HRNet's JSON, Newell's `.h5`, flat `.mat`, predictions.

All are MATLAB's 1-based pixels: 1 is subtracted once from joints, centres and head corners, and added when writing.
x1, y1, x2, y2 of a person is the **head** rectangle, and MPII has no person box: `head_bbox` is filled, `bbox` never.
`center` and `scale` (person height / 200 px) are the raw ones, before the +15 x scale and x 1.25 of the crops.

| variant | file | not labelled | visibility |
| --- | --- | --- | --- |
| mat | `RELEASE` or a bare `annolist` (read only) | the point's id is missing | is_visible 0, 1, or missing: unknown |
| json | Microsoft and HRNet `annot/*.json`, MMPose | joints_vis 0, (-1, -1) | joints_vis 1 says labelled: unknown |
| h5 | Newell's `valid.h5`, `train.h5` (crop tweak applied) | visible 0 and (0, 0) | visible 0 or 1 |
| flat | `gt_valid.mat`, `detections_our_format.mat` | jnt_missing 1 | unknown |
| predictions | one array of 16 points a person, `.mat` or `.h5` | NaN | unknown |

Flat files and predictions name no images: there is one image a person, and the people's order is the key to join them.
Sources: princeton-vl/pose-hg-train src/misc/mpii.py, leoxiaobin/deep-high-resolution-net.pytorch lib/dataset/mpii.py,
anibali/eval-mpii-pose eval/*.m.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpdata import dataset as ds
from kpdata import files
from kpdata.converters import _json, _matlab, _mpii_arrays, _mpii_json, _mpii_mat
from kpdata.converters._mpii_json import FORMAT, SKELETON
from kpdata.converters._source import Source
from kpdata.errors import FormatError, SchemaError
from kpdata.losses import LossReport

__all__ = ["FORMAT", "SKELETON", "VARIANTS", "decode", "detect", "encode", "read", "write"]

VARIANTS = ("json", "flat", "h5", "predictions")
_SEEN = {
    "mat": "MPII's nested struct",
    "flat": "flat MPII arrays ('pos_gt_src', 'jnt_missing')",
    "h5": "Newell's MPII arrays ('part', 'visible', 'center')",
    "predictions": "predictions of 16 MPII keypoints",
}


def detect(source: Source) -> str | None:
    """A JSON list of people with `joints`, or `image`, `center`, `scale`; a `.mat` or `.h5` with MPII's variables."""
    if source.looks_like_json:
        raw = source.json
        first = source.first_row() if isinstance(raw, list | _json.Rows) else None
        if isinstance(first, dict) and ("joints" in first or {"image", "center", "scale"} <= set(first)):
            return "a JSON list of people with " + (
                "'joints'" if "joints" in first else "'image', 'center' and 'scale'"
            )
        return None
    shapes = _matlab.variables(source)
    variant = _variant(shapes) if shapes else None
    return f"a {_matlab.kind(source.data)} with {_SEEN[variant]}" if variant else None


def _variant(shapes: Mapping[str, Any]) -> str | None:
    """Which of the array forms a file with these variables is."""
    names = set(shapes)
    if names & {"RELEASE", "annolist"}:
        return "mat"
    if {"pos_gt_src", "jnt_missing"} <= names:
        return "flat"
    if {"part", "visible"} <= names:
        return "h5"
    fitting = [name for name, shape in shapes.items() if not name.startswith("__") and _matlab.layouts(shape, 16)]
    return "predictions" if len(fitting) == 1 or len({"preds", "pred"} & set(fitting)) == 1 else None


def read(path: Path | Source) -> ds.Dataset:
    """An MPII file in any of its forms, told apart by content."""
    source = Source.of(path)
    if _matlab.describe(source) is not None:
        return decode(_matlab.load(source.data, source.path), source=str(source.path))
    if not source.looks_like_json:
        raise FormatError(source.path, "neither JSON nor a .mat or .h5 file", hint="MPII is one of those three")
    return source.decode(lambda raw: decode(raw, source=str(source.path)))


def decode(raw: Any, *, source: str = "memory") -> ds.Dataset:
    """The dataset of a parsed JSON list, or of loaded variables by name. Pure: touches no file."""
    if not isinstance(raw, Mapping):
        return _mpii_json.decode(raw, source)
    variant = _variant({name: _shape(value) for name, value in raw.items()})
    if variant is None:
        what = (
            _matlab.listed(raw)
            if any(hasattr(v, "shape") for v in raw.values())
            else f"a JSON object with {', '.join(map(repr, list(raw)[:6]))}"
        )
        raise FormatError(
            source, f"{what}; expected 'RELEASE', 'annolist', 'pos_gt_src' with 'jnt_missing', 'part' with 'visible', "
            "or predictions of 16 points", hint="is it an MPII file?",
        )  # fmt: skip
    if variant == "mat":
        return _mpii_mat.decode(raw, source)
    decoders = {
        "flat": _mpii_arrays.decode_flat,
        "h5": _mpii_arrays.decode_h5,
        "predictions": _mpii_arrays.decode_predictions,
    }
    return decoders[variant](raw, source)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def encode(dataset: ds.Dataset, *, variant: str | None = None) -> tuple[Any, LossReport]:
    """What a file holds, and what it could not hold: a list for `json`, variables by name for the other variants. Pure.

    variant: `json`, `flat`, `h5` or `predictions`; the source's own where it is one of these, else `json`.
    """
    variant = variant or own_variant(dataset) or "json"
    if variant not in VARIANTS:
        raise SchemaError(
            f"variant {variant!r}, expected one of {', '.join(VARIANTS)}", hint="the nested struct is read only"
        )
    if variant == "json":
        return _mpii_json.encode(dataset)
    encoders = {
        "flat": _mpii_arrays.encode_flat,
        "h5": _mpii_arrays.encode_h5,
        "predictions": _mpii_arrays.encode_predictions,
    }
    return encoders[variant](dataset)


def write(
    dataset: ds.Dataset, path: Path, *, allow_lossy: bool = False, force: bool = False, variant: str | None = None
) -> LossReport:
    """Write an MPII file; LossyWrite before a byte is written, unless allowed.

    variant: as in `encode`; where it is not told, a name in `.json`, `.mat` or `.h5` decides before the source does.
    Predictions are written as `.h5` where the name says so, else as `.mat`.
    """
    files.refuse_existing(path, force)
    variant = variant or variant_for(dataset, path)
    raw, losses = _mpii_json.document(dataset) if variant == "json" else encode(dataset, variant=variant)
    losses.require(allow_lossy, path)
    if isinstance(raw, bytes):
        data = raw
    elif variant == "h5" or (variant == "predictions" and _is_h5(path)):
        data = _matlab.hdf5_bytes(raw)
    else:
        data = _matlab.mat_bytes(raw)
    files.write_bytes(path, data, force=force)
    return losses


def variant_for(dataset: ds.Dataset, path: Path) -> str:
    """The variant that a target's name or else the dataset's source says; `json` where neither does."""
    return _variant_of_name(path, own_variant(dataset)) or "json"


def own_variant(dataset: ds.Dataset) -> str | None:
    """The variant of the one source of a dataset, if it is an MPII form that can be written."""
    found = {
        d.get("variant")
        for d in dataset.datasets.values()
        if d.get("source_format") == FORMAT and not d.get("remapped")
    }
    return next(iter(found)) if len(dataset.datasets) == 1 and found <= set(VARIANTS) and found else None


def _is_h5(path: Path) -> bool:
    return path.suffix.lower() in (".h5", ".hdf5")


def _variant_of_name(path: Path, own: str | None) -> str | None:
    """What the target's name says; predictions stay predictions in a `.mat` and in an `.h5`."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if own == "predictions" and suffix in (".mat", ".h5", ".hdf5"):
        return own
    return {".json": "json", ".mat": "flat", ".h5": "h5", ".hdf5": "h5"}.get(suffix, own)
