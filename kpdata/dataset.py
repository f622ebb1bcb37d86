"""`Dataset`: images and people at rest, as two Arrow tables with skeletons and provenance.

Frozen: whatever changes something gives a new one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import files, schema
from kpdata.arrays import lookup
from kpdata.errors import FormatError, SchemaError
from kpdata.skeleton import Skeleton

if TYPE_CHECKING:
    import pandas as pd

COORDINATES = {"origin": "top-left", "unit": "px", "base": 0, "keypoints": "pixel_index", "boxes": "continuous"}
# Of a dataset's provenance, what says where it came from and not what it holds: two datasets may be equal without it.
_ORIGIN = ("files", "images_root")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and the people in them; predictions are a Dataset whose people have `score`.

    images, persons: Arrow tables of `schema.IMAGES` and `schema.PERSONS`, in the source's order (ties depend on it).
    skeletons: by the name that the persons' `skeleton` column uses.
    datasets: provenance by the name that the `dataset` columns use (source format, files, licence, area kind, …).
    history: operations since reading, oldest first, each a JSON object with `op`.
    blobs: embedded pictures, where a source had them.

    Equality (`==`) compares tables (NaN equals NaN), skeletons and what provenance says of the content: not files,
    folders and history.
    """

    images: pa.Table
    persons: pa.Table
    skeletons: Mapping[str, Skeleton] = field(default_factory=dict)
    datasets: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()
    blobs: pa.Table = field(default_factory=schema.no_blobs)

    def __repr__(self) -> str:
        bones = ", ".join(f"{name} ({len(skeleton)})" for name, skeleton in self.skeletons.items()) or "no skeleton"
        sources = ", ".join(self.datasets) or "no source"
        return f"<Dataset: {self.images.num_rows:,} images, {len(self):,} people; {bones}; {sources}>"

    def __post_init__(self) -> None:
        if self.images.schema.names != schema.IMAGES.names or self.persons.schema.names != schema.PERSONS.names:
            raise SchemaError("the images and persons tables must have the columns of kpdata.schema")
        ids = schema.values(self.images["image_id"])
        ordered = np.sort(ids)  # not np.unique, which imports numpy.ma
        if (ordered[1:] == ordered[:-1]).any():
            first = _repeated(ids)[0]
            raise SchemaError(f"images: image_id {first} stands twice", hint="each image has one row")
        self._check_lengths()

    def _check_lengths(self) -> None:
        for name, index in self.groups():
            if name is None:
                continue
            if name not in self.skeletons:
                raise SchemaError(f"persons name the skeleton {name!r}, known are {sorted(self.skeletons)}")
            count = len(self.skeletons[name])
            for column, width in (("keypoints", 2 * count), ("visibility", count), ("keypoint_scores", count)):
                array = schema.chunk(self.persons[column])
                lengths = np.diff(schema.ragged(array)[1])
                odd = (lengths != width) & schema.valid(array)
                if odd.any() and (wrong := index[odd[index]]).size:
                    raise SchemaError(
                        f"person row {wrong[0]}: {lengths[wrong[0]]} values in {column!r}, expected {width} "
                        f"({count} keypoints of {name!r})"
                    )

    # -------------------------------------------------------------------------------------------------- views

    def __len__(self) -> int:
        """Number of people."""
        return int(self.persons.num_rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Dataset):
            return NotImplemented
        tables = ((self.images, other.images), (self.persons, other.persons), (self.blobs, other.blobs))
        return (
            all(schema.same(a, b) for a, b in tables)
            and {k: s.to_json() for k, s in self.skeletons.items()}
            == {k: s.to_json() for k, s in other.skeletons.items()}
            and _alike(_contents(self.datasets), _contents(other.datasets))
        )

    __hash__ = None  # type: ignore[assignment]

    def groups(self) -> Iterator[tuple[str | None, NDArray[np.int64]]]:
        """(skeleton name, rows of the people that use it), in the order of first use; None: people without one."""
        yield from _groups(self.persons["skeleton"])

    @property
    def skeleton(self) -> Skeleton:
        """The skeleton of a dataset that has one. SchemaError where people use several, or none."""
        used = [name for name, _ in self.groups() if name is not None]
        names = used or list(self.skeletons)
        if len(names) != 1:
            raise SchemaError(
                f"{len(names)} skeletons in this dataset ({', '.join(names) or 'none'}), expected one",
                hint="select the people of one, or remap to a common skeleton",
            )
        return self.skeletons[names[0]]

    @property
    def keypoints(self) -> NDArray[np.float64]:
        """(N, K, 2) x, y in pixels; NaN where the source has no coordinate. Zero-copy for one chunk without nulls."""
        count = len(self.skeleton)
        return schema.matrix(self.persons["keypoints"], 2 * count).reshape(len(self), count, 2)

    @property
    def visibility(self) -> NDArray[np.int8]:
        """(N, K) of `schema.Visibility`; 0 for people without keypoints. Zero-copy as `keypoints`."""
        return schema.matrix(self.persons["visibility"], len(self.skeleton))

    @property
    def keypoint_scores(self) -> NDArray[np.float64]:
        """(N, K) confidence of each predicted keypoint; NaN where there is none."""
        return schema.matrix(self.persons["keypoint_scores"], len(self.skeleton))

    def image_rows(self) -> NDArray[np.int64]:
        """(N,) row of each person's image in `images`; -1 for a person whose image is not listed."""
        return lookup(schema.values(self.images["image_id"]), schema.values(self.persons["image_id"]))

    def keypoint_mask(self, dataset: str, skeleton: str) -> NDArray[np.bool_]:
        """(K,) bool: keypoints of `skeleton` that people of `dataset` can have at all; a remap leaves some without."""
        mask = self.datasets.get(dataset, {}).get("keypoint_mask", {}).get(skeleton)
        return np.array(mask, bool) if mask is not None else np.ones(len(self.skeletons[skeleton]), bool)

    def to_pandas(self, which: str = "persons") -> pd.DataFrame:
        """The persons (or, with `which="images"`, the images) as a pandas frame."""
        tables = {"persons": self.persons, "images": self.images}
        if which not in tables:
            raise SchemaError(f"no table {which!r}", hint=f"expected one of {sorted(tables)}")
        frame: pd.DataFrame = tables[which].to_pandas()
        return frame

    # ------------------------------------------------------------------------------------------------ changes

    def with_history(self, op: str, **facts: Any) -> Dataset:
        """The same data with one more operation on record."""
        return replace(self, history=(*self.history, {"op": op, **facts}))

    def select(
        self,
        persons: NDArray[Any] | Sequence[int] | None = None,
        images: NDArray[Any] | Sequence[int] | None = None,
        *,
        op: str = "select",
        **facts: Any,
    ) -> Dataset:
        """Some of the people and images, in the order of the table.

        persons, images: boolean masks (N,) and (I,), or positions. Images take their people with them, and people whose
        image is not listed leave; people alone keep every image, because an image without people is data too.
        SchemaError for a mask of another length and for positions outside the table.
        """
        kept_images = np.arange(self.images.num_rows) if images is None else _positions(images, self.images.num_rows)
        kept = np.arange(len(self)) if persons is None else _positions(persons, len(self))
        if images is not None:
            kept = kept[np.isin(self.image_rows()[kept], kept_images)]
        ids = schema.values(self.images["image_id"])[kept_images]
        blob_rows = np.flatnonzero(np.isin(schema.values(self.blobs["image_id"]), ids))
        facts = {"persons": len(kept), "images": len(kept_images), **facts}
        return replace(
            self,
            images=schema.take(self.images, kept_images),
            persons=schema.take(self.persons, kept),
            blobs=schema.take(self.blobs, blob_rows),
            datasets={name: _only_images(d, set(ids.tolist())) for name, d in self.datasets.items()},
        ).with_history(op, **facts)

    def split(self, shares: Mapping[str, float], *, seed: int = 0, by: str | None = None) -> dict[str, Dataset]:
        """Parts that share no image, e.g. `{"train": 0.9, "val": 0.1}`; the `split` column says which part a row is in.

        by: a column of `images` (`video_id`, `dataset`, …) or `extras.KEY` whose equal values stay together, nulls each
        on their own. The same seed and data give the same parts. SchemaError where shares do not add up to 1, a column
        is unknown, or there are fewer groups than parts.
        """
        if not shares or not (abs(sum(shares.values()) - 1) <= 1e-9 and min(shares.values()) > 0):
            raise SchemaError(f"shares {dict(shares)} do not add up to 1, each above 0")
        group = _group_of(self.images, by)
        count = int(group.max()) + 1 if len(group) else 0
        if count < len(shares):
            raise SchemaError(
                f"{count} {'images' if by is None else f'values of {by!r}'}, expected at least {len(shares)} "
                f"to split into {', '.join(shares)}"
            )
        part_of_group = _deal(np.bincount(group), np.array(list(shares.values())), np.random.default_rng(seed))
        parts = {}
        for number, name in enumerate(shares):
            part = self.select(images=part_of_group[group] == number, op="split", part=name, seed=seed, by=by)
            column = part.images.schema.get_field_index("split")
            labelled = part.images.set_column(
                column, schema.IMAGES.field("split"), schema.constant(name, part.images.num_rows)
            )
            parts[name] = replace(part, images=labelled)
        return parts

    # -------------------------------------------------------------------------------------------------- disk

    def metadata(self) -> dict[str, Any]:
        """The metadata document (design: version, coordinates, visibility, skeletons, datasets, history)."""
        from kpdata import __version__

        return {
            "version": schema.SCHEMA_VERSION,
            "creator": f"kpdata {__version__}",
            "coordinates": COORDINATES,
            "visibility": {str(v.value): v.name.lower() for v in schema.Visibility},
            "skeletons": {name: skeleton.to_json() for name, skeleton in self.skeletons.items()},
            "datasets": dict(self.datasets),
            "history": list(self.history),
        }

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write the folder `NAME.kp` (`images.parquet`, `persons.parquet`, `meta.json`, `blobs.parquet` if needed).

        The folder appears whole or not at all. With `force` an existing `.kp` folder is replaced; another folder is not
        (SchemaError). DestinationExists without `force`; WriteError where the disk refuses.
        """
        import pyarrow.parquet as pq

        target = Path(folder)
        if force and target.exists() and not is_kp_folder(target):
            raise SchemaError(f"{target}: exists and is not a .kp folder: not replaced", hint="choose another name")
        document = schema.document(self.metadata())
        tables = {"images": self.images, "persons": self.persons}
        if self.blobs.num_rows:
            tables["blobs"] = self.blobs
        with files.replacing_folder(target, force=force) as fresh:
            for name, table in tables.items():
                marked = table.replace_schema_metadata({schema.METADATA_KEY: document})
                pq.write_table(marked, fresh / f"{name}.parquet", write_page_checksum=True, **_encoding(table.schema))
            (fresh / "meta.json").write_bytes(document)


def _encoding(kind: pa.Schema) -> dict[str, Any]:
    """How columns are stored. Reals hardly repeat: their bytes apart pack better than a dictionary and are read in two
    thirds of the time (Parquet's BYTE_STREAM_SPLIT)."""
    leaves = {field.name: (field.type, field.name) for field in kind}
    while inner := {name: leaf for name, leaf in leaves.items() if pa.types.is_list(leaf[0])}:
        leaves |= {name: (of.value_type, f"{path}.list.element") for name, (of, path) in inner.items()}
    reals = [path for of, path in leaves.values() if pa.types.is_floating(of)]
    others = [path for _, path in leaves.values() if path not in reals]
    return {"compression": "zstd", "use_dictionary": others, "use_byte_stream_split": reals}


def is_kp_folder(folder: Path) -> bool:
    """The folder holds the two tables of a saved dataset (or is empty, and so nobody's)."""
    if not folder.is_dir():
        return False
    return all((folder / f"{name}.parquet").is_file() for name in ("images", "persons")) or not any(folder.iterdir())


def open_dataset(folder: Path | str) -> Dataset:
    """Read a `.kp` folder. FormatError where it is not one, or where a table or its metadata is damaged.

    Columns that the schema does not have (another tool added them) are left out and named in the history.
    """
    source = Path(folder)
    try:
        files.recover(source)
    except OSError as error:
        raise files.unreadable(source, error) from error
    images, document, strangers = _read_table(source / "images.parquet", schema.IMAGES, ("image_id",))
    persons, _, more = _read_table(source / "persons.parquet", schema.PERSONS, ("annotation_id", "image_id"))
    blobs = source / "blobs.parquet"
    try:
        meta = schema.parse_document(document, "images.parquet")
        found = Dataset(
            images=images,
            persons=persons,
            skeletons={name: Skeleton.from_json(raw) for name, raw in meta["skeletons"].items()},
            datasets=meta["datasets"],
            history=tuple(meta["history"]),
            blobs=_read_table(blobs, schema.BLOBS, ("image_id",))[0] if blobs.exists() else schema.no_blobs(),
        )
    except SchemaError as error:
        raise FormatError(source, error.message, hint=error.hint) from error
    return found.with_history("open", columns_left_out=strangers + more) if strangers + more else found


class _Begun:
    """A table that a thread reads: Arrow needs no lock of Python's for it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: pa.Table | None = None
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            self._found = _whole(self._path)
        except Exception as problem:  # told to whoever opens the dataset
            self._problem = problem

    def table(self) -> pa.Table:
        """The table, or what reading it raised."""
        self._thread.join()
        if self._problem:
            raise self._problem
        return self._found


_begun: dict[Path, _Begun] = {}


def begin(folder: Path) -> None:
    """Start to read the people of a `.kp` folder, which `open_dataset` of the same path then finds read."""
    import pyarrow.parquet  # noqa: F401  # here, not in the thread: the importing thread would wait for it

    _begun[folder / "persons.parquet"] = _Begun(folder / "persons.parquet")


def _whole(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path, page_checksum_verification=True).read()
    table.validate(full=True)  # damage that still parses: offsets that run backwards, texts that are no UTF-8
    return table


def _read_table(path: Path, expected: pa.Schema, required: Sequence[str]) -> tuple[pa.Table, bytes, list[str]]:
    """(table in the schema's columns, metadata document, names of columns that the schema does not have)."""
    begun = _begun.pop(path, None)
    try:
        table = begun.table() if begun else _whole(path)
    except FileNotFoundError as error:
        hint = "a .kp folder holds images.parquet and persons.parquet"
        raise FormatError(path, "there is no such file", hint=hint) from error
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0]
        raise FormatError(path, f"not a Parquet file that can be read ({reason})") from error
    document = (table.schema.metadata or {}).get(schema.METADATA_KEY)
    if document is None:
        hint = "was it rewritten by another tool? convert again"
        raise FormatError(path, "its metadata has no key 'kpdata'", hint=hint)
    plain = table.replace_schema_metadata(None)
    try:
        columns = {
            name: _as(plain[name], expected.field(name).type) for name in plain.schema.names if name in expected.names
        }
        fitted = schema.table(expected, plain.num_rows, columns)
    except (SchemaError, pa.ArrowException, KeyError) as error:
        raise FormatError(path, str(error)) from error
    for name in required:
        if fitted[name].null_count:
            raise FormatError(path, f"{fitted[name].null_count:,} rows without {name!r}, expected an integer in each")
    return fitted, document, [name for name in plain.schema.names if name not in expected.names]


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The column in the schema's type: other tools rewrite string as large_string and list as large_list."""
    return column if column.type == kind else column.cast(kind)


# ------------------------------------------------------------------------------------------------ building, looking up


def build(
    images: Mapping[str, Any],
    persons: Mapping[str, Any],
    *,
    num_images: int,
    num_persons: int,
    name: str,
    provenance: Mapping[str, Any],
    skeletons: Iterable[Skeleton] = (),
    blobs: pa.Table | None = None,
) -> Dataset:
    """A Dataset of one source from columns by name (Arrow arrays); `dataset` is filled with `name` in both tables."""
    image_table = schema.table(schema.IMAGES, num_images, {"dataset": schema.constant(name, num_images), **images})
    person_table = schema.table(schema.PERSONS, num_persons, {"dataset": schema.constant(name, num_persons), **persons})
    return Dataset(
        images=image_table,
        persons=person_table,
        skeletons={skeleton.name: skeleton for skeleton in skeletons},
        datasets={name: dict(provenance)},
        blobs=schema.no_blobs() if blobs is None else blobs,
    )


def _groups(column: pa.ChunkedArray) -> Iterator[tuple[str | None, NDArray[np.int64]]]:
    """(text, rows) in order of first use. Not by Arrow's kernels: they would import pyarrow.compute (0.06 s, 10 MB)."""
    array = schema.chunk(column)
    if len(array) and (array.null_count == len(array) or schema.is_constant(array)):
        yield array[0].as_py(), np.arange(len(array))
        return
    numbers: dict[str | None, int] = {}
    codes = np.array([numbers.setdefault(text, len(numbers)) for text in array.to_pylist()], np.int64)
    for text, code in numbers.items():
        yield text, np.flatnonzero(codes == code)


def _repeated(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    unique, counts = np.unique(ids, return_counts=True)
    repeated: NDArray[np.int64] = unique[counts > 1]
    return repeated


def _positions(choice: NDArray[Any] | Sequence[int], count: int) -> NDArray[np.int64]:
    array = np.asarray(choice)
    if array.dtype == bool:
        if len(array) != count:
            raise SchemaError(f"a mask of {len(array)} values for {count} rows")
        return np.flatnonzero(array)
    if len(array) and array.dtype.kind not in "iu":
        raise SchemaError(f"row positions of type {array.dtype}, expected integers or a boolean mask")
    if len(array) and (array.min() < 0 or array.max() >= count):
        raise SchemaError(f"a row position outside 0..{count - 1}")
    return np.unique(array.astype(np.int64))


def _contents(datasets: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {key: value for key, value in d.items() if key not in _ORIGIN} for name, d in datasets.items()}


def _alike(left: Any, right: Any) -> bool:
    """Equal JSON values, where NaN equals NaN and a tuple is a list."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_alike(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_alike, left, right))
    return bool(left == right or (left != left and right != right))


def _only_images(provenance: dict[str, Any], ids: set[int]) -> dict[str, Any]:
    order = provenance.get("image_order")
    if order is None:
        return provenance
    return {**provenance, "image_order": [e for e in order if (e[0] if isinstance(e, list) else e) in ids]}


def _group_of(images: pa.Table, by: str | None) -> NDArray[np.int64]:
    """(I,) number of the group that an image belongs to; images without a value are groups of one."""
    if by is None:
        return np.arange(images.num_rows)
    if by.startswith("extras."):
        import json

        key = by.removeprefix("extras.")
        texts: Sequence[Any] = [None if t is None else json.loads(t).get(key) for t in schema.texts(images["extras"])]
    elif by in images.schema.names:
        texts = images[by].to_pylist()
    else:
        raise SchemaError(f"no column {by!r} in images", hint=f"expected one of {images.schema.names} or extras.KEY")
    numbers: dict[Any, int] = {}
    keys = [(i,) if text is None else repr(text) for i, text in enumerate(texts)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _deal(sizes: NDArray[np.int64], shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """(G,) part of each group: shuffled groups end to end, cut where the shares are reached; no part stays empty."""
    order = rng.permutation(len(sizes))
    middle = (np.cumsum(sizes[order]) - sizes[order] / 2) / sizes.sum()
    part = np.searchsorted(np.cumsum(shares)[:-1], middle, side="right")
    for number in range(len(shares)):  # a loop over parts, not groups: each part gets at least one
        if not (part == number).any():
            donor = np.bincount(part, minlength=len(shares)).argmax()
            part[np.flatnonzero(part == donor)[-1 if number > donor else 0]] = number
    out = np.empty(len(sizes), np.int64)
    out[order] = part
    return out
