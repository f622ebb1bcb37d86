"""`kpdata merge`: several sources into one dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpdata.cli import console, options, reading
from kpdata.losses import LossReport

if TYPE_CHECKING:
    from kpdata.dataset import Dataset
    from kpdata.merging import MergeReport

Sources = Annotated[
    list[Path],
    typer.Argument(metavar="A B …", help="Annotation files or folders of any format.", show_default=False),
]
Target = Annotated[
    Path, typer.Option("-o", "--out", metavar="DST", help="File or folder to write.", show_default=False)
]
Drop = Annotated[
    bool, typer.Option("--drop-duplicates", help="Keep the first of people with equal keypoints in an image.")
]


def merge(
    sources: Sources,
    target: Target,
    to: options.To = None,
    skeleton: options.SkeletonName = None,
    approximate: options.Approximate = False,
    images: options.Images = None,
    drop_duplicates: Drop = False,
    allow_lossy: options.AllowLossy = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Merge datasets: ids change only where they collide, duplicate images and people are found and reported.

    Example: kpdata merge coco_train.kp crowdpose_train.json -o both.kp --skeleton coco_17
    """
    from kpdata import converters, files, merging

    goal = to or converters.name_of_target(target)
    converters.module(goal)  # an unknown name is refused before anything is read
    files.refuse_existing(target, force)
    losses = LossReport(skeleton or "merge")
    formats = [reading.detected(source) for source in sources]
    reading.expect_images(sources, formats, images)
    read = [
        reading.read(a, b, skeleton=skeleton, images=images, hashed=True) for a, b in zip(sources, formats, strict=True)
    ]
    parts = [_part(source, part, skeleton, approximate, losses) for source, part in zip(sources, read, strict=True)]
    losses.require(allow_lossy, target)
    with console.working("merging"), reading.naming(*sources):
        merged, report = merging.merge(parts, drop_duplicates=drop_duplicates)
    given: dict[str, Any] = {"allow_lossy": allow_lossy, "force": force, "approximate": approximate or None}
    with console.working(f"writing {target}"), reading.naming(target):
        written = converters.write(merged, target, goal, **given)
    written.merge(losses)
    if as_json:
        facts = {"images": merged.images.num_rows, "people": len(merged), **vars(report)}
        console.print_json({"target": str(target), "to": goal, **facts, **written.to_json()})
        return
    console.status("Wrote", f"{target}: {goal}, {merged.images.num_rows:,} images, {len(merged):,} people")
    _print(report, drop_duplicates)
    console.loss_report(written)


def _part(source: Path, part: Dataset, skeleton: str | None, approximate: bool, losses: LossReport) -> Dataset:
    """One source, on the skeleton that was asked for; what has no place there is counted into `losses`."""
    from kpdata import remapping
    from kpdata.skeleton import load

    console.status("Read", f"{source}: {part.images.num_rows:,} images, {len(part):,} people")
    if skeleton and list(part.skeletons.values()) != [goal := load(skeleton)]:
        with reading.naming(source):
            part, lost = remapping.remap(part, goal, approximate=approximate)
        losses.merge(lost)
    return part


def _print(report: MergeReport, dropped: bool) -> None:
    rows = [("images that stood in several inputs", f"{report.shared_images:,}")]
    rows += [
        (f"new {key} in {name} (collisions)", f"{n:,}")
        for name, keys in report.reassigned.items()
        for key, n in keys.items()
    ]
    rows += [("pairs of images with one name and size", f"{len(report.duplicate_images):,}")]
    people = "pairs of people with equal keypoints" + (" (the later one removed)" if dropped else "")
    rows += [(people, f"{len(report.duplicate_people):,}")]
    console.table(("what", "count"), rows, title="Merge", right=(1,))
