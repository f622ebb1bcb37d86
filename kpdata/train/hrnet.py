"""HRNet: keeps a fine branch from end to end, beside coarser ones that exchange features with it again and again.

    net = HRNet(HRNetConfig(width=32), num_keypoints=17)        # pose_hrnet W32, 28.5 M parameters
    maps = net(images)                                          # (B, 3, H, W) -> (B, 17, H/4, W/4)

Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation", arXiv 1902.09212. Names and
shapes in the state dict are those of leoxiaobin/deep-high-resolution-net.pytorch (`lib/models/pose_hrnet.py`), in its
order, so that published weights load as they are: that is why a layer's number sometimes stands where a name could.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kpdata.errors import TrainError


@dataclass(frozen=True, slots=True)
class HRNetConfig:
    """Sizes of an HRNet; the defaults are the published W32, and W48 differs in `width` alone."""

    width: int = 32  # channels of the finest branch, at a quarter of the input; each coarser branch has twice as many
    stem: int = 64  # channels of the two first convolutions; layer1's bottlenecks give four times as many
    units: tuple[int, int, int] = (1, 4, 3)  # exchange units in stages 2, 3 and 4, which have 2, 3 and 4 branches
    blocks: int = 4  # residual blocks of layer1, and of every branch of a unit


TINY = HRNetConfig(width=16, stem=32, units=(1, 1, 1), blocks=2)
"""A net that a CPU can train: for tests, demos and trials, not published anywhere."""


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose `num_batches_tracked` stands still: with a fixed momentum nothing reads it.

    Counting costs one launch a layer and step, 292 in an HRNet. The buffer is in the state dict, as everywhere;
    `count_batches` moves it on when weights are saved. Running statistics and outputs are those of `nn.BatchNorm2d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        momentum = cast(float, self.momentum)  # None, a mean over all batches, would need the counter
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.training, momentum, self.eps
        )


def count_batches(net: nn.Module, batches: int) -> None:
    """Adds the batches (optimiser steps x accumulation) of a training to every `num_batches_tracked` of a net."""
    for module in net.modules():
        if isinstance(module, BatchNorm) and module.num_batches_tracked is not None:
            module.num_batches_tracked += batches


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size of its input, but for the stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    """Convolution (`.0`), batch normalisation (`.1`) and, unless it is said otherwise, relu (`.2`)."""
    layers = [conv(inputs, outputs, kernel, stride), BatchNorm(outputs)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """(B, C, h, w) -> the same shape: two 3x3 convolutions and a way around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(channels, channels, 3), BatchNorm(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3), BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return functional.relu(y + x, inplace=True)


class Bottleneck(nn.Module):
    """(B, C, h, w) -> (B, 4 * width, h/stride, w/stride): 1x1, 3x3 (which has the stride), 1x1, and a way around."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = conv(inputs, width, 1), BatchNorm(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), BatchNorm(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), BatchNorm(outputs)
        same = stride == 1 and inputs == outputs
        self.downsample = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return functional.relu(y + self.downsample(x), inplace=True)


def fuse(channels: list[int], target: int, source: int) -> nn.Module:
    """From branch `source` toward branch `target`: to its channels, and to its size where that is smaller; else see
    `add`."""
    if source == target:
        return nn.Identity()
    if source > target:
        return conv_bn(channels[source], channels[target], 1, relu=False)
    keep = [conv_bn(channels[source], channels[source], 3, 2) for _ in range(target - source - 1)]
    return nn.Sequential(*keep, conv_bn(channels[source], channels[target], 3, 2, relu=False))


def add(fine: Tensor, coarse: Tensor) -> Tensor:
    """fine (B, C, h, w) plus coarse (B, C, h/k, w/k), each of its cells on k x k cells of the other.

    What `nn.Upsample(mode="nearest")` and a sum give, to the bit, without the maps between them; and under autocast,
    which takes Upsample for an operation of fp32, features stay as short as they are.
    """
    people, channels, height, width = fine.shape
    times = height // coarse.shape[2]
    if times == 1:
        return fine + coarse
    cells = fine.view(people, channels, height // times, times, width // times, times)
    return (cells + coarse[:, :, :, None, :, None]).view(fine.shape)


class Exchange(nn.ModuleList):
    """One output of a unit: the sum over all its branches, which are brought to one shape first, and relu."""

    def __init__(self, channels: list[int], target: int) -> None:
        super().__init__(fuse(channels, target, source) for source in range(len(channels)))

    def forward(self, xs: list[Tensor]) -> Tensor:
        total, *others = (way(x) for way, x in zip(self, xs, strict=True))
        for other in others:
            total = add(total, other)
        return functional.relu(total, inplace=True)


class Unit(nn.Module):
    """Branches on their own, then every output is the sum over all branches.

    A list of (B, c_i, h / 2^i, w / 2^i) -> a list of `outputs` of the same shapes. streams: of CUDA, for all branches
    but the first; in training they run side by side then, because the maps of the coarse ones are too small to fill a
    GPU. More launches for the host: this pays within a CUDA graph alone.
    """

    def __init__(self, channels: list[int], blocks: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c) for _ in range(blocks))) for c in channels)
        self.fuse_layers = nn.ModuleList(Exchange(channels, target) for target in range(outputs))
        self.streams: tuple[torch.cuda.Stream, ...] = ()

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        streams = self.streams if self.training else ()
        xs = _side_by_side([partial(branch, x) for branch, x in zip(self.branches, xs, strict=True)], xs, streams)
        return _side_by_side([partial(exchange, xs) for exchange in self.fuse_layers], xs, streams)


def _side_by_side(
    jobs: list[Callable[[], Tensor]], inputs: list[Tensor], streams: tuple[torch.cuda.Stream, ...]
) -> list[Tensor]:
    """What the jobs give; the first runs on the current stream and the others on `streams`, after all that is queued,
    and the current stream goes on after all of them. One after the other where there are no streams."""
    if not streams:
        return [job() for job in jobs]
    here = torch.cuda.current_stream(inputs[0].device)
    lanes = [here, *streams][: len(jobs)]
    for lane in lanes[1:]:
        lane.wait_stream(here)
        for tensor in inputs:  # may be freed, in the backward pass, before the lane has read it
            tensor.record_stream(lane)
    results: list[Tensor] = []
    for job, lane in zip(reversed(jobs), reversed(lanes), strict=True):  # the longest, the finest branch, last
        with torch.cuda.stream(lane):
            results.insert(0, job())
    for lane, result in zip(lanes[1:], results[1:], strict=True):
        here.wait_stream(lane)
        result.record_stream(here)
    return results


class Transition(nn.ModuleList):
    """Opens the next, coarser branch from the coarsest one there is; the others go on as they are.

    Only the first transition also narrows the finest branch, from layer1's channels to the branch's.
    """

    def __init__(self, inputs: list[int], outputs: list[int]) -> None:
        old = [nn.Identity() if a == b else conv_bn(a, b, 3) for a, b in zip(inputs, outputs, strict=False)]
        new = nn.Sequential(conv_bn(inputs[-1], outputs[-1], 3, 2))
        super().__init__([*old, new])

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [step(x) for step, x in zip(self, [*xs, xs[-1]], strict=True)]


class Stem(nn.Module):
    """(B, 3, H, W) -> (B, C, H/4, W/4): two convolutions of stride 2, each with normalisation and relu.

    The layers are the network's own, under whose names the state dict has them.
    """

    def __init__(self, conv1: nn.Module, bn1: nn.Module, conv2: nn.Module, bn2: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = conv1, bn1, conv2, bn2

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        return functional.relu(self.bn2(self.conv2(x)), inplace=True)


class HRNet(nn.Module):
    """(B, 3, H, W) images -> (B, num_keypoints, H/4, W/4) heatmaps; 32 divides H and W (TrainError).

    Starts as the official code does: every convolution N(0, 0.001), batch normalisation 1 and 0. The published numbers
    start from ImageNet weights (`weights.load_weights`), not from here.
    """

    def __init__(self, cfg: HRNetConfig, num_keypoints: int) -> None:
        super().__init__()
        self.cfg, stem, c = cfg, cfg.stem, [cfg.width * 2**i for i in range(4)]
        self.conv1, self.bn1 = conv(3, stem, 3, 2), BatchNorm(stem)
        self.conv2, self.bn2 = conv(stem, stem, 3, 2), BatchNorm(stem)
        # In a tuple torch does not see it, and every layer has one name; copies of the network get a copy. Who puts
        # another layer in the place of one of these four has to make a new one.
        self._stem = (Stem(self.conv1, self.bn1, self.conv2, self.bn2),)
        self.layer1 = nn.Sequential(*(Bottleneck(4 * stem if i else stem, stem) for i in range(cfg.blocks)))
        self.transition1 = Transition([4 * stem], c[:2])
        self.stage2 = self._stage(c[:2], cfg.units[0], 2)
        self.transition2 = Transition(c[:2], c[:3])
        self.stage3 = self._stage(c[:3], cfg.units[1], 3)
        self.transition3 = Transition(c[:3], c)
        self.stage4 = self._stage(c, cfg.units[2], 1)  # only the finest branch is looked at
        self.final_layer = nn.Conv2d(c[0], num_keypoints, kernel_size=1)
        initialise(self)

    def _stage(self, channels: list[int], units: int, last_outputs: int) -> nn.Sequential:
        outputs = [len(channels)] * (units - 1) + [last_outputs]
        return nn.Sequential(*(Unit(channels, self.cfg.blocks, n) for n in outputs))

    def forward(self, images: Tensor) -> Tensor:
        check_size(images)
        xs = self.stage2(self.transition1([self.layer1(self._stem[0](images))]))
        xs = self.stage3(self.transition2(xs))
        xs = self.stage4(self.transition3(xs))
        return cast(Tensor, self.final_layer(xs[0]))

    def parts(self) -> list[nn.Module]:
        """The parts that are worth compiling one by one: stem, layer1, what opens new branches, branches, exchanges.

        The last convolution alone has nothing that could be fused with it.
        """
        ways = [way for step in (self.transition1, self.transition2, self.transition3) for way in step]
        inside = [module for unit in self.units() for module in (*unit.branches, *unit.fuse_layers)]
        return [self._stem[0], self.layer1, *(way for way in ways if not isinstance(way, nn.Identity)), *inside]

    def units(self) -> list[Unit]:
        """All exchange units, from input to output."""
        return [cast(Unit, unit) for unit in (*self.stage2, *self.stage3, *self.stage4)]


def check_size(images: Tensor) -> None:
    """TrainError unless images are (B, 3, H, W) with sides that 32 divides: else coarse maps do not fit fine ones."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % 32 or images.shape[3] % 32:
        raise TrainError(
            f"images of shape {tuple(images.shape)}, expected (B, 3, H, W) with H and W that 32 divides",
            hint="choose an input size such as 192 x 256",
        )


@torch.no_grad()
def initialise(net: nn.Module) -> None:
    """The official start (`pose_hrnet.py` and `pose_resnet.py`, init_weights): convolutions N(0, 0.001), biases 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.001)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
