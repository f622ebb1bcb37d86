"""One way of executing a training, in a process of its own: says how long a step, or a person from the disk, took.

    python -m benchmarks.train_runners step TOOL MODEL WIDTHxHEIGHT BATCH DEVICE
    python -m benchmarks.train_runners load TOOL
    python -m benchmarks.train_runners end TOOL MODEL WIDTHxHEIGHT BATCH DEVICE      # disk to weights, on a GPU

On a CPU everything has one thread, and times are CPU seconds. The official execution is
leoxiaobin/deep-high-resolution-net.pytorch's, written again: `lib/core/function.py` (train), `lib/core/loss.py`,
`lib/core/evaluate.py`: fp32, NCHW, a loss in a loop over keypoints, the accuracy of every batch on the CPU, `.item()`,
batch norms that count. It starts from floats and targets that its loader's workers made; kpdata's step starts from
uint8 crops, and normalises and draws targets within.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import HERE, WORK

KEYPOINTS, LR = 17, 1e-3
STEP_SECONDS, STEPS, WARMUP = 3.0, 30, 2  # measuring stops at either of the first two
AT_ONCE = 5  # steps of a GPU between two looks at the clock: the host may run ahead, and should
LOAD_SECONDS, LOAD_BATCH = 1.0, 64
PACKS = WORK / "data" / "train"
Step = Callable[[Any], Any]  # a batch -> the loss
GPU_TOOLS = {  # what of kpdata's execution is on
    "kpdata fp32 NCHW": (),
    "kpdata bf16": ("bf16",),
    "kpdata bf16 NHWC": ("bf16", "nhwc"),
    "kpdata bf16 NHWC graph": ("bf16", "nhwc", "graph"),
    "kpdata bf16 NHWC compile": ("bf16", "nhwc", "compile"),
    "kpdata bf16 NHWC compile graph": ("bf16", "nhwc", "compile", "graph"),
    # Without one of the parts, to see what it is worth.
    "kpdata bf16 NHWC graph, cuDNN alone": ("bf16", "nhwc", "graph", "cuDNN alone"),
    "kpdata bf16 NHWC graph, one stream": ("bf16", "nhwc", "graph", "one stream"),
}


# -------------------------------------------------------------------------------------------------------------- steps


def spec_of(model: str, size: tuple[int, int]) -> Any:
    from kpdata import skeleton
    from kpdata.codec import HeatmapCodec
    from kpdata.train.spec import NetworkSpec

    return NetworkSpec(model, skeleton.load("coco_17"), HeatmapCodec(size))


def batch_of(size: tuple[int, int], people: int) -> Any:
    """Random uint8 crops with labels, as the loader gives them."""
    from kpdata.train.batch import Batch

    rng, number = np.random.default_rng(0), np.arange(people)
    tensors = {
        "images": rng.integers(0, 256, (people, size[1], size[0], 3), dtype=np.uint8),
        "keypoints": rng.uniform(0, size, (people, KEYPOINTS, 2)).astype(np.float32),
        "visibility": rng.integers(0, 3, (people, KEYPOINTS)).astype(np.int8),
        "known": np.ones((people, KEYPOINTS), bool), "source": np.zeros(people, np.int64),
        "index": number, "epoch": number, "image_ids": number, "annotation_ids": number,
        "crop": np.tile(np.eye(3), (people, 1, 1)), "mirrored": np.zeros(people, bool),
    }  # fmt: skip
    return Batch(**{name: torch.from_numpy(array) for name, array in tensors.items()})


def network(model: str, device: torch.device) -> nn.Module:
    """The same weights for every tool; a little larger than the official start, so that maps are not zeros."""
    from kpdata.train.models import build

    torch.manual_seed(0)
    net = build(model, KEYPOINTS)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net.to(device).train()


def official_step(net: nn.Module, device: torch.device) -> Step:
    """(images, targets, weights) on the host -> the loss."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = nn.BatchNorm2d  # counts its batches
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)

    def step(batch: Any) -> float:
        images, targets, weights = (tensor.to(device, non_blocking=True) for tensor in batch)
        maps = net(images)
        loss = official_loss(maps, targets, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told = loss.item()
        official_accuracy(maps.detach().cpu().numpy(), targets.detach().cpu().numpy())
        return told

    return step


def official_loss(maps: Any, targets: Any, weights: Any) -> Any:
    """JointsMSELoss: keypoint by keypoint."""
    people, keypoints = maps.shape[:2]
    told = maps.reshape(people, keypoints, -1).split(1, 1)
    wanted = targets.reshape(people, keypoints, -1).split(1, 1)
    loss, mean = 0, nn.MSELoss()
    for k in range(keypoints):
        one, other = told[k].squeeze(1), wanted[k].squeeze(1)
        loss += 0.5 * mean(one.mul(weights[:, k, None]), other.mul(weights[:, k, None]))
    return loss / keypoints


def official_accuracy(maps: Any, targets: Any) -> float:
    """Share of keypoints within half a tenth of the map, as every official step computes it."""
    (found, _), (wanted, _) = official_maxima(maps), official_maxima(targets)
    norm = np.ones((len(found), 2)) * np.array(maps.shape[2:]) / 10
    dists = np.full((maps.shape[1], len(maps)), -1.0)
    for n in range(len(maps)):
        for k in range(maps.shape[1]):
            if wanted[n, k, 0] > 1 and wanted[n, k, 1] > 1:
                dists[k, n] = np.linalg.norm(found[n, k] / norm[n] - wanted[n, k] / norm[n])
    shares = [np.mean(d[d != -1] < 0.5) for d in dists if (d != -1).any()]
    return float(np.mean(shares)) if shares else 0.0


def official_maxima(maps: Any) -> tuple[Any, Any]:
    people, keypoints, _, width = maps.shape
    flat = maps.reshape(people, keypoints, -1)
    at, top = np.argmax(flat, 2)[..., None], np.amax(flat, 2)[..., None]
    places = np.tile(at, (1, 1, 2)).astype(np.float32)
    places[..., 0], places[..., 1] = places[..., 0] % width, np.floor(places[..., 1] / width)
    return places * (top > 0), top


def kpdata_step(net: nn.Module, spec: Any, device: torch.device, parts: tuple[str, ...]) -> Step:
    """A `Batch` on the host -> the loss, still on the device. parts: of `GPU_TOOLS`."""
    from kpdata.train import fast, losses, narrow, optim, prepare
    from kpdata.train.config import Config, SourceConfig

    layout = torch.channels_last if "nhwc" in parts else torch.contiguous_format
    net = net.to(memory_format=layout)
    config = Config(data=(SourceConfig(Path("none")),), out=Path("none"), lr=LR)
    optimizer = optim.make_optimizer(net, config, device)
    inputs, loss_of = prepare.prepare, losses.heatmap_loss
    if "compile" in parts:
        fast.compile_parts(net)
        inputs, loss_of = fast.compiled(inputs), fast.compiled(loss_of)
    if "graph" in parts and "one stream" not in parts:
        fast.branches_on_streams(net)
    if "graph" in parts and "cuDNN alone" not in parts:
        narrow.replace(net)
    forward = fast.in_bf16(net) if "bf16" in parts else net

    def work(batch: Any) -> Any:
        optimizer.zero_grad(set_to_none=True)
        images, targets, weights = inputs(batch, spec)
        maps = forward(images.contiguous(memory_format=layout))
        loss, _ = loss_of(maps, targets, weights, known=batch.known)
        loss.backward()
        optimizer.step()
        return loss.detach()

    if "graph" in parts:
        return fast.GraphedStep(work, net, optimizer)
    return lambda batch: work(batch.to(device))


def made_step(tool: str, model: str, size: tuple[int, int], batch: int, device: torch.device) -> tuple[Step, Any]:
    """The step of a tool, and the batch as it takes it."""
    net, spec, people = network(model, device), spec_of(model, size), batch_of(size, batch)
    if tool == "official execution":
        from kpdata.train.prepare import prepare

        ready = prepare(people, spec)
        return official_step(net, device), tuple(t.pin_memory() for t in ready) if device.type == "cuda" else ready
    step = kpdata_step(net, spec, device, GPU_TOOLS.get(tool, ()))
    return step, people.pin_memory() if device.type == "cuda" else people


def step(tool: str, model: str, size: str, batch: str, device: str) -> dict[str, Any]:
    """Times of steps, the losses of the first two for comparison, GPU memory."""
    where, sides = torch.device(device), tuple(map(int, size.split("x")))
    on_gpu = where.type == "cuda"
    torch.backends.cudnn.benchmark = on_gpu
    run, people = made_step(tool, model, sides, int(batch), where)  # type: ignore[arg-type]
    began = time.perf_counter()
    losses = [float(run(people)) for _ in range(WARMUP)]
    setup = time.perf_counter() - began
    clock, times = time.perf_counter if on_gpu else time.process_time, []
    count = AT_ONCE if on_gpu else 1
    while len(times) < STEPS and sum(times) * count < STEP_SECONDS:
        start = clock()
        for _ in range(count):
            run(people)
        if on_gpu:
            torch.cuda.synchronize()
        times.append((clock() - start) / count)
    facts = gpu() if on_gpu else {}
    return {"seconds": statistics.median(times), "best": min(times), "losses": losses, "setup_s": setup, **facts}


def gpu() -> dict[str, Any]:
    """What the figures of a GPU depend on, and the most memory that was taken there."""
    versions = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"gpu": torch.cuda.get_device_name(), **versions, "gpu_mb": torch.cuda.max_memory_allocated() / 2**20}


# ------------------------------------------------------------------------------------------------------------ loading


def people_of() -> tuple[Any, Path]:
    """COCO's photographs where they are, else synthetic ones: a Dataset and the folder of its pictures."""
    import kpdata

    real = Path(os.environ.get("KPDATA_REAL_DATA", HERE.parents[1] / "shared" / "data")) / "coco_mini"
    if real.is_dir():
        return kpdata.read(real / "person_keypoints_val2017.json"), real / "val2017"
    from kpdata.synth import synthesize, write_images

    dataset = synthesize(24, seed=0, size=(640, 480))
    if not (PACKS / "images").is_dir():
        write_images(dataset, PACKS / "images")
    return dataset, PACKS / "images"


def crops_of(tool: str, share: float = 1.0) -> Any:
    """kpdata's `Crops`: of pictures, or of packed crops, which are made once."""
    from kpdata.augment.presets import hrnet
    from kpdata.train.data import Crops, Source

    dataset, folder = people_of()
    crops = Crops([Source(dataset, folder, share=share)], dataset.skeleton, hrnet())
    if "packed" not in tool:
        return crops
    name, quality = ("raw", None) if "raw" in tool else ("jpeg", 90)
    pack = crops.pack_into(PACKS / f"{name}-{len(crops)}", quality=quality)
    if "for the GPU" in tool:
        return crops.packed(pack, warp="device", side=pack.side)
    return crops.packed(pack)


def kpdata_load(tool: str) -> tuple[Callable[[int], None], int]:
    """An epoch of batches in the loader's order, in this process; people an epoch."""
    from kpdata.train.data import make_loader

    crops = crops_of(tool)
    loader = make_loader(crops, batch=min(LOAD_BATCH, len(crops)))

    def epoch(number: int) -> None:
        loader.position = (number, 0)
        for _ in loader:
            pass

    return epoch, loader.per_epoch * min(LOAD_BATCH, len(crops))


def official_load() -> tuple[Callable[[int], None], int]:
    """Decoded for every person, cropped, normalised to float32, targets keypoint by keypoint: of the same people."""
    from benchmarks.augment_recipe import Person, Photo, read_rgb
    from benchmarks.augment_runners import official

    crops, photos = crops_of("pictures"), []
    people, pictures = crops.people, crops.pictures
    for number, place in enumerate(pictures.places):
        rows = np.flatnonzero(people.image == number).tolist()
        own = [Person(np.nan_to_num(people.keypoints[i]), people.visibility[i], people.bbox[i]) for i in rows]
        photos.append(Photo(str(place), (0, 0), own))
    run = official(read_rgb, floats=True)

    def epoch(number: int) -> None:
        for _ in run(photos, np.random.default_rng(number)):
            pass

    return epoch, len(people)


def load(tool: str) -> dict[str, Any]:
    """CPU seconds a person."""
    epoch, people = official_load() if tool == "official loader" else kpdata_load(tool)
    epoch(0)
    times: list[float] = []
    while not times or sum(times) < LOAD_SECONDS:
        start = time.process_time()
        epoch(len(times) + 1)
        times.append(time.process_time() - start)
    return {"seconds": statistics.median(times) / people, "best": min(times) / people, "people": people}


# --------------------------------------------------------------------------------------------------------- end to end


def end(tool: str, model: str, size: str, batch: str, device: str) -> dict[str, Any]:
    """Seconds a step from packed crops on disk to new weights, with workers; the warp is the GPU's."""
    from kpdata.train.data import make_loader

    where, count = torch.device(device), int(batch)
    torch.backends.cudnn.benchmark = True
    crops = crops_of("packed raw for the GPU", share=400.0)
    sides = tuple(map(int, size.split("x")))
    run = kpdata_step(network(model, where), spec_of(model, sides), where, GPU_TOOLS[tool])  # type: ignore[arg-type]
    loader = make_loader(crops, batch=count, workers=max(1, (os.cpu_count() or 2) - 1), pin=True)
    times, start = [], 0.0
    for number, people in enumerate(_forever(loader)):
        run(people)
        if number % 10 == 9:
            torch.cuda.synchronize()
            now = time.perf_counter()
            times.append((now - start) / 10)
            start = now
            if len(times) > 2 and sum(times[2:]) * 10 > STEP_SECONDS:
                break
    return {"seconds": statistics.median(times[2:]), "best": min(times[2:]), **gpu()}


def _forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def main() -> None:
    """Run one tool and print one JSON line."""
    kind, *arguments = sys.argv[1:]
    if not (kind == "end" or "cuda" in arguments):
        torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(1)
    print(json.dumps({"step": step, "load": load, "end": end}[kind](*arguments)))


if __name__ == "__main__":
    main()
