"""The files that `kpdata eval` writes: tables, arrays and the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpdata.cli import console

if TYPE_CHECKING:
    import pyarrow as pa

    from kpdata.eval.evaluation import Evaluation
    from kpdata.eval.points import PointsEvaluation


def tables(
    result: Evaluation, matches: Path | None, failures: Path | None, suspects: Path | None
) -> list[tuple[Path, pa.Table, str]]:
    """What is to be written: where, the rows, and what they are."""
    from kpdata.eval.evaluation import joined

    wanted: list[tuple[Path | None, Callable[[], pa.Table], str]] = [
        (matches, lambda: result.matches, "detections and people"),
        (failures, result.failures, "people and predictions of nobody"),
        (suspects, lambda: joined(result.sides, result.suspect_tables()), "suspicious labels"),
    ]
    return [(path, make(), what) for path, make, what in wanted if path]


def expect_parquet(*paths: Path | None) -> None:
    """WriteError, before anything is read, for a table under the name of another format."""
    if any(paths):
        from kpdata.eval import failures

        for path in filter(None, paths):
            failures.expect_parquet(path)


def save(tables: list[tuple[Path, pa.Table, str]], force: bool) -> None:
    """Write what `tables` gave, and say so."""
    for path, table, what in tables:
        from kpdata.eval.failures import write_parquet

        write_parquet(table, path, force=force)
        console.status("Wrote", f"{path}: {table.num_rows:,} {what}")


def save_arrays(result: Evaluation, arrays: Path, force: bool) -> None:
    """precision (T, R, C, A, M), recall (T, C, A, M) and scores (T, R, C, A, M) in NumPy's .npz."""
    import numpy as np

    from kpdata import files

    with files.replacing(arrays, force=force) as temporary, temporary.open("wb") as handle:
        np.savez(handle, precision=result.curves.precision, recall=result.curves.recall, scores=result.curves.scores)
    console.status("Wrote", f"{arrays}: precision, recall, scores")


def write_report(
    result: Evaluation | PointsEvaluation, path: Path, subtitle: str, drawn: dict[str, Any], force: bool
) -> None:
    """The page, and a warning for each picture that it lacks. drawn: the other arguments of `Evaluation.to_html`."""
    with console.working(f"writing {path}"):
        blank = result.to_html(path, subtitle=subtitle, force=force, **drawn)
    console.status("Wrote", str(path))
    for sentence in blank:
        console.warn(sentence)
