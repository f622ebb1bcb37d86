"""`kpdata train`: from data to a network that is trained, measured and saved."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kpdata.cli import console, options
from kpdata.errors import MissingExtra

if TYPE_CHECKING:
    from kpdata.train.config import Config, SourceConfig
    from kpdata.train.run import Result


def _path(name: str, text: str, metavar: str = "DIR") -> Any:
    return typer.Option(name, metavar=metavar, help=text, show_default=False)


def _number(name: str, text: str, metavar: str = "N") -> Any:
    return typer.Option(name, metavar=metavar, help=text, show_default=False)


Data = Annotated[list[Path] | None, _path("--data", "Annotations to learn from, any format; repeatable.", "FILE")]
Images = Annotated[
    list[Path] | None,
    _path("--images", "Folder of the pictures of --data: one for all, or one for each in their order."),
]
Share = Annotated[
    list[float] | None,
    _number("--share", "How often people of --data come in an epoch; 1 unless given. One for all, or for each.", "X"),
]
Weight = Annotated[
    list[float] | None,
    _number("--weight", "Weight of people of --data in the loss; 1 unless given. One for all, or for each.", "W"),
]
Val = Annotated[list[Path] | None, _path("--val", "Annotations to measure on; repeatable.", "FILE")]
ValImages = Annotated[list[Path] | None, _path("--val-images", "As --images, of --val. That of --images if left out.")]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="DIR", help="Folder for checkpoints, logs, pictures.", show_default=False),
]
ConfigFile = Annotated[
    Path | None,
    _path("--config", "TOML file of values by the names of these options; the command line wins.", "FILE.toml"),
]
Model = Annotated[
    str | None,
    _number("--model", "hrnet_w32 (unless given), hrnet_w48, hrnet_tiny, pose_resnet_50, _101 or _152.", "NAME"),
]
Size = Annotated[str | None, _number("--size", "Width and height of the input in px; 192x256 unless given.", "WxH")]
Recipe = Annotated[
    str | None,
    _number(
        "--preset",
        "Augmentation: hrnet (unless given), simple_baseline, mmpose, vitpose, occlusion_heavy, finetune_small, none.",
        "NAME",
    ),
]
Flip = Annotated[
    float | None,
    _number("--flip", "Chance to mirror a person; the preset's unless given. 0 where left and right look apart.", "P"),
]
Epochs = Annotated[int | None, _number("--epochs", "Times through the data; 210 unless given, as published.")]
Init = Annotated[
    Path | None,
    _path("--init", "Weights to start from: a checkpoint of kpdata, or a published file.", "FILE"),
]
Resume = Annotated[
    Path | None, _path("--resume", "last.pt of an interrupted training, or its folder: goes on there.", "CKPT")
]
Batch = Annotated[int | None, _number("--batch", "People a batch; 128 unless given.")]
Accumulate = Annotated[int | None, _number("--accumulate", "Batches a step of the optimiser; 1 unless given.")]
Lr = Annotated[
    float | None,
    _number("--lr", "Learning rate; 0.001 at 128 people a step, in proportion, unless given.", "LR"),
]
Optimizer = Annotated[
    Literal["adam", "adamw"] | None, _number("--optimizer", "adam (unless given) or adamw.", "adam|adamw")
]
WeightDecay = Annotated[float | None, _number("--weight-decay", "Of adamw; adam has none, as published.", "W")]
Schedule = Annotated[
    Literal["step", "cosine"] | None,
    _number("--schedule", "step (unless given: a tenth from 81 % and 95 % on) or cosine.", "step|cosine"),
]
Warmup = Annotated[int | None, _number("--warmup", "Steps in which the learning rate rises; 500 unless given.")]
Clip = Annotated[float | None, _number("--clip", "Largest norm of the gradient; none unless given.", "NORM")]
Ema = Annotated[float | None, _number("--ema", "Decay of an average of the weights, e.g. 0.9998.", "DECAY")]
Loss = Annotated[Literal["mse", "ohkm"] | None, _number("--loss", "mse (unless given) or ohkm.", "mse|ohkm")]
Hard = Annotated[int | None, _number("--hard", "Keypoints of a person that count in ohkm; 8 unless given.")]
Target = Annotated[
    Literal["gaussian", "dark", "udp"] | None,
    _number("--target", "Heatmaps and decoding: gaussian (unless given), dark or udp.", "T"),
]
Sigma = Annotated[float | None, _number("--sigma", "Of the targets in cells; 2 at 192x256 unless given.", "S")]
Skeleton = Annotated[
    str | None,
    _number("--skeleton", "Keypoints of the network: a name, a TOML or JSON file. The data's unless given.", "S"),
]
Occluded = Annotated[
    Literal["target", "ignore", "negative"] | None,
    _number("--occluded", "What an occluded label teaches: target (unless given), ignore or negative.", "DO"),
]
Absent = Annotated[
    Literal["ignore", "negative"] | None,
    _number("--absent", "What a keypoint without a label teaches: ignore (unless given) or negative.", "DO"),
]
Missing = Annotated[
    Literal["refuse", "skip"] | None,
    _number("--missing-images", "Pictures that are not there: refuse (unless given); skip: broken ones too.", "DO"),
]
Packed = Annotated[
    Path | None, _path("--packed", "Folder of crops cut once and read every epoch; made if it is not there.")
]
Workers = Annotated[int | None, _number("--workers", "Processes that load; one a core but one, at most 8.")]
Device = Annotated[
    str | None, _number("--device", "cpu, cuda or cuda:N; a GPU where there is one, unless given.", "NAME")
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"] | None,
    _number("--precision", "auto (unless given: bf16 on a GPU), fp32 or bf16.", "P"),
]
Graph = Annotated[bool, typer.Option("--graph", help="One CUDA graph a step: quicker on a GPU.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="torch.compile of the network's parts: minutes once, then quicker.")
]
Seed = Annotated[int | None, _number("--seed", "The same seed, the same training; 0 unless given.")]
EvalEvery = Annotated[int | None, _number("--eval-every", "Epochs between evaluations; 1 unless given.")]
Patience = Annotated[
    int | None, _number("--patience", "Stop after so many evaluations without a better one; never unless given.")
]
MaxSteps = Annotated[int | None, _number("--max-steps", "Stop after so many steps.")]
FlipTest = Annotated[
    bool | None,
    typer.Option("--flip-test/--no-flip-test", help="Evaluate the mirrored crop as well.", show_default=False),
]
Ledger = Annotated[bool, typer.Option("--ledger", help="Write the loss of every person, keypoint and epoch.")]
Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's events beside log.jsonl.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Train nothing: draw inputs and targets, count empty ones, time the loader and a step."
    ),
]
Overfit = Annotated[
    int | None,
    _number("--overfit", "Train nothing: can the network learn N people by heart? A test of the whole setting."),
]

FoldsCount = Annotated[
    int | None,
    _number("--folds", "Train K networks, each without a part of the pictures, and predict everybody unseen.", "K"),
]
By = Annotated[
    str | None,
    _number("--by", "With --folds: keep images of one value together: video_id, extras.KEY, …", "COLUMN"),
]


def train(
    data: Data = None,
    val: Val = None,
    images: Images = None,
    val_images: ValImages = None,
    share: Share = None,
    weight: Weight = None,
    out: Out = None,
    config: ConfigFile = None,
    model: Model = None,
    size: Size = None,
    preset: Recipe = None,
    flip: Flip = None,
    epochs: Epochs = None,
    init: Init = None,
    resume: Resume = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    lr: Lr = None,
    optimizer: Optimizer = None,
    weight_decay: WeightDecay = None,
    schedule: Schedule = None,
    warmup: Warmup = None,
    clip: Clip = None,
    ema: Ema = None,
    loss: Loss = None,
    hard: Hard = None,
    target: Target = None,
    sigma: Sigma = None,
    skeleton: Skeleton = None,
    occluded: Occluded = None,
    absent: Absent = None,
    missing_images: Missing = None,
    packed: Packed = None,
    workers: Workers = None,
    device: Device = None,
    precision: Precision = None,
    graph: Graph = False,
    compile: Compile = False,
    seed: Seed = None,
    eval_every: EvalEvery = None,
    patience: Patience = None,
    max_steps: MaxSteps = None,
    flip_test: FlipTest = None,
    ledger: Ledger = False,
    tensorboard: Tensorboard = False,
    dry_run: DryRun = False,
    overfit: Overfit = None,
    folds: FoldsCount = None,
    by: By = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Train a pose network on people cut out by their boxes: HRNet or Simple Baseline, by the published recipe.

    The data is checked first. DIR gets best.pt and last.pt, log.jsonl, run.json (every resolved value, versions,
    hashes of the data) and a picture of predictions at each evaluation. Ctrl-C leaves last.pt, and --resume goes on.
    --dry-run shows what the network would see, and how long it would take; --overfit 16 tests the whole setting.
    --folds 5 looks for wrong labels: DIR/out-of-fold.kp has everybody predicted by a network that never saw them.

    Example: kpdata train --data train.kp --val val.kp --images photos --model hrnet_w32 --init best.pt -o run
    """
    given = {
        "out": out, "model": model, "size": size, "preset": preset, "flip": flip, "epochs": epochs,
        "init": init, "resume": resume,
        "batch": batch, "accumulate": accumulate, "lr": lr, "optimizer": optimizer, "weight_decay": weight_decay,
        "schedule": schedule, "warmup": warmup, "clip": clip, "ema": ema, "loss": loss, "hard": hard, "target": target,
        "sigma": sigma, "skeleton": skeleton, "missing_images": missing_images, "packed": packed, "workers": workers,
        "device": device, "precision": precision, "graph": graph or None, "compile": compile or None, "seed": seed,
        "eval_every": eval_every, "patience": patience,
        "max_steps": max_steps, "flip_test": flip_test, "ledger": ledger or None, "tensorboard": tensorboard or None,
    }  # fmt: skip
    if sum((dry_run, overfit is not None, folds is not None)) > 1:
        raise typer.BadParameter("--dry-run, --overfit and --folds: give one")
    if by is not None and folds is None:
        raise typer.BadParameter("--by goes with --folds K")
    if overfit is not None and overfit < 1:
        raise typer.BadParameter(f"--overfit {overfit}, expected 1 or more people")
    sides = {
        "data": (data, images),
        "val": (val, val_images or (images if images and len(images) == 1 else None)),
    }
    _expect_torch()
    each = {"share": share, "weight": weight}
    resolved = _resolved(config, given, sides, {"occluded": occluded, "absent": absent}, each)
    if dry_run:
        _dry_run(resolved, as_json)
    elif overfit is not None:
        _overfit(resolved, overfit, as_json)
    elif folds is not None:
        from kpdata.cli._folds import run_folds

        with Shown() as shown:
            run_folds(resolved, folds, by, force, as_json, shown)
    else:
        _train(resolved, force, as_json)


Sides = dict[str, tuple[list[Path] | None, list[Path] | None]]


def _resolved(
    file: Path | None, given: dict[str, Any], sides: Sides, policies: dict[str, Any],
    each: dict[str, list[float] | None],
) -> Config:  # fmt: skip
    """The values of the checkpoint to resume, under those of the file, under those of the command line."""
    from kpdata.train.config import from_toml, parse_size, resolve

    layer = from_toml(file) if file else {}
    resume = given["resume"] or layer.get("resume")
    layer = {**(_of_checkpoint(resume) if resume else {}), **layer}
    for name, (paths, folders) in sides.items():
        made = _sources(paths, layer.get(name, ()))
        made = _with_folders(made, folders, name) if folders else made
        layer[name] = tuple(replace(one, **{key: v for key, v in policies.items() if v}) for one in made)
    for key, values in each.items():
        if values:
            spread = _spread(values, len(layer["data"]), f"--{key}", "--data")
            layer["data"] = tuple(
                replace(one, **{key: value}) for one, value in zip(layer["data"], spread, strict=True)
            )
    if given["size"]:
        given["size"] = parse_size(given["size"])
    resolved = resolve({key: value for key, value in layer.items() if value != ()}, given)
    if resolved.size[0] > resolved.size[1]:
        console.warn(f"the input is {resolved.size[0]} px wide and {resolved.size[1]} high: papers write height first")
    return resolved


def _sources(paths: list[Path] | None, before: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
    from kpdata.train.config import SourceConfig

    return tuple(SourceConfig(path) for path in paths) if paths else before


def _of_checkpoint(resume: Path) -> dict[str, Any]:
    """The values of an interrupted training; its folder, where the checkpoint lies now, is where it goes on."""
    from kpdata.train.checkpoint import load_checkpoint
    from kpdata.train.config import Config, resumable

    path = resumable(resume)
    old = Config.from_json(load_checkpoint(path).config, where=str(path))
    values = {f.name: getattr(old, f.name) for f in fields(old)}
    return {**values, "out": path.parent, "init": None, "resume": path}


def _with_folders(sources: tuple[SourceConfig, ...], folders: list[Path], name: str) -> tuple[SourceConfig, ...]:
    spread = _spread(folders, len(sources), "--images" if name == "data" else "--val-images", f"--{name}")
    return tuple(replace(one, images=one.images or folder) for one, folder in zip(sources, spread, strict=True))


def _spread(values: list[Any], count: int, option: str, of: str) -> list[Any]:
    """One value for each of so many: one is for all."""
    if len(values) not in (1, count):
        raise typer.BadParameter(f"{len(values)} x {option} for {count} x {of}: one for all, or for each")
    return values * count if len(values) == 1 else values


def _expect_torch() -> None:
    import importlib.util

    for package, name in (("torch", "torch"), ("opencv-python-headless", "cv2")):
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(package, "train", "training")


def _train(config: Config, force: bool, as_json: bool) -> None:
    """The training, and at its end what came of it."""
    from kpdata.train.training import train as run

    with Shown() as shown:
        result = run(config, log=shown, force=force)
    if as_json:
        console.print_json({name: str(v) if isinstance(v, Path) else v for name, v in asdict(result).items()})
    else:
        _told(result)
    if result.reason == "interrupted":
        raise typer.Exit(130)


def _told(result: Result) -> None:
    """The best numbers in a table, and where the checkpoints are."""
    numbers = result.best or result.metrics
    if numbers:
        where = f"best, epoch {result.best_epoch}" if result.best_epoch is not None else "last"
        console.table(("what", where), [(name, _text(value)) for name, value in numbers.items()], right=(1,))
    console.status(
        "Trained",
        f"{result.epochs} epochs, {result.steps:,} steps ({result.reason}); {result.images_per_second:.0f} people/s, "
        f"waits for data {result.waits:.0%}",
    )
    if result.replaced:
        console.warn(f"{result.replaced:,} times another person stood in for one whose picture could not be read")
    kept = [path for path in (result.best_checkpoint, result.last_checkpoint) if path is not None]
    console.status("Wrote", ", ".join(map(str, kept)))


def _dry_run(config: Config, as_json: bool) -> None:
    """What the training would see, and how long it would take."""
    from kpdata.train.trial import dry_run

    found = dry_run(config, say=console.warn)
    if as_json:
        console.print_json({**asdict(found), "picture": str(found.picture)})
        return
    rows = [(name, f"{share:.1%}") for name, share in found.empty.items()]
    console.table(("keypoint", "without a target"), rows, title=f"{found.looked:,} people looked at", right=(1,))
    (width, height), (w, h) = found.input_size, found.heatmap_size
    console.table(
        ("what", "value"),
        [
            ("people", f"{found.people:,}"),
            ("input, heatmaps (width x height)", f"{width} x {height} px, {w} x {h} cells"),
            ("parameters", f"{found.parameters / 1e6:.1f} M"),
            ("loader alone", f"{found.loader:.0f} people/s"),
            ("network alone, forward and backward", f"{found.step:.1f} people/s"),
            ("memory of a step", f"{_size(found.memory)} at a batch of {config.batch}"),
            (f"{config.epochs} epochs", f"about {_duration(found.seconds)}, evaluations apart"),
        ],
        title="Training",
    )
    console.status("Drew", str(found.picture))


def _overfit(config: Config, count: int, as_json: bool) -> None:
    """Whether the network learns some people by heart; exit code 1 where it does not."""
    from kpdata.train.trial import overfit

    found = overfit(config, count, say=lambda text: console.status("Trial", text))
    if as_json:
        console.print_json(asdict(found))
    else:
        verdict = "passed" if found.passed else "FAILED"
        print(
            f"Overfitting {found.people} people {verdict}: loss {found.first_loss:.2g} to {found.loss:.2g}, "
            f"PCK@0.2 {found.pck:.3f} after {found.steps} steps ({found.seconds:.0f} s)"
        )
    if not found.passed:
        raise typer.Exit(1)


class Shown:
    """The lines of a training on stderr: a bar of the epoch on a terminal, a line an epoch in a pipe."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def __call__(self, line: dict[str, Any]) -> None:
        """Shows a line."""
        event = line["event"]
        if event == "train":
            self._train(line)
            return
        self._clear()
        if event == "note":
            console.warn(line["text"])
        elif event == "start":
            again = f", resumed at step {line['step']:,}" if line["resumed"] else ""
            fold = f"fold {line['fold']}: " if "fold" in line else ""
            console.status(
                "Train", f"{fold}{line['epochs']} epochs, {line['steps']:,} steps on {line['device']}{again}"
            )
            console.status("Train", line["rule"])
        elif event == "evaluation":
            self._evaluation(line)
        elif event == "end" and line["hint"]:
            console.warn(f"{line['reason']}: {line['hint']}")

    def _train(self, line: dict[str, Any]) -> None:
        speed = f"{line['images_per_second']:.0f} people/s, waits for data {line['waits']:.0%}"
        text = f"epoch {line['epoch']}  loss {line['loss']:.3g}  lr {line['lr']:.2g}  {speed}"
        if not console.colour(sys.stderr):
            if line["batch"] >= line["batches"]:
                console.status("Epoch", text)
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(text, total=line["steps"], completed=line["step"])
        self._bar.update(self._task, description=text, completed=line["step"])

    def _evaluation(self, line: dict[str, Any]) -> None:
        places = ("event", "epoch", "step", "better", "train_loss", "seconds")
        numbers = "  ".join(f"{name} {_text(v)}" for name, v in line.items() if name not in places)
        best = "  best so far" if line["better"] else ""
        console.status("Eval", f"epoch {line['epoch']}  {numbers}{best}")

    def _clear(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _size(count: float) -> str:
    """Bytes in GB, below one in MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    """Seconds in the two largest units: `3 h 20 min`."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    counts, names = divmod(round(minutes), 60), ("h", "min")
    if counts[0] >= 24:
        counts, names = divmod(round(minutes / 60), 24), ("d", "h")
    return " ".join(f"{count} {name}" for count, name in zip(counts, names, strict=True) if count)
