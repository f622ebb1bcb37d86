"""`kpdata sigmas`: OKS sigmas of your own keypoints, from people who were labelled more than once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpdata.cli import console, options, reading

if TYPE_CHECKING:
    from kpdata.eval.sigmas import SigmaEstimate

First = Annotated[
    Path,
    typer.Argument(
        metavar="A", help="Labels of one annotator, or of several in one file; any format.", show_default=False
    ),
]
Second = Annotated[
    Path | None,
    typer.Argument(metavar="B", help="Another annotator's labels of the same images.", show_default=False),
]
Group = Annotated[
    str | None,
    typer.Option("--group", metavar="KEY", help="Without B: track_id or a key of the extras, equal for one person."),
]
BoxShare = Annotated[
    float | None,
    typer.Option("--box-share", metavar="S", help="Area as S × w × h of the box where it is not known."),
]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="OUT.toml", help="Write a skeleton file with the sigmas.", show_default=False),
]
Name = Annotated[str | None, typer.Option("--name", metavar="N", help="Name of that skeleton.", show_default=False)]
Robust = Annotated[bool, typer.Option("--robust", help="Write the robust sigmas, blind to gross errors.")]
Minimum = Annotated[
    int, typer.Option("--minimum", metavar="N", help="People labelled twice that a keypoint needs.", min=2)
]
Resamples = Annotated[int, typer.Option("--resamples", metavar="N", help="Bootstrap resamples of people.", min=1)]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same intervals.", min=0)]


def sigmas(
    first: First,
    second: Second = None,
    skeleton: options.OwnSkeleton = None,
    group: Group = None,
    box_share: BoxShare = None,
    out: Out = None,
    name: Name = None,
    robust: Robust = False,
    minimum: Minimum = 30,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Measure OKS sigmas from repeated labels of the same people, as COCO's were.

    Two annotators' files, or one file in which people are labelled several times. Prints sigma, 95 % interval, a
    robust sigma and the share of gross errors of each keypoint; none is made up where labels are too few.

    Example: kpdata sigmas anna.json ben.json -o my_skeleton.toml
    """
    from kpdata import files
    from kpdata.eval.sigmas import estimate_sigmas, write_skeleton

    _refuse(second, group, out, name, robust)
    if out:
        files.refuse_existing(out, force)
    paths = [path for path in (first, second) if path]
    read = [reading.read(path, skeleton=skeleton) for path in paths]
    with console.working("measuring"), reading.naming(*paths):
        estimate = estimate_sigmas(
            read[0],
            read[1] if second else None,
            skeleton=skeleton,
            group=group,
            box_share=box_share,
            minimum=minimum,
            resamples=resamples,
            seed=seed,
        )
        if out:
            write_skeleton(estimate.with_sigmas(name, robust=robust), out, force=force)
    if as_json:
        console.print_json({"files": [str(path) for path in paths], **estimate.to_json()})
    else:
        _print(estimate, " and ".join(map(str, paths)))
    if out:
        console.status("Wrote", f"{out}: skeleton with {'robust ' if robust else ''}sigmas")


def _refuse(second: Path | None, group: str | None, out: Path | None, name: str | None, robust: bool) -> None:
    """Wrong usage where an option would do nothing."""
    if second and group:
        raise typer.BadParameter("--group tells who is who in one file; with B people are paired across the two")
    for told, option in ((name, "--name"), (robust, "--robust")):
        if told and not out:
            raise typer.BadParameter(f"{option} is about the skeleton file: give --out OUT.toml")


def _print(estimate: SigmaEstimate, source: str) -> None:
    print(f"{source}: {estimate.labels:,} labels of {estimate.people:,} people, paired {estimate.facts['matching']}")
    print(f"area: {estimate.facts['area']}")
    rows = []
    for row in estimate.table().to_pylist():
        numbers = [f"{row[key]:.4f}" if row[key] is not None else "-" for key in ("sigma", "low", "high", "robust")]
        share = f"{row['outliers']:.1%}" if row["outliers"] is not None else "-"
        rows.append((row["keypoint"], *numbers, f"{row['pairs']:,}", share))
    headers = ("keypoint", "sigma", "2.5 %", "97.5 %", "robust", "people", "far apart")
    console.table(headers, rows, title=f"Sigmas: {estimate.skeleton.name}", right=(1, 2, 3, 4, 5, 6))
    for note in estimate.notes:
        console.warn(note)
