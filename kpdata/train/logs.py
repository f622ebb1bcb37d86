"""What a training leaves to read: `log.jsonl`, TensorBoard's events, and pictures of predictions.

A line of the log is one JSON object with `event` and, where it has a place, `step` and `epoch`; `pandas.read_json(path,
lines=True)` reads it back. Numbers that are not finite become null.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kpdata import files
from kpdata.draw import draw, grid
from kpdata.errors import MissingExtra, TrainError, WriteError
from kpdata.train.batch import Batch
from kpdata.train.data import Crops, Failure
from kpdata.train.prepare import prepare
from kpdata.train.spec import NetworkSpec

LOG = "log.jsonl"
SHOWN = 8  # people in a picture of predictions
_TALL = 256  # px: crops are shown at least as high as this
_HEAT = np.array([255, 40, 90], np.float32)

Line = dict[str, Any]
Pixels = NDArray[np.uint8]


class Logs:
    """A callable that takes the lines of a training: to `log.jsonl` in `out`, to TensorBoard, and to `also`.

    step: of the checkpoint that a training resumes from: lines of later steps, which are trained again, go. None: a new
    training, an old log goes. tensorboard: MissingExtra where it is not installed. A context manager.
    """

    def __init__(
        self,
        out: Path,
        *,
        step: int | None = None,
        tensorboard: bool = False,
        also: Callable[[Line], None] | None = None,
    ) -> None:
        self._board = _board(out / "tensorboard", step) if tensorboard else None
        self._also, path = also, out / LOG
        out.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, _before(path, step), force=True)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, line: Line) -> None:
        """Takes one line."""
        self.write(line)
        if self._also is not None:
            self._also(line)

    def write(self, line: Line) -> None:
        """Takes one line, but does not hand it on."""
        try:
            self._file.write(json.dumps(finite(line), ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as problem:
            raise WriteError(f"{self._file.name}: cannot be written ({problem.strerror or problem})") from problem
        if self._board is not None and "step" in line:
            for name, value in _numbers(line, str(line.get("event", "train"))):
                self._board.add_scalar(name, value, line["step"])
            self._board.flush()

    def picture(self, name: str, image: Pixels, step: int) -> None:
        """The same picture that lies in the folder, for TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Nothing more comes."""
        with contextlib.suppress(OSError):  # a full disk, which `write` told of
            self._file.close()
        if self._board is not None:
            self._board.close()


def finite(data: Any) -> Any:
    """The data with null in the place of NaN and infinities, which JSON lacks, and text in that of paths."""
    if isinstance(data, Mapping):
        return {str(key): finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    if isinstance(data, np.generic):
        data = data.item()
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data if data is None or isinstance(data, bool | int | float | str) else str(data)


def _before(path: Path, step: int | None) -> bytes:
    """The lines of an old log up to a step."""
    if step is None or not path.is_file():
        return b""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            found = json.loads(line)
        except ValueError:  # the last line of a process that was killed
            continue
        if isinstance(found, dict) and found.get("step", 0) <= step:
            kept.append(line)
    return b"".join(kept)


def _board(folder: Path, step: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as problem:
        raise MissingExtra("tensorboard", "log", "--tensorboard") from problem
    return SummaryWriter(str(folder), purge_step=None if step is None else step + 1)


def _numbers(line: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    """(name, value) of what is a number, in any depth, but for the places."""
    found: list[tuple[str, float]] = []
    for key, value in line.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}/{key}")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key not in ("step",):
            found.append((f"{prefix}/{key}", float(value)))
    return found


# ----------------------------------------------------------------------------------------------------------- pictures


def prediction_sheet(net: nn.Module, spec: NetworkSpec, crops: Crops, device: torch.device) -> Pixels:
    """Some people of `crops`, evenly spread: each crop with its labels, and beside it with what the network says.

    Of the plain crop alone (no flip test); a keypoint is drawn as a ring where its score is below 0.2.
    """
    chosen = np.unique(np.linspace(0, len(crops) - 1, min(SHOWN, len(crops))).round().astype(int))
    batch = take(crops, [(0, int(index)) for index in chosen])
    was_training = net.training
    net.eval()
    with torch.inference_mode():
        images, _, _ = prepare(batch.to(device, non_blocking=False), spec)
        maps = net(images).float().cpu().numpy()
    net.train(was_training)
    found, scores = spec.codec.decode(maps)
    shown = np.where(scores > 0.2, 2, np.where(scores > 0, 1, 0)).astype(np.int8)
    pictures, truth = inputs(images, spec), batch.keypoints.numpy()
    cells = [
        beside(
            person(pictures[i], truth[i], batch.visibility[i].numpy(), spec),
            person(pictures[i], found[i], shown[i], spec),
        )
        for i in range(len(batch))
    ]
    names = [crops.pictures.names[number] for number in crops.people.image[chosen].tolist()]
    captions = [f"{Path(name).name}: labels | found, {scores[i].mean():.2f}" for i, name in enumerate(names)]
    return grid(cells, 4, captions=captions, cell=cell_of(cells))


def take(crops: Crops, places: Sequence[tuple[int, int]]) -> Batch:
    """The batch of these `(epoch, index)`. TrainError where a picture cannot be used."""
    found = crops.__getitems__(places)
    if isinstance(found, Failure):
        raise TrainError(found.message, hint=found.hint)
    return found


def inputs(images: torch.Tensor, spec: NetworkSpec) -> list[Pixels]:
    """What the network was fed (B, 3, H, W), as pictures again: (H, W, 3) uint8 RGB each."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    pixels = ((images.float().cpu() * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return [np.ascontiguousarray(one[..., ::-1] if spec.colour == "bgr" else one) for one in pixels]


def person(picture: Pixels, xy: NDArray[np.floating], visibility: NDArray[np.integer], spec: NetworkSpec) -> Pixels:
    """One crop, shown larger where it is small, with its keypoints (K, 2) px."""
    factor = _factor(picture)
    large = np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
    moved = (np.asarray(xy, np.float64) + 0.5) * factor - 0.5
    return draw(large, moved[None], visibility[None], spec.skeleton)


def heat(picture: Pixels, maps: NDArray[np.floating], spec: NetworkSpec) -> Pixels:
    """The same crop with the largest of its heatmaps (K, h, w) over it, each cell where the codec has it."""
    factor, (height, width) = _factor(picture), picture.shape[:2]
    large = np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1).astype(np.float32)
    strength, cell = maps.max(axis=0).clip(0, 1), spec.codec.cell
    x, y = (
        ((np.arange(side * factor) + 0.5) / factor - 0.5) / c for side, c in zip((width, height), cell, strict=True)
    )
    columns, rows = (np.clip(np.rint(p), 0, n - 1).astype(int) for p, n in ((x, maps.shape[2]), (y, maps.shape[1])))
    alpha = 0.8 * strength[rows[:, None], columns[None, :], None]
    mixed: Pixels = np.rint(large * (1 - alpha) + _HEAT * alpha).astype(np.uint8)
    return mixed


def beside(*pictures: Pixels) -> Pixels:
    """Pictures of one height side by side, a line between them."""
    line = np.full((len(pictures[0]), 4, 3), 246, np.uint8)
    parts = [part for picture in pictures for part in (line, picture)]
    return np.concatenate(parts[1:], axis=1)


def _factor(picture: Pixels) -> int:
    return max(1, round(_TALL / int(picture.shape[0])))


def cell_of(cells: Sequence[Pixels]) -> int:
    """The width of a grid's cells that shrinks nothing."""
    wide, tall = (max(int(cell.shape[side]) for cell in cells) for side in (1, 0))
    return max(wide, -(-4 * tall // 3))
