"""Simple Baseline: a ResNet, three transposed convolutions and a 1x1 convolution. That is all, and it is strong.

    net = SimpleBaseline(RESNET_50, num_keypoints=17)           # pose_resnet_50, 34.0 M parameters
    maps = net(images)                                          # (B, 3, H, W) -> (B, 17, H/4, W/4)

Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking", arXiv 1804.06208. Names and shapes in the state
dict are those of microsoft/human-pose-estimation.pytorch (`lib/models/pose_resnet.py`), whose body is torchvision's
ResNet with the stride on the 3x3 convolution. Its published weights were trained on BGR pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from kpdata.train.hrnet import BatchNorm, Bottleneck, check_size, initialise


@dataclass(frozen=True, slots=True)
class SimpleBaselineConfig:
    """Sizes of a Simple Baseline; the published ones differ in `blocks` alone."""

    blocks: tuple[int, int, int, int]  # bottlenecks of layers 1 to 4
    up: int = 256  # channels of the transposed convolutions, of which three bring 1/32 back to 1/4


RESNET_50 = SimpleBaselineConfig((3, 4, 6, 3))
RESNET_101 = SimpleBaselineConfig((3, 4, 23, 3))
RESNET_152 = SimpleBaselineConfig((3, 8, 36, 3))


class SimpleBaseline(nn.Module):
    """(B, 3, H, W) images -> (B, num_keypoints, H/4, W/4) heatmaps; 32 divides H and W (TrainError).

    Starts as the official code does: every convolution N(0, 0.001), batch normalisation 1 and 0. The published numbers
    start from ImageNet weights (`weights.load_weights`), not from here.
    """

    def __init__(self, cfg: SimpleBaselineConfig, num_keypoints: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), BatchNorm(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _layer(64, 64, cfg.blocks[0], stride=1)
        self.layer2 = _layer(256, 128, cfg.blocks[1], stride=2)
        self.layer3 = _layer(512, 256, cfg.blocks[2], stride=2)
        self.layer4 = _layer(1024, 512, cfg.blocks[3], stride=2)
        self.deconv_layers = nn.Sequential(*_up(2048, cfg.up), *_up(cfg.up, cfg.up), *_up(cfg.up, cfg.up))
        self.final_layer = nn.Conv2d(cfg.up, num_keypoints, kernel_size=1)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        check_size(images)
        x = self.maxpool(functional.relu(self.bn1(self.conv1(images)), inplace=True))  # a quarter of the input
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # 1/32
        return cast(Tensor, self.final_layer(self.deconv_layers(x)))

    def parts(self) -> list[nn.Module]:
        """The parts that are worth compiling one by one, from input to output."""
        return [self.layer1, self.layer2, self.layer3, self.layer4, self.deconv_layers]


def _layer(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(inputs, width, stride)
    return nn.Sequential(first, *(Bottleneck(4 * width, width) for _ in range(blocks - 1)))


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    deconv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    return [deconv, BatchNorm(outputs), nn.ReLU(inplace=True)]
