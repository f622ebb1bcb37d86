"""All values of a training, resolved: what the command line and a TOML file fill, and `run.json` repeats.

A file holds the same names as `Config`; paths start from the file's folder:

    out = "runs/coco"
    model = "hrnet_w32"
    size = [192, 256]                      # width, height px; "192x256" as well
    init = "hrnet_w32-36af842e.pth"
    data = "train.kp"                      # or ["a.json", "b.json"], or tables with what each source needs:

    [[val]]
    path = "person_keypoints_val2017.json"
    images = "val2017"

    [keypoint_weights]
    left_wrist = 1.5
"""

from __future__ import annotations

import difflib
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from kpdata.codec import Absent, HeatmapCodec, Occluded, Target
from kpdata.errors import KpdataError, TrainError

Optimizer = Literal["adam", "adamw"]
Schedule = Literal["step", "cosine"]
Loss = Literal["mse", "ohkm"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """A dataset to learn from, or to measure on. images: folder of the pictures; None: beside or in the dataset."""

    path: Path
    images: Path | None = None
    format: str | None = None  # None: what its content says
    weight: float = 1.0  # of its people in the loss
    share: float = 1.0  # how often they are drawn in an epoch: 2 twice, 0.5 half of them
    occluded: Occluded = "target"
    absent: Absent = "ignore"

    def __post_init__(self) -> None:
        _check(self, f"source {self.path}")
        for name in ("weight", "share"):
            if not 0 < getattr(self, name) < math.inf:
                raise TrainError(f"source {self.path}: {name} {getattr(self, name)}, expected a number above 0")


@dataclass(frozen=True, slots=True)
class Config:
    """Defaults are the published HRNet recipe for one GPU (docs/train.md has the source of each number).

    Checked when it is made: TrainError names the field, what was found and what was expected.
    """

    data: tuple[SourceConfig, ...]
    out: Path
    val: tuple[SourceConfig, ...] = ()
    model: str = "hrnet_w32"
    size: tuple[int, int] = (192, 256)  # width, height px
    target: Target = "gaussian"
    sigma: float | None = None  # cells; None: 2 at 256 x 192, in proportion to the height, and not below 1
    skeleton: str | None = None  # name or file; None: the data's, or the union of several
    preset: str = "hrnet"  # of kpdata.augment.presets, or none: plain crops
    flip: float | None = None  # chance to mirror a person, whose left and right change places; None: the preset's
    init: Path | None = None  # weights to start from
    resume: Path | None = None  # a checkpoint of an interrupted training
    epochs: int = 210
    batch: int = 128
    accumulate: int = 1  # batches a step
    optimizer: Optimizer = "adam"
    lr: float | None = None  # None: 1e-3 for a batch of 128, in proportion to batch x accumulate x ranks
    weight_decay: float = 0.0  # AdamW's alone: Adam has none, as published
    schedule: Schedule = "step"
    milestones: tuple[float, ...] = (170 / 210, 200 / 210)  # shares of the epochs at which lr drops to a tenth
    warmup: int = 500  # steps, from lr / 1000
    clip: float | None = None  # largest norm of the gradient
    ema: float | None = None  # decay a step
    loss: Loss = "mse"
    hard: int = 8  # of ohkm: keypoints that count
    keypoint_weights: dict[str, float] = field(default_factory=dict)  # by name; 1 for the others
    precision: Precision = "auto"  # bf16 on CUDA, fp32 on the CPU
    device: str | None = None  # None: cuda where there is one
    workers: int | None = None  # None: one a core but one, at most 8
    packed: Path | None = None  # folder of packed crops, made if it is not there
    warp: Literal["auto", "cpu", "device"] = "auto"  # where crops are warped: the device for packed crops on CUDA
    seed: int = 0
    eval_every: int = 1  # epochs
    patience: int | None = None  # evaluations without a better one until it stops
    flip_test: bool = True
    missing_images: Literal["refuse", "skip"] = "refuse"
    ledger: bool = False  # write the loss of every (person, keypoint, epoch)
    tensorboard: bool = False
    max_steps: int | None = None  # stop after so many: trials and tests
    compile: bool = False  # torch.compile per unit
    graph: bool = False  # one CUDA graph a step

    def __post_init__(self) -> None:
        _check(self, "config")
        if not self.data:
            raise TrainError("no data to train on", hint="--data FILE, or a [[data]] table in the file of --config")
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value < math.inf:
                raise TrainError(f"{name} is {value}, expected {lowest} or more")
        for name in ("lr", "clip", "sigma"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise TrainError(f"{name} is {value}, expected a number above 0")
        if self.optimizer == "adam" and self.weight_decay:
            raise TrainError(
                f"weight_decay {self.weight_decay:g} with adam, which has none, as published",
                hint="--optimizer adamw decays weights, or leave weight_decay out",
            )
        if self.flip is not None and not 0 <= self.flip <= 1:
            raise TrainError(f"flip is {self.flip}, expected a chance from 0 to 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise TrainError(f"ema is {self.ema}, expected a decay between 0 and 1, such as 0.9998")
        if any(not 0 < share <= 1 for share in self.milestones):
            raise TrainError(f"milestones {self.milestones}, expected shares of the epochs between 0 and 1")
        if wrong := {name: w for name, w in self.keypoint_weights.items() if not 0 <= w < math.inf}:
            raise TrainError(f"keypoint_weights {wrong}, expected numbers of 0 or more")
        if self.init and self.resume:
            raise TrainError(
                "init and resume are both given", hint="resume goes on with a training, init starts a new one"
            )
        if self.patience is not None and not self.val:
            raise TrainError("patience stops by the evaluation, and there is no val", hint="--val FILE")

    def to_json(self) -> dict[str, Any]:
        """Plain data: paths as text, tuples as lists. What `run.json` and a checkpoint keep."""
        return typing.cast(dict[str, Any], _plain(asdict(self)))

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, where: str = "config") -> Config:
        """The Config of what `to_json` gave. TrainError says where and what does not fit."""
        values = {_known(key, NAMES, where): value for key, value in document.items()}
        for key in ("data", "val"):
            values[key] = _sources(values.get(key) or [], key, Path())
        for key in _PATHS:
            values[key] = Path(values[key]) if values.get(key) else None
        return cls(**values)

    @property
    def codec(self) -> HeatmapCodec:
        """Targets and decoding for the input's size.

        sigma: 2 at 256 px of height, 3 at 384, 1 at 128, as published. The blur's kernel of DARK and UDP follows it:
        11 for 2, 17 for 3 (6 sigma - 1, mmpose 1.3.2), 3 for 1 (DARK's 128 x 96). The policies of occluded and absent
        labels are those of the first source.
        """
        sigma = self.sigma if self.sigma is not None else max(1.0, 2 * self.size[1] / 256)
        kernel = None if self.target == "gaussian" else 3 if sigma <= 1 else 2 * round(3 * sigma) - 1
        first = self.data[0]
        return HeatmapCodec(
            self.size, sigma=sigma, target=self.target, kernel=kernel, occluded=first.occluded, absent=first.absent
        )


_LOWEST = {
    "epochs": 1, "batch": 1, "accumulate": 1, "weight_decay": 0, "warmup": 0, "hard": 1, "workers": 0, "seed": 0,
    "eval_every": 1, "patience": 1, "max_steps": 1,
}  # fmt: skip
_PATHS = ("out", "init", "resume", "packed")
NAMES = tuple(f.name for f in fields(Config))


def from_toml(path: Path) -> dict[str, Any]:
    """The values of a file as `resolve` takes them; paths start from the file's folder.

    TrainError names the file and the key: not TOML, a key that no training has (with the closest one), a value of
    another type.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise TrainError(f"{path}: cannot be read ({problem.strerror or problem})") from problem
    except ValueError as problem:  # of TOML and of UTF-8
        raise TrainError(f"{path}: not TOML ({problem})") from problem
    values = {_known(key, NAMES, str(path)): value for key, value in found.items()}
    try:
        for key in ("data", "val"):
            if key in values:
                values[key] = _sources(values[key], key, path.parent)
        for key in _PATHS:
            if key in values:
                values[key] = _path(values[key], key, path.parent)
        if isinstance(values.get("skeleton"), str) and values["skeleton"].endswith((".toml", ".json")):
            values["skeleton"] = str(path.parent / values["skeleton"])
        return {key: _converted(key, value, _kinds(Config)[key]) for key, value in values.items()}
    except KpdataError as problem:
        raise TrainError(f"{path}: {problem.message}", hint=problem.hint) from problem


def resolve(*layers: Mapping[str, Any]) -> Config:
    """The Config of several layers of values; later ones win, None counts as not given. TrainError as `Config`."""
    values = {
        _known(key, NAMES, "config"): value for layer in layers for key, value in layer.items() if value is not None
    }
    for name, told in (("data", "--data FILE"), ("out", "--out DIR")):
        if name not in values:
            raise TrainError(f"no {name} is given", hint=f"{told}, or {name} = … in the file of --config")
    return Config(**values)


def resumable(path: Path) -> Path:
    """The checkpoint to resume: of a folder its `last.pt`. TrainError where there is none."""
    file = path / "last.pt" if path.is_dir() else path
    if not file.is_file():
        raise TrainError(f"{file}: there is no such checkpoint to resume", hint="it is called last.pt")
    return file


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of "192x256". TrainError for anything else."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise TrainError(f"size {text!r}, expected WIDTHxHEIGHT in px, such as 192x256")
    return int(parts[0]), int(parts[1])


def _known(key: str, names: Sequence[str], where: str) -> str:
    if key in names:
        return key
    plain = key.replace("-", "_")
    near = difflib.get_close_matches(plain, names, 1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(names)}"
    raise TrainError(f"{where}: no value of a training is named {key!r}", hint=hint)


def _sources(found: Any, key: str, folder: Path) -> tuple[SourceConfig, ...]:
    """Sources as a path, a list of paths or tables."""
    entries = found if isinstance(found, list) else [found]
    sources = []
    for number, entry in enumerate(entries):
        where = f"{key}[{number}]"
        table = {"path": entry} if isinstance(entry, str) else entry
        if not isinstance(table, dict):
            raise TrainError(f"{where} is {entry!r}, expected a path or a table with a path")
        kinds = _kinds(SourceConfig)
        values = {_known(name, tuple(kinds), where): value for name, value in table.items()}
        if "path" not in values:
            raise TrainError(f"{where} has no path", hint='path = "FILE"')
        values = {name: value for name, value in values.items() if value is not None}  # TOML has no null, JSON has
        for name in ("path", "images"):
            if name in values:
                values[name] = _path(values[name], f"{where}.{name}", folder)
        sources.append(SourceConfig(**{n: _converted(f"{where}.{n}", v, kinds[n]) for n, v in values.items()}))
    return tuple(sources)


def _path(value: Any, key: str, folder: Path) -> Path:
    if not isinstance(value, str) or not value:
        raise TrainError(f"{key} is {value!r}, expected a path")
    return folder / value


# -------------------------------------------------------------------------------------------------------------- types


def _kinds(of: type) -> dict[str, Any]:
    """Type of each field."""
    return typing.get_type_hints(of)


def _check(made: Any, where: str) -> None:
    """Every field of a frozen dataclass has the type that it says; lists become tuples, whole numbers floats."""
    for name, kind in _kinds(type(made)).items():
        object.__setattr__(
            made, name, _converted(name if where == "config" else f"{where}: {name}", getattr(made, name), kind)
        )


def _converted(key: str, value: Any, kind: Any) -> Any:
    """The value as its type wants it; TrainError says what was found and expected."""
    options = get_args(kind) if get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    for option in options:
        fits, made = _as(value, option, key)
        if fits:
            return made
    words = " or ".join(_words(option) for option in options if option is not type(None))
    near = [
        c for o in options if get_origin(o) is Literal for c in difflib.get_close_matches(str(value), get_args(o), 1)
    ]
    raise TrainError(f"{key} is {value!r}, expected {words}", hint=f"did you mean {near[0]}?" if near else "")


def _as(value: Any, kind: Any, key: str) -> tuple[bool, Any]:
    """Whether a value fits a type without `|`, and the value in that type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in inner, value
    if origin is tuple:
        if key == "size" and isinstance(value, str):
            return True, parse_size(value)
        if not isinstance(value, list | tuple) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            return False, value
        parts = [_as(item, inner[0], key) for item in value]
        return all(fits for fits, _ in parts), tuple(part for _, part in parts)
    if origin is dict:
        if not isinstance(value, Mapping):
            return False, value
        named = {str(name): _as(item, inner[1], key) for name, item in value.items()}
        return all(fits for fits, _ in named.values()), {name: item for name, (_, item) in named.items()}
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number, float(value) if number else value
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    return isinstance(value, kind), value


def _words(kind: Any) -> str:
    """A type as a user calls it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(map(str, inner[:-1])) + f" or {inner[-1]}"
    if origin is tuple:
        return f"a list of {'' if inner[-1] is Ellipsis else f'{len(inner)} '}{_words(inner[0]).removeprefix('a ')}s"
    if origin is dict:
        return "a table of numbers by name"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    return plain.get(kind, getattr(kind, "__name__", str(kind)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
