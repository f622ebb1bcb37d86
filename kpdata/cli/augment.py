"""`kpdata augment`: look at what training will see, count what a recipe does, or write it out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kpdata.cli import console, options, reading
from kpdata.errors import FormatError, KpdataError

if TYPE_CHECKING:
    from kpdata.augment.measured import Draws, Line
    from kpdata.augment.sample import Sample
    from kpdata.augment.trial import Case, Trial
    from kpdata.augment.written import Written
    from kpdata.dataset import Dataset

ROWS = 6  # people in a preview, unless told
SHOWN = 5  # names of unusable pictures that a note lists
_LABELS = {"kp": "people.kp", "coco": "coco.json"}  # beside `images` in the folder that --out writes
_PICTURES = (".png", ".jpg", ".jpeg")

Images = Annotated[Path, typer.Option("--images", metavar="DIR", help="Folder of the photographs.", show_default=False)]
Recipe = Annotated[
    str,
    typer.Option(
        "--preset", metavar="NAME",
        help="hrnet, simple_baseline, mmpose, vitpose, occlusion_heavy or finetune_small.",
    ),
]  # fmt: skip
Preview = Annotated[
    Path | None,
    typer.Option("--preview", metavar="OUT.png", help="Draw originals and augmented samples.", show_default=False),
]
Stats = Annotated[bool, typer.Option("--stats", help="Print what was drawn beside what the recipe says.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", metavar="DST", help="Folder for an augmented dataset: pictures and labels.", show_default=False
    ),
]
To = Annotated[
    Literal["kp", "coco"] | None,
    typer.Option("--to", metavar="kp|coco", help="Format of the labels that --out writes; kp unless given."),
]
Count = Annotated[int, typer.Option("-n", "--samples", min=1, metavar="N", help="Augmented samples of each person.")]
People = Annotated[
    int | None,
    typer.Option(
        "--people", min=1, metavar="N", show_default=False,
        help="People to take, evenly spread; all unless given.",
    ),
]  # fmt: skip
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="The same seed gives the same samples.")]


def augment(
    source: options.Source,
    images: Images,
    preset: Recipe = "hrnet",
    preview: Preview = None,
    stats: Stats = False,
    out: Out = None,
    to: To = None,
    samples: Count = 4,
    people: People = None,
    seed: Seed = 0,
    from_: options.From = None,
    skeleton: options.OwnSkeleton = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """See what training will see: the crops of a top-down recipe with their keypoints.

    --preview draws originals and augmented samples of six people, or of --people, so that a forgotten swap of left and
    right, or a point that lies off, is seen at once. --stats compares what was drawn with the recipe. --out writes an
    augmented dataset, one person a picture. A person's samples are the same in all three.

    Example: kpdata augment person_keypoints_val2017.json --images val2017 --preset hrnet --preview grid.png
    """
    from kpdata import files
    from kpdata.augment import presets
    from kpdata.augment.trial import Trial

    _refuse(preview, stats, out, to)
    recipe = presets.named(preset)
    for target in filter(None, (preview, out)):
        files.refuse_existing(target, force)
    if out:
        _protect(out, source, images)
    dataset = reading.read(source, from_, skeleton=skeleton, images=images)
    reading.expect_skeleton(dataset, source, skeleton)
    trial = Trial(recipe, samples, seed, masks=out is not None)
    with reading.naming(source):
        work = _Work(dataset, trial, images, people, everybody=stats or out is not None)
        found: dict[str, Any] = {"source": str(source), "images": str(images), "preset": preset, "seed": seed}
        if out:
            with files.replacing_folder(out, force=force) as fresh:
                work.go(fresh / "images", stats)
                found["written"] = {"folder": str(out), **work.write(fresh, to or "kp", str(source))}
        else:
            work.go(None, stats)
        if preview:
            found["preview"] = {"path": str(preview), "people": work.draw(preview, force)}
        if stats:
            found["stats"] = {"recipe": recipe.recipe.to_json(), "lines": [asdict(line) for line in work.statistics()]}
    found |= work.counts()
    if as_json:
        console.print_json(found)
    else:
        _tell(found)


def _refuse(preview: Path | None, stats: bool, out: Path | None, to: str | None) -> None:
    """Wrong usage: nothing asked for, or an option that would mean nothing."""
    if not (preview or stats or out):
        raise typer.BadParameter("nothing to do: give --preview OUT.png, --stats or --out DST")
    if to and not out:
        raise typer.BadParameter("--to is about the labels that --out writes")
    if preview and preview.suffix.lower() not in _PICTURES:
        raise FormatError(preview, f"a preview is written as {', '.join(_PICTURES)}, not as {preview.suffix!r}")


def _protect(out: Path, source: Path, images: Path) -> None:
    """KpdataError where --force would replace a folder that holds the source, or one that --out never wrote."""
    folder = out.resolve()
    for what, path in (("SRC", source), ("the folder of --images", images)):
        if path.resolve().is_relative_to(folder):
            raise KpdataError(f"{out}: {what} ({path}) lies in it: not replaced", hint="choose another DST")
    found = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if found and (found - {"images", *_LABELS.values()} or not found & set(_LABELS.values())):
        raise KpdataError(f"{out}: exists and is no folder that --out wrote: not replaced", hint="choose another DST")


class _Work:
    """The people taken, and what is kept of them for the preview, the statistics and the written dataset."""

    def __init__(self, dataset: Dataset, trial: Trial, images: Path, people: int | None, *, everybody: bool) -> None:
        from kpdata.augment.trial import spread_out, usable

        self.dataset, self.trial, self.images = dataset, trial, images
        rows = usable(dataset)
        self.left_out = len(dataset) - len(rows)
        rows = spread_out(rows, people)
        shown = spread_out(rows, people or ROWS)
        self.shown = set(shown.tolist())
        self.rows = rows if everybody else shown
        self.cases: list[Case] = []
        self.parts: list[Draws] = []
        self.written: list[Written] = []
        self.outside = 0  # labelled points that became absent in the written files

    def go(self, folder: Path | None, stats: bool) -> None:
        """Take everybody through the preset once. KpdataError where no picture can be used."""
        from kpdata.augment.passes import Job, outcomes

        if folder:
            folder.mkdir()
        job = Job(self.images, frozenset(self.shown), stats, folder)
        found = outcomes(self.dataset, self.trial, self.rows, job)
        for outcome in console.progress(found, "augmenting", len(self.rows)):
            self.cases += [outcome.case] if outcome.case else []
            self.parts += [outcome.draws] if outcome.draws else []
            self.written += outcome.written
            self.outside += outcome.outside
        if not self.trial.pictures and self.trial.unusable:
            count, reason = len(self.trial.unusable), self.trial.unusable[0][1]
            raise KpdataError(f"none of {count:,} pictures can be used; the first: {reason}")

    def write(self, folder: Path, to: str, source: str) -> dict[str, Any]:
        """The labels beside the pictures, with the way they came about."""
        from dataclasses import replace

        from kpdata import converters
        from kpdata.augment.written import to_dataset

        facts = {"source_format": "augmented", "area_kind": _area_kind(self.dataset), "sources": _sources(self.dataset)}
        made = replace(to_dataset(self.written, facts), history=self.dataset.history)
        recipe = self.trial.preset.recipe.to_json()
        made = made.with_history(
            "augment", source=source, preset=recipe, seed=self.trial.seed, samples=self.trial.samples,
            outside="absent", unusable=[name for name, _ in self.trial.unusable],
        )  # fmt: skip
        report = converters.write(made, folder / _LABELS[to], to, allow_lossy=True)
        return {
            "labels": _LABELS[to], "pictures": len(self.written), "people": len(made),
            "outside": self.outside, "losses": report.losses,
        }  # fmt: skip

    def draw(self, target: Path, force: bool) -> int:
        """The preview; how many people it shows."""
        from kpdata.augment.preview import sheet
        from kpdata.draw import save_image

        titles = [_title(case.before, case.row) for case in self.cases]
        rows = [(case.before, case.after) for case in self.cases]
        if not rows:
            raise KpdataError("the preview has nobody to show: the pictures of those chosen cannot be used")
        save_image(sheet(rows, titles=titles), target, force=force)
        return len(rows)

    def statistics(self) -> list[Line]:
        """What was drawn beside what the recipe says."""
        from kpdata.augment.measured import Draws, compare

        return compare(self.trial.preset.recipe, Draws.joined(self.parts))

    def counts(self) -> dict[str, Any]:
        return {
            "people": len(self.rows), "left_out": self.left_out, "pictures": self.trial.pictures,
            "samples": self.trial.samples, "boxless": self.trial.boxless,
            "unusable": [{"file": name, "reason": reason} for name, reason in self.trial.unusable],
        }  # fmt: skip


def _title(sample: Sample, row: int) -> str:
    name = str(sample.extras.get("file_name") or f"image {sample.image_id}")
    return f"{name}, person {row}"


def _area_kind(dataset: Dataset) -> str:
    """The common kind of the areas; `mixed` where there are several."""
    kinds = {str(facts.get("area_kind", "none")) for facts in dataset.datasets.values()}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _sources(dataset: Dataset) -> dict[str, Any]:
    """Of the provenance of the source what concerns its copies: format, files, licence."""
    kept = ("source_format", "files", "licence", "licenses", "info")
    return {name: {key: facts[key] for key in kept if key in facts} for name, facts in dataset.datasets.items()}


def _tell(found: dict[str, Any]) -> None:
    """The same in words and a table."""
    if found["left_out"]:
        console.warn(f"left out, as crowds or without a labelled keypoint: {found['left_out']:,} people")
    if found["boxless"]:
        console.warn(f"left out, without a box and with one keypoint, which makes none: {found['boxless']:,} people")
    if unusable := found["unusable"]:
        names = ", ".join(row["file"] for row in unusable[:SHOWN]) + (", …" if len(unusable) > SHOWN else "")
        total = len(unusable) + found["pictures"]
        console.warn(f"{len(unusable):,} of {total:,} pictures cannot be used: {names} ({unusable[0]['reason']})")
    if "stats" in found:
        rows = [_row(line) for line in found["stats"]["lines"]]
        title = f"{found['preset']}: {found['people']:,} people, {found['samples']} samples of each"
        console.table(("what", "drawn", "recipe", "of", ""), rows, title=title, right=(1, 2, 3))
        print(f"Source of the recipe: {found['stats']['recipe']['source']}")
    if "preview" in found:
        console.status("Drew", f"{found['preview']['path']}: {found['preview']['people']} people")
    if "written" in found:
        new = found["written"]
        console.status("Wrote", f"{new['folder']}: {new['pictures']:,} pictures, {new['labels']}")
        console.warn(
            f"each picture labels one person, others in it are not labelled: for top-down training; "
            f"{new['outside']:,} keypoints left their picture and are absent"
        )
        if new["losses"]:
            told = ", ".join(f"{kind} ({n:,})" for kind, n in new["losses"].items())
            console.warn(f"{new['labels']} cannot hold: {told}")


def _row(line: dict[str, Any]) -> tuple[str, str, str, str, str]:
    recipe = "" if line["recipe"] is None else f"{line['recipe']:.3f}"
    verdict = {True: "as the recipe", False: "DIFFERS", None: ""}[line["agrees"]]
    return line["what"], f"{line['drawn']:.3f}", recipe, f"{line['of']:,}", verdict
