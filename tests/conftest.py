"""The one door to real data, and settings that every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("kpdata", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kpdata")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real annotations and photographs: `KPDATA_REAL_DATA`, else `../shared/data` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("KPDATA_REAL_DATA", default))
    if not (folder / "coco_mini").is_dir():
        pytest.skip(f"real data not found in {folder}: set KPDATA_REAL_DATA to its folder")
    return folder
