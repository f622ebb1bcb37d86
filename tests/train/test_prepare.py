"""A batch on its way into the network: the device's way equals the CPU's way, and nothing waits for the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("cv2", reason="training needs OpenCV")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from kpdata.augment import image, kernels  # noqa: E402
from kpdata.augment.occlusion import paint  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.errors import TrainError  # noqa: E402
from kpdata.skeleton import load  # noqa: E402
from kpdata.train.batch import Batch  # noqa: E402
from kpdata.train.losses import heatmap_loss  # noqa: E402
from kpdata.train.prepare import policy_table, prepare  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402

torch.set_num_threads(1)
WIDTH, HEIGHT = 64, 96
SPEC = NetworkSpec("hrnet_tiny", load("coco_17"), HeatmapCodec((WIDTH, HEIGHT)))
BGR = SPEC.changed(colour="bgr", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def soft(rng: np.random.Generator, people: int, size: tuple[int, int] = (90, 120)) -> Any:
    """(B, h, w, 3) uint8 soft pictures."""
    import cv2

    coarse = rng.integers(0, 256, (people, size[1] // 15, size[0] // 15, 3)).astype(np.uint8)
    return np.stack([cv2.resize(c, size, interpolation=cv2.INTER_CUBIC) for c in coarse])


def packed(pictures: Any, seed: int = 0) -> Batch:
    """A batch of packed crops that the device has still to warp, recolour and cover; two sources."""
    rng, people = np.random.default_rng(seed), len(pictures)
    middle = np.array([pictures.shape[2], pictures.shape[1]]) / 2
    maps = [
        kernels.translate(WIDTH / 2, HEIGHT / 2)
        @ kernels.rotate(turn)
        @ kernels.scale(zoom)
        @ kernels.translate(*-middle)
        for turn, zoom in zip(rng.uniform(-40, 40, people), rng.uniform(0.7, 1.1, people), strict=True)
    ]
    holes = np.full((people, 3, 4), np.nan, np.float32)
    holes[::2, 0] = [5, 60, 20, 18]
    holes[0, 1] = [40, 10, 8, 30]
    colour = np.float32([1, 1, 1, 0]) + rng.uniform(-0.3, 0.3, (people, 4)).astype(np.float32) * np.float32(
        [1, 1, 1, 30]
    )
    known = np.ones((people, 17), bool)
    known[1::2, 12:] = False
    return Batch(
        images=torch.from_numpy(pictures),
        keypoints=torch.from_numpy(rng.uniform(-8, (WIDTH + 8, HEIGHT + 8), (people, 17, 2)).astype(np.float32)),
        visibility=torch.from_numpy(rng.integers(0, 4, (people, 17)).astype(np.int8)),
        known=torch.from_numpy(known),
        source=torch.arange(people) % 2,
        index=torch.arange(people), epoch=torch.zeros(people, dtype=torch.int64),
        image_ids=torch.arange(people), annotation_ids=torch.arange(people),
        crop=torch.eye(3, dtype=torch.float64).expand(people, 3, 3), mirrored=torch.zeros(people, dtype=torch.bool),
        matrix=torch.from_numpy(np.stack(maps)).float(), colour=torch.from_numpy(colour),
        holes=torch.from_numpy(holes), fill=(30, 60, 90),
    )  # fmt: skip


def finished(batch: Batch, antialias: bool = True) -> Batch:
    """The same batch as the CPU's way gives it: every picture through OpenCV."""
    out = []
    for picture, m, colour, holes in zip(
        batch.images.numpy(), batch.matrix.numpy(), batch.colour.numpy(), batch.holes.numpy(), strict=True
    ):
        crop = image.recolour(
            image.warp(picture, m.astype(np.float64), (WIDTH, HEIGHT), antialias=antialias), *map(float, colour)
        )
        cover = np.zeros((HEIGHT, WIDTH), bool)
        for x, y, w, h in holes[np.isfinite(holes).all(1)].astype(int).tolist():
            cover[y : y + h, x : x + w] = True
        out.append(paint(crop, cover, batch.fill, 0))
    return replace(batch, images=torch.from_numpy(np.stack(out)), matrix=None, colour=None, holes=None)


def values(images: Any, spec: NetworkSpec) -> Any:
    """Network input back as pixels 0 to 255."""
    std, mean = (torch.tensor(v).reshape(3, 1, 1) for v in (spec.std, spec.mean))
    return (images * std + mean).numpy() * 255


def assert_same_way(batch: Batch, spec: NetworkSpec) -> None:
    """Device's and CPU's way: pixels within p99.9 <= 2 and max <= 8, the same targets.

    That is the warp's tolerance: OpenCV's weights are in steps of 1/32 px. Brightness, contrast and saturation multiply
    what differs after it, and their rounding adds up to 1.
    """
    ours, targets, weights = prepare(batch, spec)
    theirs, others, other_weights = prepare(finished(batch), spec)
    gain = batch.colour[:, :3].clamp(min=1).prod(1).reshape(-1, 1, 1, 1).numpy()
    apart = np.abs(values(ours, spec) - values(theirs, spec))
    after_warp = (apart - 1.01) / gain
    assert np.percentile(after_warp, 99.9) <= 2 and after_warp.max() <= 8
    assert torch.equal(targets, others) and torch.equal(weights, other_weights)


@pytest.mark.parametrize("spec", [SPEC, BGR], ids=["rgb", "bgr"])
def test_the_device_and_the_cpu_way_agree(spec: NetworkSpec) -> None:
    """Warp, colour and holes on the device give the crops that OpenCV and NumPy give."""
    assert_same_way(packed(soft(np.random.default_rng(1), 8)), spec)


def test_the_two_ways_agree_on_photographs(real_data: Path) -> None:
    """The same of photographs."""
    files = sorted((real_data / "coco_mini" / "train2017").glob("*.jpg"))[:12]
    pictures = np.stack([image.read_image(f)[100:220, 100:190] for f in files])
    assert_same_way(packed(pictures, seed=2), SPEC)


def test_ready_crops_are_only_normalised() -> None:
    """Without matrix, colour and holes: (value / 255 - mean) / std in the network's channel order."""
    pictures = np.random.default_rng(3).integers(0, 256, (3, HEIGHT, WIDTH, 3)).astype(np.uint8)
    batch = replace(packed(pictures), matrix=None, colour=None, holes=None)
    out = prepare(batch, BGR)[0]
    expected = (pictures[..., ::-1] / 255 - BGR.mean) / BGR.std
    np.testing.assert_allclose(out.numpy().transpose(0, 2, 3, 1), expected, atol=1e-5)


@pytest.mark.parametrize("target", ["gaussian", "dark", "udp"])
def test_targets_are_the_codecs(target: Any) -> None:
    """Without policies all sources follow the spec's codec; keypoints a source does not know never count."""
    codec = HeatmapCodec((WIDTH, HEIGHT), target=target, occluded="negative", absent="negative")
    spec, batch = SPEC.changed(codec=codec), packed(soft(np.random.default_rng(4), 4))
    _, targets, weights = prepare(batch, spec)
    maps, expected = codec.encode(batch.keypoints.numpy(), batch.visibility.numpy())
    known = batch.known.numpy()
    assert expected[~known].any()
    np.testing.assert_allclose(targets.numpy(), maps * known[..., None, None], atol=1e-6)
    assert np.array_equal(weights.numpy(), expected * known)


def test_each_source_has_its_own_policy() -> None:
    """A table of policies gives each person what its source's own codec would."""
    policies = [("negative", "ignore"), ("ignore", "negative")]
    batch = packed(soft(np.random.default_rng(5), 6))
    _, targets, weights = prepare(batch, SPEC, policy_table(policies))
    for person, number in enumerate(batch.source.tolist()):
        occluded, absent = policies[number]
        codec = HeatmapCodec((WIDTH, HEIGHT), occluded=occluded, absent=absent)
        xy, seen = batch.keypoints.numpy()[[person]], batch.visibility.numpy()[[person]]
        maps, expected = codec.encode(xy, seen)
        known = batch.known.numpy()[[person]]
        assert np.array_equal(weights.numpy()[[person]], expected * known)
        np.testing.assert_allclose(targets.numpy()[[person]], maps * known[..., None, None], atol=1e-6)
    assert not torch.equal(weights, prepare(batch, SPEC)[2])


class NoWaiting(TorchDispatchMode):
    """Fails on what makes the host wait, or copies from it: values read back, shapes from values, constants, moves."""

    FORBIDDEN = (
        "_local_scalar_dense", "nonzero", "nonzero_static", "masked_select", "unique", "_unique2", "is_nonzero", "item",
        "equal", "lift_fresh", "lift_fresh_copy", "_assert_async", "linalg_inv_ex", "repeat_interleave", "bincount",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.FORBIDDEN, f"{func} makes the host wait"
        assert not (name.startswith("_to_copy") and (kwargs or {}).get("device") is not None), f"{func} moves"
        if name in ("index", "index_put_", "index_put"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), f"{func} by bool looks for the True ones"
        self.seen += 1
        return func(*args, **(kwargs or {}))


def step(batch: Batch, policies: Any, maps: Any, kind: Any) -> Any:
    """All of a step but the network."""
    images, targets, weights = prepare(batch, SPEC, policies)
    loss, each = heatmap_loss(
        maps, targets, weights, kind=kind, known=batch.known, keypoint_weights=maps.new_ones(17),
        source=batch.source, source_weights=maps.new_ones(2),
    )  # fmt: skip
    return images, loss, each


@pytest.mark.parametrize("kind", ["mse", "ohkm"])
@pytest.mark.parametrize("with_policies", [False, True])
def test_nothing_waits_for_the_device(kind: Any, with_policies: bool) -> None:
    """No value is read back, no shape depends on one, nothing is copied from the host: a CUDA graph can hold it."""
    batch = packed(soft(np.random.default_rng(6), 2))
    policies = policy_table([("target", "ignore"), ("ignore", "negative")]) if with_policies else None
    maps = torch.zeros(2, 17, HEIGHT // 4, WIDTH // 4, requires_grad=True)
    with NoWaiting() as watch:
        step(batch, policies, maps, kind)[1].backward()
    assert watch.seen > 50 and maps.grad is not None


def test_the_watch_would_bark() -> None:
    """`.item()`, a bool index and a constant from a list are found by the mode of the test above."""
    tensor = torch.arange(3.0)
    for slip in (lambda: tensor.sum().item(), lambda: tensor[tensor > 1], lambda: torch.tensor([1.0, 2.0])):
        with pytest.raises(AssertionError), NoWaiting():
            slip()


def test_values_are_never_needed() -> None:
    """The step runs on torch's `meta` device, whose tensors have shapes and no values."""
    batch = packed(soft(np.random.default_rng(7), 2))
    table = policy_table([("target", "ignore"), ("ignore", "negative")]).to("meta")
    maps = torch.zeros(2, 17, HEIGHT // 4, WIDTH // 4, device="meta")
    images, loss, each = step(batch.to("meta"), table, maps, "mse")
    assert images.shape == (2, 3, HEIGHT, WIDTH) and loss.shape == () and each.shape == (2, 17)
    assert {t.device.type for t in (images, loss, each)} == {"meta"}


def test_one_graph_without_breaks() -> None:
    """torch.compile takes the whole step as one graph (fullgraph), with the same results."""
    batch = packed(soft(np.random.default_rng(8), 2))
    maps = torch.rand(2, 17, HEIGHT // 4, WIDTH // 4)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(batch, None, maps, "ohkm")
    for ours, eager in zip(compiled, step(batch, None, maps, "ohkm"), strict=True):
        torch.testing.assert_close(ours, eager, equal_nan=True)


def test_what_does_not_fit_is_said() -> None:
    """Crops of another size without a matrix, and people of another skeleton."""
    batch = packed(soft(np.random.default_rng(9), 2))
    with pytest.raises(TrainError, match=r"\(2, 120, 90, 3\), expected \(B, 96, 64, 3\)"):
        prepare(replace(batch, matrix=None), SPEC)
    with pytest.raises(TrainError, match="17 keypoints, expected 16 of 'mpii_16'"):
        prepare(batch, SPEC.changed(skeleton=load("mpii_16")))
