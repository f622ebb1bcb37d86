"""A `Dataset` as a FiftyOne dataset and back, for people with FiftyOne code of their own: nothing is lost on the way.

One sample an image, one Keypoint a person. FiftyOne keeps points as shares of the picture: coming back, a point that
nobody has moved (by more than 1e-6 px) is the source's number again, a moved one is where it was put. What else the
people and images have stands in attributes of the same names as the columns of `kpdata.schema`, to be edited there.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.browse import embedded, ondisk, pictures
from kpdata.browse.samples import GROUND_TRUTH, sanitised
from kpdata.dataset import Dataset
from kpdata.errors import BrowseError, SchemaError
from kpdata.skeleton import Skeleton, match

_MARK = "kpdata_dataset"  # key of Dataset.info: the metadata document, and what no sample can hold
_MOVED = 1e-6  # px
# Of a person, by a name of its own in FiftyOne or in the form that it keeps points in.
_PIXELS, _ROW, _SCORES = "pixels", "row", "confidence"
_APART = ("keypoints", "keypoint_scores", "image_id")
_SIZE = ("width", "height")
_EXAMPLES = {
    "int32": 1,
    "int64": 1,
    "double": 0.5,
    "string": "text",
    "bool": True,
    "list<item: double>": [0.5],
    "list<item: int8>": [1],
    "list<item: list<item: double>>": [[0.5]],
}


def to_fiftyone(
    dataset: Dataset,
    images: Path | str,
    name: str | None = None,
    *,
    field: str = GROUND_TRUTH,
    persistent: bool = False,
) -> Any:
    """A `fiftyone.Dataset` of all images and people, in the database that FiftyOne is set up for.

    images: the folder that file names start from. name: of the new dataset; None: FiftyOne's choice. field: the label
    field; people of a second skeleton go to `field_<skeleton>`, those without one to `field_none`, so that every field
    has its skeleton drawn. Embedded pictures (`blobs`) become files in FiftyOne's `default_dataset_dir`, shown where
    `images` has none of that name.

    Raises MissingExtra without FiftyOne; BrowseError where its database is missing, the name is in use, or an image
    states no size and its picture is not there to be asked.
    """
    fo = embedded.fiftyone()
    if reason := embedded.available():
        raise BrowseError(reason)
    if name is not None and name in fo.list_datasets():
        raise BrowseError(f"{name!r}: FiftyOne has a dataset of that name", hint="give it another name, or delete that")
    name = name or str(fo.core.dataset.get_default_dataset_name())
    home = Path(fo.config.default_dataset_dir) / f"kpdata-{ondisk.object_id(name)['$oid'][:12]}"
    own = pictures.keep(dataset, home)
    files = _files(dataset, Path(images), own)
    fields = _label_fields(dataset, field)
    sizes = _sizes(dataset, files)
    people = _people(dataset, fields, sizes)
    ids = schema.values(dataset.images["image_id"]).tolist()
    listed = set(ids)
    orphans = [row for image, row in people if image not in listed]
    mark = {
        "metadata": dataset.metadata(),
        "fields": fields,
        "orphans": [_plain(dataset.persons, row[_ROW]) for row in orphans],
        "pictures": str(home) if own else None,
    }

    def describe(made: Any) -> None:
        made.info = {_MARK: json.dumps(mark)}
        for bone, label in fields.items():
            if bone in dataset.skeletons:
                made.skeletons[label] = _to_bones(fo, dataset.skeletons[bone])

    samples = _samples(dataset, files, fields, sizes, people)
    template = _template(fo, list(fields.values()))
    count = dataset.images.num_rows
    made = ondisk.import_samples(fo, name, template, samples, count=count, describe=describe)
    made.persistent = persistent
    return made


def from_fiftyone(collection: Any, *, field: str | None = None) -> Dataset:
    """The `Dataset` of a `fiftyone` dataset or view.

    Of one that `to_fiftyone` made: equal to what it was made from, but for what has been changed in FiftyOne. Of any
    other: `field` (the only field of Keypoints, unless told) with its skeleton; image ids are counted from 1, finite
    points are labelled (visibility 3) and the others absent, `confidence` becomes the keypoints' scores.

    Raises BrowseError where there are no Keypoints, or several fields of them and none is named, no skeleton, or an
    image whose size is not known.
    """
    text = collection.info.get(_MARK)
    if text is None or field is not None:
        return _from_others(collection, field)
    mark = json.loads(text)
    metadata = mark["metadata"]
    skeletons = {key: Skeleton.from_json(raw) for key, raw in metadata["skeletons"].items()}
    rows = [(row["row"], row["values"]) for row in mark["orphans"]]
    image_rows = []
    for sample in collection.iter_samples():
        image_rows.append({column: _get(sample, column) for column in schema.IMAGES.names})
        size = (float(_get(sample, "shown_width")), float(_get(sample, "shown_height")))
        for bone, label in mark["fields"].items():
            found = sample[label]
            for person in found.keypoints if found is not None else ():
                rows.append((_get(person, _ROW), _person(person, skeletons.get(bone), size, image_rows[-1])))
    # A person whom somebody added in FiftyOne has no row of its own: after all others
    order = sorted(range(len(rows)), key=lambda n: (rows[n][0] is None, rows[n][0] or 0, n))
    found = Dataset(
        images=_table(schema.IMAGES, image_rows),
        persons=_table(schema.PERSONS, [rows[n][1] for n in order]),
        skeletons=skeletons,
        datasets=metadata["datasets"],
        history=tuple(metadata["history"]),
    )
    return pictures.kept(Path(mark["pictures"]), found) if mark.get("pictures") else found


# ---------------------------------------------------------------------------------------------------------- to FiftyOne


def _label_fields(dataset: Dataset, field: str) -> dict[str, str]:
    """The label field of each skeleton that is used ("": people without one)."""
    used = [name or "" for name, _ in dataset.groups()]
    first = next((name for name in used if name), "")
    names = sanitised([name or "none" for name in used])
    return {name: field if name == first else f"{field}_{plain}" for name, plain in zip(used, names, strict=True)}


def _files(dataset: Dataset, folder: Path, own: Mapping[int, Path]) -> dict[int, Path]:
    """The picture of each image: in the folder, else embedded, else where it should be in the folder."""
    out = {}
    columns = (dataset.images[name].to_pylist() for name in ("image_id", "file_name"))
    for image, name in zip(*columns, strict=True):
        out[image] = pictures.picture_path(folder, name) or own.get(image) or folder / (name or f"image-{image}")
    return {image: file.absolute() for image, file in out.items()}


def _sizes(dataset: Dataset, files: Mapping[int, Path]) -> dict[int, tuple[int, int]]:
    """Width and height of each image, px: as stated, else of the picture itself."""
    out = {}
    columns = (dataset.images[name].to_pylist() for name in ("image_id", *_SIZE))
    for image, width, height in zip(*columns, strict=True):
        out[image] = (width, height) if width and height else _look(files[image], image)
    return out


def _look(file: Path, image: int) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        problem = f"image {image}: its size is not stated and there is no picture {file} to ask"
        raise BrowseError(problem, hint="give the folder of the pictures") from None


_Person = tuple[int, dict[str, Any]]  # image id, attributes of the Keypoint (its skeleton in `skeleton`)


def _people(
    dataset: Dataset, fields: Mapping[str, str], sizes: Mapping[int, tuple[int, int]]
) -> list[tuple[int, dict[str, Any]]]:
    """(image id, attributes) of everybody, in the dataset's order."""
    columns = {name: dataset.persons[name].to_pylist() for name in schema.PERSONS.names}
    out: list[_Person] = []
    for row in range(len(dataset)):
        own = {name: values[row] for name, values in columns.items() if values[row] is not None and name not in _APART}
        own[_ROW] = row
        image, flat, scores = columns["image_id"][row], columns["keypoints"][row], columns["keypoint_scores"][row]
        own["points"] = []
        if flat is not None:
            own[_PIXELS] = flat
            own["points"] = _shares(flat, sizes.get(image, (1, 1)))
        if scores is not None:
            own[_SCORES] = scores
        out.append((image, own))
    return out


def _shares(flat: list[float], size: tuple[int, int]) -> list[list[float]]:
    """x, y, px, interleaved, as pairs of shares: an integer is the centre of a pixel."""
    pairs = (np.array(flat, np.float64).reshape(-1, 2) + 0.5) / size
    shares: list[list[float]] = pairs.tolist()
    return shares


def _plain(persons: pa.Table, row: int) -> dict[str, Any]:
    """A person of no listed image, as JSON."""
    return {"row": row, "values": {name: persons[name][row].as_py() for name in schema.PERSONS.names}}


def _samples(
    dataset: Dataset,
    files: Mapping[int, Path],
    fields: Mapping[str, str],
    sizes: Mapping[int, tuple[int, int]],
    people: Sequence[_Person],
) -> Iterator[ondisk.Document]:
    columns = {name: dataset.images[name].to_pylist() for name in schema.IMAGES.names}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for image, own in people:
        by_image.setdefault(image, []).append(own)
    for row, image in enumerate(columns["image_id"]):
        facts: dict[str, Any] = {name: values[row] for name, values in columns.items()}
        size = sizes[image]
        facts |= {"shown_width": size[0], "shown_height": size[1]}
        labels: dict[str, list[ondisk.Document]] = {label: [] for label in fields.values()}
        for number, own in enumerate(by_image.get(image, ())):
            attributes = {name: value for name, value in own.items() if name != "points"}
            identity = ondisk.object_id(image, row, number)
            word = own.get("category") or "person"
            mark = ondisk.keypoint(identity, word, own["points"], **attributes)
            labels[fields[own.get("skeleton") or ""]].append(mark)
        poses = {label: ondisk.keypoints(marks) for label, marks in labels.items()}
        yield ondisk.sample("to_fiftyone", row, files[image], size, facts | poses)


def _template(fo: Any, labels: Sequence[str]) -> Any:
    """A Sample with a value in every field, of the type of its column."""
    images = {column.name: _EXAMPLES[str(column.type)] for column in schema.IMAGES}
    person = {c.name: _EXAMPLES[_item(c.type)] for c in schema.PERSONS if c.name not in _APART}
    one = {**person, _PIXELS: [0.5, 0.5], _ROW: 1, _SCORES: [0.5], "points": [(0.5, 0.5)], "label": "text"}
    poses = {label: fo.Keypoints(keypoints=[fo.Keypoint(**one)]) for label in labels}
    metadata = fo.ImageMetadata(mime_type="text", width=1, height=1)
    return fo.Sample(filepath="/image.jpg", metadata=metadata, shown_width=1, shown_height=1, **images, **poses)


def _item(kind: pa.DataType) -> str:
    """The type's name, whatever Arrow calls the values of a list."""
    return str(kind).replace("element:", "item:")


def _to_bones(fo: Any, skeleton: Skeleton) -> Any:
    edges = [list(edge) for edge in skeleton.edges] or None
    return fo.KeypointSkeleton(labels=list(skeleton.keypoint_names), edges=edges)


# -------------------------------------------------------------------------------------------------------- from FiftyOne


def _get(document: Any, name: str) -> Any:
    """An attribute or field; None where it is not there."""
    try:
        return document[name]
    except (KeyError, AttributeError):
        return None


def _person(
    person: Any, skeleton: Skeleton | None, size: tuple[float, float], image: Mapping[str, Any]
) -> dict[str, Any]:
    """The row of a person, points as they are in FiftyOne now."""
    row = {name: _get(person, name) for name in schema.PERSONS.names if name not in _APART}
    row["image_id"], row["keypoint_scores"] = image["image_id"], _get(person, _SCORES)
    row["keypoints"] = _pixels(person, size)
    if _get(person, _ROW) is None and skeleton is not None:  # drawn in FiftyOne
        finite = np.isfinite(np.array(row["keypoints"] or [], np.float64).reshape(-1, 2)).all(axis=1)
        row |= {"skeleton": skeleton.name, "category": person.label, "dataset": image["dataset"]}
        row["visibility"] = row["visibility"] or np.where(finite, int(schema.Visibility.UNKNOWN), 0).tolist()
    return row


def _pixels(person: Any, size: tuple[float, float]) -> list[float] | None:
    """x, y, px, interleaved: the source's numbers where the points are still there."""
    source = _get(person, _PIXELS)
    if source is None and not person.points:
        return None
    now = np.array([_numbers(point) for point in person.points], np.float64).reshape(-1, 2) * size - 0.5
    if source is not None and len(source) == now.size:
        was = np.array(_numbers(source), np.float64).reshape(-1, 2)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite places; shares of huge ones are off by some ulp
            near = np.abs(now - was) <= _MOVED + 4 * np.spacing(np.abs(was))
        still = near | (now == was) | (np.isnan(now) & np.isnan(was))
        now = np.where(still.all(axis=1, keepdims=True), was, now)
    flat: list[float] = now.reshape(-1).tolist()
    return flat


def _numbers(values: Sequence[Any]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _from_others(collection: Any, field: str | None) -> Dataset:
    label, skeleton = _their_field(collection, field)
    image_rows: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for number, sample in enumerate(collection.iter_samples(), 1):
        width, height = _their_size(sample)
        name = Path(sample.filepath).name
        image_rows.append({"image_id": number, "file_name": name, "width": width, "height": height})
        for person in sample[label].keypoints if sample[label] is not None else ():
            rows.append(_their_person(person, number, len(rows) + 1, skeleton, (width, height)))
    provenance = {"source_format": "fiftyone", "name": collection.name}
    for row in (*image_rows, *rows):
        row["dataset"] = "fiftyone"
    return Dataset(
        images=_table(schema.IMAGES, image_rows),
        persons=_table(schema.PERSONS, rows),
        skeletons={skeleton.name: skeleton},
        datasets={"fiftyone": provenance},
    )


def _their_field(collection: Any, field: str | None) -> tuple[str, Skeleton]:
    fo = embedded.fiftyone()
    known = list(collection.get_field_schema(embedded_doc_type=fo.Keypoints))
    if field is None and len(known) != 1:
        found = ", ".join(known) or "none"
        raise BrowseError(f"fields of Keypoints in {collection.name!r}: {found}", hint="expected one, or field=NAME")
    label = known[0] if field is None else field
    if label not in known:
        raise BrowseError(f"{label!r} is no field of Keypoints of {collection.name!r}", hint=f"there are: {known}")
    bones = collection.skeletons.get(label) or collection.default_skeleton
    if bones is None or not bones.labels:
        hint = "set dataset.skeletons[field] = fiftyone.KeypointSkeleton(labels=[…])"
        raise BrowseError(f"{collection.name!r}: the keypoints of {label!r} have no names", hint=hint)
    edges = tuple((int(a), int(b)) for line in bones.edges or () for a, b in itertools.pairwise(line))
    try:
        own = match(bones.labels)
        return label, own or Skeleton(f"{label}_{len(bones.labels)}", tuple(bones.labels), edges)
    except SchemaError as error:
        raise BrowseError(f"{collection.name!r}: {error.message}", hint=error.hint) from error


def _their_size(sample: Any) -> tuple[int, int]:
    metadata = sample.metadata
    if metadata is not None and metadata.width and metadata.height:
        return int(metadata.width), int(metadata.height)
    from PIL import Image

    try:
        with Image.open(sample.filepath) as picture:
            return picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        problem = f"{sample.filepath}: neither its metadata nor the picture says how large it is"
        raise BrowseError(problem, hint="dataset.compute_metadata() where the pictures are") from error


def _their_person(person: Any, image: int, number: int, skeleton: Skeleton, size: tuple[int, int]) -> dict[str, Any]:
    points = np.array([_numbers(point) for point in person.points], np.float64).reshape(-1, 2) * size - 0.5
    if len(points) != len(skeleton):
        raise BrowseError(
            f"Keypoint {person.id} of image {image}: {len(points)} points, expected {len(skeleton)} "
            f"({', '.join(skeleton.keypoint_names[:3])}, …)"
        )
    labelled = np.asarray(np.isfinite(points).all(axis=1))
    return {
        "annotation_id": number,
        "image_id": image,
        "category": person.label,
        "skeleton": skeleton.name,
        "keypoints": np.where(labelled[:, None], points, np.nan).reshape(-1).tolist(),
        "visibility": np.where(labelled, int(schema.Visibility.UNKNOWN), 0).tolist(),
        "keypoint_scores": None if person.confidence is None else _numbers(person.confidence),
        "num_keypoints": int(labelled.sum()),
    }


# --------------------------------------------------------------------------------------------------------------- tables


def _table(wanted: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table; what a row lacks is null."""
    columns = {name: _column([row.get(name) for row in rows], wanted.field(name).type) for name in wanted.names}
    return schema.table(wanted, len(rows), columns)


def _column(items: list[Any], kind: pa.DataType) -> pa.Array:
    present = np.array([item is not None for item in items], bool)
    if kind == pa.string():
        return schema.strings(items)
    if not pa.types.is_list(kind):
        return schema.fixed([item if item is not None else 0 for item in items], kind, present)
    lists = [list(item) if item is not None else [] for item in items]
    flat = [value for item in lists for value in item]
    lengths = np.array([len(item) for item in lists], np.int64)
    inner = _column(flat, kind.value_type)
    return schema.lists(inner, lengths, present)
