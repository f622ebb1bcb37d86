"""What a network's maps cost: mean squared error as published, of all keypoints or of the hardest.

The error of a keypoint is e = ½ · w² · mean over the cells of (map − target)², where w is its weight: that of its label
(0 or 1) times that of its name. Weights count squared because the published code multiplies both maps by them before it
squares (leoxiaobin/deep-high-resolution-net.pytorch, `lib/core/loss.py`; mmpose multiplies the square once).

**Normalisation.** The loss of a person is the mean of e over the keypoints that its *source* knows, labelled or not: as
published, a keypoint without a label is a 0 in the mean. The loss of a batch is the mean of its people's, each times
the weight of its source. So

- one source that knows all keypoints has exactly the published loss;
- on a union skeleton of 21, a person whose source knows 14 weighs as much as any other, where a mean over the columns
  of the union would give it 14 / 21 of a person's weight;
- no divisor depends on who else is in the batch: the loss of a batch is the mean of the losses of its halves, in
  accumulation and on several GPUs, and a source of weight 0.1 weighs 0.1 also where it is alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from kpdata.errors import TrainError
from kpdata.skeleton import Skeleton

Kind = Literal["mse", "ohkm"]


def heatmap_loss(
    maps: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    kind: Kind = "mse",
    hard: int = 8,
    known: Tensor | None = None,
    keypoint_weights: Tensor | None = None,
    source: Tensor | None = None,
    source_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss, a scalar, and the error of each keypoint (B, K) for records; computed in float32 under autocast too.

    maps, targets: (B, K, H, W); weights (B, K), as `prepare` gives them. kind: `mse` is the published JointsMSELoss;
    `ohkm` is JointsOHKMMSELoss (Chen et al., arXiv 1711.07319), where the `hard` largest e of a person count and the
    divisor is `hard`, or the number of keypoints that its source knows where that is smaller. known (B, K) bool: the
    keypoints that a person's source knows; None: all. keypoint_weights (K,). source (B,) int64 and source_weights (S,),
    both or neither: the weight of people of each source. All on the device of the maps; nothing waits for it.

    The errors are detached, without the weights of names and sources, ½ · mean (map − target)², so that keypoints and
    epochs compare; NaN where the label's weight is 0. TrainError where shapes do not fit, or hard is not from 1 to K.
    """
    _check(maps, targets, weights, kind, hard, (source is None) == (source_weights is None))
    weights = weights.float() if known is None else weights.float() * known
    error = 0.5 * (maps.float() - targets.float()).square().mean((2, 3))  # (B, K)
    factor = weights if keypoint_weights is None else weights * keypoint_weights
    person = _of_people(error * factor.square(), kind, hard, known)
    if source is not None and source_weights is not None:
        person = person * source_weights[source]
    return person.mean(), error.detach().masked_fill(weights == 0, torch.nan)


def weights_by_name(named: Mapping[str, float], skeleton: Skeleton, device: torch.device) -> Tensor | None:
    """(K,) weights of the keypoints by name, 1 for the others; None where all are. TrainError for a strange name."""
    names = skeleton.keypoint_names
    if strangers := sorted(set(named) - set(names)):
        raise TrainError(
            f"keypoint_weights name {', '.join(strangers)}, unknown to {skeleton.name!r}",
            hint=f"it has {', '.join(names)}",
        )
    return torch.tensor([named.get(name, 1.0) for name in names], device=device) if named else None


def _of_people(cost: Tensor, kind: Kind, hard: int, known: Tensor | None) -> Tensor:
    """(B,) loss of each person from the weighted errors (B, K)."""
    if kind == "ohkm":
        cost = cost.topk(hard, dim=1, sorted=False).values
    if known is None:
        return cost.mean(1)
    return cost.sum(1) / known.sum(1).clamp(1, cost.shape[1])  # a person whose source knows nothing costs 0


def _check(maps: Tensor, targets: Tensor, weights: Tensor, kind: str, hard: int, paired: bool) -> None:
    if maps.ndim != 4 or maps.shape != targets.shape or weights.shape != maps.shape[:2]:
        raise TrainError(
            f"maps {tuple(maps.shape)}, targets {tuple(targets.shape)}, weights {tuple(weights.shape)}: expected "
            "(B, K, H, W), the same, and (B, K)",
            hint="input size, stride and keypoints of the network and of the codec must agree",
        )
    if kind not in ("mse", "ohkm"):
        raise TrainError(f"loss {kind!r}, expected 'mse' or 'ohkm'")
    if kind == "ohkm" and not 1 <= hard <= maps.shape[1]:
        raise TrainError(f"ohkm of the {hard} hardest keypoints, expected 1 to {maps.shape[1]}")
    if not paired:
        raise TrainError("only one of source and source_weights is given, expected both or neither")
