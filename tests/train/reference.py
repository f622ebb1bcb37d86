"""Weights and inputs by a formula, so that reference numbers of other implementations need no weight files.

A tensor's elements are hashes of its name and their place: seed = CRC-32 of the name, x = (place + seed) mod 2^32, then
xor-shift and multiply; h = x / 2^32 in [0, 1), u = 2h - 1. What h becomes depends on the kind of the tensor.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

KEYS = {"hrnet_w32": "hrnet_keys_w32", "hrnet_w48": "hrnet_keys_w48", "pose_resnet_50": "pose_resnet_50_keys"}
NUMBERS = {
    "hrnet_w32": "hrnet_reference_w32", "hrnet_w48": "hrnet_reference_w48", "pose_resnet_50": "pose_resnet_50_reference"
}  # fmt: skip


def reference_file(real_data: Path, name: str) -> Path:
    path = real_data.parent / "reference" / name
    if not path.is_file():
        pytest.skip(f"reference numbers not found: {path}")
    return path


def numbers(real_data: Path, model: str) -> dict[str, np.ndarray]:
    with np.load(reference_file(real_data, f"{NUMBERS[model]}.npz")) as file:
        return dict(file)


def hashed(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """h in [0, 1), float64."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint32)
    x += np.uint32(zlib.crc32(name.encode()))
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return (x / 2.0**32).reshape(shape)


def weights(net: nn.Module) -> dict[str, Tensor]:
    """float32 state dict by the formula."""
    out = {}
    for name, tensor in net.state_dict().items():
        shape = tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            out[name] = torch.zeros((), dtype=torch.int64)
            continue
        u = 2 * hashed(name, shape) - 1
        if len(shape) == 4:
            value = u * np.sqrt(1.5 / (shape[1] * shape[2] * shape[3]))
        elif name.endswith("weight"):
            value = 1 + 0.2 * u
        elif name.endswith("running_var"):
            value = 1 + 0.5 * u
        else:
            value = 0.1 * u
        out[name] = torch.from_numpy(value.astype(np.float32))
    return out


def images(shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(4 * hashed("input", shape) - 2)


def targets(shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.abs(4 * hashed("target", shape) - 2) / 2)


def mse(maps: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """JointsMSELoss, one keypoint after the other: half the mean square over batch and pixels, then the mean."""
    terms = [0.5 * (((maps[:, k] - target[:, k]) * weight[:, k, :, None]) ** 2).mean() for k in range(maps.shape[1])]
    return sum(terms, torch.zeros(())) / len(terms)


def ohkm(maps: Tensor, target: Tensor, weight: Tensor, hard: int = 8) -> Tensor:
    """JointsOHKMMSELoss: of each person the `hard` worst keypoints, their mean, then the mean over people."""
    people = []
    for person in range(len(maps)):
        each = [
            0.5 * (((maps[person, k] - target[person, k]) * weight[person, k]) ** 2).mean()
            for k in range(maps.shape[1])
        ]
        people.append(torch.stack(sorted(each, key=lambda term: -term.item())[:hard]).mean())
    return torch.stack(people).mean()


def taps(net: nn.Module, names: list[str]) -> dict[str, np.ndarray]:
    """Fills while the net runs: mean, std, sum |x|, first and last element, then the shape, of `module/output`."""
    found: dict[str, np.ndarray] = {}

    def watch(name: str) -> None:
        def note(_: nn.Module, __: object, output: Tensor | list[Tensor]) -> None:
            for index, x in enumerate([output] if isinstance(output, Tensor) else output):
                flat = x.detach().flatten()
                facts = [flat.mean(), flat.std(), flat.abs().sum(), flat[0], flat[-1]]
                found[f"{name}/{index}"] = np.array([*(fact.item() for fact in facts), *x.shape])

        net.get_submodule(name).register_forward_hook(note)

    for name in names:
        watch(name)
    return found
