"""Simple Baseline: what is its own. Names, shapes, numbers and words for bad input: test_hrnet.py, for all networks."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the trainer needs kpdata[train]")
torch.set_num_threads(1)

from kpdata.train.simple_baseline import RESNET_50, SimpleBaseline, SimpleBaselineConfig  # noqa: E402


def test_the_stride_is_on_the_middle_convolution() -> None:
    """As in torchvision, the 3x3 convolution of a bottleneck halves the map: else published weights lose accuracy."""
    with torch.device("meta"):
        net = SimpleBaseline(RESNET_50, 17)

    for layer in (net.layer2, net.layer3, net.layer4):
        assert (layer[0].conv1.stride, layer[0].conv2.stride) == ((1, 1), (2, 2))
        assert layer[0].downsample[0].stride == (2, 2)


def test_three_deconvolutions_bring_the_map_back() -> None:
    """1/32 of the input at the end of the body, 1/4 after three transposed convolutions of 256 channels."""
    net = SimpleBaseline(SimpleBaselineConfig((1, 1, 1, 1)), 4).eval()
    seen = {}
    net.layer4.register_forward_hook(lambda *a: seen.update(body=a[2].shape))
    net.deconv_layers.register_forward_hook(lambda *a: seen.update(up=a[2].shape))

    with torch.no_grad():
        net(torch.zeros(1, 3, 96, 64))

    assert seen == {"body": (1, 2048, 3, 2), "up": (1, 256, 24, 16)}
