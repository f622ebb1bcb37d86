"""`kpdata doctor`: what is installed, what is missing, and the line that mends it. It imports none of that."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from kpdata import __version__
from kpdata.cli import console, options

CORE = (
    "numpy", "pyarrow", "pandas", "typer", "rich", "pysimdjson", "orjson", "pyyaml", "pycocotools", "scipy", "h5py",
    "pillow", "matplotlib", "jinja2",
)  # fmt: skip
EXTRAS = {
    "augment": ("albumentations", "opencv-python-headless", "simplejpeg"),
    "train": ("torch", "opencv-python-headless", "simplejpeg"),
    "browse": ("fiftyone",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "log": ("tensorboard",),
    "ray": ("ray",),
}
PURPOSES = {
    "augment": "augmentation with albumentations",
    "train": "kpdata train, predict",
    "browse": "kpdata browse in FiftyOne",
    "export": "networks as ONNX",
    "log": "curves in TensorBoard",
    "ray": "work on a cluster",
}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "firefox", "microsoft-edge", "brave-browser", "xdg-open")
_LITTLE = 2.0  # GB free


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. state: "ok", "missing" (mend says what to do), "broken" (the same, and something fails)."""

    what: str
    state: str
    detail: str
    mend: str = ""


def doctor(as_json: options.Json = False) -> None:
    """Say what this machine has for kpdata, and for each thing missing the one line that mends it.

    Exits 1 where something that every command needs is missing or broken.

    Example: kpdata doctor --json
    """
    found = list(_looked_at())
    broken = [finding for finding in found if finding.state == "broken"]
    if as_json:
        console.print_json({"healthy": not broken, "findings": [asdict(finding) for finding in found]})
    else:
        console.table(("what", "state", "detail"), [(f.what, f.state, f.detail) for f in found])
        mends = [(f.what, f.mend) for f in found if f.mend]
        if mends:
            console.table(("what", "what mends it"), mends, title="Missing")
    if broken:
        raise typer.Exit(1)


def _looked_at() -> Iterator[Finding]:
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    yield Finding("kpdata", "ok", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("python", "ok", python)
    yield _core()
    yield _scanner()
    for extra in EXTRAS:
        yield _extra(extra)
    yield from _opencv()
    yield _gpu()
    yield _database()
    yield _browser()
    yield _folder()
    yield from _configured()


def _versions(packages: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """("name version" of those that are installed, names of the others)."""
    known, lost = [], []
    for name in packages:
        try:
            known.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lost.append(name)
    return known, lost


def _core() -> Finding:
    known, lost = _versions(CORE)
    if lost:
        return Finding("packages", "broken", f"not installed: {', '.join(lost)}", f"pip install {' '.join(lost)}")
    return Finding("packages", "ok", ", ".join(known))


def _scanner() -> Finding:
    """Reading works without the compiled scanner, several times slower."""
    if importlib.util.find_spec("kpdata.converters._scan") is not None:
        return Finding("fast reader", "ok", "compiled")
    mend = "install a C compiler, then pip install --force-reinstall --no-deps kpdata"
    return Finding("fast reader", "missing", "not compiled: large files are read more slowly", mend)


def _extra(extra: str) -> Finding:
    known, lost = _versions(EXTRAS[extra])
    if not lost:
        return Finding(f"[{extra}]", "ok", ", ".join(known))
    detail = f"not installed: {', '.join(lost)} ({PURPOSES[extra]})"
    return Finding(f"[{extra}]", "missing", detail, f"pip install 'kpdata[{extra}]'")


def _opencv() -> Iterator[Finding]:
    """Packages that unpack into the same folder `cv2`: removing one breaks the other, and pip does not say so."""
    rivals = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
    known, _ = _versions(rivals)
    if len(known) > 1:
        others = [name for name in (text.split()[0] for text in known) if name != "opencv-python-headless"]
        mend = f"pip uninstall -y {' '.join(others)} && pip install --force-reinstall --no-deps opencv-python-headless"
        yield Finding("opencv", "missing", f"{' and '.join(known)} overwrite each other", mend)


def _gpu() -> Finding:
    torch, _ = _versions(("torch",))
    name = _nvidia()
    if name:
        if torch and "+cpu" in torch[0]:
            mend = "pip uninstall torch, then install its build for CUDA (the line is on torch's own site)"
            return Finding("GPU", "missing", f"{name}, but {torch[0]} cannot use it", mend)
        return Finding("GPU", "ok", name)
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return Finding("GPU", "ok", "Apple (mps)")
    return Finding("GPU", "ok", "none: networks run on the CPU")


def _nvidia() -> str:
    """What nvidia-smi says; "" without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else ""


def _database() -> Finding:
    from kpdata.browse import embedded

    reason = embedded.available()
    if reason is None:
        return Finding("FiftyOne's database", "ok", embedded.configured() or str(embedded.mongod()))
    detail, _, mend = reason.partition(": ")
    return Finding("FiftyOne's database", "missing", f"{detail} (the page of --html needs none)", mend)


def _browser() -> Finding:
    if sys.platform in ("darwin", "win32"):
        return Finding("browser", "ok", "the system's")
    told = [os.environ["BROWSER"]] if os.environ.get("BROWSER") else []
    found = next((path for name in (*told, *_BROWSERS) if (path := shutil.which(name))), None)
    if found:
        return Finding("browser", "ok", found)
    mend = "kpdata browse --html OUT.html and open that file elsewhere, or --remote for the App"
    return Finding("browser", "missing", "none found on this machine", mend)


def _folder() -> Finding:
    """Where browse keeps crops and FiftyOne's database."""
    from kpdata.browse import embedded

    folder = embedded.default_folder()
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    if not os.access(there, os.W_OK):
        mend = "set XDG_CACHE_HOME to a folder of yours, or give --database DIR"
        return Finding("data folder", "missing", f"{folder}: {there} cannot be written", mend)
    free = shutil.disk_usage(there).free / 1e9
    if free < _LITTLE:
        mend = "free some space, or give --database DIR on another disk"
        return Finding("data folder", "missing", f"{folder}: {free:.1f} GB free, {_LITTLE:g} are needed", mend)
    return Finding("data folder", "ok", f"{folder}, {free:,.0f} GB free")


def _configured() -> Iterator[Finding]:
    """The ground truth that `kpdata.toml` names, where there is one."""
    from kpdata.cli import sides
    from kpdata.errors import KpdataError

    here = Path.cwd()
    config = next((path for folder in (here, *here.parents) if (path := folder / "kpdata.toml").is_file()), None)
    if config is None:
        return
    try:
        named = sides._configured(config)
    except KpdataError as problem:
        yield Finding("kpdata.toml", "missing", problem.message, "mend the file, or remove it")
        return
    if named is None:
        yield Finding("kpdata.toml", "ok", f"{config}: names no ground truth")
    elif (config.parent / named).exists():
        yield Finding("kpdata.toml", "ok", f"{config}: gt = {named}")
    else:
        yield Finding("kpdata.toml", "missing", f"{config}: gt = {named!r} is not there", 'correct gt = "…" in it')
