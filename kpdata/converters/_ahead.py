"""Files read before anybody asks: a thread scans them while Python imports NumPy and Arrow, which takes as long.

`begin` names the files; the `Source` of such a path then starts with what was read. What is asked for otherwise than
expected here is read again, in the usual way: nothing changes but the time.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kpdata.converters import _json, _scanner
from kpdata.converters._scanner import NUMBERS, POLYGONS, SCALAR

_SWITCH = 0.0005  # seconds that an importing thread keeps the interpreter: scanners need it for instants only
_RESULTS = {
    **dict.fromkeys(("id", "image_id", "category_id"), SCALAR),
    **dict.fromkeys(("keypoints", "bbox", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts"), NUMBERS),
    **dict.fromkeys(("area", "score", "num_keypoints", "track_id", "iscrowd"), SCALAR),
    "segmentation": POLYGONS,
}
_ANNOTATIONS = {
    **dict.fromkeys(("id", "image_id", "category_id"), SCALAR),
    **dict.fromkeys(("keypoints", "bbox", "head_bbox", "center"), NUMBERS),
    **dict.fromkeys(("foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts"), NUMBERS),
    **dict.fromkeys(("area", "score", "scale", "num_keypoints", "track_id", "person_index", "iscrowd"), SCALAR),
    "bbox_source": SCALAR,
    "segmentation": POLYGONS,
}
_IMAGES = dict.fromkeys(
    ("file_name", "width", "height", "crowdIndex", "split", "video_id", "frame_index", "id"), SCALAR
)  # fmt: skip


class _Begun:
    """One file on its way: `known`, what its Source has found out, is there when `ready` is set."""

    def __init__(self, path: Path) -> None:
        self.path, self.known, self.ready = path, dict[str, Any](), threading.Event()

    def open(self) -> list[_scanner.Scanning]:
        """Look at the document; what is to be scanned of it. Nothing where that fails: whoever wants the file meets
        it again, and says it."""
        try:
            return self._open()
        except Exception:
            return []
        finally:
            self.ready.set()

    def _open(self) -> list[_scanner.Scanning]:
        from kpdata.converters._source import Source

        source = Source(self.path)
        raw = source.json if source.looks_like_json else None
        if isinstance(raw, dict):
            expected = ((raw.get("images"), _IMAGES), (raw.get("annotations"), _ANNOTATIONS))
        else:
            expected = ((raw, _RESULTS), (None, {}))
        begun = []
        for rows, columns in expected:
            if isinstance(rows, _json.Rows):
                rows.begun = _scanner.Scanning(rows, _scanner.asked([*columns], [*columns.values()]))
                begun.append(rows.begun)
        self.known = source.__dict__
        return begun


_begun: dict[Path, _Begun] = {}
_threads: list[threading.Thread] = []


def begin(paths: Iterable[Path]) -> None:
    """Start to read and scan these files, one after the other, where the scanner was compiled; the caller goes on."""
    files = [_Begun(path) for path in dict.fromkeys(paths)]
    if not files or not _scanner.usable():
        return
    usual = sys.getswitchinterval()

    def work() -> None:
        try:
            for file in files:
                for scanning in file.open():
                    scanning.work()
        finally:
            for file in files:
                file.ready.set()  # whatever happened, nobody waits for good
            sys.setswitchinterval(usual)

    thread = threading.Thread(target=work, daemon=True)
    _begun.update((file.path, file) for file in files)
    _threads.append(thread)  # before it starts: `known` asks who is one
    sys.setswitchinterval(_SWITCH)
    try:
        thread.start()
    except RuntimeError:  # the system gives no more threads: the files are read when they are asked for
        sys.setswitchinterval(usual)
        _threads.remove(thread)
        for file in files:
            del _begun[file.path]


def known(path: Path) -> dict[str, Any]:
    """What a Source of this path has found out already, once; waits for it. Empty where nobody began."""
    if threading.current_thread() in _threads or (file := _begun.pop(path, None)) is None:
        return {}
    file.ready.wait()
    return file.known
