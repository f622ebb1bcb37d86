"""Packed crops: of every picture only what a training can see of each person, in a few large files.

A pack is a folder: `pack.json` (of which data, made how), and for each shard `00000.crops`, the crops one after the
other, and `00000.parquet`, where each lies and which part of its picture it is. A shard is whole or absent: building
goes on after an interruption. A crop is cut at whole pixels, so that nothing is resampled; it has room for the largest
turn, scale, shift and half body of the preset, ends at the picture's edge, and is made smaller, once, only where its
person is larger than `LIMIT` times the network's input (so far that no warp shrinks it by 2 or more).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import files, schema
from kpdata.augment import kernels
from kpdata.augment.crops import TopDown
from kpdata.augment.image import opencv
from kpdata.errors import FormatError, TrainError, WriteError
from kpdata.train.draws import Halves
from kpdata.train.table import People, Pictures

LIMIT = 1.5
"""Largest side of a packed person, in sides of the network's input: above, it is made smaller."""

VERSION = 1
_SHARD = 1024  # people a shard
_LEAST_SHRINK = 1.99  # below 2, where `image.warp` begins to average

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Progress = Callable[[int, int], None]

# of each crop: where it lies in the shard; its size; the part of the picture (x, y, and picture px a px); the picture
_COLUMNS = {
    "annotation_id": pa.int64(), "offset": pa.int64(), "bytes": pa.int64(), "width": pa.int64(), "height": pa.int64(),
    "x": pa.int64(), "y": pa.int64(), "ratio_x": pa.float64(), "ratio_y": pa.float64(),
    "picture_width": pa.int64(), "picture_height": pa.int64(),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Room:
    """What a pack leaves room for: the crops of `size` px and `padding`, scaled by up to 1 + `scale`, turned by up to
    `rotation` degrees, moved by up to `shift` of their sides; halves: half bodies, too."""

    size: tuple[int, int]
    padding: float
    scale: float = 0.0
    rotation: float = 0.0
    shift: float = 0.0
    halves: bool = False
    clean: bool = False

    @classmethod
    def of(cls, crop: TopDown, *, augment: bool) -> Room:
        """The room that the crops of a preset need; augment False: the plain ones."""
        if not augment:
            return cls(crop.size, crop.padding, clean=crop.clean)
        turn = crop.rotation * (2 if crop.distribution == "normal" else 1) if crop.rotation_p else 0.0
        return cls(
            crop.size, crop.padding, crop.scale if crop.scale_p else 0.0, turn, crop.shift if crop.shift_p else 0.0,
            crop.half_body is not None and crop.half_body.p > 0, crop.clean,
        )  # fmt: skip

    def lacks(self, wanted: Room) -> list[str]:
        """What of the wanted room is missing, in words."""
        missing = [
            f"{name} {getattr(self, name)}, the training has {getattr(wanted, name)}"
            for name in ("size", "padding", "clean") if getattr(self, name) != getattr(wanted, name)
        ]  # fmt: skip
        missing += [
            f"{name} up to {getattr(self, name):g}, the training has {getattr(wanted, name):g}"
            for name in ("scale", "rotation", "shift") if getattr(self, name) < getattr(wanted, name)
        ]  # fmt: skip
        return missing + (["no half bodies, the training has them"] if wanted.halves and not self.halves else [])


def regions(people: People, room: Room, halves: Halves | None) -> tuple[Floats, Floats]:
    """(N, 4) x0, y0, x1, y1 px of the picture that any crop can see, and (N,) picture px a px of the largest crop."""
    ratio = room.size[0] / room.size[1]
    crops = [(people.center, people.sides)]
    if room.halves and halves is not None:
        fixed = kernels.fix_aspect(halves.extent, ratio)
        fixed[~(halves.extent > 0).any(axis=2)] = np.nan
        crops += [(halves.center[0], fixed[0]), (halves.center[1], fixed[1])]
    low, high, zoom = np.full((len(people), 2), np.nan), np.full((len(people), 2), np.nan), np.zeros(len(people))
    for center, sides in crops:
        # two px of the input more on each side: bilinear weights, and the half pixel of the official convention
        grown = sides * (1 + room.scale) * (1 + 4 / np.array(room.size))
        reach = _turned(grown, room.rotation) / 2 + sides * room.shift
        low, high = np.fmin(low, center - reach), np.fmax(high, center + reach)
        zoom = np.fmax(zoom, sides[:, 0] / room.size[0])
    return np.concatenate([low, high], axis=1), zoom


def _turned(sides: Floats, degrees: float) -> Floats:
    """(N, 2) extent of rectangles (N, 2) turned by any angle up to this."""
    most = np.radians(min(degrees, 90.0))
    width, height = sides[:, 0], sides[:, 1]
    wide, tall = np.minimum(np.arctan2(height, width), most), np.minimum(np.arctan2(width, height), most)
    return np.stack(
        [width * np.cos(wide) + height * np.sin(wide), height * np.cos(tall) + width * np.sin(tall)], axis=1
    )


# ------------------------------------------------------------------------------------------------------------ building


def build(
    folder: Path,
    people: People,
    pictures: Pictures,
    room: Room,
    halves: Halves | None = None,
    *,
    quality: int | None = 90,
    shard: int = _SHARD,
    workers: int = 1,
    progress: Progress | None = None,
) -> Pack:
    """The pack of these people in `folder`, made or finished: shards that are whole stay. `Crops.pack_into` calls it.

    quality: of the JPEG crops, 1 to 100; None: raw pixels, nine times as large, nothing to decode. workers: threads.
    progress(done, of): people, after each shard. TrainError where the folder holds a pack of other data, with less
    room, or of another kind; WriteError where it is something else, or the disk refuses; FormatError for pictures.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise TrainError(f"quality {quality!r} of packed crops, expected 1 to 100, or none for raw pixels")
    document = {
        "kpdata_pack": VERSION, "data": _key(people, pictures), "room": _plain(room), "quality": quality,
        "people": len(people), "shard": shard,
    }  # fmt: skip
    room = _begin(folder, document, room)
    boxes, zoom = regions(people, room, halves)
    shrink = np.maximum(1, zoom / min(LIMIT, _LEAST_SHRINK / (1 + room.scale)))
    for number, start in enumerate(range(0, len(people), shard)):
        rows = np.arange(start, min(start + shard, len(people)))
        if _whole(folder, number) is None:
            _write_shard(folder, number, _cuts(people, pictures, rows, boxes, shrink, quality, workers))
        if progress is not None:
            progress(int(rows[-1]) + 1, len(people))
    return open_pack(folder)


def _plain(room: Room) -> dict[str, Any]:
    return {**asdict(room), "size": list(room.size)}


def _begin(folder: Path, document: dict[str, Any], room: Room) -> Room:
    """The folder with its `pack.json`, new or of the same data; the room of its crops, at least the one asked for."""
    path = folder / "pack.json"
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise WriteError(f"{folder}: is there already and is no pack of crops; it was not touched")
        files.write_bytes(path, json.dumps(document, indent=1).encode())
        return room
    found, problems = _document(folder), []
    if found.get("data") != document["data"]:
        problems.append("of other people or pictures")
    problems += [
        f"made with {name} {found.get(name)!r}, this training needs {document[name]!r}"
        for name in ("quality", "shard") if found.get(name) != document[name]
    ]  # fmt: skip
    problems += [f"with {what}" for what in _room(found).lacks(room)]
    if problems:
        hint = "choose another folder, or delete this one"
        raise TrainError(f"{folder}: holds packed crops {'; '.join(problems)}", hint=hint)
    return _room(found)


def _room(document: dict[str, Any]) -> Room:
    told = document["room"]
    return Room(**{**told, "size": tuple(told["size"])})


def _key(people: People, pictures: Pictures) -> str:
    """SHA-256 of what decides about the crops: people, and names and sizes of the pictures (not their folders)."""
    digest = hashlib.sha256()
    for array in (people.keypoints, people.visibility, people.center, people.sides, people.image):
        digest.update(np.ascontiguousarray(array).tobytes())
    for place in pictures.places:
        told = [os.path.basename(place), _bytes(place)] if isinstance(place, str) else [len(place)]  # noqa: PTH119
        digest.update(json.dumps(told).encode())
    return digest.hexdigest()


def _bytes(place: str) -> int:
    """Size of a file, -1 where it is gone: then it is not what was packed."""
    try:
        return os.stat(place).st_size  # noqa: PTH116
    except OSError:
        return -1


@dataclass(frozen=True, slots=True)
class _Cut:
    """A crop as it is written: its bytes, and its row of the index but for the offset."""

    row: int
    data: bytes
    values: dict[str, float]


def _cuts(
    people: People, pictures: Pictures, rows: Ints, boxes: Floats, shrink: Floats, quality: int | None, workers: int
) -> Iterator[_Cut]:
    """The crops of these people, in their order, each picture decoded once. The table is sorted by pictures."""
    starts = np.flatnonzero(np.diff(people.image[rows], prepend=-1))
    groups = np.split(rows, starts[1:])

    def cut(group: Ints) -> list[_Cut]:
        image = pictures.read(int(people.image[group[0]]))
        return [
            _cut(image, int(row), int(people.annotation_ids[row]), boxes[row], float(shrink[row]), quality)
            for row in group
        ]

    if workers <= 1:
        for group in groups:
            yield from cut(group)
        return
    with ThreadPoolExecutor(workers) as pool:
        for found in pool.map(cut, groups):
            yield from found


def _cut(image: Pixels, row: int, annotation: int, box: Floats, shrink: float, quality: int | None) -> _Cut:
    cv2 = opencv("packing crops")
    limits = np.array(image.shape[1::-1])
    low = np.clip(np.floor(box[:2]), 0, limits - 1).astype(int)
    high = np.clip(np.ceil(box[2:]) + 1, low + 1, limits).astype(int)
    part: Pixels = image[low[1] : high[1], low[0] : high[0]]
    size = np.maximum(1, np.rint((high - low) / shrink)).astype(int)
    if shrink > 1:
        part = np.asarray(cv2.resize(part, tuple(size.tolist()), interpolation=cv2.INTER_AREA))
    if quality is None:
        data = np.ascontiguousarray(part).tobytes()
    else:
        bgr = cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2BGR)
        data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    ratio = (high - low) / size
    return _Cut(row, data, {
        "annotation_id": annotation, "bytes": len(data), "width": size[0], "height": size[1], "x": low[0], "y": low[1],
        "ratio_x": ratio[0], "ratio_y": ratio[1], "picture_width": limits[0], "picture_height": limits[1],
    })  # fmt: skip


def _write_shard(folder: Path, number: int, cuts: Iterator[_Cut]) -> None:
    """The crops, then their index: without the index the shard counts as absent."""
    import pyarrow.parquet as pq

    digest, rows, at = hashlib.sha256(), [], 0
    with files.replacing(_crops_path(folder, number), force=True) as temporary, temporary.open("wb") as out:
        for cut in cuts:
            out.write(cut.data)
            digest.update(cut.data)
            rows.append({**cut.values, "offset": at})
            at += len(cut.data)
    columns = [schema.fixed(np.array([row[name] for row in rows]), kind) for name, kind in _COLUMNS.items()]
    table = pa.Table.from_arrays(columns, names=list(_COLUMNS))
    told = json.dumps({"bytes": at, "sha256": digest.hexdigest()}).encode()
    with files.replacing(_index_path(folder, number), force=True) as temporary:
        pq.write_table(table.replace_schema_metadata({b"kpdata_shard": told}), temporary)


def _crops_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.crops"


def _index_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.parquet"


# ------------------------------------------------------------------------------------------------------------- reading


@dataclass(eq=False)
class Pack:
    """An open pack: crops by the number of their person in the table that it was made of.

    side: px, the longest side of any crop. It can be sent to worker processes: files are mapped where they are read.
    """

    folder: Path
    document: dict[str, Any]
    columns: dict[str, NDArray[Any]]  # (N,) each, see _COLUMNS
    back: Floats  # (N, 3, 3) px of the crop to px of its picture
    digests: list[tuple[int, str]]  # of each shard: bytes and SHA-256
    _maps: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    _scratch: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))

    def __len__(self) -> int:
        return len(self.back)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}, "_scratch": np.empty(0, np.uint8)}  # a map would be sent as its content

    @property
    def side(self) -> int:
        return int(max(self.columns["width"].max(), self.columns["height"].max()))

    @property
    def room(self) -> Room:
        return _room(self.document)

    def read(self, row: int) -> tuple[Pixels, Floats, tuple[int, int]]:
        """The crop (h, w, 3), its map (3, 3) to px of the picture, and the picture's (W, H). FormatError for damage.

        The pixels stand in a buffer that the next call overwrites: new memory for each costs a third of the decoding.
        """
        of = self.columns
        shard, start = row // self.document["shard"], int(of["offset"][row])
        data = self._map(shard)[start : start + int(of["bytes"][row])]
        height, width = int(of["height"][row]), int(of["width"][row])
        if not len(self._scratch):
            self._scratch = np.empty(3 * int((of["width"] * of["height"]).max()), np.uint8)
        raw = self.document["quality"] is None
        if len(data) != of["bytes"][row] or (raw and len(data) != height * width * 3):
            raise self._damaged(shard, f"ends before the crop of annotation {int(of['annotation_id'][row])} does")
        image = data.reshape(height, width, 3) if raw else _decoded(data, self._scratch)
        if image is None or image.shape != (height, width, 3):
            raise self._damaged(shard, f"the crop of annotation {int(of['annotation_id'][row])} cannot be decoded")
        return image, self.back[row], (int(of["picture_width"][row]), int(of["picture_height"][row]))

    def _map(self, shard: int) -> NDArray[np.uint8]:
        if shard not in self._maps:
            path = _crops_path(self.folder, shard)
            try:
                self._maps[shard] = np.asarray(np.memmap(path, np.uint8, "r"))  # a plain array is cut faster
            except (OSError, ValueError) as error:
                raise self._damaged(shard, f"cannot be read ({error})") from error
        return self._maps[shard]

    def _damaged(self, shard: int, what: str) -> FormatError:
        hint = f"delete {_index_path(self.folder, shard).name} in that folder: packing again makes this shard anew"
        return FormatError(_crops_path(self.folder, shard), what, hint=hint)

    def check(self) -> None:
        """Every shard's bytes against the hash that was noted when it was written. FormatError names the first that
        differs."""
        for number, (_, digest) in enumerate(self.digests):
            with _crops_path(self.folder, number).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise self._damaged(number, "its content is not what was packed (SHA-256 differs)")

    def check_for(self, people: People, pictures: Pictures, crop: TopDown, *, augment: bool) -> None:
        """TrainError unless the pack is of these people, and has room for these crops."""
        hint = "pack again, into another folder"
        if missing := self.room.lacks(Room.of(crop, augment=augment)):
            raise TrainError(f"{self.folder}: its crops were packed with {'; '.join(missing)}", hint=hint)
        if self.document["data"] != _key(people, pictures):
            found = f"{len(self):,} people were packed, the training has {len(people):,}"
            more = "" if len(self) != len(people) else ", and their labels or pictures differ"
            raise TrainError(f"{self.folder}: packed crops of other data: {found}{more}", hint=hint)


def open_pack(folder: Path) -> Pack:
    """The pack of a folder. FormatError where it is none, a shard is missing, cut short or damaged: named."""
    document = _document(folder)
    count = -(-document["people"] // document["shard"])
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in _COLUMNS}
    digests = []
    for number in range(count):
        found = _whole(folder, number)
        if found is None:
            what = f"shard {number + 1} of {count} is missing or not whole"
            raise FormatError(_crops_path(folder, number), what, hint="packing again goes on where it stopped")
        table, told = found
        digests.append((int(told["bytes"]), str(told["sha256"])))
        for name, parts in columns.items():
            parts.append(schema.values(table[name]))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    if len(joined["offset"]) != document["people"]:
        raise FormatError(
            folder, f"{len(joined['offset']):,} crops, expected {document['people']:,}", hint="pack again"
        )
    return Pack(folder, document, joined, _maps_back(joined), digests)


def _maps_back(columns: dict[str, NDArray[Any]]) -> Floats:
    """(N, 3, 3): a cut, made smaller so that edges go to edges, as `kernels.resize` backwards."""
    back = np.zeros((len(columns["x"]), 3, 3))
    for axis, name in ((0, "x"), (1, "y")):
        ratio = columns[f"ratio_{name}"]
        back[:, axis, axis], back[:, axis, 2] = ratio, columns[name] + (ratio - 1) / 2
    back[:, 2, 2] = 1
    return back


def _document(folder: Path) -> dict[str, Any]:
    path = folder / "pack.json"
    try:
        found = json.loads(files.read_bytes(path))
        if found["kpdata_pack"] != VERSION:
            raise ValueError(f"of version {found['kpdata_pack']!r}")
        if not (found["people"] > 0 and found["shard"] > 0 and isinstance(found["room"]["size"], list)):
            raise ValueError("its numbers make no sense")
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(path, f"is not that of a pack of crops of version {VERSION} ({error})") from error
    return dict(found)


def _whole(folder: Path, number: int) -> tuple[pa.Table, dict[str, Any]] | None:
    """The index of a shard and what it notes; None unless its file has the bytes that it should."""
    import pyarrow.parquet as pq

    path = _index_path(folder, number)
    try:
        table = pq.ParquetFile(path).read()
        told = json.loads((table.schema.metadata or {})[b"kpdata_shard"])
        whole = table.schema.names == list(_COLUMNS) and _crops_path(folder, number).stat().st_size == told["bytes"]
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None
    return (table, told) if whole else None


def _decoded(data: NDArray[np.uint8], scratch: NDArray[np.uint8]) -> Pixels | None:
    """RGB of a JPEG by the fastest decoder there is, in the memory of `scratch` where it can; None for damage."""
    try:
        import simplejpeg  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        cv2 = opencv("packed crops")
        found = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return None if found is None else np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB))
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastupsample=True, buffer=scratch)
    except ValueError:
        return None
    return pixels
