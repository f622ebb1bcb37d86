"""Convolutions of 32 channels on a GPU, 3x3, in bf16 and NHWC: HRNet-W32 spent a fifth of a step on its 64 of them.

They are limited by memory: an H100 reads and writes the data of 256 people at 64 x 48 in 41 us. cuDNN 9.19 takes 86 us
forward, 84 us for the gradient of the input and 152 us for that of the weights; `narrow.cu`, which fetches a pixel once
(nearly: two rows more a band) for all nine taps, takes 48, 51 and 59 us. NVRTC, the compiler that comes with torch for
CUDA, builds it when it is first used, in a second or two.

    narrow.replace(net)                 # what it does not fit, and what a GPU does not have, stays as it is

Sums are in float32, as cuDNN's; results differ by the order of the sums, and are the same from run to run.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from importlib import resources
from typing import Any, cast

import torch
from torch import Tensor, nn

CHANNELS, TAPS = 32, 9
_PIXEL = CHANNELS * 2  # bytes
_WEIGHTS = CHANNELS * CHANNELS * TAPS
_BANDS = (16, 8, 4, 2)  # image rows that a block of threads takes at a time: as many as its memory holds
_KERNELS = ("convolve", "weights_gradient", "add_shares")
_HOPPER = 9  # cp.async and mma of bf16 came with Ampere, 8; it was measured on Hopper, so from there on
_threads = threading.local()


class Convolution(nn.Conv2d):
    """`nn.Conv2d`, but for bf16 in NHWC on a GPU, which `narrow.cu` has a faster way for. Made by `replace` alone."""

    widest = 0  # pixels a row, for the memory that the GPU has for a block of threads

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.dtype == torch.bfloat16 and _fits(input, self.widest):
            return cast(Tensor, convolve(input, self.weight))
        return super().forward(input)


def replace(net: nn.Module) -> int:
    """Lets the convolutions of a network that are narrow enough take the faster way; gives how many these are.

    0 without a GPU of NVIDIA's Hopper generation or a newer one, and where torch cannot compile for it: it can from
    2.10 on, if it finds a CUDA toolkit (CUDA_HOME, nvcc on the PATH, /usr/local/cuda), of which it needs the folder's
    name alone. Weights and their names stay as they are; copies of the network take the same way.
    """
    device = next(net.parameters()).device
    found = [module for module in net.modules() if type(module) is nn.Conv2d and is_narrow(module)]
    if not found or device.type != "cuda" or not _compiles(device):
        return 0
    for module in found:
        module.__class__ = Convolution
        module.widest = _widest(_properties(device).shared_memory_per_block_optin)  # type: ignore[assignment]
    return len(found)


def is_narrow(conv: nn.Conv2d) -> bool:
    """Whether there is a faster way for a convolution: 32 channels to 32, 3x3, stride 1, padding 1, nothing else."""
    shape = (conv.in_channels, conv.out_channels, *conv.kernel_size)
    ways = (*conv.stride, *conv.dilation, conv.groups)
    plain = conv.bias is None and conv.padding == (1, 1) and conv.padding_mode == "zeros"
    return shape == (CHANNELS, CHANNELS, 3, 3) and set(ways) == {1} and plain


def _fits(x: Tensor, widest: int) -> bool:
    """Bands have an even number of rows: with 8 dividing the width, their pixels go by 16, as the kernels take them."""
    return (
        x.is_cuda and x.dtype == torch.bfloat16 and x.ndim == 4 and x.shape[1] == CHANNELS and x.numel() > 0
        and x.shape[3] % 8 == 0 and x.shape[3] <= widest and x.is_contiguous(memory_format=torch.channels_last)
    )  # fmt: skip


def _compiles(device: torch.device) -> bool:
    """Whether the kernels are there for this device, which they are after this where they can be."""
    if torch.version.hip or not hasattr(torch.cuda, "_compile_kernel"):
        return False
    if torch.cuda.get_device_capability(device)[0] < _HOPPER:
        return False
    try:
        with torch.cuda.device(device):
            return all(_kernel(name, device) for name in _KERNELS)
    except Exception:  # no toolkit, no setuptools, another torch, ...: whatever is missing, torch's own way is there
        return False


# ------------------------------------------------------------------------------------------------------------ launching


@torch.library.custom_op(
    "kpdata::narrow_convolution", mutates_args=(), schema="(Tensor x, Tensor weight) -> Tensor", device_types="cuda"
)
def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, 32, H, W) and weight (32, 32, 3, 3) -> (B, 32, H, W): bf16 on a GPU in NHWC, stride 1, zeros around.

    8 divides W; `Convolution` says how wide maps may be. With gradients.
    """
    return _convolved(x, weight, backward=False)


@torch.library.custom_op(
    "kpdata::narrow_convolution_backward", mutates_args=(), device_types="cuda",
    schema="(Tensor gradient, Tensor x, Tensor weight) -> (Tensor, Tensor)",
)  # fmt: skip
def _backward(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight."""
    return _convolved(gradient, weight, backward=True), _gradient_of_weight(x, gradient, weight)


@convolve.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return _like(x)


@_backward.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return _like(x), _like(weight)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


convolve.register_autograd(lambda ctx, gradient: _backward(gradient, *ctx.saved_tensors), setup_context=_remember)


def _convolved(x: Tensor, weight: Tensor, *, backward: bool) -> Tensor:
    x, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    height, width = x.shape[2:]
    band, memory = _band(_for_maps, x)
    y = _like(x)
    numbers = [len(x), height, width, band, _inverse(width), int(backward)]
    _launch("convolve", x.device, _blocks(x, band), 256, memory, [x, weight, y, *numbers])
    return y


def _gradient_of_weight(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    x, gradient = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, gradient))
    height, width = x.shape[2:]
    band, memory = _band(_for_weights, x)
    blocks = _blocks(x, band)
    shares = torch.empty((blocks, _WEIGHTS), dtype=torch.float32, device=x.device)
    numbers = [len(x), height, width, band, _inverse(width)]
    _launch("weights_gradient", x.device, blocks, 384, memory, [x, gradient, shares, *numbers])
    result = _like(weight)
    _launch("add_shares", x.device, _WEIGHTS // 32, 256, 0, [shares, result, blocks])
    return result


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.channels_last)


def _for_maps(band: int, width: int) -> int:
    """Bytes that a block of `convolve` needs: the weights, and two bands with zeros around."""
    return 2 * _WEIGHTS + 2 * (band + 2) * (width + 2) * _PIXEL


def _for_weights(band: int, width: int) -> int:
    """Bytes that a block of `weights_gradient` needs: two bands of both maps, and at the end its sums."""
    return max(4 * _WEIGHTS, 2 * ((band + 2) * (width + 2) + band * width) * _PIXEL)


def _widest(limit: int) -> int:
    """The width of maps of which the smallest band fits into the memory of a block, in bytes."""
    needed = [
        (width, max(need(_BANDS[-1], width) for need in (_for_maps, _for_weights))) for width in range(8, 1024, 8)
    ]
    return max((width for width, memory in needed if memory <= limit), default=0)


def _band(needed: Callable[[int, int], int], x: Tensor) -> tuple[int, int]:
    """The most rows of an image that fit into the memory of a block, and the bytes."""
    limit = _properties(x.device).shared_memory_per_block_optin
    bands = [(band, needed(band, x.shape[3])) for band in _BANDS]
    return next((band, memory) for band, memory in bands if memory <= limit)


def _blocks(x: Tensor, band: int) -> int:
    """One for each multiprocessor, if there is so much to do."""
    processors: int = _properties(x.device).multi_processor_count
    return min(len(x) * -(-x.shape[2] // band), processors)


def _inverse(width: int) -> int:
    """2^32 / width, rounded up: the upper half of a product with it is a division."""
    return -(-(2**32) // width)


def _launch(name: str, device: torch.device, blocks: int, threads: int, memory: int, arguments: list[Any]) -> None:
    with torch.cuda.device(device):
        _enter(device)
        _kernel(name, device)(grid=(blocks, 1, 1), block=(threads, 1, 1), args=arguments, shared_mem=memory)


def _enter(device: torch.device) -> None:
    """Makes the device's context current in a thread that is new, such as that of gradients: torch's launches do, the
    driver's own, which this is, do not."""
    if device not in (entered := _threads.__dict__.setdefault("entered", set())):
        torch.zeros((), device=device)
        entered.add(device)


@functools.cache
def _kernel(name: str, device: torch.device) -> Any:
    """A kernel for a device, which is the current one, with all the memory for a block that the device has."""
    source = (resources.files(__package__) / "narrow.cu").read_text()
    kernel = torch.cuda._compile_kernel(source, name)
    if name != "add_shares":  # which has its own, of a size that is known
        kernel.set_shared_memory_config(_properties(device).shared_memory_per_block_optin)
    return kernel


def _properties(device: torch.device) -> Any:
    return torch.cuda.get_device_properties(device)
