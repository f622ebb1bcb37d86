"""Faster ways to execute the same training step: one CUDA graph of all of it, and `torch.compile` part by part.

An HRNet-W32 step is some 5,000 kernels, most of them small: the host cannot launch them as fast as the GPU runs them.
`GraphedStep` records them once and replays them in one launch (NVIDIA, "CUDA graphs"; PyTorch's notes on CUDA
semantics, "Whole-network capture"); `branches_on_streams` lets branches overlap within the graph. `compile_parts` fuses
normalisation, relu and sums, at the price of minutes of compiling; part by part, because branches and exchanges are
alike and compile faster than the whole; `compiled` does it with what stands before and after the network. All combine.
`in_bf16` is autocast with fewer launches, and `kpdata.train.narrow` has faster convolutions of few channels.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kpdata.errors import TrainError
from kpdata.train.batch import Batch

Work = Callable[[Batch], Tensor]
"""A whole step on a batch on the device: gradients away, forward, loss, backward, optimiser; gives the loss, there."""
Function = TypeVar("Function", bound=Callable[..., Any])
WARMUP = 3  # steps before a capture: libraries choose their algorithms and take their memory then
_VARIANTS = 128  # of one part's code: parts x (training, evaluation) of any network here
_COMPILERS = ("c++", "g++", "clang++", "cl")


class _Options(Protocol):
    """What of `Config` is looked at."""

    @property
    def graph(self) -> bool: ...
    @property
    def compile(self) -> bool: ...
    @property
    def accumulate(self) -> int: ...


def check(config: _Options, device: torch.device, world: int = 1) -> None:
    """TrainError where the options `graph` and `compile` cannot be had: no GPU, several processes, no compiler.

    A graph holds one batch and one process: with accumulation or DistributedDataParallel it is refused.
    """
    if config.graph:
        if device.type != "cuda":
            raise TrainError(
                f"graph is a CUDA graph, and this training runs on {device.type}",
                hint="leave --graph out, or train on a GPU: --device cuda",
            )
        if config.accumulate > 1:
            raise TrainError(
                f"graph holds a step of one batch, accumulate is {config.accumulate}",
                hint="a graph makes small batches cheap, accumulation large ones possible: choose one",
            )
        if world > 1:
            raise TrainError(f"graph is for one process, there are {world}", hint="leave --graph out under torchrun")
    if config.compile:
        _expect_compiler(device)


def hint(config: _Options, device: torch.device, world: int = 1) -> str:
    """What would make the same training faster here, in words; empty where nothing would.

    Measured at 192 x 256 with batches of 64 to 256 (benchmarks/README.md).
    """
    if device.type != "cuda" or config.graph or config.accumulate > 1 or world > 1:
        return ""
    return (
        "--graph made the steps of hrnet_w32 on an H100 1.3 to 3 times as fast, the more the smaller the batch; with "
        "--compile, after two minutes, 2 times with batches of 256"
    )


def _expect_compiler(device: torch.device) -> None:
    """torch.compile builds C++ everywhere, and kernels by Triton on CUDA."""
    if os.environ.get("CXX") is None and not any(map(shutil.which, _COMPILERS)):
        raise TrainError("compile needs a C++ compiler, and there is none", hint="install g++, or leave --compile out")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise TrainError("compile on a GPU needs Triton", hint="pip install triton, or leave --compile out")


# ---------------------------------------------------------------------------------------------------------------- bf16


def in_bf16(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network under autocast to bf16, with all convolution weights cast at once, and all their gradients back.

    Autocast casts them one by one: in an HRNet 293 launches forward and as many backward. The numbers are autocast's.
    """
    weights = {name: p for name, p in net.named_parameters() if p.ndim > 1}

    def call(images: Tensor) -> Tensor:
        short = dict(zip(weights, _AllAtOnce.apply(*weights.values()), strict=True))  # type: ignore[no-untyped-call]
        with torch.autocast(images.device.type, torch.bfloat16):
            return cast(Tensor, functional_call(net, short, (images,)))

    return call


class _AllAtOnce(torch.autograd.Function):
    """Tensors of fp32 -> the same in bf16; their gradients the other way.

    The copies live until all gradients are there. Without that each would be freed when its own layer is through with
    it, as far as the host knows: on the stream that made it, while a branch on another one may still have to read it.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        copies = _as_type(tensors, torch.bfloat16)
        ctx.save_for_backward(*copies)
        return copies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return _as_type(gradients, torch.float32)


def _as_type(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(copies, list(tensors))
    return tuple(copies)


# ----------------------------------------------------------------------------------------------------------- compiling


def compile_parts(net: nn.Module, *, backend: str | Callable[..., Any] = "inductor") -> int:
    """Compiles `net.parts()` in place, each by itself, on its first call; gives how many there are.

    Weights, their names and copies of the network stay as they are. Shapes are constants: another batch size compiles
    again, so evaluate within `uncompiled()`. A part that cannot be one graph raises when it is called. backend: of
    torch.compile.
    """
    parts = cast(Callable[[], list[nn.Module]], net.parts)()
    limits = torch._dynamo.config
    # One code for all units: each is a variant of it, and from the 8th on torch would go on uncompiled.
    name = "recompile_limit" if hasattr(limits, "recompile_limit") else "cache_size_limit"
    setattr(limits, name, max(_VARIANTS, getattr(limits, name)))
    for part in parts:
        part.compile(backend=backend, dynamic=False, fullgraph=True)
    return len(parts)


def compiled(function: Function, *, backend: str | Callable[..., Any] = "inductor") -> Function:
    """The same function in one graph, compiled on its first call, gradients included; shapes are constants."""
    return cast(Function, torch.compile(function, backend=backend, dynamic=False, fullgraph=True))


def uncompiled() -> AbstractContextManager[Any]:
    """A block in which compiled parts run as they are written: evaluation has other shapes, which would be compiled.

    Before torch 2.6 there is no such switch, and they are compiled.
    """
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else cast(AbstractContextManager[Any], stance("force_eager"))


# ---------------------------------------------------------------------------------------------------------- CUDA graph


def branches_on_streams(net: nn.Module) -> None:
    """Lets the branches of an HRNet on a GPU overlap in training: for a network that a `GraphedStep` will hold, after
    its copies are made, since streams cannot be copied. Other networks have no branches and stay as they are."""
    device = next(net.parameters()).device
    for unit in getattr(net, "units", list)():
        unit.streams = tuple(torch.cuda.Stream(device) for _ in unit.branches[1:])  # type: ignore[no-untyped-call]


class GraphedStep:
    """A training step as one CUDA graph: `loss = step(batch)`, a tensor on the device, as `work(batch)` gives it.

        step = GraphedStep(work, net, optimizer)
        for batch in loader:                    # as the loader gives it: the copy to the GPU is part of the step
            optim.set_lr(optimizer, lr)         # the learning rate is a tensor: a replay reads its value
            loss = step(batch)

    work must not look at values, and must take from Python what never changes: what it computes there is a constant of
    the graph (a moving average of weights, whose decay grows, belongs after the step). The optimiser must be
    capturable. also: tensors beside the network's and the optimiser's that `work` writes to.

    The first call runs `work` a few times, which leaves everything as it was, and records it. Later batches must have
    the first one's shapes: TrainError says what differs. Gradients are the graph's own; `p.grad` is not for reading.
    """

    def __init__(
        self, work: Work, net: nn.Module, optimizer: torch.optim.Optimizer, *, also: Sequence[Tensor] = ()
    ) -> None:
        device = next(net.parameters()).device
        if device.type != "cuda":
            raise TrainError(f"a CUDA graph of a network on {device.type}", hint="move it to a GPU first")
        self.work, self.net, self.optimizer, self.also, self.device = work, net, optimizer, tuple(also), device
        self.static: Batch | None = None  # where the graph finds its batch
        self.staged: Batch | None = None  # where the next one waits
        self.copier = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.taken = torch.cuda.Event()  # type: ignore[no-untyped-call]  # `staged` was read
        self.graph = torch.cuda.CUDAGraph()
        self.loss: Tensor | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """A step on a batch on the host (pinned: without a wait) or the device; the loss is a copy, free to keep."""
        with torch.cuda.device(self.device):  # torch captures what the current one does, cuda:0 unless told
            if self.static is None:
                static, self.staged = (buffers_like(batch, self.device) for _ in range(2))
                self._record(static)
                self.static = static
            else:
                self._bring(self.static, batch)
            self.graph.replay()
            assert self.loss is not None
            return self.loss.clone()

    def _bring(self, static: Batch, batch: Batch) -> None:
        """From the host, which takes some ms for packed crops, while the step before runs; then a copy on the GPU."""
        assert self.staged is not None
        if batch.images.is_cuda:  # made by what is queued here, for which the copier would not wait
            fill(static, batch)
            return
        here = torch.cuda.current_stream(self.device)
        self.copier.wait_event(self.taken)
        with torch.cuda.stream(self.copier):
            fill(self.staged, batch)
        here.wait_stream(self.copier)
        fill(static, self.staged)
        self.taken.record(here)

    def _record(self, batch: Batch) -> None:
        here = torch.cuda.current_stream(self.device)
        side, own = (torch.cuda.Stream(self.device) for _ in range(2))  # type: ignore[no-untyped-call]
        side.wait_stream(here)
        with torch.cuda.stream(side):
            rehearse(self.work, batch, self.net, self.optimizer, also=self.also)
        here.wait_stream(side)
        # "thread_local": the loader's thread pins memory meanwhile, which "global" takes for a mistake.
        with torch.cuda.graph(self.graph, stream=own, capture_error_mode="thread_local"):
            self.loss = self.work(batch).detach()


def rehearse(
    work: Work,
    batch: Batch,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    also: Sequence[Tensor] = (),
    times: int = WARMUP,
) -> None:
    """Runs a step some times; weights, statistics, the optimiser and `also` are as before, and gradients are gone.

    State that the optimiser made meanwhile stays, as zeros: what Adam and AdamW start from.
    """
    before = [(tensor, tensor.detach().clone()) for tensor in (*_tensors_of(net, optimizer), *also)]
    known = {id(tensor) for tensor, _ in before}
    for _ in range(times):
        work(batch)
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for tensor, value in before:
            tensor.copy_(value)
        for tensor in _tensors_of(net, optimizer):
            if id(tensor) not in known:
                tensor.zero_()


def _tensors_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    yield from net.parameters()
    yield from net.buffers()
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def buffers_like(batch: Batch, device: torch.device | str) -> Batch:
    """A copy of a batch in memory of its own, on a device: where a graph finds its inputs."""
    copies: dict[str, Any] = {name: tensor.to(device, copy=True) for name, tensor in _tensors(batch).items()}
    return replace(batch, **copies)


def fill(static: Batch, batch: Batch) -> None:
    """Copies a batch into the buffers of another. TrainError where their shapes, types or fields differ."""
    old, new = _tensors(static), _tensors(batch)
    differ = sorted(old.keys() ^ new.keys()) or [
        f"{name} {tuple(new[name].shape)} {new[name].dtype}, not {tuple(tensor.shape)} {tensor.dtype}"
        for name, tensor in old.items()
        if (new[name].shape, new[name].dtype) != (tensor.shape, tensor.dtype)
    ]
    if static.fill != batch.fill:
        differ.append(f"fill {batch.fill}, not {static.fill}")
    if differ:
        raise TrainError(
            f"a batch that does not fit the recorded step: {', '.join(differ)}",
            hint="a graph wants every batch alike (drop_last, packed crops of one side), or leave --graph out",
        )
    for name, tensor in old.items():
        tensor.copy_(new[name], non_blocking=True)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    found = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}
