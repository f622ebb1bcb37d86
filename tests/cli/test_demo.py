"""`kpdata demo`: the whole way, readable, and with everything that it promises."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest
from PIL import Image

EXTRAS = ("torch", "cv2", "fiftyone", "albumentations", "simplejpeg", "onnx", "onnxruntime", "tensorboard", "pandas")
ALONE = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Missing())
from kpdata.cli.main import app
app(sys.argv[1:], prog_name="kpdata")
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """(folder, what was printed): a demo in a process of its own, without any package of an extra, nor pandas."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-c", ALONE, "demo", "d", "-n", "4", "--seed", "2"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_demo(run, shown, monkeypatch):
    """Seven steps in order, no format changed anything, pictures and a page that open, and last commands that work."""
    folder, out = shown
    monkeypatch.chdir(folder)
    steps = [line for line in out.splitlines() if line[:1].isdigit() and ". " in line[:3]]
    assert [line[0] for line in steps] == ["1", "2", "3", "4", "5", "6", "7"]
    assert out.count(" equal ") == 5
    assert "DIFFERENT" not in out
    assert "pycocotools says the same, to the last bit" in out
    page = (folder / "d" / "report.html").read_text(encoding="utf-8")
    helps = [line.strip() for line in out.splitlines() if line.startswith("   1. ")]
    assert " would add " in helps[0]
    assert helps[0].removeprefix("1. ") in page
    assert page.count("data:image/jpeg") > 3
    for name in ("people.png", "predictions.png", "statistics.png"):
        with Image.open(folder / "d" / name) as picture:
            assert min(picture.size) > 200
    commands = [line.strip() for line in out.splitlines() if line.startswith("  kpdata ")]
    assert len(commands) == 3
    for command in commands:
        again = run(*shlex.split(command)[1:])
        assert again.code == 0, again.err


def test_it_ends_with_the_page_of_failures(shown):
    """The last lines say which page to open, as a browser takes it; everybody is on it, with a picture."""
    folder, out = shown
    page = folder / "d" / "failures.html"
    assert page.as_uri() in out.splitlines()[-4]
    document, pictures = blocks(page)
    labelled = {person["id"] for person in json.loads((folder / "d" / "data" / "coco.json").read_text())["annotations"]}
    on_page = document["people"]["annotation_id"]
    assert {int(number) for number in on_page if number is not None} == labelled  # texts: JavaScript rounds large ids
    assert len(on_page) == int(re.search(r"failures\.html: (\d+) people", out)[1])
    assert len(pictures) == len(on_page)


def blocks(page):
    """The page's data and pictures."""
    text = page.read_text(encoding="utf-8")
    return [
        json.loads(block) for block in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)
    ]


def test_what_is_decided_there_comes_back(run, shown, monkeypatch):
    """The command of the last step takes a review of that page back into the data: a keypoint goes where it was put."""
    folder, out = shown
    monkeypatch.chdir(folder)
    key = blocks(folder / "d" / "failures.html")[0]["key"]
    annotation = json.loads((folder / "d" / "data" / "coco.json").read_text())["annotations"][0]
    moved = {"annotation_id": annotation["id"], "image_id": annotation["image_id"], "detection_id": None,
             "skeleton": "coco_17", "decision": None, "note": "",
             "keypoints": {"nose": {"x": 12.5, "y": 34.25, "visibility": 2}}}  # fmt: skip
    (folder / "review.json").write_text(json.dumps({"kpdata_review": 1, "key": key, "people": [moved]}))
    command = next(line.strip() for line in out.splitlines() if "--review review.json" in line)
    done = run(*shlex.split(command)[1:])
    assert done.code == 0, done.err
    run("convert", "corrected.kp", "corrected.json", "--to", "coco", "--allow-lossy")
    corrected = json.loads((folder / "corrected.json").read_text())["annotations"][0]["keypoints"]
    assert corrected == [12.5, 34.25, 2, *annotation["keypoints"][3:]]


def test_an_existing_folder_is_kept(run, tmp_path):
    """Exit 1, and nothing is touched without --force."""
    (tmp_path / "mine.txt").write_text("precious")
    done = run("demo", tmp_path)
    assert done.code == 1
    assert f"{tmp_path}: exists already" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
