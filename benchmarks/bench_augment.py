"""Augmentation and codecs beside the official recipe and other libraries: equal to the recipe first, then CPU time.

    make bench BENCH=augment                     # makes the peers' environment, then everything
    python -m benchmarks.bench_augment [--repeat 5] [--only kpdata,albumentations] [--subjects jpeg,pixels]

Each run is a process of its own with one thread; what counts is its CPU time a person, so that a busy machine disturbs
little. First every tool meets the truth: kpdata's crops, keypoints and heatmaps must be the official recipe's with the
same draws, its keypoints must lie on the blobs drawn at them, mirrored people must have left and right swapped; else
the benchmark fails. Of peers the rows say so. Then come rounds, every tool once a round. A run of everything in three
rounds or more stores its figures (results/augment.jsonl, README.md); others only print them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import common
from benchmarks.common import HERE, WORK, Row, failure, make_environment, python_of

WORKLOAD = WORK / "data" / "augment" / "workload.json"
LONG_SIDE = 640  # px of the photographs that are taken
PEERS = {
    "torchvision": ["torchvision==0.29.1", "kornia==0.9.0", "opencv-python-headless==4.14.0.94"],
}
SHARED = {"kornia": "torchvision"}  # tools of another's environment
VARIABLES = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "PYTHONPATH": str(HERE.parent),
}
# What kpdata may differ by from the recipe with the same draws (its affine is float32), from the truth, from the loops.
LIMITS = {
    "crop_levels": 16,
    "crop_mean": 0.05,
    "part_levels": 0,
    "keypoints_px": 2e-3,
    "maps": 1e-6,
    "weights": 0,
    "off_px": 0.1,
    "differs": 1e-4,
}
COLUMNS = {
    "what": "---",
    "tool": "---",
    "median ms": "---:",
    "best ms": "---:",
    "a second": "---:",
    "time ÷ kpdata's": "---:",
    "official time ÷ this": "---:",
    "keypoints off by px": "---:",
    "left and right of mirrored people": "---",
}


@dataclass(frozen=True)
class Subject:
    """What is measured: `tools` on one kind of work. official: the tool that is the recipe."""

    title: str
    tools: tuple[str, ...]
    official: str = "official recipe"


PIPELINES = ("kpdata", "official recipe", "albumentations", "albumentations resized first", "torchvision", "kornia")
LOOPS = ("kpdata", "official loop")
SUBJECTS = {
    "jpeg": Subject(
        "JPEG to crop and heatmaps",
        (
            "kpdata",
            "kpdata with OpenCV decoding",
            "kpdata reduced",
            "kpdata whole pictures",
            "kpdata decoding once",
            "official recipe",
            "official recipe simplejpeg",
            "official recipe uint8",
            "official recipe uint8 simplejpeg",
        ),
    ),
    "pixels": Subject("geometry and colour", ("kpdata", "kpdata + albumentations", *PIPELINES[2:])),
    "geometry": Subject("geometry", PIPELINES),
    "targets": Subject("heatmaps of a person", LOOPS, "official loop"),
    "decoding quarter": Subject("decoding, quarter offset", LOOPS, "official loop"),
    "decoding dark": Subject("decoding, DARK", LOOPS, "official loop"),
}


def make_workload() -> Row:
    """Photographs and their people, once: COCO's where they are, else synthetic ones. What the rows say of them."""
    real = Path(os.environ.get("KPDATA_REAL_DATA", HERE.parents[1] / "shared" / "data")) / "coco_mini"
    found = _coco(real) if real.is_dir() else _synthetic(WORKLOAD.parent / "images")
    WORKLOAD.parent.mkdir(parents=True, exist_ok=True)
    WORKLOAD.write_text(json.dumps({"photos": found}))
    people = sum(len(photo["people"]) for photo in found)
    return {"photos": "COCO val2017" if real.is_dir() else "synthetic", "pictures": len(found), "people": people}


def _coco(folder: Path) -> list[Row]:
    """The photographs of val2017 with 640 px on the long side and somebody with keypoints in them."""
    document = json.loads((folder / "person_keypoints_val2017.json").read_text())
    photos = {
        image["id"]: {
            "path": str(folder / "val2017" / image["file_name"]),
            "size": [image["width"], image["height"]],
            "people": [],
        }
        for image in document["images"]
        if max(image["width"], image["height"]) == LONG_SIDE
    }
    for person in document["annotations"]:
        if person["image_id"] in photos and person["num_keypoints"] and not person["iscrowd"]:
            numbers = person["keypoints"]
            photos[person["image_id"]]["people"].append({
                "keypoints": [numbers[k : k + 2] for k in range(0, 51, 3)],
                "visibility": numbers[2::3],
                "box": person["bbox"],
            })  # fmt: skip
    return [photo for photo in photos.values() if photo["people"]]


def _synthetic(folder: Path) -> list[Row]:
    """24 pictures of 640 x 480 px with the people of `kpdata synth`."""
    import numpy as np

    from kpdata import schema
    from kpdata.synth import synthesize, write_images

    dataset = synthesize(24, seed=0, size=(640, 480))
    write_images(dataset, folder, force=True)
    persons, images = dataset.persons, dataset.images
    xy = np.nan_to_num(np.array(schema.ragged(persons["keypoints"])[0])).reshape(-1, 17, 2)  # absent: 0, as COCO
    visibility = np.array(schema.ragged(persons["visibility"])[0]).reshape(-1, 17)
    boxes = np.array(schema.ragged(persons["bbox"])[0]).reshape(-1, 4)
    where, photos = dataset.image_rows(), []
    for row, name in enumerate(schema.texts(images["file_name"])):
        own = np.flatnonzero((where == row) & (visibility > 0).any(1))
        people = [
            {"keypoints": xy[i].tolist(), "visibility": visibility[i].tolist(), "box": boxes[i].tolist()} for i in own
        ]
        photos.append({"path": str(folder / str(name)), "size": [640, 480], "people": people})
    return [photo for photo in photos if photo["people"]]


def run(tool: str, subject: str, *, check: bool = False) -> Row:
    """One run: `seconds` a person (the median of its passes) and `best`; with `check` what it does to the truth."""
    python = python_of(SHARED.get(tool, tool), PEERS)
    if python is None:
        return {"error": "not installed: python -m benchmarks.bench_augment makes its environment"}
    line = [python, "-m", "benchmarks.augment_runners", tool, subject, WORKLOAD, *(["check"] if check else [])]
    row = common.measure(line, variables=VARIABLES)
    if "error" in row:
        return row
    told = json.loads(row["stdout"])
    return told if check else {"seconds": statistics.median(told["times"]), "best": min(told["times"])}


def problems(found: Row) -> list[str]:
    """In what kpdata is not what it must be; empty where it is."""
    wrong = [
        f"{name} {found[name]:g}, at most {limit:g}" for name, limit in LIMITS.items() if found.get(name, 0) > limit
    ]
    if found.get("mirrored") != found.get("swapped"):
        wrong.append(f"{found['swapped']} of {found['mirrored']} mirrored people swapped")
    return wrong


def rows_of(subject: str, tools: Sequence[str], repeat: int) -> list[Row]:
    """The rows of a subject. SystemExit where kpdata's crops, keypoints or heatmaps are wrong."""
    checked = {tool: run(tool, subject, check=True) for tool in tools}
    for tool, found in checked.items():
        if tool.startswith("kpdata") and (wrong := problems(found)):
            raise SystemExit(f"{tool}, {subject}: not what it must be, so nothing is timed: {'; '.join(wrong)}")
    fine = [tool for tool in tools if "error" not in checked[tool]]
    measured = common.rounds({tool: partial(run, tool, subject) for tool in fine}, repeat)
    rows = []
    for tool in tools:
        row: Row = {"subject": SUBJECTS[subject].title, "tool": tool, **checked[tool]}
        if problem := checked[tool].get("error") or failure(measured[tool]):
            rows.append({**row, "error": problem})
            continue
        times = [each["seconds"] for each in measured[tool]]
        best = min(each["best"] for each in measured[tool])
        rows.append({**row, "seconds": statistics.median(times), "min_s": best, "rounds": len(times)})
    return rows


def table(lines: Sequence[Row]) -> str:
    """The rows as Markdown, with each time as a ratio to kpdata's and to the official recipe's."""
    rows = []
    for line in lines:
        if "error" in line:
            rows.append((line["subject"], line["tool"], *"––––––", line["error"]))
            continue
        subject = next(s for s in SUBJECTS.values() if s.title == line["subject"])
        alike = {r["tool"]: r["seconds"] for r in lines if r["subject"] == line["subject"] and "seconds" in r}
        ours, official, own = alike.get("kpdata"), alike.get(subject.official), line["seconds"]
        swapped = f"{line['swapped']} of {line['mirrored']} swapped" if line.get("mirrored") else "–"
        rows.append((
            line["subject"], line["tool"], f"{own * 1e3:.3f}", f"{line['min_s'] * 1e3:.3f}", f"{1 / own:,.0f}",
            f"{own / ours:.2f}" if ours else "–", f"{official / own:.2f}" if official else "–",
            f"{line['off_px']:.3f}" if "off_px" in line else "–", swapped,
        ))  # fmt: skip
    return common.markdown(COLUMNS, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """All subjects; prints and stores JSON lines. Exit code 1 where a row of kpdata's is an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="rounds, 1 or more")
    parser.add_argument("--only", default="", help="tools, with commas between them")
    parser.add_argument("--subjects", default="", help=f"some of {','.join(SUBJECTS)}, with commas between them")
    given = parser.parse_args(arguments)
    wanted = given.subjects.split(",") if given.subjects else list(SUBJECTS)
    if unknown := set(wanted) - set(SUBJECTS):
        parser.error(f"--subjects: {', '.join(sorted(unknown))}, expected some of {', '.join(SUBJECTS)}")
    only = given.only.split(",") if given.only else sorted({tool for s in SUBJECTS.values() for tool in s.tools})
    for tool, requirements in PEERS.items():
        if any(SHARED.get(name, name) == tool for name in only):
            make_environment(tool, requirements)
    facts = {**make_workload(), **common.machine("numpy", "opencv-python-headless", "albumentations", "simplejpeg")}
    lines: list[Row] = []
    for name in wanted:
        if tools := [tool for tool in SUBJECTS[name].tools if tool in only]:
            lines += rows_of(name, tools, max(1, given.repeat))
    lines = [{**line, **facts} for line in lines]
    print(table(lines))
    if not (given.only or given.subjects) and given.repeat >= 3:
        common.store("augment", lines)
        common.into_readme("augment", table(lines))
    if failed := [line["tool"] for line in lines if "error" in line and line["tool"].startswith("kpdata")]:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
