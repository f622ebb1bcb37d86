"""Every way in which kpdata refuses an input, in one tree.

KpdataError                     a sentence, and a hint about what to do; the command line prints both and exits 1
├── FormatError                 a file that cannot be read as the format says: names the file
│   └── UnknownFormat           no format recognises the file, or the name of the target is not clear
├── SchemaError                 arrays or tables that do not fit the schema
│   └── SkeletonError           a skeleton that contradicts itself, or one that is not known
├── DestinationExists           the target is there already and nobody said --force
├── LossyWrite                  the target format cannot hold all, and nobody said --allow-lossy
├── WriteError                  the disk is full, the folder is read-only, …: the old file is still there
├── EvaluationError             predictions and ground truth that cannot be scored together
├── TrainError                  a training, checkpoint or network that cannot start, go on or be loaded
├── BrowseError                 failures that cannot be shown, or reviews that do not belong to the data
└── MissingExtra                an optional package is not installed: names the extra that brings it
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class KpdataError(Exception):
    """A bad input, told to the user in one sentence.

    `message` says where (file, id, field), what was found and what was expected; `hint` says what to do about it.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors of worker processes reach the user: each kind is rebuilt from its fields."""
        return _rebuilt, (type(self), self.__dict__)


def _rebuilt(kind: type[KpdataError], fields: dict[str, Any]) -> KpdataError:
    error = kind.__new__(kind, fields["message"])
    error.__dict__.update(fields)
    return error


class FormatError(KpdataError):
    """`source` cannot be read as the format that it claims, or was said, to be."""

    def __init__(self, source: str | Path, message: str, *, hint: str = "") -> None:
        super().__init__(f"{source}: {message}", hint=hint)
        self.source = str(source)


class UnknownFormat(FormatError):
    """No format recognises the content of a source, or a target's name does not say its format."""


class SchemaError(KpdataError):
    """Columns, lengths or types that the schema does not allow."""


class SkeletonError(SchemaError):
    """A skeleton that contradicts itself, or a name that no skeleton has."""


class DestinationExists(KpdataError):
    """The target exists: nothing was touched."""

    def __init__(self, target: str | Path) -> None:
        super().__init__(f"{target}: exists already", hint="--force overwrites it")


class LossyWrite(KpdataError):
    """The target format cannot hold all that the dataset has: nothing was written. `summary` lists the losses."""

    def __init__(self, target: str | Path, format_name: str, summary: str) -> None:
        super().__init__(
            f"{target}: {format_name} cannot hold all of this dataset ({summary}); nothing was written",
            hint="--allow-lossy writes what it can hold",
        )
        self.summary = summary


class WriteError(KpdataError):
    """Writing failed part-way: the target is as it was before."""


class EvaluationError(KpdataError):
    """Ground truth and predictions that cannot be scored together."""


class TrainError(KpdataError):
    """A training, checkpoint or network that cannot start, go on or be loaded."""


class BrowseError(KpdataError):
    """Failures that cannot be shown, or a review that does not belong to the data."""


class MissingExtra(KpdataError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}", hint=f"pip install 'kpdata[{extra}]'")
