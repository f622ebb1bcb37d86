"""Top-down pose networks: HRNet and Simple Baseline, their training, checkpoints, predictions and export.

Nothing is imported before it is asked for: torch and OpenCV come with `pip install 'kpdata[train]'`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kpdata.errors import MissingExtra

if TYPE_CHECKING:
    from kpdata.train.config import Config as Config
    from kpdata.train.config import SourceConfig as SourceConfig
    from kpdata.train.spec import NetworkSpec as NetworkSpec

_HOMES = {
    "checkpoint": "Checkpoint load_checkpoint save_checkpoint",
    "config": "Config SourceConfig",
    "ledger": "hardest_keypoints hardest_people noisy_labels read_ledger",
    "loop": "Result Run fit",
    "models": "build",
    "predictor": "Predictor",
    "spec": "NetworkSpec",
    "training": "train",
    "validation": "Validator",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    except ModuleNotFoundError as missing:
        if missing.name not in ("torch", "cv2"):
            raise
        package = "torch" if missing.name == "torch" else "opencv-python-headless"
        raise MissingExtra(package, "train", f"kpdata.train.{name}") from missing


def __dir__() -> list[str]:
    return sorted(_HOME_OF)
