"""Convolutions of 32 channels on a GPU, 3x3, in bf16 and NHWC: HRNet-W32 spent a fifth of a step on its 64 of them.

They are limited by memory: of 256 people at 64 x 48, an H100 reads and writes the data in 41 us. cuDNN 9 takes 86 us
forward, 84 us for the gradient of the input and 152 us for that of the weights, because it reads a pixel again for each
of the nine taps; `narrow.cu` reads it once, and takes 48, 51 and 59 us. CUDA's own compiler, which comes with torch,
builds it when it is first used, in a second or two.

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
_threads = threading.local()
_WIDEST = 256  # pixels: of wider maps two rows, the fewest, would not fit
_HOPPER = 9  # the generation that this was measured on; it needs what came with the one before


class Convolution(nn.Conv2d):
    """`nn.Conv2d`, but for bf16 in NHWC on a GPU, which `narrow.cu` has a faster way for."""

    def forward(self, input: Tensor) -> Tensor:
        if _fits(input) and self.weight.dtype == torch.bfloat16:
            return cast(Tensor, convolve(input, self.weight))
        return super().forward(input)


def replace(net: nn.Module) -> int:
    """Lets the convolutions of a network that are narrow enough take the faster way; gives how many these are.

    0 without a GPU of NVIDIA's Hopper generation or a newer one, and where torch cannot compile for it: it can from 2.9
    on, if there is a CUDA toolkit, of which it looks for the folder alone (CUDA_HOME). Weights and their names stay as
    they are; copies of the network take the same way.
    """
    device = next(net.parameters()).device
    found = [module for module in net.modules() if type(module) is nn.Conv2d and is_narrow(module)]
    if not found or device.type != "cuda" or not _compiles(device):
        return 0
    for module in found:
        module.__class__ = Convolution
    return len(found)


def is_narrow(conv: nn.Conv2d) -> bool:
    """Whether there is a faster way for a convolution: 32 channels to 32, 3x3, stride 1, padding 1, nothing else."""
    shape = (conv.in_channels, conv.out_channels, *conv.kernel_size)
    ways = (*conv.stride, *conv.dilation, conv.groups)
    plain = conv.bias is None and conv.padding == (1, 1) and conv.padding_mode == "zeros"
    return shape == (CHANNELS, CHANNELS, 3, 3) and set(ways) == {1} and plain


def _fits(x: Tensor) -> bool:
    return (
        x.is_cuda and x.dtype == torch.bfloat16 and x.ndim == 4 and x.shape[3] % 8 == 0 and x.shape[3] <= _WIDEST
        and x.is_contiguous(memory_format=torch.channels_last)
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
    except (OSError, RuntimeError):  # no CUDA_HOME; a compiler or driver that does not know the device
        return False


# ------------------------------------------------------------------------------------------------------------ launching


@torch.library.custom_op(
    "kpdata::narrow_convolution", mutates_args=(), schema="(Tensor x, Tensor weight) -> Tensor", device_types="cuda"
)
def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, 32, H, W) and weight (32, 32, 3, 3) -> (B, 32, H, W): bf16 on a GPU in NHWC, stride 1, zeros around.

    8 divides W, which is 256 at most. With gradients.
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
    band = _band(x, lambda rows: 2 * _WEIGHTS + 2 * (rows + 2) * (width + 2) * _PIXEL)
    y = _like(x)
    _launch("convolve", x, band, 256, [x, weight, y, len(x), height, width, band[0], _inverse(width), int(backward)])
    return y


def _gradient_of_weight(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    x, gradient = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, gradient))
    height, width = x.shape[2:]
    band = _band(x, lambda rows: max(4 * _WEIGHTS, 2 * ((rows + 2) * (width + 2) + rows * width) * _PIXEL))
    blocks = _blocks(x, band[0])
    shares = torch.empty((blocks, _WEIGHTS), device=x.device)
    numbers = [len(x), height, width, band[0], _inverse(width)]
    _launch("weights_gradient", x, band, 384, [x, gradient, shares, *numbers])
    result = _like(weight)
    with torch.cuda.device(x.device):
        _kernel("add_shares", x.device)(grid=(_WEIGHTS // 32, 1, 1), block=(256, 1, 1), args=[shares, result, blocks])
    return result


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.channels_last)


def _launch(name: str, x: Tensor, band: tuple[int, int], threads: int, arguments: list[Any]) -> None:
    rows, memory = band
    with torch.cuda.device(x.device):
        _enter(x.device)
        kernel = _kernel(name, x.device)
        kernel.set_shared_memory_config(memory)
        kernel(grid=(_blocks(x, rows), 1, 1), block=(threads, 1, 1), args=arguments, shared_mem=memory)


def _enter(device: torch.device) -> None:
    """A thread, such as that of gradients, can launch kernels of one's own after torch has launched one in it."""
    if device not in (entered := _threads.__dict__.setdefault("entered", set())):
        torch.zeros((), device=device)
        entered.add(device)


def _band(x: Tensor, memory: Callable[[int], int]) -> tuple[int, int]:
    """The most rows of an image that fit into the memory of a block, twice; and the bytes."""
    limit = _properties(x).shared_memory_per_block_optin
    return next((rows, memory(rows)) for rows in _BANDS if memory(rows) <= limit or rows == _BANDS[-1])


def _blocks(x: Tensor, rows: int) -> int:
    """One for each multiprocessor, if there is so much to do."""
    processors: int = _properties(x).multi_processor_count
    return min(len(x) * -(-x.shape[2] // rows), processors)


def _properties(x: Tensor) -> Any:
    return torch.cuda.get_device_properties(x.device)


def _inverse(width: int) -> int:
    """2^32 / width, rounded up: the upper half of a product with it is a division."""
    return -(-(2**32) // width)


@functools.cache
def _kernel(name: str, device: torch.device) -> Any:
    source = (resources.files(__package__) / "narrow.cu").read_text()
    return torch.cuda._compile_kernel(source, name)
