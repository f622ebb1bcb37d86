"""kpdata: human-pose keypoint data. One schema for every format, exact evaluation, and what is wrong with each label.

The public names load on first use, so that `import kpdata` is instant and pulls in neither torch nor pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Dataset": "kpdata.dataset",
    "Skeleton": "kpdata.skeleton",
    "Visibility": "kpdata.schema",
    "KpdataError": "kpdata.errors",
    "read": "kpdata.converters",
    "write": "kpdata.converters",
    "merge": "kpdata.merging",
    "remap": "kpdata.remapping",
    "validate": "kpdata.checks",
    "evaluate": "kpdata.eval",
    "synthesize": "kpdata.synth",
}

__all__ = [*sorted(_HOMES), "__version__"]

if TYPE_CHECKING:
    from kpdata.checks import validate as validate
    from kpdata.converters import read as read
    from kpdata.converters import write as write
    from kpdata.dataset import Dataset as Dataset
    from kpdata.errors import KpdataError as KpdataError
    from kpdata.eval import evaluate as evaluate
    from kpdata.merging import merge as merge
    from kpdata.remapping import remap as remap
    from kpdata.schema import Visibility as Visibility
    from kpdata.skeleton import Skeleton as Skeleton
    from kpdata.synth import synthesize as synthesize


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kpdata' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
