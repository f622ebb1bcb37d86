"""On a GPU the same things happen as on the CPU: pixels, targets, steps, resuming, predictions, whole commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs kpdata[train]")
pytest.importorskip("cv2", reason="the trainer needs kpdata[train]")
if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

from typer.testing import CliRunner  # noqa: E402  (after the skips)

from kpdata import skeleton, synthesize  # noqa: E402
from kpdata.augment.presets import hrnet  # noqa: E402
from kpdata.cli.main import app  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.errors import TrainError  # noqa: E402
from kpdata.synth import write_images  # noqa: E402
from kpdata.train import loop as training  # noqa: E402
from kpdata.train.batch import Batch  # noqa: E402
from kpdata.train.checkpoint import load_checkpoint  # noqa: E402
from kpdata.train.config import Config, SourceConfig  # noqa: E402
from kpdata.train.data import Crops, Source, make_loader  # noqa: E402
from kpdata.train.ledger import read_ledger  # noqa: E402
from kpdata.train.loop import Loop, Run, fit  # noqa: E402
from kpdata.train.models import build  # noqa: E402
from kpdata.train.predictor import Predictor  # noqa: E402
from kpdata.train.prepare import prepare  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402
from kpdata.train.validation import Validator  # noqa: E402

GPU = torch.device("cuda", 0)
SPEC = NetworkSpec("hrnet_tiny", skeleton.load("coco_17"), HeatmapCodec((64, 64)))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Synthetic people with their pictures."""
    folder = tmp_path_factory.mktemp("people")
    dataset = synthesize(12, seed=1, size=(160, 120), people=(1, 2))
    write_images(dataset, folder)
    return dataset, folder


def packed_batch(people: int, seed: int = 0) -> Batch:
    """Packed crops with all that a device may have to do: warp, colour, holes."""
    rng = np.random.default_rng(seed)
    matrix = np.tile(np.eye(3), (people, 1, 1))
    matrix[:, :2] += rng.normal(0, 0.05, (people, 2, 3))
    holes = np.full((people, 2, 4), np.nan)
    holes[:, 0] = 10, 12, 20, 8
    tensors = {
        "images": rng.integers(0, 256, (people, 80, 80, 3), dtype=np.uint8),
        "keypoints": rng.uniform(-5, 69, (people, 17, 2)).astype(np.float32),
        "visibility": rng.integers(0, 4, (people, 17)).astype(np.int8), "known": rng.random((people, 17)) < 0.9,
        "source": np.zeros(people, np.int64), "index": np.arange(people), "epoch": np.zeros(people, np.int64),
        "image_ids": np.arange(people), "annotation_ids": np.arange(people), "crop": matrix,
        "mirrored": np.zeros(people, bool), "matrix": matrix.astype(np.float32),
        "colour": np.tile([1.1, 0.9, 1.2, 8.0], (people, 1)).astype(np.float32), "holes": holes.astype(np.float32),
    }  # fmt: skip
    return Batch(**{name: torch.from_numpy(array) for name, array in tensors.items()})


def run_of(people: tuple[Any, Path], out: Path, *, seed: int = 0, precision: str = "fp32", **values: Any) -> Run:
    """A training of hrnet_tiny on the GPU with workers, validation and ledger."""
    dataset, folder = people
    torch.manual_seed(seed)
    config = Config(
        data=(SourceConfig(Path("train.kp")),), out=out, size=(64, 64), batch=4, warmup=0, ledger=True,
        precision=precision, **{"model": "hrnet_tiny", "epochs": 2, "lr": 1e-3, **values},
    )  # fmt: skip
    sources = [Source(dataset, folder)]
    spec = NetworkSpec("hrnet_tiny", dataset.skeleton, HeatmapCodec((64, 64)))
    crops = Crops(sources, dataset.skeleton, hrnet(size=(64, 64)), seed=3)
    plain = Crops(sources, dataset.skeleton, hrnet(size=(64, 64)), augment=False)
    return Run(
        config, spec, build("hrnet_tiny", len(dataset.skeleton)), make_loader(crops, batch=4, workers=2, pin=True), GPU,
        Validator(plain, sources, spec, device=GPU), annotation_ids=crops.people.annotation_ids,
        image_ids=crops.people.image_ids,
    )  # fmt: skip


@pytest.mark.parametrize("target", ["gaussian", "udp", "dark"])
def test_a_prepared_batch_equals_the_cpu(target: str) -> None:
    """Warp, colour, holes, normalising and targets: pixels within one of 255 (rounding), maps and weights equal."""
    spec = replace(SPEC, codec=HeatmapCodec((64, 64), target=target))  # type: ignore[arg-type]
    batch = packed_batch(16)
    (a, maps, weights), (b, their_maps, their_weights) = prepare(batch.to(GPU), spec), prepare(batch, spec)
    assert a.device.type == "cuda"
    assert float((a.cpu() - b).abs().max()) <= 1.01 / 255 / min(spec.std)
    assert float(((a.cpu() - b).abs() > 1e-4).float().mean()) < 1e-3
    torch.testing.assert_close(maps.cpu(), their_maps, rtol=0, atol=1e-6)
    assert torch.equal(weights.cpu(), their_weights)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_step_never_waits_for_the_gpu(people: tuple[Any, Path], tmp_path: Path, precision: str) -> None:
    """Forward, loss, ledger, backward, clipping and optimiser enqueue work alone: CUDA itself would complain."""
    loop = Loop(run_of(people, tmp_path, precision=precision, clip=1.0, ema=0.9, keypoint_weights={"nose": 2.0}))
    assert loop.ema is not None
    batch = next(iter(loop.run.loader)).pin_memory()
    loop.learn([batch])  # libraries are loaded, and state is made
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = loop.learn([batch])[0]
        loop.ema.update(loop.net)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert float(loss) > 0


def test_bf16_and_nhwc_are_the_defaults(people: tuple[Any, Path], tmp_path: Path) -> None:
    """Without a word networks compute in bf16 with weights of fp32 in NHWC; the loss falls; run facts say so."""
    lines: list[dict[str, Any]] = []
    result = fit(replace(run_of(people, tmp_path, precision="auto", epochs=8, lr=2e-3), log=lines.append))
    assert (lines[0]["precision"], lines[0]["device"]) == ("bf16", "cuda:0")
    losses = [line["loss"] for line in lines if line["event"] == "train"]
    assert result.loss < 0.7 * losses[0]
    loop = Loop(run_of(people, tmp_path / "other", precision="auto"))
    wide = [p for p in loop.net.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert all(p.dtype == torch.float32 and p.is_contiguous(memory_format=torch.channels_last) for p in wide)


@pytest.mark.parametrize("graph", [False, True])
def test_a_training_on_the_gpu_is_the_cpus(people: tuple[Any, Path], tmp_path: Path, graph: bool) -> None:
    """In fp32 the losses of the ledger are those of the CPU, as far as sums in another order allow."""
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        here = run_of(people, tmp_path / "gpu", graph=graph, epochs=1, lr=1e-4)
        fit(here)
        there = run_of(people, tmp_path / "cpu", epochs=1, lr=1e-4)
        fit(replace(there, device=torch.device("cpu"), validate=None))
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    one, other = (read_ledger(tmp_path / name) for name in ("gpu", "cpu"))
    np.testing.assert_array_equal(one.annotation_ids, other.annotation_ids)
    close = np.isclose(one.losses, other.losses, rtol=2e-2, atol=1e-5, equal_nan=True)
    assert close.mean() > 0.9  # Adam turns the sign of a gradient that is nearly 0 into a whole step
    np.testing.assert_allclose(np.nanmean(one.losses), np.nanmean(other.losses), rtol=1e-3)


@pytest.fixture
def in_order() -> Iterator[None]:
    """Convolutions that add in one order: else two trainings soon go their own ways."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@pytest.mark.parametrize("values", [{}, {"graph": True}, {"precision": "auto", "ema": 0.9}])
def test_resuming_goes_on_where_it_stopped(
    people: tuple[Any, Path], tmp_path: Path, values: dict[str, Any], in_order: None
) -> None:
    """Cut off within the second epoch and resumed: people, order and learning rates are the same, and losses nearly."""
    whole = fit(run_of(people, tmp_path / "whole", **values))
    cut = fit(run_of(people, tmp_path / "parts", max_steps=whole.steps - 1, **values))
    assert cut.reason == "step limit"
    parts = fit(run_of(people, tmp_path / "parts", seed=9, **values), load_checkpoint(tmp_path / "parts/last.pt"))
    assert (parts.reason, parts.steps) == ("finished", whole.steps)
    assert parts.loss == pytest.approx(whole.loss, rel=0.05)
    books = [read_ledger(tmp_path / name) for name in ("whole", "parts")]
    np.testing.assert_array_equal(books[0].annotation_ids, books[1].annotation_ids)
    np.testing.assert_allclose(books[0].losses, books[1].losses, rtol=0.3, atol=1e-3)


def test_a_checkpoint_of_a_gpu_serves_on_a_cpu(people: tuple[Any, Path], tmp_path: Path) -> None:
    """The same poses within a hundredth of a pixel, scores within 1e-4: fp32 on both."""
    fit(run_of(people, tmp_path, epochs=3))
    dataset, folder = people
    from kpdata.augment.image import read_image

    image = read_image(folder / dataset.images["file_name"][0].as_py())
    boxes = np.array([[10.0, 5, 60, 90], [70, 10, 50, 80]])
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        one, other = (Predictor(tmp_path / "last.pt", device=name)(image, boxes) for name in ("cuda", "cpu"))
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    np.testing.assert_allclose(one.keypoint_scores, other.keypoint_scores, atol=1e-4)
    clear = other.keypoint_scores > np.median(other.keypoint_scores)  # a flat map's maximum is anywhere
    np.testing.assert_allclose(one.keypoints[clear], other.keypoints[clear], atol=0.01)


def test_too_little_memory_names_a_batch_size(people: tuple[Any, Path], tmp_path: Path) -> None:
    """A GPU that is full: half the batch is what the sentence advises."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_allocated() + 3 * 2**20) / total))
    try:
        with pytest.raises(TrainError, match="too little memory") as caught:
            fit(run_of(people, tmp_path))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "--batch 2 --accumulate 2" in (caught.value.hint or "")


def test_a_loss_that_is_not_finite_stops_with_its_images(
    people: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images of the batch are named, also when the GPU told of it only later."""
    run = run_of(people, tmp_path, epochs=1)
    whole = training.heatmap_loss

    def spoiled(*given: Any, **values: Any) -> Any:
        loss, each = whole(*given, **values)
        return loss * float("nan"), each

    monkeypatch.setattr(training, "heatmap_loss", spoiled)
    with pytest.raises(TrainError, match=r"step 0.*the loss is nan; images \d+"):
        fit(run)


@pytest.mark.parametrize("options", [(), ("--graph",), ("--compile",), ("--graph", "--compile")])
def test_the_commands_on_a_gpu(people: tuple[Any, Path], tmp_path: Path, options: tuple[str, ...]) -> None:
    """train, predict and eval one after the other, eager, recorded, compiled by inductor and both; run.json names the
    GPU."""
    if "--compile" in options:
        pytest.importorskip("triton", reason="compiling for a GPU needs Triton")
    dataset, folder = people
    from kpdata import write

    truth, out = tmp_path / "people.kp", tmp_path / "run"
    write(dataset, truth)

    def call(*words: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    call(
        "train", "--data", truth, "--val", truth, "--images", folder, "--model", "hrnet_tiny", "--size", "64x64",
        "--epochs", 2, "--batch", 4, "--workers", 2, "--out", out, "--device", "cuda", *options,
    )  # fmt: skip
    document = json.loads((out / "run.json").read_text())
    assert document["machine"]["gpu"] == torch.cuda.get_device_name(0)
    assert document["result"]["reason"] == "finished"
    call("predict", out / "last.pt", truth, "--images", folder, "--out", tmp_path / "preds.json", "--device", "cuda")
    told = json.loads(call("eval", tmp_path / "preds.json", "--gt", truth, "--json"))
    assert 0 <= told["stats"]["AP"] <= 1
