"""Counts in sentences."""

from __future__ import annotations

from collections.abc import Mapping


def many(count: int, one: str, several: str = "") -> str:
    """So many of something, in words that fit the number.

    >>> many(1, "prediction"), many(1200, "prediction"), many(1, "person has", "people have")
    ('1 prediction', '1,200 predictions', '1 person has')
    """
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def counted(counts: Mapping[str, int]) -> str:
    """Counts by what they count (plural), after each other.

    >>> counted({"images": 2, "people": 1, "people scored": 1, "predictions": 0})
    '2 images, 1 person, 1 person scored, 0 predictions'
    """
    return ", ".join(many(number, _one(what), what) for what, number in counts.items())


def _one(what: str) -> str:
    first, _, rest = what.partition(" ")
    return f"{'person' if first == 'people' else first.removesuffix('s')} {rest}".rstrip()
