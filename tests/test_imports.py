"""The rooms and the direction of imports between them (docs/design.md): read from the code, not from a picture."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kpdata"
# A room may import the rooms of lower levels, and itself; rooms of one level do not see each other.
LEVELS = {"core": 0, "converters": 1, "augment": 1, "eval": 1, "train": 2, "browse": 2, "cli": 3}


def room(module: str) -> str:
    part = module.split(".")[1] if "." in module else "core"
    part = "cli" if part == "__main__" else part
    return part if part in LEVELS else "core"


def imports() -> list[tuple[str, str]]:
    """(importing module, imported kpdata module) of every import statement, those inside functions too."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("kpdata", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(module, name) for name in names if name.split(".")[0] == "kpdata"]
    return found


def test_imports_go_one_way() -> None:
    """core <- converters, augment, eval (not each other) <- train, browse <- cli."""
    wrong = [
        f"{a} imports {b}"
        for a, b in imports()
        if a != "kpdata" and room(a) != room(b) and LEVELS[room(b)] >= LEVELS[room(a)]
    ]
    assert not wrong


def test_the_rule_sees_the_rooms() -> None:
    """The test above would fail on a wrong import: it knows modules of every room that exists."""
    assert {room(a) for a, _ in imports()} >= {"core", "converters", "eval", "cli"}
    assert ("kpdata.cli.convert", "kpdata.cli.options") in imports()


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


ROOMS = ("kpdata", "kpdata.augment", "kpdata.train", "kpdata.browse", "kpdata.cli.main")


@pytest.mark.parametrize("module", ROOMS)
def test_importing_is_light(module: str) -> None:
    """`import kpdata`, its rooms and the command line load neither NumPy nor Arrow nor anything heavier."""
    heavy = {"numpy", "pyarrow", "pandas", "torch", "matplotlib", "scipy", "h5py", "cv2", "PIL", "fiftyone", "rich"}
    assert not modules_after(f"import {module}") & heavy


def test_values_of_a_training_need_no_torch() -> None:
    """A configuration and a network's spec are plain data: tools may write them where no torch is installed."""
    assert not modules_after("from kpdata.train import Config, NetworkSpec, SourceConfig") & {"torch", "cv2", "pyarrow"}


OPTIONAL = {"torch", "cv2", "fiftyone", "tensorboard", "onnx", "onnxruntime", "albumentations", "simplejpeg", "ray"}


def test_extras_are_imported_where_they_are_needed() -> None:
    """On top of a file torch stands in the trainer and its kernels alone, and no other optional package anywhere: what
    is not installed stops the one command that needs it."""
    found = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("kpdata", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.parse(file.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            found |= {(module, name.split(".")[0]) for name in names if name.split(".")[0] in OPTIONAL}
    assert ("kpdata.train.hrnet", "torch") in found
    homes = ("kpdata.train.", "kpdata.augment.batched")
    assert not [f"{a} imports {b}" for a, b in found if b != "torch" or not a.startswith(homes)]


def test_every_public_name_is_there() -> None:
    """Each name of `kpdata.__all__` loads."""
    import kpdata

    assert all(getattr(kpdata, name) is not None for name in kpdata.__all__)


def test_reading_and_scoring_do_not_import_pandas(tmp_path: Path) -> None:
    """pandas costs 0.4 s and 50 MB; reading, converting and evaluating go without it."""
    code = f"""
from kpdata import converters, evaluate, synthesize
from kpdata.synth import simulate_predictions
gt = synthesize(4, seed=1)
converters.write(gt, r"{tmp_path}/gt.json", "coco", allow_lossy=True)
converters.write(simulate_predictions(gt, seed=1)[0], r"{tmp_path}/dt.json", "coco_results", allow_lossy=True)
gt = converters.read(r"{tmp_path}/gt.json")
converters.write(gt, r"{tmp_path}/gt.kp")
evaluate(converters.read(r"{tmp_path}/gt.kp"), converters.read(r"{tmp_path}/dt.json"))
"""
    loaded = modules_after(code)
    assert "pandas" not in loaded
    assert "pyarrow" in loaded
