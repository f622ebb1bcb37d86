"""A network as a file: weights, and all that it takes to use them, judge them and train on.

    save_checkpoint("best.pt", Checkpoint(spec, net.state_dict(), {"AP": 0.744}, config))
    spec, net, report = open_network("best.pt")          # or pose_hrnet_w32_256x192.pth: published files work as well

The file is torch's own zip of tensors, dicts, lists, texts and numbers, nothing else: it opens with
`torch.load(..., weights_only=True)`, so opening a stranger's checkpoint runs none of their code.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpdata.codec import HeatmapCodec
from kpdata.errors import TrainError, WriteError
from kpdata.files import replacing
from kpdata.skeleton import Skeleton
from kpdata.train.models import build
from kpdata.train.spec import Colour, NetworkSpec
from kpdata.train.weights import (
    MARK,
    VERSION,
    Report,
    check_sums,
    load_weights,
    parse_document,
    prefix_hint,
    read_file,
    read_weights,
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network and where its training stands.

    weights: the state dict that is evaluated (the moving average's where there is one), CPU tensors after loading.
    metrics: numbers of its last evaluation. config: the training's resolved values, plain data. state: what resuming
    needs beyond that, in any nesting of dicts, lists, tensors, texts and numbers (optimiser, random generators as
    tensors, steps, position in the data, best value so far); None: nothing, the network is only for use.
    """

    spec: NetworkSpec
    weights: dict[str, Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] | None = None


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint; an old file at `path` is replaced as a whole, or stays as it was.

    Tensors go to the CPU, each with storage of its own; NumPy numbers, arrays and paths become plain ones. Raises
    TrainError for a value that cannot be loaded again without running code, naming it; WriteError for a disk's refusal.
    """
    path = Path(path)
    document = {MARK: VERSION, "spec": checkpoint.spec.to_json()}
    for name in ("weights", "metrics", "config", "state"):
        document[name] = _plain(getattr(checkpoint, name), name)
    with replacing(path, force=True) as temporary:
        try:
            torch.save(document, temporary)
        except RuntimeError as error:  # torch's zip writer says so when the disk is full, in words about its insides
            free = shutil.disk_usage(path.parent).free / 1e6
            raise WriteError(
                f"{path}: cannot be written whole, {free:,.1f} MB are left on its disk; it is as it was before"
            ) from error


def load_checkpoint(path: str | Path) -> Checkpoint:
    """A checkpoint that `save_checkpoint` wrote, on the CPU.

    Raises TrainError where there is none, where it is cut, damaged, of a newer kpdata or not one of kpdata's.
    """
    path = Path(path)
    document = read_file(path)
    if not isinstance(document, dict) or MARK not in document:
        raise TrainError(
            f"{path}: holds weights, but is no checkpoint of kpdata", hint="start a new training from it: --init FILE"
        )
    check_sums(path)
    spec = parse_document(document, path)
    try:
        return Checkpoint(spec, *(document[name] for name in ("weights", "metrics", "config", "state")))
    except KeyError as error:
        raise TrainError(f"{path}: a checkpoint of kpdata without {error}") from error


def differences(found: NetworkSpec, expected: NetworkSpec) -> list[str]:
    """What differs between two networks' specs, in words: "model hrnet_w48, not hrnet_w32". Empty: nothing."""
    lines = []
    one, other = _facts(found), _facts(expected)
    for name in one:
        if one[name] != other[name]:
            lines.append(f"{name} {one[name]}, not {other[name]}")
    lost = [name for name in found.skeleton.keypoint_names if name not in expected.skeleton.keypoint_names]
    new = [name for name in expected.skeleton.keypoint_names if name not in found.skeleton.keypoint_names]
    if lost or new:
        lines.append(f"keypoints: only there {', '.join(lost) or 'none'}; only here {', '.join(new) or 'none'}")
    elif found.skeleton.keypoint_names != expected.skeleton.keypoint_names:
        lines.append("the same keypoints in another order")
    return lines


def require_same(path: str | Path, found: NetworkSpec, expected: NetworkSpec) -> None:
    """TrainError that says what differs, unless the checkpoint at `path` is of the expected network."""
    if lines := differences(found, expected):
        raise TrainError(
            f"{path}: a checkpoint of another network ({'; '.join(lines)})",
            hint="--init starts a new training from its weights, --resume goes on with the same network alone",
        )


def open_network(
    path: str | Path,
    *,
    model: str | None = None,
    skeleton: Skeleton | None = None,
    codec: HeatmapCodec | None = None,
    colour: Colour | None = None,
) -> tuple[NetworkSpec, nn.Module, Report]:
    """A network ready for use (CPU, `eval()`), the way it wants to be used, and what is known about its file.

    path: a checkpoint of kpdata, or a published file of a pose network (`weights.read_weights`). The other values are
    only needed where the file does not tell, or tells wrong; `Report.notes` says what had to be guessed. skeleton: the
    names of the file's own keypoints, in its order. Raises TrainError where weights are missing, do not fit `model`, or
    have no head that names keypoints (ImageNet files), and where neither the file nor a value tells a skeleton.
    """
    source = read_weights(path)
    name, bones = model or source.model, skeleton or source.skeleton
    if name is None:
        hint = prefix_hint(source.tensors) or "say which one: model=..."
        raise TrainError(f"{path}: its weights are of no network that kpdata has", hint=hint)
    if source.num_keypoints is None:
        raise TrainError(f"{path}: weights without a head for keypoints ({source.evidence})", hint="train it: --init")
    if bones is None:
        raise TrainError(
            f"{path}: its {source.num_keypoints} keypoints have no names", hint="say which skeleton: --skeleton"
        )
    if len(bones) != source.num_keypoints:
        raise TrainError(f"{path}: {source.num_keypoints} keypoints, but {bones.name!r} has {len(bones)}")
    spec = NetworkSpec(
        name, bones, codec or source.codec, colour or source.colour, source.padding, source.mean, source.std
    )
    net = build(name, len(bones))
    report = load_weights(net, replace(source, skeleton=bones), model=name, skeleton=bones, whole=True)
    return spec, net.eval(), report


def _facts(spec: NetworkSpec) -> dict[str, Any]:
    codec = spec.codec
    return {
        "model": spec.model, "skeleton": spec.skeleton.name, "input size": codec.input_size, "target": codec.target,
        "sigma": codec.sigma, "stride": codec.stride, "decoding": codec.refinement, "blur": codec.blur,
        "occluded labels": codec.occluded, "absent labels": codec.absent, "colour order": spec.colour,
        "padding": spec.padding, "mean": spec.mean, "std": spec.std,
    }  # fmt: skip


def _plain(value: Any, where: str) -> Any:
    """The value in types that a weights_only load takes."""
    if isinstance(value, Tensor):
        cpu = value.detach().to("cpu")
        return cpu if cpu.untyped_storage().nbytes() == cpu.nbytes else cpu.clone()  # a view would bring all its base
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if value is None or type(value) in (bool, int, float, str, bytes, torch.device, torch.dtype):
        return value
    raise TrainError(f"checkpoint: {where} is a {type(value).__name__}, expected tensors and plain data")


def _key(key: Any, where: str) -> str | int:
    if type(key) not in (str, int):
        raise TrainError(f"checkpoint: {where} has the key {key!r}, expected texts or whole numbers")
    return key  # type: ignore[no-any-return]
