"""`kpdata validate`: every fault of a dataset in one run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpdata.cli import console, options, reading
from kpdata.errors import KpdataError, UnknownFormat

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 40  # rows of the table on stdout; --json and --out hold every one
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE.parquet", help="Write every finding to a Parquet file.", show_default=False),
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=0, help="Findings to print; 0 prints all.")]


def validate(
    source: options.Source,
    from_: options.From = None,
    skeleton: options.OwnSkeleton = None,
    images: options.Images = None,
    out: Out = None,
    limit: Limit = _SHOWN,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Find what is wrong in annotations: file, ids, keypoint and reason of every fault. Exit 1 when there are errors.

    Example: kpdata validate person_keypoints_val2017.json
    """
    from kpdata import files

    if out:
        files.refuse_existing(out, force)
    findings, people = _findings(source, from_, skeleton, images)
    rows = findings.to_pylist()
    if out:
        _save(findings, out, force)
    counts = {level: sum(row["level"] == level for row in rows) for level in ("error", "warning", "note")}
    if as_json:
        console.print_json({"source": str(source), "people": people, "counts": counts, "findings": rows})
    else:
        _print(source, rows, counts, limit)
    if counts["error"]:
        raise typer.Exit(1)


def _findings(source: Path, format: str | None, skeleton: str | None, images: Path | None) -> tuple[pa.Table, int]:
    """All findings, and the number of people; a source that is there but cannot be read at all is one finding."""
    from kpdata import checks

    try:
        dataset = reading.read(source, format, skeleton=skeleton, images=images)
    except UnknownFormat:
        raise
    except KpdataError as problem:
        if not source.exists():
            raise
        return _unreadable(source, problem), 0
    reading.expect_skeleton(dataset, source, skeleton)
    with console.working(f"checking {source}"), reading.naming(source):
        return _with_file(checks.validate(dataset, images=images), source), len(dataset)


def _with_file(findings: pa.Table, source: Path) -> pa.Table:
    """The findings with the source for a file where they are of no image: reading without hashes does not note it."""
    from kpdata import schema

    column = schema.strings([text or str(source) for text in schema.texts(findings["file"])])
    return findings.set_column(findings.schema.get_field_index("file"), "file", column)


def _unreadable(source: Path, problem: KpdataError) -> pa.Table:
    from kpdata import checks, schema

    told = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
    row = {"level": "error", "code": "unreadable", "file": str(source), "message": told}
    return schema.table(checks.FINDINGS, 1, {key: schema.strings([text]) for key, text in row.items()})


def _save(findings: pa.Table, out: Path, force: bool) -> None:
    import pyarrow.parquet as pq

    from kpdata import files

    with files.replacing(out, force=force) as temporary:
        pq.write_table(findings, temporary)
    console.status("Wrote", f"{out}: {findings.num_rows:,} findings")


def _print(source: Path, rows: list[dict[str, Any]], counts: dict[str, int], limit: int) -> None:
    shown = rows[:limit] if limit else rows
    if rows:
        kinds = Counter((row["level"], row["code"]) for row in rows)
        cells: list[Any] = [(*kind, f"{n:,}") for kind, n in kinds.items()]
        console.table(("level", "code", "count"), cells, title=f"Findings in {source}", right=(2,))
        keys = ("level", "file", "image_id", "annotation_id", "keypoint", "message")
        cells = [["" if row[key] is None else row[key] for key in keys] for row in shown]
        print()
        console.table(("level", "file", "image", "annotation", "keypoint", "what"), cells)
        print()
    if len(shown) < len(rows):
        print(f"… and {len(rows) - len(shown):,} more: --limit 0 prints all, --out FILE.parquet keeps them")
    print(f"{source}: " + ", ".join(f"{n:,} {level}s" for level, n in counts.items()))
