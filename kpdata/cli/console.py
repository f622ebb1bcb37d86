"""How commands talk: results to stdout, progress and notes to stderr; rich on a terminal, plain text in a pipe."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kpdata.errors import KpdataError
from kpdata.losses import LossReport


def prepare() -> None:
    """Let stdout and stderr take every character: what their encoding lacks (cp1252 on Windows) becomes `\\u…`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def colour(stream: Any) -> bool:
    """Whether a stream takes colours: a terminal that can, and nobody set NO_COLOR (no-color.org)."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def status(verb: str, text: str) -> None:
    """One line about what was done, on stderr: `Wrote  people.kp: 6,352 people`."""
    _line(verb, text, "\x1b[1;32m")


def warn(text: str) -> None:
    """One line that the user should read, on stderr."""
    _line("Note", text, "\x1b[1;33m")


def error(problem: KpdataError) -> None:
    """A KpdataError as the user sees it: the sentence, then what to do."""
    _line("Error", problem.message, "\x1b[1;31m")
    if problem.hint:
        _line("Hint", problem.hint, "\x1b[1;36m")


def _line(verb: str, text: str, paint: str) -> None:
    label = f"{paint}{verb:>6}\x1b[0m" if colour(sys.stderr) else f"{verb:>6}"
    print(f"{label}  {text}", file=sys.stderr)


def print_json(data: Any) -> None:
    """One JSON object on stdout; NaN and infinities, which JSON lacks, become null."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    print(json.dumps(_finite(data), indent=2, ensure_ascii=not unicode, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", right: Sequence[int] = ()) -> None:
    """A table on stdout; `right`: columns of numbers, aligned right."""
    texts = [[" ".join(str(cell).split()) for cell in row] for row in rows]  # a row stays a line, whatever is in it
    if colour(sys.stdout):
        _rich_table(headers, texts, title, right)
        return
    if title:
        print(f"\n{title}")
    lines = [list(headers), *texts]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    for line in lines:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _rich_table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str, right: Sequence[int]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    style = {"title_justify": "left", "title_style": "bold", "header_style": "bold cyan"}
    out = Table(title=escape(title) or None, box=box.SIMPLE_HEAD, **style)  # type: ignore[arg-type]  # literals of rich
    for number, header in enumerate(headers):
        out.add_column(header, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        out.add_row(*map(escape, row))
    Console().print(out)


@contextmanager
def working(text: str) -> Iterator[None]:
    """A spinner on stderr while something takes its time; nothing in a pipe."""
    if not colour(sys.stderr):
        yield
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(text)):
        yield


def progress(items: Iterable[Any], text: str, total: int) -> Iterator[Any]:
    """The items, with a progress bar on stderr; no bar in a pipe."""
    if not colour(sys.stderr):
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=text, total=total, console=Console(stderr=True), transient=True)


def loss_report(report: LossReport) -> None:
    """What a write lost and what it added, by kind."""
    kinds = (("lost", report.losses), ("added", report.additions))
    rows = [
        (what, kind, f"{n:,}", report.examples.get(kind, "")) for what, counts in kinds for kind, n in counts.items()
    ]
    if rows:
        table(("", "kind", "count", "what it means"), rows, title=f"Loss report ({report.format})", right=(2,))
    if not report.losses:
        print(f"Loss report ({report.format}): nothing lost")
