"""The entry of the command line: `kpdata eval` begins to read its files before anything else is imported."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from itertools import pairwise
from pathlib import Path

_OUTPUTS = ("--report", "--plot", "--matches", "--failures", "--suspects", "--arrays")  # what is there is not read


def main() -> None:
    """Entry point of the console script."""
    quick = sys.argv[1:2] == ["eval"]
    try:
        if quick:
            _look_ahead(sys.argv[2:])
        from kpdata.cli import main as commands

        commands.main()
    except KeyboardInterrupt:  # before a command began, which says it better
        raise SystemExit(130) from None
    except SystemExit as done:
        if quick and isinstance(done.code, int | None):
            _leave(done.code or 0)
        raise


def _look_ahead(words: list[str]) -> None:
    """Begin to read whatever is a file among the words; the commands' own parsing decides what is meant by them.

    Reading takes about as long as importing NumPy, Arrow and typer, and does not hold the interpreter.
    """
    # NumPy's linear algebra would start threads that wait busily, on the processor that reads; and to find huge pages
    # for its arrays, as for those of Arrow's own memory, takes the system longer than they save a process that ends in
    # half a second.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    gc.set_threshold(100_000)  # hardly anything that imports and readers allocate is garbage
    from kpdata.converters import _ahead, _scanner

    if hasattr(_scanner.compiled, "keep_memory") and not _scanner.pure():  # built when kpdata was installed, and lately
        _scanner.compiled.keep_memory()
    named = [(before, word) for before, word in pairwise(["", *_apart(words)]) if before not in _OUTPUTS]
    # The ground truth is asked for first: predictions, which are much more, are scanned while it becomes columns.
    named.sort(key=lambda pair: pair[0] != "--gt")
    _ahead.begin(Path(word) for _, word in named if _is_file(Path(word)))
    if folders := [Path(word) for _, word in named if _is_file(Path(word, "persons.parquet"))]:
        from kpdata import dataset

        for folder in folders:
            dataset.begin(folder)


def _apart(words: list[str]) -> list[str]:
    """`--gt=FILE` as two words, as `--gt FILE`."""
    return [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a word that no file can be called
        return False


def _leave(code: int) -> None:
    """End the process at once: taking a hundred megabytes of arrays and modules apart costs a tenth of the whole.

    What is registered to run at the end runs, and what is written is written. A stream that is closed (`| head`) is
    left to Python's own end, which knows what to say, and so is a process that somebody looks into.
    """
    if _watched():
        return
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit(code)


def _watched() -> bool:
    """A profiler, a debugger or a measurement of coverage is on, which tells what it saw when this returns."""
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12 on
    tools = map(monitoring.get_tool, range(6)) if monitoring else ()
    return bool(sys.gettrace() or sys.getprofile() or any(tools))


if __name__ == "__main__":
    main()
