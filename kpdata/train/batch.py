"""People on their way into the network, as tensors: what the loader gives and the device prepares."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """B people with K keypoints. All parameters were drawn on the CPU, from (seed, epoch, index) of each person.

    images: uint8 RGB (B, h, w, 3): either crops of the network's input size, then `matrix` is None; or packed crops
    that the device still has to warp, then `matrix` (B, 3, 3) float32 takes a pixel of `images` to a pixel of the
    input. Keypoints are px of the *input* in both cases.
    colour: (B, 4) float32 factors of brightness, contrast, saturation and a turn of hue in degrees (`ColorJitter`'s
    draw) still to be applied, or None. holes: (B, R, 4) float32 x, y, w, h in px of the input, NaN rows are none, still
    to be filled with `fill`, or None; "mean" is the mean colour of each crop.
    """

    images: Tensor
    keypoints: Tensor  # (B, K, 2) float32, px of the input, NaN where absent
    visibility: Tensor  # (B, K) int8, kpdata.schema.Visibility; keypoints that a source does not know are absent
    known: Tensor  # (B, K) bool: False where the person's source does not have this keypoint: never a target
    source: Tensor  # (B,) int64: number of the source
    index: Tensor  # (B,) int64: number of the person in the loader's table
    epoch: Tensor  # (B,) int64
    image_ids: Tensor  # (B,) int64
    annotation_ids: Tensor  # (B,) int64
    crop: Tensor  # (B, 3, 3) float64: pixel of the picture as it was read -> pixel of the input
    mirrored: Tensor  # (B,) bool: left and right were exchanged
    matrix: Tensor | None = None
    colour: Tensor | None = None
    holes: Tensor | None = None
    fill: tuple[int, int, int] | Literal["mean"] = (0, 0, 0)  # RGB
    replaced: tuple[str, ...] = ()  # what was wrong with each picture whose person another one stands in for

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Batch:
        """The batch with its tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory: what a DataLoader with `pin_memory` calls."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Any) -> Batch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(t) for name, t in tensors.items() if isinstance(t, Tensor)})
