"""The losses are the published ones, and masks, sources and names weigh as the module says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from kpdata.errors import TrainError  # noqa: E402
from kpdata.train.losses import heatmap_loss  # noqa: E402

torch.set_num_threads(1)


def case(seed: int = 0, people: int = 5, keypoints: int = 11, size: tuple[int, int] = (12, 8)) -> tuple[Any, Any, Any]:
    """Maps of a network, targets, 0/1 weights."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(people, keypoints, *size, generator=generator, dtype=torch.float64)
    targets = torch.rand(people, keypoints, *size, generator=generator, dtype=torch.float64)
    return maps, targets, (torch.rand(people, keypoints, generator=generator) < 0.7).float()


def joints_mse(maps: Any, targets: Any, weights: Any) -> float:
    """The published loss: keypoint by keypoint half the mean over people and cells, then the mean of those."""
    total = 0.0
    for k in range(maps.shape[1]):
        weight = weights[:, k].numpy().reshape(-1, 1, 1)
        total += 0.5 * np.mean((maps[:, k].numpy() * weight - targets[:, k].numpy() * weight) ** 2)
    return float(total / maps.shape[1])


def joints_ohkm(maps: Any, targets: Any, weights: Any, hard: int) -> float:
    """The published loss of the hardest keypoints, person by person."""
    total = 0.0
    for b in range(len(maps)):
        errors = []
        for k in range(maps.shape[1]):
            w = float(weights[b, k])
            errors.append(0.5 * np.mean((maps[b, k].numpy() * w - targets[b, k].numpy() * w) ** 2))
        total += sum(sorted(errors)[-hard:]) / hard
    return total / len(maps)


@pytest.mark.parametrize("seed", range(4))
def test_mse_is_the_published_loss(seed: int) -> None:
    """One source that knows all keypoints: JointsMSELoss, also with weights that are not 0 or 1."""
    maps, targets, weights = case(seed)
    for w in (weights, weights * torch.tensor([1.2, 1.5, *[1.0] * 9])):
        known = torch.ones_like(w, dtype=torch.bool)
        expected = pytest.approx(joints_mse(maps, targets, w), rel=1e-6)
        assert heatmap_loss(maps, targets, w)[0].item() == expected
        assert heatmap_loss(maps, targets, w, known=known)[0].item() == expected


@pytest.mark.parametrize("hard", [1, 4, 8, 11])
def test_ohkm_is_the_published_loss(hard: int) -> None:
    """JointsOHKMMSELoss, also where fewer keypoints are labelled than are asked for."""
    maps, targets, weights = case(1)
    weights[0, 2:] = 0
    expected = pytest.approx(joints_ohkm(maps, targets, weights, hard), rel=1e-6)
    assert heatmap_loss(maps, targets, weights, kind="ohkm", hard=hard)[0].item() == expected
    known = torch.ones_like(weights, dtype=torch.bool)
    assert heatmap_loss(maps, targets, weights, kind="ohkm", hard=hard, known=known)[0].item() == expected


def test_gradients_are_those_of_the_published_loss() -> None:
    """The fused expression has the gradient of the loop; OHKM's is 0 but at the hardest."""
    maps, targets, weights = case(2)
    loop, fused = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    sum(0.5 * ((loop[:, k] - targets[:, k]) * weights[:, k, None, None]).square().mean() for k in range(11)).div(
        11
    ).backward()
    heatmap_loss(fused, targets, weights)[0].backward()
    torch.testing.assert_close(fused.grad, loop.grad, rtol=1e-5, atol=1e-9)
    fused.grad = None
    heatmap_loss(fused, targets, weights, kind="ohkm", hard=3)[0].backward()
    assert ((fused.grad.abs().sum((2, 3)) > 0).sum(1) == 3).all()


def test_keypoint_weights_multiply_the_labels_weights() -> None:
    """As published, a keypoint's weight of 1.5 counts 1.5 squared."""
    maps, targets, weights = case(3)
    names = torch.linspace(0.5, 1.5, 11)
    loss, _ = heatmap_loss(maps, targets, weights, keypoint_weights=names)
    assert loss.item() == pytest.approx(joints_mse(maps, targets, weights * names), rel=1e-6)


@pytest.mark.parametrize("kind", ["mse", "ohkm"])
def test_a_small_source_is_not_drowned(kind: Any) -> None:
    """On the union a person has the loss that it has on its own skeleton: what the unknown columns hold is nothing."""
    maps, targets, weights = case(4, people=4)
    known = torch.ones(4, 11, dtype=torch.bool)
    known[2:, 6:] = False
    loss, each = heatmap_loss(maps, targets, weights, kind=kind, hard=8, known=known)
    whole = heatmap_loss(maps[:2], targets[:2], weights[:2], kind=kind, hard=8)[0]
    small = heatmap_loss(maps[2:, :6], targets[2:, :6], weights[2:, :6], kind=kind, hard=min(8, 6))[0]
    assert loss.item() == pytest.approx((whole.item() + small.item()) / 2, rel=1e-6)
    assert each[2:, 6:].isnan().all()


def test_sources_weigh_as_they_are_told() -> None:
    """A source's weight multiplies its people's losses, and holds where the source is alone in the batch."""
    maps, targets, weights = case(5, people=4)
    source, of_sources = torch.tensor([0, 2, 2, 0]), torch.tensor([1.0, 7.0, 0.25])
    loss, _ = heatmap_loss(maps, targets, weights, source=source, source_weights=of_sources)
    alone = [heatmap_loss(maps[b : b + 1], targets[b : b + 1], weights[b : b + 1])[0].item() for b in range(4)]
    assert loss.item() == pytest.approx((alone[0] + 0.25 * alone[1] + 0.25 * alone[2] + alone[3]) / 4, rel=1e-6)
    one = heatmap_loss(maps[1:2], targets[1:2], weights[1:2], source=source[1:2], source_weights=of_sources)[0]
    assert one.item() == pytest.approx(0.25 * alone[1], rel=1e-6)


@pytest.mark.parametrize("kind", ["mse", "ohkm"])
def test_a_batch_is_the_mean_of_its_halves(kind: Any) -> None:
    """Accumulation and several GPUs change nothing, whatever masks and sources the halves have."""
    maps, targets, weights = case(6, people=6)
    options = {"known": torch.rand(6, 11) < 0.6, "source": torch.tensor([0, 1, 1, 0, 0, 0])}
    options["known"][4] = False

    def loss(part: slice) -> float:
        rows = {name: value[part] for name, value in options.items()}
        call = heatmap_loss(maps[part], targets[part], weights[part], kind=kind, **rows, source_weights=of_sources)
        return float(call[0])

    of_sources = torch.tensor([1.0, 0.3])
    assert loss(slice(0, 6)) == pytest.approx((loss(slice(0, 3)) + loss(slice(3, 6))) / 2, rel=1e-6)


def test_the_errors_for_records() -> None:
    """Half the mean squared error of each labelled keypoint, without weights of names and sources; else NaN."""
    maps, targets, weights = case(7)
    maps.requires_grad_()
    extra = {"keypoint_weights": torch.full((11,), 3.0), "source": torch.zeros(5, dtype=torch.long)}
    loss, each = heatmap_loss(maps, targets, weights, **extra, source_weights=torch.tensor([0.5]))
    assert loss.requires_grad and loss.shape == () and not each.requires_grad
    expected = 0.5 * np.square(maps.detach().numpy() - targets.numpy()).mean((2, 3))
    np.testing.assert_allclose(each.numpy(), np.where(weights.numpy() == 0, np.nan, expected), rtol=1e-5)


def test_no_label_at_all() -> None:
    """People without a label, or of a source that knows no keypoint, cost 0 and are no reason for NaN."""
    maps, targets, weights = case(8)
    nothing = torch.zeros_like(weights)
    assert heatmap_loss(maps, targets, nothing)[0].item() == 0
    assert heatmap_loss(maps, targets, weights, known=nothing.bool())[0].item() == 0


def test_float32_under_autocast() -> None:
    """Maps in bfloat16 are compared in float32: the loss is that of the maps, not of rounded differences."""
    maps, targets, weights = case(9)
    short = maps.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, each = heatmap_loss(short, targets.float(), weights)
    assert loss.dtype == each.dtype == torch.float32
    assert loss.item() == pytest.approx(joints_mse(short.double(), targets, weights), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": torch.zeros(2, 3, 4, 5)}, r"maps \(2, 3, 4, 4\), targets \(2, 3, 4, 5\)"),
        ({"weights": torch.ones(2, 4)}, r"weights \(2, 4\)"),
        ({"kind": "l1"}, "'l1', expected 'mse' or 'ohkm'"),
        ({"kind": "ohkm"}, "the 8 hardest keypoints, expected 1 to 3"),
        ({"source": torch.zeros(2, dtype=torch.long)}, "only one of source and source_weights"),
    ],
)
def test_bad_calls_say_what_does_not_fit(change: dict[str, Any], words: str) -> None:
    """A TrainError names the shapes, or the values that are possible."""
    call = {"maps": torch.zeros(2, 3, 4, 4), "targets": torch.zeros(2, 3, 4, 4), "weights": torch.ones(2, 3), **change}
    with pytest.raises(TrainError, match=words):
        heatmap_loss(**call)
