"""`kpdata split`: parts that share no image."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpdata.cli import console, options, reading

if TYPE_CHECKING:
    from kpdata.dataset import Dataset
    from kpdata.losses import LossReport

_SUFFIXES = {"kp": ".kp", "labelme": "", "yolo": "", "lsp": ".mat"}  # the others are .json
Target = Annotated[
    Path,
    typer.Option("-o", "--out", metavar="DIR", help="Folder for the parts: DIR/train.kp, …", show_default=False),
]
Val = Annotated[float, typer.Option("--val", min=0, max=1, metavar="SHARE", help="Share of the validation part.")]
Test = Annotated[float, typer.Option("--test", min=0, max=1, metavar="SHARE", help="Share of a test part.")]
By = Annotated[
    str | None,
    typer.Option("--by", metavar="COLUMN", help="Keep images of one value together: video_id, dataset, extras.KEY, …"),
]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="The same seed gives the same parts.")]
To = Annotated[str, typer.Option("--to", metavar="FORMAT", help="Format of the parts.")]


def split(
    source: options.Source,
    target: Target,
    from_: options.From = None,
    skeleton: options.OwnSkeleton = None,
    images: options.Images = None,
    val: Val = 0.1,
    test: Test = 0.0,
    by: By = None,
    seed: Seed = 0,
    to: To = "kp",
    allow_lossy: options.AllowLossy = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Split a dataset by image, or by group, into train, val and (with --test) test parts.

    Example: kpdata split people.kp -o parts --val 0.1 --by video_id
    """
    from kpdata import converters, files

    train = round(1 - val - test, 9)
    if train < 0:
        raise typer.BadParameter(f"--val {val:g} and --test {test:g} add up to more than 1")
    converters.module(to)  # an unknown name is refused before anything is read
    shares = {name: share for name, share in (("train", train), ("val", val), ("test", test)) if share > 0}
    paths = {name: target / f"{name}{_SUFFIXES.get(to, '.json')}" for name in shares}
    for path in paths.values():
        files.refuse_existing(path, force)
    from_ = from_ or reading.detected(source)
    reading.expect_images([source], [from_], images)
    found = reading.read(source, from_, skeleton=skeleton, images=images, hashed=True)
    reading.expect_skeleton(found, source, skeleton)
    with reading.naming(source):
        parts = found.split(shares, seed=seed, by=by)
    with console.working(f"writing {target}"), _all_or_none(target, list(paths.values())), reading.naming(source):
        given = {"allow_lossy": allow_lossy, "force": force}
        reports = {name: converters.write(part, paths[name], to, **given) for name, part in parts.items()}
    _report(parts, paths, reports, {"seed": seed, "by": by, "to": to}, as_json)


@contextmanager
def _all_or_none(folder: Path, paths: list[Path]) -> Iterator[None]:
    """When one part cannot be written, those that were not there before go again."""
    fresh = [path for path in paths if not path.exists()]
    outermost = next((f for f in (*reversed(folder.parents), folder) if not f.exists()), None)
    try:
        yield
    except BaseException:
        for path in fresh:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        while outermost and folder.is_dir() and not any(folder.iterdir()) and folder != outermost.parent:
            folder.rmdir()
            folder = folder.parent
        raise


def _report(
    parts: dict[str, Dataset],
    paths: dict[str, Path],
    reports: dict[str, LossReport],
    facts: dict[str, object],
    as_json: bool,
) -> None:
    rows = [(name, part.images.num_rows, len(part), str(paths[name])) for name, part in parts.items()]
    if as_json:
        keys = ("part", "images", "people", "path")
        written = [{**dict(zip(keys, row, strict=True)), **reports[row[0]].to_json()} for row in rows]
        console.print_json({"parts": written, **facts})
        return
    cells = [(name, f"{images:,}", f"{people:,}", path) for name, images, people, path in rows]
    console.table(("part", "images", "people", "written to"), cells, right=(1, 2))
    for report in reports.values():
        if report.losses or report.additions:
            console.loss_report(report)
