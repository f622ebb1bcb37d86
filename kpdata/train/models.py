"""The networks by name: what a checkpoint, a configuration and the command line call them."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

from torch import nn

from kpdata.errors import TrainError
from kpdata.train.hrnet import TINY, HRNet, HRNetConfig
from kpdata.train.simple_baseline import RESNET_50, RESNET_101, RESNET_152, SimpleBaseline

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "hrnet_w32": partial(HRNet, HRNetConfig(width=32)),
    "hrnet_w48": partial(HRNet, HRNetConfig(width=48)),
    "hrnet_tiny": partial(HRNet, TINY),
    "pose_resnet_50": partial(SimpleBaseline, RESNET_50),
    "pose_resnet_101": partial(SimpleBaseline, RESNET_101),
    "pose_resnet_152": partial(SimpleBaseline, RESNET_152),
}
"""Name -> a function from the number of keypoints to the network."""


def build(model: str, num_keypoints: int) -> nn.Module:
    """A new network, (B, 3, H, W) -> (B, num_keypoints, H/4, W/4), with the official start from torch's generator.

    Every network has `final_layer`, a 1x1 convolution, and `parts()`, the modules to compile one by one. Raises
    TrainError where no model has that name, or the number of keypoints is not positive.
    """
    if model not in MODELS:
        near = get_close_matches(model, MODELS, 1)
        hint = f"did you mean {near[0]}?" if near else ""
        raise TrainError(f"model {model!r} is not known, expected one of {', '.join(MODELS)}", hint=hint)
    if num_keypoints < 1:
        raise TrainError(f"{num_keypoints} keypoints for {model}, expected at least 1")
    return MODELS[model](num_keypoints)
