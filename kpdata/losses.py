"""What a conversion could not carry over, counted by kind; and what it had to add."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kpdata.errors import LossyWrite


@dataclass
class LossReport:
    """Losses and additions of one write, by kind.

    losses: kind -> how many times something of the dataset has no place in the target.
    additions: kind -> how many times the target demands something that the dataset does not say: what stands for it.
    examples: kind -> one sentence about the first, or about all, of them.
    """

    format: str
    losses: dict[str, int] = field(default_factory=dict)
    additions: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def lose(self, kind: str, count: int, sentence: str = "") -> None:
        """Count a loss; nothing happens for a count of 0."""
        self._add(self.losses, kind, count, sentence)

    def add(self, kind: str, count: int, sentence: str = "") -> None:
        """Count an addition; nothing happens for a count of 0."""
        self._add(self.additions, kind, count, sentence)

    def _add(self, where: dict[str, int], kind: str, count: int, sentence: str) -> None:
        if count:
            where[kind] = where.get(kind, 0) + int(count)
            if sentence:
                self.examples.setdefault(kind, sentence)

    def merge(self, other: LossReport) -> None:
        """Take another report's counts in: a remap before the write, say."""
        for kind, count in other.losses.items():
            self.lose(kind, count, other.examples.get(kind, ""))
        for kind, count in other.additions.items():
            self.add(kind, count, other.examples.get(kind, ""))

    def __bool__(self) -> bool:
        return bool(self.losses)

    def __str__(self) -> str:
        return ", ".join(f"{kind}: {count:,}" for kind, count in self.losses.items()) or "nothing lost"

    def require(self, allow_lossy: bool, target: str | Path) -> None:
        """LossyWrite unless nothing is lost or the user allowed it: called before a byte is written."""
        if self.losses and not allow_lossy:
            raise LossyWrite(target, self.format, str(self))

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json` and for the dataset's history."""
        return {"losses": self.losses, "additions": self.additions, "examples": self.examples}
