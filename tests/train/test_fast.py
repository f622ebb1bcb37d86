"""Faster execution is the same training: a CUDA graph can hold the whole step, and compiled equals eager."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs kpdata[train]")
pytest.importorskip("cv2", reason="the trainer needs kpdata[train]")
torch.set_num_threads(1)

from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402  (after the skips)
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402  (after the skips)

from kpdata import skeleton  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.errors import TrainError  # noqa: E402
from kpdata.train import fast, narrow, optim  # noqa: E402
from kpdata.train.batch import Batch  # noqa: E402
from kpdata.train.config import Config, SourceConfig  # noqa: E402
from kpdata.train.ledger import Recorder  # noqa: E402
from kpdata.train.losses import heatmap_loss  # noqa: E402
from kpdata.train.models import build  # noqa: E402
from kpdata.train.prepare import policy_table, prepare  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402

SPEC = NetworkSpec("hrnet_tiny", skeleton.load("coco_17"), HeatmapCodec((64, 64)))
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: a CUDA graph needs one")


def batch_of(people: int, seed: int = 0) -> Batch:
    """Packed crops with all that a device may have to do: warp, colour, holes; two sources."""
    rng = np.random.default_rng(seed)
    matrix = np.tile(np.eye(3), (people, 1, 1))
    matrix[:, :2] += rng.normal(0, 0.05, (people, 2, 3))
    colour = np.tile([1.1, 0.9, 1.2, 8.0], (people, 1))
    holes = np.full((people, 2, 4), np.nan)
    holes[:, 0] = 10, 12, 20, 8
    tensors = {
        "images": rng.integers(0, 256, (people, 80, 80, 3), dtype=np.uint8),
        "keypoints": rng.uniform(0, 64, (people, 17, 2)).astype(np.float32),
        "visibility": rng.integers(0, 4, (people, 17)).astype(np.int8), "known": rng.random((people, 17)) < 0.9,
        "source": np.arange(people) % 2, "index": np.arange(people), "epoch": np.zeros(people, np.int64),
        "image_ids": np.arange(people), "annotation_ids": np.arange(people), "crop": matrix,
        "mirrored": np.zeros(people, bool), "matrix": matrix.astype(np.float32),
        "colour": colour.astype(np.float32), "holes": holes.astype(np.float32),
    }  # fmt: skip
    return Batch(**{name: torch.from_numpy(array) for name, array in tensors.items()})


class Training:
    """A whole step as `loop.Loop` makes it: `work(batch)`; ledger, clipping, policies and source weights included."""

    def __init__(self, folder: Path, device: str = "cpu", *, bf16: bool = False, loss: str = "mse") -> None:
        torch.manual_seed(0)
        self.device, self.bf16, self.loss = torch.device(device), bf16, loss
        self.net = build("hrnet_tiny", 17).to(self.device).train()
        self.forward = fast.in_bf16(self.net) if bf16 else self.net
        settings = Config(data=(SourceConfig(folder),), out=folder, lr=1e-3)
        self.optimizer = optim.make_optimizer(self.net, settings, self.device)
        self.policies = policy_table([("target", "ignore"), ("ignore", "negative")]).to(self.device)
        self.source_weights = torch.tensor([1.0, 0.5], device=self.device)
        ids = np.arange(100)
        self.recorder = Recorder(folder, ids, ids, SPEC.skeleton.keypoint_names, self.device)

    def work(self, batch: Batch) -> Any:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(batch)
        optim.clip(self.net, 1.0)
        self.optimizer.step()
        return loss.detach()

    def backward(self, batch: Batch) -> Any:
        images, targets, weights = prepare(batch, SPEC, self.policies)
        maps = self.forward(images)
        loss, errors = heatmap_loss(
            maps, targets, weights, kind=self.loss, known=batch.known, source=batch.source,  # type: ignore[arg-type]
            source_weights=self.source_weights,
        )  # fmt: skip
        loss.backward()
        self.recorder.record(batch.index, errors)
        return loss

    def values(self) -> list[Any]:
        """All that training changes."""
        state = [v for s in self.optimizer.state.values() for v in s.values()]
        return [t.detach().clone() for t in (*self.net.parameters(), *self.net.buffers(), *state, self.recorder.losses)]


# ------------------------------------------------------------------------------------------------- ready for a capture


class NoWaiting(TorchDispatchMode):
    """Fails on values that are read back, shapes that depend on values, tensors of Python values, moves to devices."""

    FORBIDDEN = (
        "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_static", "masked_select", "unique",
        "_unique2", "unique_dim", "bincount", "repeat_interleave", "lift_fresh", "lift_fresh_copy", "_assert_async",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.FORBIDDEN, f"{func} makes the host wait, or comes from it"
        if name == "_to_copy":
            assert (kwargs or {}).get("device") in (None, args[0].device), f"{func} moves"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), f"{func} by bool looks for the True ones"
        made = func(*args, **(kwargs or {}))
        self.shapes.append((str(func), tuple(made.shape) if isinstance(made, torch.Tensor) else None))
        return made


@pytest.mark.parametrize(("bf16", "loss"), [(False, "mse"), (True, "ohkm")])
def test_a_whole_step_can_be_captured(tmp_path: Path, bf16: bool, loss: str) -> None:
    """From the packed crop to the optimiser nothing waits, comes from the host or has a shape that depends on values:
    people without labels, or with all of them, make the same calls in the same shapes."""
    training = Training(tmp_path, bf16=bf16, loss=loss)
    training.work(batch_of(2))  # the optimiser makes its state in its first step
    seen = []
    for seed, visibility in ((1, 0), (2, 2)):
        batch = batch_of(2, seed)
        batch = replace(batch, visibility=torch.full_like(batch.visibility, visibility))
        with NoWaiting() as watched:
            training.work(batch)
        seen.append(watched.shapes)
    assert len(seen[0]) > 500
    assert seen[0] == seen[1]
    assert any("_fused_adam" in name for name, _ in seen[0])


def test_nothing_of_the_step_is_on_another_device(tmp_path: Path) -> None:
    """On the meta device, where no value exists, the step runs up to the gradients: a host tensor in it would fail."""
    training = Training(tmp_path)
    training.device = torch.device("meta")
    training.net = training.net.to("meta")
    training.policies, training.source_weights = training.policies.to("meta"), training.source_weights.to("meta")
    training.recorder.losses = training.recorder.losses.to("meta")
    loss = training.backward(fast.buffers_like(batch_of(2), "meta"))
    assert loss.device.type == "meta"
    assert all(p.grad.device.type == "meta" for p in training.net.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        loss.item()


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x * torch.tensor([1.0, 2.0]),
        lambda x: x.to("meta"),
    ],
)
def test_the_watch_would_notice(work: Any) -> None:
    """Each thing that a capture cannot hold is found."""
    x = torch.ones(2)
    with pytest.raises(AssertionError), NoWaiting():
        work(x)


def test_a_rehearsal_leaves_no_trace(tmp_path: Path) -> None:
    """Warm-up steps before a capture, at the start and in the middle, change no bit of the training."""
    plain, rehearsed = Training(tmp_path), Training(tmp_path)
    for step in range(3):
        batch = batch_of(2, step)
        if step != 1:
            also = [rehearsed.recorder.losses]
            fast.rehearse(rehearsed.work, batch_of(2, 9), rehearsed.net, rehearsed.optimizer, also=also, times=2)
            assert all(p.grad is None for p in rehearsed.net.parameters())
        assert torch.equal(plain.work(batch), rehearsed.work(batch))
    pairs = list(zip(plain.values(), rehearsed.values(), strict=True))
    assert len(pairs) > 100
    assert all(torch.equal(a, b) or torch.equal(a.isnan(), b.isnan()) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(Training(tmp_path).values(), plain.values(), strict=False))


# ------------------------------------------------------------------------------------------------------ static buffers


def test_buffers_take_batches_of_one_shape() -> None:
    """The buffers are the graph's own and take every field of another batch; another shape is refused by its name."""
    first, second = batch_of(3, 1), batch_of(3, 2)
    static = fast.buffers_like(first, "cpu")
    place = static.images.data_ptr()
    assert place != first.images.data_ptr()
    fast.fill(static, second)
    assert static.images.data_ptr() == place
    for name in ("images", "keypoints", "visibility", "index", "matrix", "holes"):
        np.testing.assert_array_equal(getattr(static, name), getattr(second, name))
    with pytest.raises(TrainError, match=r"images \(2, 80, 80, 3\) torch.uint8, not \(3, 80, 80, 3\)"):
        fast.fill(static, batch_of(2))
    with pytest.raises(TrainError, match="colour"):
        fast.fill(static, replace(second, colour=None))
    with pytest.raises(TrainError, match=r"fill \(9, 9, 9\)"):
        fast.fill(static, replace(second, fill=(9, 9, 9)))


# ---------------------------------------------------------------------------------------------------------------- bf16


def test_weights_cast_at_once_are_autocasts(tmp_path: Path) -> None:
    """Maps, gradients and running statistics are autocast's, to the bit; weights stay fp32."""
    plain, ours = Training(tmp_path), Training(tmp_path, bf16=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain.net(images)
    found = ours.forward(images)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    found.float().square().sum().backward()
    expected.float().square().sum().backward()
    for one, other in zip(ours.net.parameters(), plain.net.parameters(), strict=True):
        assert one.dtype == one.grad.dtype == torch.float32
        assert torch.equal(one.grad, other.grad)
    assert all(torch.equal(a, b) for a, b in zip(ours.net.buffers(), plain.net.buffers(), strict=True))


def test_short_weights_live_until_all_gradients_are_there() -> None:
    """What one layer is through with may still be read on another stream: no copy is freed before the last gradient,
    and none stays."""
    weights = [torch.randn(3, requires_grad=True) for _ in range(2)]
    first, second = fast._AllAtOnce.apply(*weights)
    copy, seen = StorageWeakRef(second.untyped_storage()), []
    middle = torch.randn(3, dtype=torch.bfloat16) * first
    middle.register_hook(lambda gradient: seen.append(copy.expired()))  # the second layer is through
    loss = (middle * second).sum()
    del second, first, middle
    loss.backward()
    assert seen == [False]
    assert copy.expired()
    assert all(w.grad is not None for w in weights)


# ---------------------------------------------------------------------------------------------------------- compiling


@pytest.mark.parametrize("bf16", [False, True])
def test_compiled_parts_are_the_network(tmp_path: Path, bf16: bool) -> None:
    """Every part becomes graphs, once; losses and weights are those of the network as it is written;
    evaluation at another batch size compiles nothing; state dict and copies keep their names."""
    from torch._dynamo.backends.debugging import aot_eager

    graphs = []

    def counted(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    torch._dynamo.reset()
    plain, compiled = Training(tmp_path, bf16=bf16), Training(tmp_path, bf16=bf16)
    names = list(compiled.net.state_dict())
    parts = fast.compile_parts(compiled.net, backend=counted)
    assert parts == 2 + (2 + 1 + 1) + (2 + 3 + 4) + (2 + 3 + 1)  # stem and layer1, new branches, branches, exchanges
    made = []
    for seed in range(2):
        a, b = (training.work(batch_of(2, seed)) for training in (plain, compiled))
        assert a.item() == pytest.approx(b.item(), rel=2e-2 if bf16 else 1e-5)
        made.append(len(graphs))
    assert made[0] > parts // 2  # exchanges of one shape share theirs
    assert made[1] == made[0]
    for a, b in zip(plain.values(), compiled.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=5e-3 if bf16 else 1e-4, equal_nan=True)
    with fast.uncompiled(), torch.no_grad():
        images = torch.rand(3, 3, 64, 64)
        torch.testing.assert_close(compiled.net.eval()(images), plain.net.eval()(images), rtol=1e-3, atol=5e-3)
    assert len(graphs) == made[0]
    assert list(compiled.net.state_dict()) == names


# -------------------------------------------------------------------------------------------------------------- errors


def test_options_that_cannot_be_had_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No option is accepted and ignored: the words say what is missing and what to do."""
    plain = Config(data=(SourceConfig(tmp_path),), out=tmp_path)
    fast.check(plain, torch.device("cpu"))
    graph = replace(plain, graph=True)
    fast.check(graph, torch.device("cuda"))
    for config, device, world, words in (
        (graph, "cpu", 1, "graph is a CUDA graph, and this training runs on cpu"),
        (replace(graph, accumulate=2), "cuda", 1, "one batch, accumulate is 2"),
        (graph, "cuda", 2, "for one process, there are 2"),
    ):
        with pytest.raises(TrainError, match=words):
            fast.check(config, torch.device(device), world)
    monkeypatch.setattr(fast.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(TrainError, match=r"C\+\+ compiler"):
        fast.check(replace(plain, compile=True), torch.device("cpu"))
    monkeypatch.setenv("CXX", "g++")
    monkeypatch.setattr(fast.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainError, match="Triton"):
        fast.check(replace(plain, compile=True), torch.device("cuda"))
    net = build("hrnet_tiny", 17)
    with pytest.raises(TrainError, match="CUDA graph of a network on cpu"):
        fast.GraphedStep(lambda batch: batch.images.sum(), net, torch.optim.Adam(net.parameters()))


@pytest.mark.parametrize(("loss", "backend"), [("mse", "aot_eager"), ("ohkm", "aot_eager"), ("mse", "inductor")])
def test_what_stands_around_the_network_compiles(tmp_path: Path, loss: Any, backend: str) -> None:
    """Preparing a batch with all that a device may have to do, and the loss with its gradient, are one graph each, with
    the numbers of the functions as they are written; but for whole values of pixels that rounding makes the next."""
    if backend == "inductor" and not any(map(shutil.which, fast._COMPILERS)):
        pytest.skip("no C++ compiler here")
    batch, policies = batch_of(3, 1), policy_table([("target", "ignore"), ("ignore", "negative")])
    prepared = prepare(batch, SPEC, policies)
    images, *others = fast.compiled(prepare, backend=backend)(batch, SPEC, policies)
    off = (images - prepared[0]).abs()
    assert float((off > 1e-3).float().mean()) < 1e-3 and float(off.max()) < 2.01 / 255 / min(SPEC.std)
    for one, other in zip(others, prepared[1:], strict=True):
        torch.testing.assert_close(one, other)
    outcomes = []
    for function in (heatmap_loss, fast.compiled(heatmap_loss, backend=backend)):
        maps = torch.rand(prepared[1].shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
        total, each = function(maps, *prepared[1:], kind=loss, known=batch.known)
        outcomes.append([total, each, *torch.autograd.grad(total, maps)])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize(("model", "count"), [("hrnet_w32", 64), ("hrnet_w48", 0), ("pose_resnet_50", 0)])
def test_narrow_convolutions_are_those_of_32_channels(model: str, count: int) -> None:
    """All of the finest branch of W32: 2 in each of 4 blocks of 8 units."""
    with torch.device("meta"):
        found = [module for module in build(model, 17).modules() if isinstance(module, torch.nn.Conv2d)]
    assert sum(map(narrow.is_narrow, found)) == count


def test_narrow_convolutions_stay_torchs_on_a_cpu() -> None:
    """Without a GPU nothing is replaced; and one that was, as in a copy of a network, gives what it gave."""
    net = build("hrnet_tiny", 17)
    assert narrow.replace(net) == 0
    assert not any(isinstance(module, narrow.Convolution) for module in net.modules())
    plain = torch.nn.Conv2d(32, 32, 3, padding=1, bias=False)
    replaced = copy.deepcopy(plain)
    replaced.__class__ = narrow.Convolution
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.rand(2, 32, 8, 8, dtype=dtype)
        assert torch.equal(replaced.to(dtype)(x), plain.to(dtype)(x))


def test_narrow_convolutions_need_what_compiles_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older GPU, an older torch, no CUDA toolkit, no setuptools: torch's convolutions stay, nothing is raised."""
    asked, answers = [], [OSError("CUDA_HOME environment variable is not set"), ModuleNotFoundError("setuptools"), None]

    def compiler(source: str, name: str) -> Any:
        asked.append((source.count("__global__"), name))
        if answer := answers[len(asked) - 1]:
            raise answer
        return object()  # torch 2.8 and 2.9: a kernel that cannot have more memory

    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Block(232_448))
    monkeypatch.setattr(torch.cuda, "_compile_kernel", compiler, raising=False)
    assert not any(narrow._compiles(gpu) for _ in answers)
    assert asked == [(3, "convolve")] * 3
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert not narrow._compiles(gpu)
    monkeypatch.delattr(torch.cuda, "_compile_kernel")
    assert not narrow._compiles(gpu) and len(asked) == 3


@dataclass(frozen=True)
class Block:
    """What a GPU is asked for."""

    shared_memory_per_block_optin: int


@pytest.mark.parametrize(("limit", "widest"), [(232_448, 296), (101_376, 128), (20_000, 0)])
def test_narrow_convolutions_have_room(monkeypatch: pytest.MonkeyPatch, limit: int, widest: int) -> None:
    """Of an H100 and of the newest GPUs for desktops: every width that is taken has a band that fits."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Block(limit))
    assert narrow._widest(limit) == widest
    for width in range(8, widest + 1, 8):
        for needed in (narrow._for_maps, narrow._for_weights):
            band, memory = narrow._band(needed, torch.empty(1, 32, 8, width, device="meta"))
            assert memory == needed(band, width) <= limit
            places = np.arange((band + 2) * width)
            assert ((places * narrow._inverse(width) >> 32) == places // width).all()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_narrow_convolutions_are_known_to_compilers(layout: Any) -> None:
    """Shapes, types and layout of output and gradients without any data: bf16 in NHWC, as the kernels write."""
    x, weight = (torch.empty(shape, device="meta", dtype=torch.bfloat16) for shape in ((2, 32, 5, 24), (32, 32, 3, 3)))
    x, weight = (tensor.to(memory_format=layout).requires_grad_() for tensor in (x, weight))
    y = narrow.convolve(x, weight)
    for one, other in zip((y, *torch.autograd.grad(y.sum(), (x, weight))), (x, x, weight), strict=True):
        assert (one.shape, one.dtype) == (other.shape, torch.bfloat16)
        assert one.is_contiguous(memory_format=torch.channels_last)


# --------------------------------------------------------------------------------------------------------- on a GPU


@pytest.fixture
def exact() -> Iterator[None]:
    """Convolutions of whole fp32 that add in one order: what two executions can be compared by."""
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with flags:
        yield


@ON_GPU
@pytest.mark.parametrize("bf16", [False, True])
def test_graph_equals_eager(tmp_path: Path, bf16: bool, exact: None) -> None:
    """Ten steps with a changing learning rate, recorded with branches side by side or not: the same losses, weights,
    statistics and ledger."""
    eager, graphed = Training(tmp_path, "cuda", bf16=bf16), Training(tmp_path, "cuda", bf16=bf16)
    fast.branches_on_streams(graphed.net)
    step = fast.GraphedStep(graphed.work, graphed.net, graphed.optimizer, also=[graphed.recorder.losses])
    for seed in range(10):
        batch = batch_of(4, seed).pin_memory()
        for training in (eager, graphed):
            optim.set_lr(training.optimizer, 1e-3 / (seed + 1))
        there = batch.to("cuda")
        a, b = eager.work(there), step(there if seed % 3 == 2 else batch)
        torch.testing.assert_close(a, b, rtol=1e-2 if bf16 else 1e-3, atol=1e-6)
    # Adam turns the sign of a gradient that is nearly 0 into a whole step, so that weights are compared all together.
    start = list(Training(tmp_path, "cuda").net.parameters())
    ends = [list(training.net.parameters()) for training in (eager, graphed)]
    assert _distance(ends[0], ends[1]) < (0.5 if bf16 else 0.2) * _distance(ends[0], start)


def _distance(one: list[Any], other: list[Any]) -> float:
    with torch.no_grad():
        return float(sum((a - b).square().sum() for a, b in zip(one, other, strict=True)) ** 0.5)


@ON_GPU
@pytest.mark.parametrize(
    "shape",
    [
        (3, 64, 48),
        (5, 96, 72),
        (300, 16, 16),
        (2, 20, 56),
        (1, 2, 8),
        (3, 5, 24),
        (1, 7, 8),
        (2, 33, 128),
        (1, 5, 296),
    ],
)
def test_narrow_convolutions_equal_float64(shape: tuple[int, int, int]) -> None:
    """Output and both gradients are those of float64, rounded to bf16, as cuDNN's are; and the same each time."""
    torch.manual_seed(1)
    people, height, width = shape
    x = torch.randn(people, 32, height, width, device="cuda").bfloat16().to(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(32, 32, 3, padding=1, bias=False, device="cuda").bfloat16()
    net = torch.nn.Sequential(conv)
    assert narrow.replace(net) == 1
    torch.library.opcheck(narrow.convolve, (x[:2], conv.weight), test_utils=("test_schema", "test_faketensor"))
    gradient = torch.randn_like(x)

    def outcome(x: Any, weight: Any, forward: Any) -> list[Any]:
        x, weight = x.clone().requires_grad_(), weight.detach().clone().requires_grad_()
        y = forward(x, weight)
        return [y, *torch.autograd.grad(y, (x, weight), gradient.to(y.dtype))]

    def ours(x: Any, weight: Any) -> Any:
        return torch.func.functional_call(net, {"0.weight": weight}, (x,))

    def exact(x: Any, weight: Any) -> Any:
        return torch.nn.functional.conv2d(x, weight, padding=1)

    found, again = outcome(x, conv.weight, ours), outcome(x, conv.weight, ours)
    for one, other, wanted in zip(found, again, outcome(x.double(), conv.weight.double(), exact), strict=True):
        assert torch.equal(one, other)
        assert float((one - wanted).norm()) < 2e-3 * float(wanted.norm())  # bf16 has 8 bits: up to 2^-9 of each value


@ON_GPU
def test_branches_on_streams_give_the_same(tmp_path: Path, exact: None) -> None:
    """Side by side or one after the other: maps and gradients of five batches in a row, freed and made anew."""
    plain, spread = Training(tmp_path, "cuda"), Training(tmp_path, "cuda")
    fast.branches_on_streams(spread.net)
    for seed in range(5):
        losses = [training.backward(batch_of(4, seed).to("cuda")) for training in (plain, spread)]
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-7)
    for one, other in zip(plain.net.parameters(), spread.net.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)


@ON_GPU
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_graph_of_compiled_parts(tmp_path: Path, backend: str, exact: None) -> None:
    """All combine: compiled parts, bf16, streams and a graph."""
    eager, both = Training(tmp_path, "cuda", bf16=True), Training(tmp_path, "cuda", bf16=True)
    fast.compile_parts(both.net, backend=backend)
    fast.branches_on_streams(both.net)
    assert narrow.replace(both.net) > 0
    step = fast.GraphedStep(both.work, both.net, both.optimizer, also=[both.recorder.losses])
    for seed in range(3):
        batch = batch_of(4, seed)
        torch.testing.assert_close(eager.work(batch.to("cuda")), step(batch), rtol=2e-2, atol=1e-6)
