"""`kpdata convert`: any format to any format, with a report of what was lost."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kpdata.cli import console, options, reading
from kpdata.losses import LossReport

if TYPE_CHECKING:
    from kpdata.dataset import Dataset

Target = Annotated[Path, typer.Argument(metavar="DST", help="File or folder to write.", show_default=False)]
LabelSplit = Annotated[
    str | None, typer.Option("--label-split", metavar="NAME", help="Write NAME into the split column.")
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select", metavar="COND", help="Keep what meets COLUMN OP VALUE, e.g. 'area>=1024'; may be repeated."
    ),
]
# What each format's own options take is a list in the help, and anything else wrong usage.
UnknownAs = Annotated[
    Literal["visible", "occluded"] | None,
    typer.Option("--unknown-as", metavar="visible|occluded", help="What unknown visibility becomes."),
]
GroupBy = Annotated[
    Literal["group", "box"] | None,
    typer.Option("--group-by", metavar="group|box", help="LabelMe: group_id or containment in a box makes people."),
]
Suffix = Annotated[
    str | None, typer.Option("--occluded-suffix", metavar="TEXT", help="LabelMe: ending of a label that says occluded.")
]
Which = Annotated[
    Literal["lsp", "lspet"] | None,
    typer.Option("--dataset", metavar="lsp|lspet", help="LSP: what the third channel means."),
]
Centric = Annotated[
    Literal["person", "observer"] | None,
    typer.Option("--centric", metavar="person|observer", help="LSP: whose left and right these are."),
]
Variant = Annotated[
    Literal["json", "flat", "h5"] | None,
    typer.Option("--variant", metavar="json|flat|h5", help="MPII: the file to write."),
]
Layout = Annotated[
    Literal["nested", "flat"] | None,
    typer.Option("--layout", metavar="nested|flat", help="COCO-WholeBody: the layout to write."),
]


def convert(
    source: options.Source,
    target: Target,
    from_: options.From = None,
    to: options.To = None,
    skeleton: options.SkeletonName = None,
    approximate: options.Approximate = False,
    images: options.Images = None,
    label_split: LabelSplit = None,
    select: Select = None,
    unknown_as: UnknownAs = None,
    group_by: GroupBy = None,
    occluded_suffix: Suffix = None,
    dataset: Which = None,
    centric: Centric = None,
    variant: Variant = None,
    layout: Layout = None,
    allow_lossy: options.AllowLossy = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Convert annotations or predictions from one format to another.

    Prints what was read, what was written, and a loss report by kind. A write that would lose something stops unless
    --allow-lossy is given. Formats: kp, coco, coco_results, crowdpose, mpii, lsp, labelme, yolo; .json.gz works too.

    Example: kpdata convert photos/ people.json --from labelme --to coco --images photos/
    """
    from kpdata import converters, files

    origin = from_ or reading.detected(source)
    goal = to or converters.name_of_target(target)
    own = {
        "unknown_as": unknown_as, "group_by": group_by, "occluded_suffix": occluded_suffix, "dataset": dataset,
        "centric": centric, "variant": variant, "layout": layout, "images": images,
    }  # fmt: skip
    to_read, to_write = _sides({key: value for key, value in own.items() if value is not None}, origin, goal)
    files.refuse_existing(target, force)
    found = reading.read(source, origin, skeleton=skeleton, hashed=True, **to_read)
    people = f"{found.images.num_rows:,} images, {len(found):,} people, {_names(found)}"
    console.status("Read", f"{source}: {origin}, {people}")
    with reading.naming(source):
        found = options.selected(found, select or [])
        found = _labelled(found, label_split) if label_split else found
        found, remapped = _remapped(found, skeleton, approximate)
    remapped.require(allow_lossy, target)
    with console.working(f"writing {target}"), reading.naming(source, target):
        given = {"allow_lossy": allow_lossy, "force": force, "approximate": approximate or None, **to_write}
        report = converters.write(found, target, goal, **given)
    report.merge(remapped)
    sides = {"source": str(source), "from": origin, "target": str(target), "to": goal}
    _report(found, sides, report, as_json)


def _sides(given: dict[str, Any], origin: str, goal: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Each format's own options to the reader and the writer that take them; one that neither takes is wrong usage."""
    from kpdata import converters

    reader, writer = _options(converters.module(origin).read), _options(converters.module(goal).write)
    for key in given:
        if key not in reader | writer:
            raise typer.BadParameter(f"--{key.replace('_', '-')} means nothing for {origin} to {goal}")
    return {k: v for k, v in given.items() if k in reader}, {k: v for k, v in given.items() if k in writer}


def _options(function: Any) -> set[str]:
    """Names of what a reader or writer takes by keyword alone (its first parameter may be called `dataset`)."""
    return {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}


def _names(dataset: Dataset) -> str:
    skeletons = [f"{name} ({len(skeleton)} keypoints)" for name, skeleton in dataset.skeletons.items()]
    return ", ".join(skeletons) or "no keypoints"


def _labelled(dataset: Dataset, name: str) -> Dataset:
    from kpdata import schema

    index = dataset.images.schema.get_field_index("split")
    column = schema.constant(name, dataset.images.num_rows)
    images = dataset.images.set_column(index, schema.IMAGES.field("split"), column)
    return replace(dataset, images=images).with_history("label split", name=name)


def _remapped(dataset: Dataset, name: str | None, approximate: bool) -> tuple[Dataset, LossReport]:
    """The dataset on the skeleton that the user asked for, and what has no place there."""
    from kpdata import remapping
    from kpdata.skeleton import load

    if name is None or list(dataset.skeletons.values()) == [goal := load(name)]:
        return dataset, LossReport("remap")
    moved, losses = remapping.remap(dataset, goal, approximate=approximate)
    losses.format = goal.name
    return moved, losses


def _report(found: Dataset, sides: dict[str, str], report: LossReport, as_json: bool) -> None:
    findings = [f for d in found.datasets.values() for f in d.get("findings", ())]
    errors = sum(f["level"] == "error" for f in findings)
    if errors:
        console.warn(f"{errors:,} errors found while reading; `kpdata validate {sides['source']}` lists them")
    counts = {"images": found.images.num_rows, "people": len(found)}
    if as_json:
        console.print_json({**sides, **counts, **report.to_json(), "findings": findings})
        return
    console.status(
        "Wrote", f"{sides['target']}: {sides['to']}, " + ", ".join(f"{n:,} {what}" for what, n in counts.items())
    )
    console.loss_report(report)
