"""HRNet: the official names, shapes and numbers, from files of another implementation; and its words for bad input."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs kpdata[train]")
torch.set_num_threads(1)

from torch import nn  # noqa: E402  (after the skip)

from kpdata.errors import TrainError  # noqa: E402
from kpdata.train import hrnet  # noqa: E402
from kpdata.train.models import MODELS, build  # noqa: E402
from tests.train import reference  # noqa: E402

# Of trainer.md's table and the papers: names and parameters with 17 keypoints.
PARAMETERS = {
    "hrnet_w32": 28_536_113, "hrnet_w48": 63_595_745, "pose_resnet_50": 33_999_697, "pose_resnet_101": 52_991_825,
    "pose_resnet_152": 68_635_473,
}  # fmt: skip


@pytest.mark.parametrize("model", PARAMETERS)
def test_parameters_are_the_published_number(model: str) -> None:
    """Each published network has as many parameters as its authors say."""
    with torch.device("meta"):
        net = build(model, 17)

    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[model]


@pytest.mark.parametrize("model", reference.KEYS)
def test_state_dict_is_the_official_one(model: str, real_data: Path) -> None:
    """Names, shapes and types of the state dict, in order, are those of the official code."""
    expected = json.loads(reference.reference_file(real_data, f"{reference.KEYS[model]}.json").read_text())["keys"]
    with torch.device("meta"):
        net = build(model, 17)

    found = [[name, list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in net.state_dict().items()]

    assert found == expected


@pytest.mark.parametrize("model", ["hrnet_w32", "hrnet_w48", "pose_resnet_50"])
def test_numbers_are_the_official_ones(model: str, real_data: Path) -> None:
    """float64 outputs, mid-network values, losses, gradients and running statistics equal the official network's.

    All but sums of values were equal to the last bit where this was written; the tolerance is for other processors.
    """
    ref = reference.numbers(real_data, model)
    net = build(model, 17)
    net.load_state_dict(reference.weights(net))
    net = net.double().eval()

    check_outputs(net, ref, ["1x3x64x64", "2x3x96x64"] if model == "hrnet_w32" else ["1x3x64x64"])
    check_training(net, ref)


def check_outputs(net: nn.Module, ref: dict[str, np.ndarray], sizes: list[str]) -> None:
    for size in sizes:
        values = {name.split("/", 1)[1]: value for name, value in ref.items() if name.startswith(f"tap_{size}/")}
        found = reference.taps(net, sorted({name.split("/")[0] for name in values}))
        with torch.no_grad():
            maps = net(reference.images(tuple(int(side) for side in size.split("x"))))
        np.testing.assert_allclose(maps.numpy(), ref[f"eval_f64_{size}"], rtol=0, atol=1e-10)
        assert values
        for name, value in values.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-10, err_msg=name)


def check_training(net: nn.Module, ref: dict[str, np.ndarray]) -> None:
    maps = net.train()(reference.images((2, 3, 64, 64)))
    target, weight = reference.targets(tuple(maps.shape)), torch.from_numpy(ref["train_f64_target_weight"])
    loss = reference.mse(maps, target, weight)
    loss.backward()
    np.testing.assert_allclose(maps.detach().numpy(), ref["train_f64_out"], rtol=0, atol=1e-10)
    assert loss.item() == pytest.approx(float(ref["train_f64_loss"]), rel=1e-12)
    hard = reference.ohkm(maps.detach(), target, weight)
    assert hard.item() == pytest.approx(float(ref["train_f64_loss_ohkm8"]), rel=1e-12)
    parameters, state = dict(net.named_parameters()), net.state_dict()
    assert list(parameters) == ref["grad_names"].tolist()
    norms = [parameters[name].grad.norm().item() for name in ref["grad_names"]]
    np.testing.assert_allclose(norms, ref["grad_norm_sum"][:, 0], rtol=1e-9)
    sums = [state[name].sum().item() for name in ref["bn_after_names"]]
    np.testing.assert_allclose(sums, ref["bn_after_sum"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", ["hrnet_w32", "hrnet_tiny", "pose_resnet_50"])
def test_heatmaps_are_a_quarter_of_the_input(model: str) -> None:
    """Any number of keypoints, any size that 32 divides: (B, 3, H, W) -> (B, K, H/4, W/4)."""
    net = build(model, 5).eval()

    with torch.no_grad():
        assert net(torch.zeros(2, 3, 64, 96)).shape == (2, 5, 16, 24)


@pytest.mark.parametrize("model", ["hrnet_tiny", "pose_resnet_50"])
@pytest.mark.parametrize("shape", [(1, 3, 64, 48), (1, 4, 64, 64), (3, 64, 64)])
def test_other_sizes_are_refused_in_words(model: str, shape: tuple[int, ...]) -> None:
    """A size that 32 does not divide is told in a sentence, not by a mismatch deep in the network."""
    net = build(model, 5)

    with pytest.raises(TrainError, match="with H and W that 32 divides"):
        net(torch.zeros(shape))


@pytest.mark.parametrize("model", ["hrnet_tiny", "pose_resnet_50"])
def test_it_starts_as_the_official_code_does(model: str) -> None:
    """Every convolution N(0, 0.001), biases 0, batch normalisation 1 and 0."""
    torch.manual_seed(0)
    net = build(model, 17)

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            spread = 4 * 0.001 / (2 * module.weight.numel()) ** 0.5  # four standard errors of a standard deviation
            assert module.weight.std().item() == pytest.approx(0.001, abs=spread)
            assert module.bias is None or not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


def test_batch_normalisation_is_that_of_torch() -> None:
    """Outputs and running statistics equal torch's own, to the last bit; only the counter stands still."""
    ours, theirs = hrnet.BatchNorm(4), nn.BatchNorm2d(4)
    for step in range(3):
        x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(step))
        assert torch.equal(ours(x), theirs(x))
    ours.eval(), theirs.eval()

    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_mean, theirs.running_mean)
    assert torch.equal(ours.running_var, theirs.running_var)
    assert (ours.num_batches_tracked, theirs.num_batches_tracked) == (0, 3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("times", [1, 2, 8])
def test_adding_a_coarse_map_is_upsampling(layout: torch.memory_format, times: int) -> None:
    """`add` is `nn.Upsample` and a sum: to the bit, in the layout of the fine map; its gradients too."""
    generator = torch.Generator().manual_seed(0)
    fine = torch.randn(2, 5, 16, 24, generator=generator).to(memory_format=layout).requires_grad_()
    coarse = torch.randn(2, 5, 16 // times, 24 // times, generator=generator).to(memory_format=layout).requires_grad_()
    weights = torch.randn(2, 5, 16, 24, generator=generator)

    found = hrnet.add(fine, coarse)
    expected = fine + nn.Upsample(scale_factor=times, mode="nearest")(coarse)

    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=layout)
    gradients = [torch.autograd.grad((y * weights).sum(), (fine, coarse)) for y in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_batches_are_counted_when_asked() -> None:
    """`count_batches` gives the counters that torch's own layers would have."""
    net = build("hrnet_tiny", 3)

    hrnet.count_batches(net, 7)
    hrnet.count_batches(net, 2)

    counters = [value for name, value in net.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counters and all(counter == 9 for counter in counters)


def test_the_tiny_net_is_small() -> None:
    """The net for tests and trials has less than a twentieth of W32's parameters, and every part of it."""
    tiny, full = build("hrnet_tiny", 17), build("hrnet_w32", 17)

    assert 20 * sum(p.numel() for p in tiny.parameters()) < sum(p.numel() for p in full.parameters())
    assert [name for name, _ in tiny.named_children()] == [name for name, _ in full.named_children()]


def test_parts_hold_most_of_the_net() -> None:
    """The parts to compile one by one are disjoint, and hold most of the parameters of each network."""
    for model in MODELS:
        with torch.device("meta"):
            net = build(model, 17)
        inside = [id(p) for part in net.parts() for p in part.parameters()]
        assert len(inside) == len(set(inside))
        numbers = {id(p): p.numel() for p in net.parameters()}
        assert sum(numbers[i] for i in inside) > 0.8 * sum(numbers.values())


def test_an_unknown_name_is_told() -> None:
    """A wrong name is answered with the close one; zero keypoints are refused."""
    with pytest.raises(TrainError, match="did you mean hrnet_w32"):
        build("hrnet_w23", 17)
    with pytest.raises(TrainError, match="expected at least 1"):
        build("hrnet_tiny", 0)


def test_the_stem_of_a_copy_is_the_copys() -> None:
    """The stem's layers are the network's own, once: moved, cast and copied with it, and named once in its state."""
    net = build("hrnet_tiny", 3)
    other = copy.deepcopy(net).double()
    for one in (net, other):
        layers = (one.conv1, one.bn1, one.conv2, one.bn2)
        own = [id(p) for layer in layers for p in layer.parameters()]
        assert [id(p) for p in one.parts()[0].parameters()] == own
    assert next(other.parts()[0].parameters()).dtype == torch.float64
    with torch.no_grad():
        other.conv1.weight.zero_()
        assert float(net.conv1.weight.abs().max()) > 0
    names = list(net.state_dict())
    assert len(names) == len(set(names)) and not [name for name in names if "stem" in name]
    assert len({id(p) for p in net.parameters()}) == len(list(net.parameters()))
