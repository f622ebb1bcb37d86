"""Learning rates, parameter groups, clipping and averages against the formulas written out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch: pip install 'kpdata[train]'")

from torch import nn  # noqa: E402

from kpdata.errors import TrainError  # noqa: E402
from kpdata.train import optim  # noqa: E402
from kpdata.train.config import Config, SourceConfig  # noqa: E402

CPU = torch.device("cpu")
CONFIG = Config(data=(SourceConfig(Path("train.kp")),), out=Path("out"))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def backward(model: nn.Module) -> None:
    model.zero_grad()
    model(torch.ones(2, 3, 5, 5).cumsum(-1)).square().mean().backward()


def test_the_published_drops_come_at_epochs_170_and_200() -> None:
    """The default schedule is HRNet's: 1e-3, 1e-4 from epoch 170, 1e-5 from epoch 200 of 210 (MultiStepLR)."""
    per_epoch = 1171
    rates = {
        epoch: optim.lr_at(
            epoch * per_epoch, lr=1e-3, steps=210 * per_epoch, milestones=CONFIG.milestones, warmup=CONFIG.warmup
        )
        for epoch in (1, 169, 170, 199, 200, 209)
    }
    assert rates == pytest.approx({1: 1e-3, 169: 1e-3, 170: 1e-4, 199: 1e-4, 200: 1e-5, 209: 1e-5})
    last = optim.lr_at(170 * per_epoch - 1, lr=1e-3, steps=210 * per_epoch, milestones=CONFIG.milestones)
    assert last == 1e-3


def test_the_schedule_is_that_of_torch() -> None:
    """Cosine equals torch's CosineAnnealingLR; drops equal its MultiStepLR."""
    model = nn.Linear(1, 1)
    for schedule, make in {
        "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=40),
        "step": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [20, 30]),
    }.items():
        official = torch.optim.SGD(model.parameters(), lr=0.5)
        scheduler = make(official)
        for step in range(40):
            ours = optim.lr_at(step, lr=0.5, steps=40, schedule=schedule, milestones=(0.5, 0.75))  # type: ignore[arg-type]
            assert ours == pytest.approx(official.param_groups[0]["lr"], abs=1e-12)
            official.step()
            scheduler.step()


def test_warm_up_rises_in_a_straight_line_from_a_thousandth() -> None:
    """Step 0 has lr / 1000, the middle half of it, the step after the warm-up all of it."""
    rates = [optim.lr_at(step, lr=2.0, steps=10_000, warmup=500) for step in (0, 250, 500)]
    assert rates == pytest.approx([2e-3, 2 * (0.001 + 0.999 / 2), 2.0])


def test_a_short_training_is_not_all_warm_up() -> None:
    """100 steps with a warm-up of 500 spend 10 steps on it."""
    assert optim.lr_at(9, lr=1.0, steps=100, warmup=500) < 1.0
    assert optim.lr_at(10, lr=1.0, steps=100, warmup=500) == 1.0


@pytest.mark.parametrize(
    ("batch", "accumulate", "world", "expected"), [(128, 1, 1, 1e-3), (32, 2, 4, 2e-3), (16, 1, 1, 1.25e-4)]
)
def test_lr_follows_the_people_of_a_step(batch: int, accumulate: int, world: int, expected: float) -> None:
    """Unless it is given, lr is in proportion to the people a step, and the sentence says the rule."""
    rate, words = optim.learning_rate(replace(CONFIG, batch=batch, accumulate=accumulate), world)
    assert rate == pytest.approx(expected)
    assert f"{batch * accumulate * world}/128" in words


def test_an_lr_that_is_given_is_kept() -> None:
    """No rule changes what somebody asked for."""
    assert optim.learning_rate(replace(CONFIG, lr=0.05, batch=7), 3)[0] == 0.05


def test_adam_refuses_a_weight_decay() -> None:
    """The trap of the published YAML is named and not obeyed."""
    with pytest.raises(TrainError, match=r"weight_decay 0.0001 with adam.*adamw"):
        optim.make_optimizer(net(), replace(CONFIG, weight_decay=1e-4), CPU)


def test_adamw_spares_norms_and_biases() -> None:
    """With gradients of 0 only the weights of convolutions shrink, by lr x decay."""
    model = net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = optim.make_optimizer(model, replace(CONFIG, optimizer="adamw", weight_decay=0.5), CPU)
    optim.set_lr(optimizer, 0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if p.ndim == 4 else 1.0
        torch.testing.assert_close(p.detach(), before[name] * factor, msg=name)


def test_adam_steps_as_the_textbook() -> None:
    """Three steps equal Kingma & Ba's formulas with the learning rate set anew at each."""
    model = net()
    optimizer = optim.make_optimizer(model, CONFIG, CPU)
    weight = model[0].weight
    expected = weight.detach().double().clone()
    m = v = torch.zeros_like(expected)
    for t, rate in enumerate((1e-3, 5e-4, 2e-3), start=1):
        backward(model)
        g = weight.grad.double()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected = expected - rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        optim.set_lr(optimizer, rate)
        optimizer.step()
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-7)


def test_clipping_limits_the_norm_of_all_gradients() -> None:
    """The norm becomes the limit, the direction stays; None leaves everything."""
    model = net()
    backward(model)
    before = torch.cat([p.grad.flatten() for p in model.parameters()])
    optim.clip(model, None)
    assert torch.equal(before, torch.cat([p.grad.flatten() for p in model.parameters()]))
    optim.clip(model, 1e-3)
    after = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert after.norm().item() == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(after / after.norm(), before / before.norm())


def test_ema_is_the_running_average() -> None:
    """Weights follow d x average + (1 - d) x weight with d = min(decay, (1 + n) / (10 + n)); buffers are copied."""
    model = net()
    ema = optim.Ema(model, 0.15)
    expected = model[0].weight.detach().clone()
    for n in range(4):
        with torch.no_grad():
            model[0].weight.add_(n + 1.0)
            model[1].running_mean.add_(1.0)
        ema.update(model)
        d = min(0.15, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * model[0].weight.detach()
    torch.testing.assert_close(ema.net[0].weight, expected)
    assert torch.equal(ema.net[1].running_mean, model[1].running_mean)
    assert not ema.net.training
    assert ema.net[0].weight is not model[0].weight


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    """1 would never move, and NaN would spoil the network."""
    with pytest.raises(TrainError, match="ema"):
        optim.Ema(net(), decay)
