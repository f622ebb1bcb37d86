"""`kpdata browse`: the people behind the numbers, as a page or in FiftyOne, and what a reviewer said of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpdata.cli import console, options, reading, sides
from kpdata.errors import BrowseError, KpdataError

if TYPE_CHECKING:
    import pyarrow as pa

    from kpdata.browse.people import People
    from kpdata.browse.review import Review
    from kpdata.dataset import Dataset

LIMIT = 500
Source = Annotated[
    Path | None,
    typer.Argument(metavar="PREDS|SRC", help="Predictions, or a dataset to look at alone.", show_default=False),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="OUT.html", help="Write the page instead of opening FiftyOne.", show_default=False),
]
Draw = Annotated[
    Path | None, typer.Option("--draw", metavar="DIR", help="Write a JPEG for each person shown.", show_default=False)
]
ToLabelMe = Annotated[
    Path | None,
    typer.Option("--to-labelme", metavar="DIR", help="Write suspicious people for LabelMe.", show_default=False),
]
Everybody = Annotated[bool, typer.Option("--all", help="Show everybody, not only the worst.")]
Count = Annotated[
    int | None, typer.Option("-n", metavar="N", min=1, help=f"Show the worst N people. {LIMIT} unless given.")
]
Compare = Annotated[
    Path | None,
    typer.Option(
        "--compare", metavar="B", help="Another model's predictions: whom did PREDS lose?", show_default=False
    ),
]
Ledger = Annotated[
    Path | None,
    typer.Option("--ledger", metavar="L", help="A training's folder or ledger: who is hard?", show_default=False),
]
Train = Annotated[
    Path | None,
    typer.Option(
        "--train", metavar="DATA", help="What the network learnt from: who is in a pose that it has never seen?",
        show_default=False,
    ),
]  # fmt: skip
ViewName = Annotated[str | None, typer.Option("--view", metavar="NAME", help="Show this view: missed, swaps, lost, …")]
Name = Annotated[str | None, typer.Option("--name", metavar="DATASET", help="Name in FiftyOne.", show_default=False)]
Port = Annotated[int | None, typer.Option("--port", metavar="P", help="Port of the App. A free one unless given.")]
Remote = Annotated[bool, typer.Option("--remote", help="No browser here: print the ssh line for the other machine.")]
Database = Annotated[
    Path | None,
    typer.Option("--database", metavar="DIR", help="FiftyOne's own folder. In the user's cache unless given."),
]
Pull = Annotated[
    Path | None,
    typer.Option("--pull", metavar="DST", help="Write the dataset with a review applied.", show_default=False),
]
ReviewFile = Annotated[
    Path | None,
    typer.Option("--review", metavar="FILE", help="With --pull: the page's review.json.", show_default=False),
]
LabelMe = Annotated[
    Path | None,
    typer.Option("--labelme", metavar="DIR", help="With --pull: corrected files of --to-labelme.", show_default=False),
]
Forget = Annotated[bool, typer.Option("--forget", help="Delete this data's people from FiftyOne.")]


def browse(
    source: Source = None,
    gt: sides.Gt = None,
    images: options.Images = None,
    html: Html = None,
    draw: Draw = None,
    everybody: Everybody = False,
    count: Count = None,
    view: ViewName = None,
    compare: Compare = None,
    ledger: Ledger = None,
    train: Train = None,
    metric: sides.Metric = None,
    skeleton: sides.Sigmas = None,
    unknown_images: sides.UnknownImages = "refuse",
    to_labelme: ToLabelMe = None,
    pull: Pull = None,
    review: ReviewFile = None,
    labelme: LabelMe = None,
    to: options.To = None,
    allow_lossy: options.AllowLossy = False,
    name: Name = None,
    port: Port = None,
    remote: Remote = False,
    database: Database = None,
    forget: Forget = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """See who fails, and bring corrections back into the data.

    Opens FiftyOne with a view for each question (worst, missed, swaps, suspicious, …); --html writes a page that needs
    nothing but a browser. Without predictions a dataset is shown with what the lint says. What was accepted and
    rejected there (tags in FiftyOne, review.json of the page, corrected LabelMe files) comes back with --pull.

    Example: kpdata browse predictions.json --gt val.json --images val2017 --html failures.html
    """
    outputs = {"--html": html, "--draw": draw, "--to-labelme": to_labelme}
    app = {"--name": name, "--port": port, "--remote": remote or None, "--database": database}
    _expect(outputs, app, {"--pull": pull, "--review": review, "--labelme": labelme, "--to": to}, forget, source)
    if everybody and count:
        raise typer.BadParameter("--all and -n: one of the two")
    sides.expect_choices("strict", unknown_images)
    if source is None:
        _forget(str(name), database, as_json)
        return
    given = {"metric": metric, "skeleton": skeleton, "unknown_images": unknown_images}
    told = _Input(source, gt, compare, ledger, train, images, given)
    if forget:
        _forget(name or told.dataset_name(), database, as_json)
    elif pull:
        sides.refuse_outputs({"--pull": pull, "its list of changes": _beside(pull)}, told.files(), force)
        _pull(told, pull, (review, labelme, name, database), (to, allow_lossy, force), as_json)
    else:
        sides.refuse_outputs(outputs, told.files(), force)
        _show(told, None if everybody else count or LIMIT, view, outputs, app, force, as_json)


def _expect(
    outputs: dict[str, Path | None], app: dict[str, Any], back: dict[str, Any], forget: bool, source: Path | None
) -> None:
    """Wrong usage where an option would mean nothing beside the others."""
    written = [option for option, path in outputs.items() if path]
    used = [option for option, value in app.items() if value is not None]
    pulling = [option for option, value in back.items() if value is not None]
    if source is None and not (forget and app["--name"]):
        raise typer.BadParameter("PREDS or SRC is missing (only --forget --name DATASET goes without)")
    if pulling and not back["--pull"]:
        raise typer.BadParameter(f"{pulling[0]} goes with --pull DST")
    if back["--review"] and back["--labelme"]:
        raise typer.BadParameter("--review and --labelme: one of the two")
    what = "--forget" if forget else "--pull" if pulling else ""
    if what and written:
        raise typer.BadParameter(f"{what} shows nobody: leave out {', '.join(written)}")
    if forget and pulling:
        raise typer.BadParameter("--forget and --pull: one of the two")
    own = {"--name", "--database"} if what else set(app)
    fiftyone = not written and not (back["--review"] or back["--labelme"])
    if odd := [option for option in used if option not in own or not fiftyone]:
        raise typer.BadParameter(f"{odd[0]} is about FiftyOne's App, which is not opened here")


# ----------------------------------------------------------------------------------------------------------- the data


@contextmanager
def _naming(*paths: Path) -> Iterator[None]:
    """What does not fit together is told with its files; BrowseErrors (of a folder, a review, …) name their own."""
    try:
        yield
    except BrowseError:
        raise
    except KpdataError:
        with reading.naming(*paths):
            raise


class _Input:
    """What is to be looked at, read when it is asked for."""

    def __init__(
        self, source: Path, gt: Path | None, compare: Path | None, ledger: Path | None, train: Path | None,
        images: Path | None, given: dict[str, Any],
    ) -> None:  # fmt: skip
        self.compare, self.ledger, self.train = compare, ledger, train
        self.images, self.given = images, given
        self.predictions, self.truth = _sides(source, gt)
        odd = [f"--{key.replace('_', '-')}" for key, value in given.items() if value not in (None, "refuse")]
        odd = [option for option in [*odd, *(["--compare"] if compare else [])] if option != "--skeleton"]
        if self.predictions is None and odd:
            raise typer.BadParameter(f"{odd[0]} is about predictions: give them, and --gt")

    def files(self) -> tuple[Path, ...]:
        """Everything that is read and must not be overwritten."""
        found = (self.predictions, self.truth, self.compare, self.ledger, self.train, self.images)
        return tuple(path for path in found if path is not None)

    def title(self) -> str:
        """What is shown, in words; the App's dataset is named by it."""
        return f"{self.predictions.stem} on {self.truth.stem}" if self.predictions else self.truth.stem

    def ground_truth(self, *, hashed: bool = False) -> Dataset:
        """The annotations that are shown, and corrected by --pull."""
        if self.predictions is None or hashed:
            return reading.read(self.truth, skeleton=self.given["skeleton"], hashed=hashed)
        return sides.annotated(self.truth, self.given["skeleton"])

    def people(self, gt: Dataset, limit: int | None) -> People:
        """The table of people. Errors name the files."""
        from kpdata.browse.people import gather

        predictions = sides.predicted(self.predictions) if self.predictions else None
        other = sides.predicted(self.compare) if self.compare else None
        train = reading.read(self.train) if self.train else None
        images = self.images or self._pictures_beside(gt)
        named = (path for path in (self.predictions, self.truth) if path)
        with console.working("looking for the worst people"), _naming(*named):
            return gather(
                gt, predictions, images=images, compare=other, ledger=self.ledger, train=train, limit=limit,
                title=self.title(), **(self.given if predictions is not None else {}),
            )  # fmt: skip

    def _pictures_beside(self, gt: Dataset) -> Path | None:
        """LabelMe's files name pictures from where they lie: no folder needs to be named."""
        folder = self.truth if self.truth.is_dir() else self.truth.parent
        if not gt.datasets or any(facts.get("source_format") != "labelme" for facts in gt.datasets.values()):
            return None
        from kpdata import schema
        from kpdata.browse.pictures import picture_path

        names = schema.texts(gt.images["file_name"])
        return folder if any(picture_path(folder, name) for name in names) else None

    def dataset_name(self) -> str:
        """The name of this data in FiftyOne unless the user names it."""
        from kpdata.browse.app import dataset_name
        from kpdata.browse.people import shell

        return dataset_name(shell(self.ground_truth(), self.title()))


def _sides(source: Path, gt: Path | None) -> tuple[Path | None, Path]:
    """(predictions or None, ground truth): what SRC alone is, its content says."""
    from kpdata import schema

    if gt is not None:
        return source, gt
    if reading.detected(source) == "coco_results":
        return source, sides.ground_truth(source, None)
    found = reading.read(source)
    bare = any(facts.get("variant") == "predictions" for facts in found.datasets.values())  # MPII's and LSP's arrays
    if not bare and not schema.valid(found.persons["score"]).any():
        return None, source
    if all(facts.get("source_format") == "labelme" for facts in found.datasets.values()):
        return None, source  # a model's help while labelling leaves scores
    return source, sides.ground_truth(source, None)


# ------------------------------------------------------------------------------------------------------------ showing


def _show(
    told: _Input, limit: int | None, view: str | None, outputs: dict[str, Path | None], app: dict[str, Any],
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    from kpdata.browse import embedded
    from kpdata.browse.people import narrowed

    written, gt = any(outputs.values()), told.ground_truth()
    if not written and (reason := embedded.available()):
        page = Path(f"{(told.predictions or told.truth).stem}.browse.html")
        console.warn(f"{reason}; {page} is written instead")
        sides.refuse_outputs({"--html": page}, told.files(), force)
        outputs, written = {**outputs, "--html": page}, True
    people = told.people(gt, None if view and written else limit)
    if view and written:
        people = narrowed(people, view, limit)
    found = _found(told, people)
    if not written:
        _open(people, view, app, found, as_json)
        return
    notes = _write(people, gt, outputs, force)
    found |= {"notes": [*found["notes"], *notes], "written": {k[2:]: str(v) for k, v in outputs.items() if v}}
    _tell(found, as_json)


def _found(told: _Input, people: People) -> dict[str, Any]:
    return {
        "predictions": str(told.predictions) if told.predictions else None,
        "ground_truth": str(told.truth),
        "key": people.key,
        "people": people.table.num_rows,
        "views": {view.name: len(view.rows) for view in people.views},
        "stats": dict(people.stats),
        "notes": list(people.notes),
    }


def _write(people: People, gt: Dataset, outputs: dict[str, Path | None], force: bool) -> list[str]:
    """Write what was asked for; what is to say of it."""
    notes: list[str] = []
    if path := outputs["--html"]:
        from kpdata.browse.page import write_page

        with console.working(f"writing {path}"):
            notes += write_page(people, path, limit=people.table.num_rows, force=force)
        console.status("Wrote", f"{path}: {people.table.num_rows:,} people")
    if path := outputs["--draw"]:
        from kpdata.browse.drawings import draw_people

        with console.working(f"drawing into {path}"):
            drawn, told = draw_people(people, path, force=force)
        notes += told
        console.status("Wrote", f"{path}: {drawn:,} pictures")
    if path := outputs["--to-labelme"]:
        from kpdata.browse.labelme_out import write_labelme

        persons, images = write_labelme(gt, people, path, force=force)
        console.status("Wrote", f"{path}: {persons:,} people in {images:,} files for LabelMe")
    return notes


def _tell(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.print_json(found)
        return
    rows = [(name, f"{count:,}") for name, count in found["views"].items()]
    console.table(("view", "people"), rows, title="Views", right=(1,))
    for note in found["notes"]:
        console.warn(note)


def _open(people: People, view: str | None, app: dict[str, Any], found: dict[str, Any], as_json: bool) -> None:
    """FiftyOne's App until its windows are closed."""
    from kpdata.browse.app import open_app

    with redirect_stdout(sys.stderr):  # FiftyOne's own progress is no result
        started = open_app(
            people, name=app["--name"], database=app["--database"], port=app["--port"], remote=bool(app["--remote"]),
            view=view, progress=_Progress(),
        )  # fmt: skip
    with started as opened:
        found |= {"name": opened.name, "url": opened.url, "ssh": opened.ssh, "imported": opened.imported}
        found["notes"] += opened.notes
        _tell(found, as_json)
        console.status("Opened", f"{opened.url} ({opened.name})")
        if opened.ssh:
            console.status("Type", f"on your machine: {opened.ssh}")
        console.status("Stop", "Ctrl-C, or close its windows; `kpdata browse … --pull DST` takes your tags back")
        opened.wait()


class _Progress:
    """Lines about what is being done, one a tenth; nothing in a pipe."""

    def __init__(self) -> None:
        self.last = ("", -1)

    def __call__(self, what: str, done: int, total: int) -> None:
        now = (what, 10 * done // max(total, 1))
        if now != self.last and console.colour(sys.stderr):
            console.status(what, f"{done:,} of {total:,}")
        self.last = now


def _forget(name: str, database: Path | None, as_json: bool) -> None:
    from kpdata.browse.app import forget

    count = forget(name, database)
    if as_json:
        console.print_json({"forgotten": name, "people": count})
        return
    console.status("Forgot", f"{name}: {count:,} people")


# ------------------------------------------------------------------------------------------------------- coming back


def _beside(target: Path) -> Path:
    return target.with_name(target.name + ".changes.parquet")


def _pull(
    told: _Input, target: Path, where: tuple[Path | None, Path | None, str | None, Path | None],
    how: tuple[str | None, bool, bool], as_json: bool,
) -> None:  # fmt: skip
    from kpdata import converters, schema
    from kpdata.browse.review import apply_review
    from kpdata.eval.failures import write_parquet

    to, allow_lossy, force = how
    goal = to or converters.name_of_target(target)
    converters.module(goal)
    gt = told.ground_truth(hashed=True)
    said = _review(told, gt, where)
    if not len(said):
        raise BrowseError(f"{said.source}: it says nothing of anybody: nothing to pull", hint="review people first")
    people = told.people(gt, None) if told.predictions else None
    with _naming(told.truth):
        corrected, changes = apply_review(gt, said, people)
    with console.working(f"writing {target}"), reading.naming(target):
        losses = converters.write(corrected, target, goal, allow_lossy=allow_lossy, force=force)
    write_parquet(changes, _beside(target), force=force)
    if goal != "kp" and "confirmed" in schema.texts(changes["change"]):
        console.warn("only .kp remembers which labels were confirmed: in other formats they may be suspected again")
    _tell_changes(changes, said, {"target": str(target), "to": goal, "changes": str(_beside(target))}, as_json)
    if not as_json:
        console.loss_report(losses)


def _review(told: _Input, gt: Dataset, where: tuple[Path | None, Path | None, str | None, Path | None]) -> Review:
    """The review: a file, LabelMe's files, or else the tags in FiftyOne."""
    from kpdata.browse.review import decode, read_review

    file, folder, name, database = where
    if file:
        return read_review(file)
    if folder:
        from kpdata.browse.labelme_out import read_labelme

        return read_labelme(folder, gt)
    from kpdata.browse.app import pull_tags

    name = name or told.dataset_name()
    return decode(pull_tags(name, database), source=f"tags of {name!r} in FiftyOne")


def _tell_changes(changes: pa.Table, said: Review, paths: dict[str, str], as_json: bool) -> None:
    from collections import Counter

    from kpdata import schema

    counts = dict(Counter(schema.texts(changes["change"])))
    if as_json:
        console.print_json({**paths, "review": said.source, "people_reviewed": len(said), "counts": counts,
                            "rows": changes.to_pylist()})  # fmt: skip
        return
    console.status("Wrote", f"{paths['target']}: {len(said):,} people reviewed in {said.source}")
    console.status("Wrote", f"{paths['changes']}: {changes.num_rows:,} changes")
    console.table(("change", "count"), [(kind, f"{n:,}") for kind, n in counts.items()], title="Changes", right=(1,))
