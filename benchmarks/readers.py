"""One tool reads (or writes) one file in a process of its own, and says what it saw, how long and how much memory.

    python benchmarks/readers.py TOOL FILE [SCRATCH]

Imports count as the tool's own start and are timed apart. Only the standard library stands outside the tools'
functions, so that each tool runs in its own environment. `seen` says what the tool gives back: people, labelled and
occluded keypoints, and the sum of the labelled coordinates.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

Run = tuple[float, float, Any]  # seconds to import, seconds to do it, what a second function turns into `seen`


def peak_megabytes() -> float:
    """Peak resident memory. Linux keeps `ru_maxrss` of the process that started this one, so /proc is asked first."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def seen_of_rows(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What a list of COCO annotations says."""
    triples = [row["keypoints"][i : i + 3] for row in rows for i in range(0, len(row["keypoints"]), 3)]
    labelled = [t for t in triples if t[2] > 0]
    return {
        "people": len(rows),
        "labelled": len(labelled),
        "occluded": sum(t[2] == 1 for t in labelled),
        "sum": float(sum(t[0] + t[1] for t in labelled)),
    }


def kpdata_read(file: str, _: str) -> Run:
    start = time.perf_counter()
    from kpdata import converters
    from kpdata.converters import coco  # noqa: F401  # part of the start, not of the reading

    imported = time.perf_counter()
    dataset = converters.read(file, "coco", hashed=False)
    done = time.perf_counter()
    return imported - start, done - imported, lambda: seen_of_dataset(dataset)


def kpdata_open(file: str, scratch: str) -> Run:
    start = time.perf_counter()
    from kpdata.dataset import open_dataset

    imported = time.perf_counter()
    dataset = open_dataset(scratch)
    done = time.perf_counter()
    return imported - start, done - imported, lambda: seen_of_dataset(dataset)


def kpdata_write(file: str, scratch: str) -> Run:
    from kpdata import converters

    dataset = converters.read(file, "coco", hashed=False)
    start = time.perf_counter()
    converters.write(dataset, scratch, "coco", force=True)
    return 0.0, time.perf_counter() - start, lambda: seen_of_rows(json.loads(Path(scratch).read_bytes())["annotations"])


def seen_of_dataset(dataset: Any) -> dict[str, float]:
    flags, labelled = dataset.visibility, dataset.visibility > 0
    return {
        "people": len(dataset),
        "labelled": int(labelled.sum()),
        "occluded": int((flags == 1).sum()),
        "sum": float(dataset.keypoints[labelled].sum()),
    }


def json_read(file: str, _: str) -> Run:
    start = time.perf_counter()
    raw = json.loads(Path(file).read_bytes())
    return 0.0, time.perf_counter() - start, lambda: seen_of_rows(raw["annotations"])


def orjson_read(file: str, _: str) -> Run:
    start = time.perf_counter()
    import orjson

    imported = time.perf_counter()
    raw = orjson.loads(Path(file).read_bytes())
    return imported - start, time.perf_counter() - imported, lambda: seen_of_rows(raw["annotations"])


def orjson_write(file: str, scratch: str) -> Run:
    import orjson

    raw = orjson.loads(Path(file).read_bytes())
    start = time.perf_counter()
    Path(scratch).write_bytes(orjson.dumps(raw))
    return 0.0, time.perf_counter() - start, lambda: seen_of_rows(raw["annotations"])


def pycocotools_read(file: str, _: str) -> Run:
    import contextlib
    import io

    start = time.perf_counter()
    from pycocotools.coco import COCO

    imported = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(file)
    done = time.perf_counter()
    return imported - start, done - imported, lambda: seen_of_rows(coco.dataset["annotations"])


def datumaro_read(file: str, scratch: str) -> Run:
    import shutil

    folder = Path(scratch)  # its reader wants annotations/person_keypoints_NAME.json, and a folder for images
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "val2017").mkdir(parents=True, exist_ok=True)
    shutil.copy(file, folder / "annotations" / "person_keypoints_val2017.json")
    start = time.perf_counter()
    import datumaro

    imported = time.perf_counter()
    dataset = datumaro.Dataset.import_from(str(folder), "coco_person_keypoints")
    items = list(dataset)
    done = time.perf_counter()
    return imported - start, done - imported, lambda: seen_of_datumaro(items)


def seen_of_datumaro(items: list[Any]) -> dict[str, float]:
    points = [a for item in items for a in item.annotations if type(a).__name__ == "Points"]
    states = [
        (int(v), x + y) for p in points for v, x, y in zip(p.visibility, p.points[0::2], p.points[1::2], strict=True)
    ]
    labelled = [s for s in states if s[0] > 0]
    return {
        "people": len(points),
        "labelled": len(labelled),
        "occluded": sum(v == 1 for v, _ in labelled),
        "sum": float(sum(s for _, s in labelled)),
    }


def sleap_io_read(file: str, _: str) -> Run:
    start = time.perf_counter()
    import sleap_io

    imported = time.perf_counter()
    # Its default rasterises every polygon and takes ten times as long; images need not exist with "roi".
    labels = sleap_io.load_coco(file, segmentation_format="roi")
    done = time.perf_counter()
    return imported - start, done - imported, lambda: seen_of_sleap(labels)


def seen_of_sleap(labels: Any) -> dict[str, float]:
    people = [instance.numpy() for frame in labels for instance in frame.instances]
    labelled = [(x, y) for person in people for x, y in person.tolist() if x == x]
    total = float(sum(x + y for x, y in labelled))
    return {"people": len(people), "labelled": len(labelled), "occluded": 0, "sum": total}  # it keeps no occlusion


TOOLS = {
    "kpdata": kpdata_read,
    "kpdata open .kp": kpdata_open,
    "kpdata write": kpdata_write,
    "json": json_read,
    "orjson": orjson_read,
    "orjson write": orjson_write,
    "pycocotools": pycocotools_read,
    "datumaro": datumaro_read,
    "sleap-io": sleap_io_read,
}


def main() -> None:
    """Run one tool and print one JSON line."""
    tool, file, scratch = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""
    imported, seconds, look = TOOLS[tool](file, scratch)
    peak = peak_megabytes()
    print(json.dumps({"tool": tool, "import_s": imported, "seconds": seconds, "peak_mb": peak, "seen": look()}))


if __name__ == "__main__":
    main()
