"""Leeds Sports Pose (`joints.mat`): LSP and its extended training set LSPET, which say different things in one shape.

The third number of a joint is **1 = occluded** in LSP and **1 = visible** in LSPET, where 0 is "not labelled"
(bearpaw/pytorch-pose miscs/gen_lsp.m turns LSP's around and leaves LSPET's). The files differ in their axes too:
(3, 14, 2000) and (14, 3, 10000). LSPET's coordinates of joints that are not labelled are kept as they stand.
Whether pixels count from 0 or from 1 is documented nowhere: nothing is shifted, and provenance says "unknown".
Images are known by order alone: `im0001.jpg` …, `im00001.jpg` …; people 1 to 1000 of LSP are the training set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata import dataset as ds
from kpdata import files, schema
from kpdata.converters import _matlab
from kpdata.converters._source import Source
from kpdata.errors import FormatError, SchemaError
from kpdata.losses import LossReport
from kpdata.schema import Visibility
from kpdata.skeleton import load

FORMAT = "lsp"
SKELETON = "lsp_14"
_COUNT = 14
# Per data set: layout of its own file, number of people, digits of an image's number, people of the training set.
_LAYOUT = {"lsp": "3x14xN", "lspet": "14x3xN"}
_PEOPLE = {"lsp": 2000, "lspet": 10000}
_DIGITS = {"lsp": 4, "lspet": 5}
_TRAIN = {"lsp": 1000, "lspet": 10000}
_TRANSPOSE = {"3x14xN": (2, 1, 0), "14x3xN": (2, 0, 1)}


# ---------------------------------------------------------------------------------------------------------------- read


def detect(source: Source) -> str | None:
    """A `.mat` with `joints` of 3x14xN or 14x3xN, or one variable with two coordinates of 14 joints."""
    shapes = _matlab.variables(source)
    if not shapes:
        return None
    if "joints" in shapes and _joints_layout(shapes["joints"]):
        return f"a .mat with 'joints' of {'x'.join(map(str, shapes['joints']))}"
    fitting = [name for name, shape in shapes.items() if _matlab.layouts(shape, _COUNT)]
    return f"a .mat with predictions of {_COUNT} joints in {fitting[0]!r}" if len(fitting) == 1 else None


def read(path: Path | Source, *, dataset: str | None = None, centric: str | None = None) -> ds.Dataset:
    """A `joints.mat`, or predictions of 14 joints.

    dataset: `lsp` or `lspet`, what the third number means; guessed from the axes and checked unless told.
    centric: `person` or `observer`, whose left and right; it changes nothing and is kept in provenance.
    """
    source = Source.of(path)
    if _matlab.describe(source) is None:
        raise FormatError(source.path, "not a .mat file", hint="LSP is one file 'joints.mat'")
    raw = _matlab.load(source.data, source.path)
    return decode(raw, source=str(source.path), dataset=dataset, centric=centric)


def decode(
    raw: Mapping[str, Any], *, source: str = "memory", dataset: str | None = None, centric: str | None = None
) -> ds.Dataset:
    """The dataset of loaded variables. Pure: touches no file. FormatError names the variables that were found."""
    _check_option("dataset", dataset, ("lsp", "lspet"))
    _check_option("centric", centric, ("person", "observer"))
    facts = {
        "source_format": FORMAT, "ids": "assigned", "area_kind": "none", "coordinate_base": "unknown",
        "coordinate_shift": 0, "centric": centric or "unknown",
    }  # fmt: skip
    if "joints" in raw and _joints_layout(np.shape(raw["joints"])):
        return _decode_joints(raw, source, dataset, facts)
    if any(_matlab.layouts(np.shape(value), _COUNT) for key, value in raw.items() if not key.startswith("__")):
        return _decode_predictions(raw, source, facts)
    raise FormatError(
        source, f"{_matlab.listed(raw)}; expected 'joints' of 3x14xN (LSP) or 14x3xN (LSPET)",
        hint="is it an LSP file? `kpdata convert --from` names another format",
    )  # fmt: skip


def _check_option(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise SchemaError(f"{name} {value!r}, expected {' or '.join(map(repr, allowed))}")


def _joints_layout(shape: tuple[int, ...]) -> str | None:
    """`3x14xN` or `14x3xN`; MATLAB drops the last axis of one person. None for any other shape."""
    known = {(3, _COUNT): "3x14xN", (_COUNT, 3): "14x3xN"}
    return known.get((shape[0], shape[1])) if len(shape) in (2, 3) else None


def _decode_joints(raw: Mapping[str, Any], source: str, told: str | None, facts: dict[str, Any]) -> ds.Dataset:
    array = _matlab.numeric(raw, "joints", source)
    layout = str(_joints_layout(array.shape))
    block = np.ascontiguousarray(np.atleast_3d(array).transpose(_TRANSPOSE[layout]), np.float64)  # (N, 14, 3)
    meaning, findings = _meaning(block[..., 2], layout, told, source)
    visibility, odd = _visibility(block[..., 2], meaning)
    findings += _findings(block, odd, meaning)
    others, more = _matlab.leftovers(raw, {"joints"})
    columns = _matlab.keypoint_columns(
        np.ascontiguousarray(block[..., :2]), visibility, SKELETON, raw=block[..., 2], odd=_matlab.some(odd)
    )
    provenance = {
        **facts, "variant": "joints", "dataset": meaning, "layout": layout, "dtype": array.dtype.str.lstrip("<>=|"),
        **({"variables": others} if others else {}), **({"findings": findings + more} if findings + more else {}),
    }  # fmt: skip
    return _build(columns, len(block), provenance, meaning)


def _meaning(
    third: NDArray[np.float64], layout: str, told: str | None, source: str
) -> tuple[str, list[dict[str, Any]]]:
    """Which data set's third number this is: as told, else by the axes if the share of ones does not speak against it.

    Ones are rare in LSP (7 % are occluded) and the rule in LSPET (88 % are visible).
    """
    if told is not None:
        return told, []
    guess = "lsp" if layout == "3x14xN" else "lspet"
    share = float((third == 1).mean()) if third.size else float(guess == "lspet")
    if (share < 0.5) != (guess == "lsp"):
        reading = "occluded" if guess == "lsp" else "visible"
        raise FormatError(
            source,
            f"'joints' of {layout} is {guess.upper()}'s shape, but its third number is 1 for {share:.0%} of the "
            f"joints, which can hardly all mean {reading!r}",
            hint="--dataset lsp (1 = occluded) or --dataset lspet (1 = visible) decides",
        )
    message = f"--dataset was not given: {layout} with {share:.0%} ones was read as {guess}"
    return guess, [{"level": "note", "code": "meaning-by-shape", "message": message}]


def _visibility(third: NDArray[np.float64], meaning: str) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """(N, 14) flags of the third numbers, and which of them are neither 0 nor 1 (a negative zero is one of those)."""
    one, zero = third == 1, (third == 0) & ~np.signbit(third)
    for_one, for_zero = (
        (Visibility.OCCLUDED, Visibility.VISIBLE) if meaning == "lsp" else (Visibility.VISIBLE, Visibility.ABSENT)
    )
    labelled = (third > 0) | (meaning == "lsp")
    other = np.where(labelled, Visibility.UNKNOWN, Visibility.ABSENT)
    return np.where(one, for_one, np.where(zero, for_zero, other)).astype(np.int8), ~(one | zero)


def _findings(block: NDArray[np.float64], odd: NDArray[np.bool_], meaning: str) -> list[dict[str, Any]]:
    names = load(SKELETON).keypoint_names
    third = block[..., 2]
    found = _matlab.point_findings(
        odd, names, "error", "third-number-not-0-or-1",
        f"person {{person}}, {{keypoint}}: the third number of {meaning} is neither 0 nor 1 (see visibility_raw)",
    )  # fmt: skip
    lost = ~np.isfinite(block[..., :2]).all(-1) & ((third != 0) | (meaning == "lsp"))
    found += _matlab.point_findings(
        lost,
        names,
        "error",
        "not-finite",
        "person {person}, {keypoint}: labelled, but its coordinate is NaN or infinite",
    )
    if len(block) != _PEOPLE[meaning]:
        published = f"the published {meaning} has {_PEOPLE[meaning]:,}"
        message = f"{len(block):,} people, {published}: image names and split are by position"
        found.append({"level": "note", "code": "people-not-as-published", "message": message})
    return found


def _decode_predictions(raw: Mapping[str, Any], source: str, facts: dict[str, Any]) -> ds.Dataset:
    xy, stored, findings = _matlab.predictions(raw, _COUNT, source)
    others, more = _matlab.leftovers(raw, {stored["variable"]})
    gone = ~np.isfinite(xy).all(-1)
    visibility = np.where(gone, Visibility.ABSENT, Visibility.UNKNOWN).astype(np.int8)
    provenance = {
        **facts, "variant": "predictions", "join": "order", "stored": stored,
        **({"variables": others} if others else {}), **({"findings": findings + more} if findings + more else {}),
    }  # fmt: skip
    return _build(_matlab.keypoint_columns(xy, visibility, SKELETON), len(xy), provenance, None)


def _build(columns: dict[str, Any], count: int, provenance: dict[str, Any], meaning: str | None) -> ds.Dataset:
    """One image a person; its name and split follow from the order where the data set is known."""
    images, persons = _matlab.id_columns(np.arange(count), count)
    if meaning is not None:
        names, splits = _implied(count, meaning)
        images |= {"file_name": schema.strings(names), "split": schema.strings(splits)}
    return ds.build(
        images, {**persons, **columns}, num_images=count, num_persons=count,
        name=FORMAT, provenance=provenance, skeletons=[load(SKELETON)],
    )  # fmt: skip


def _implied(count: int, meaning: str) -> tuple[list[str], list[str]]:
    """Image name and split of people 1..count, as the data set's archive has them."""
    digits, train = _DIGITS[meaning], _TRAIN[meaning]
    names = [f"im{number:0{digits}d}.jpg" for number in range(1, count + 1)]
    return names, ["train" if number <= train else "test" for number in range(1, count + 1)]


# --------------------------------------------------------------------------------------------------------------- write


def encode(people: ds.Dataset, /, *, dataset: str | None = None) -> tuple[dict[str, Any], LossReport]:
    """The variables of a `.mat`: one person a row in the dataset's order, and what LSP could not hold. Pure.

    dataset: `lsp` or `lspet`, the shape and the meaning of the third number; the source's own unless told, else `lsp`.
    A keypoint without a coordinate is written as NaN; where LSP cannot say "not labelled" it is occluded, and counted.
    """
    _check_option("dataset", dataset, ("lsp", "lspet"))
    losses = LossReport(FORMAT)
    own = _matlab.sole_source(people, source_format=FORMAT)
    if own.get("variant") == "predictions" and dataset is None:
        return _encode_predictions(people, own, losses), losses
    meaning = dataset or own.get("dataset") or "lsp"
    native = _matlab.rows_of(people, source_format=FORMAT, dataset=meaning)
    xy, flags, present = _matlab.points_of(people, SKELETON)
    losses.lose("people without keypoints", int((~present).sum()), "written with 14 that are not labelled")
    third = _third(people, flags, native, meaning)
    layout = own["layout"] if own.get("dataset") == meaning else _LAYOUT[meaning]
    block = np.concatenate([xy, third[..., None]], axis=2).transpose(np.argsort(_TRANSPOSE[layout]))
    _count_losses(people, losses, xy, flags, native, meaning)
    losses.lose(
        "other variables", _matlab.foreign_variables(people, own), "variables of several files, or of another format"
    )
    joints = _matlab.as_dtype(np.ascontiguousarray(block), own.get("dtype", "f8"))
    return {"joints": joints, **_matlab.restored(own.get("variables", {}))}, losses


def write(
    people: ds.Dataset, path: Path, /, *, allow_lossy: bool = False, force: bool = False, dataset: str | None = None
) -> LossReport:
    """Write a `joints.mat`. LossyWrite before a byte is written, unless allowed."""
    files.refuse_existing(path, force)
    raw, losses = encode(people, dataset=dataset)
    losses.require(allow_lossy, path)
    files.write_bytes(path, _matlab.mat_bytes(raw), force=force)
    return losses


def _third(people: ds.Dataset, flags: NDArray[np.int8], native: NDArray[np.bool_], meaning: str) -> NDArray[np.float64]:
    """(N, 14) third numbers: the source's own where they are kept, else what the flags mean in that data set."""
    made = (flags == Visibility.OCCLUDED) | (flags == Visibility.ABSENT) if meaning == "lsp" else flags > 0
    third = made.astype(np.float64)
    raw = people.persons["visibility_raw"]
    kept = np.flatnonzero(schema.valid(raw) & native)
    if len(kept):
        third[kept] = schema.matrix(
            schema.take(people.persons.select(["visibility_raw"]), kept)["visibility_raw"], _COUNT
        )
    return third


def _encode_predictions(people: ds.Dataset, own: Mapping[str, Any], losses: LossReport) -> dict[str, Any]:
    xy, flags, _ = _matlab.points_of(people, SKELETON)
    _matlab.count_columns(people, losses, held=(), own=np.zeros(len(people), bool))
    stated = np.isin(flags, (Visibility.OCCLUDED, Visibility.VISIBLE))
    losses.lose("visibility", int(stated.sum()), "predictions are points alone")
    return {**_matlab.stored_predictions(xy, own["stored"]), **_matlab.restored(own.get("variables", {}))}


def _count_losses(
    people: ds.Dataset, losses: LossReport, xy: NDArray[np.float64], flags: NDArray[np.int8],
    native: NDArray[np.bool_], meaning: str,
) -> None:  # fmt: skip
    open_rows = ~(schema.valid(people.persons["visibility_raw"]) & native)[:, None]
    absent, unknown = (flags == Visibility.ABSENT) & open_rows, (flags == Visibility.UNKNOWN) & open_rows
    if meaning == "lsp":
        losses.lose(
            "absent keypoints",
            int(absent.sum()),
            "LSP cannot say 'not labelled': written as occluded, NaN without a coordinate",
        )
    else:
        losses.lose(
            "occluded keypoints", int(((flags == Visibility.OCCLUDED) & open_rows).sum()), "LSPET says labelled or not"
        )
    losses.lose("visibility unknown", int(unknown.sum()), "written as visible")
    rows = people.image_rows()
    for key, implied in zip(("file_name", "split"), _implied(len(people), meaning), strict=True):
        texts = [*schema.texts(people.images[key]), None]  # row -1 is a person whose image is not listed
        differing = sum(texts[row] not in (None, text) for row, text in zip(rows.tolist(), implied, strict=True))
        losses.lose(key, differing, "images are known by their order alone: im0001.jpg, im0002.jpg, …")
    shared = len(rows) - len(np.unique(rows))
    losses.lose("shared images", shared, "one person an image: people of one image become images of their own")
    _matlab.count_columns(people, losses, held=("file_name", "split"), own=native)
