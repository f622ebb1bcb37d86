"""Failures to look at, and reviews back into the data: a page for everybody, FiftyOne for who has it.

Nothing is imported before it is asked for: FiftyOne comes with `pip install 'kpdata[browse]'`.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "people": "People gather",
    "page": "write_page",
    "review": "Review read_review apply_review",
    "app": "to_fiftyone from_fiftyone",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME_OF)
