"""FiftyOne for tests: a database folder and a home of this process's own, gone afterwards. And a headless Chromium."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import pytest

SIZE = (320, 240)
ARGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def end(folder: Path) -> None:
    """Give the database back and wait for its server's end. Registered before FiftyOne is imported: runs after its own
    clean-up, which needs the server."""
    from kpdata.browse import embedded, keeper

    while embedded._held:
        embedded._held.pop().close()
    if (folder / "keeper.lock").exists():
        keeper.lock(folder / "keeper.lock")
    shutil.rmtree(folder.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def room():
    """An open `embedded.Database` in a fresh folder; its folder is deleted when the process ends."""
    from kpdata.browse import embedded

    if reason := embedded.available():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="kpdata-browse-")) / "database"
    home = folder.parent / "home"
    home.mkdir()
    os.environ |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    os.environ.pop("FIFTYONE_DATABASE_URI", None)
    atexit.register(end, folder)
    return embedded.open_database(folder)


@pytest.fixture(scope="session")
def crowd(tmp_path_factory):
    """(ground truth, predictions, folder of pictures): ten scenes."""
    from kpdata import synth

    gt = synth.synthesize(10, seed=3, people=(1, 4), size=SIZE)
    predictions, _ = synth.simulate_predictions(
        gt, seed=1, missed_people=0.15, false_positives=0.15, miss=0.1, inversion=0.1
    )
    folder = tmp_path_factory.mktemp("pictures")
    synth.write_images(gt, folder)
    return gt, predictions, folder


@pytest.fixture(scope="session")
def people(crowd):
    """The crowd's table of people."""
    from kpdata.browse.people import gather

    gt, predictions, folder = crowd
    return gather(gt, predictions, images=folder, title="Model one")


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium (playwright). Of a module: while one playwright runs, a process can start no second one."""
    program = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if importlib.util.find_spec("playwright") is None or program is None:
        pytest.skip("no browser tests: playwright or Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGS.split())
        yield browser
        browser.close()
