"""Many samples into FiftyOne at once: by its on-disk format, some 1,600 a second (`add_samples` takes 66 to 126).

FiftyOne itself writes the description of the dataset, from one sample that has every field; the other samples are
written beside it in the form of that one.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kpdata.browse.crops import Progress

Document = dict[str, Any]


def import_samples(
    fo: Any,
    name: str,
    template: Any,
    documents: Iterable[Document],
    *,
    count: int,
    describe: Callable[[Any], None],
    descriptions: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Any:
    """A new `fiftyone.Dataset` of that name, not persistent yet. fo: the module.

    template: a Sample with a value in every field that any document has: it gives the types. documents: `count` samples
    as FiftyOne stores them (`sample`), in order. describe: called with the dataset of the template: skeletons, info,
    colours. descriptions: what the App says of a field.
    """
    with tempfile.TemporaryDirectory(prefix="kpdata-") as folder:
        base = _describe(fo, template, describe, descriptions or {}, Path(folder))
        with (Path(folder) / "samples.json").open("w", encoding="utf-8") as out:
            out.write('{"samples": [')
            for number, document in enumerate(documents):
                out.write((",\n" if number else "\n") + json.dumps({**base, **document}))
                if progress is not None:
                    progress("Writing samples", number + 1, count)
            out.write("]}")
        if progress is not None:
            progress("Importing", 0, count)
        kind = fo.types.FiftyOneDataset  # its own progress bar would go to stdout
        made = fo.Dataset.from_dir(dataset_dir=folder, dataset_type=kind, name=name, progress=False)
    if progress is not None:
        progress("Importing", count, count)
    return made


def _describe(
    fo: Any, template: Any, describe: Callable[[Any], None], descriptions: Mapping[str, str], folder: Path
) -> Document:
    """Write metadata.json; gives what every sample document has beside its own fields."""
    example = fo.Dataset()
    try:
        example.add_samples([template], dynamic=True, progress=False)
        describe(example)
        example.save()
        kind = fo.types.FiftyOneDataset
        example.export(str(folder), dataset_type=kind, export_media=False, progress=False)
    finally:
        example.delete()
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    for field in metadata["sample_fields"]:  # by FiftyOne's own call it takes 0.2 s a field
        field["description"] = descriptions.get(field["name"], field["description"])
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    (written,) = json.loads((folder / "samples.json").read_text(encoding="utf-8"))["samples"]
    return {"_media_type": written["_media_type"]}


def sample(
    seed: str, number: int, filepath: Path, size: tuple[int, int], fields: Mapping[str, Any], tags: Iterable[str] = ()
) -> Document:
    """A sample as FiftyOne stores it. seed, number: its id comes from these, and grows with number, so that what the
    database finds by id is in order. size: width and height, px."""
    identity = {"$oid": object_id(seed)["$oid"][:16] + f"{number:08x}"}
    share = int(object_id(seed, number)["$oid"], 16) / 16**24  # what FiftyOne shuffles by
    metadata = {"_cls": "ImageMetadata", "mime_type": "image/jpeg", "width": size[0], "height": size[1]}
    own = {"_id": identity, "filepath": str(filepath), "tags": list(tags), "metadata": metadata, "_rand": share}
    return {**own, **fields}


def keypoints(labels: list[Document]) -> Document:
    """A Keypoints label of these Keypoint documents."""
    return {"_cls": "Keypoints", "keypoints": labels}


def keypoint(identity: Document, label: str | None, points: list[list[float]], **attributes: Any) -> Document:
    """A Keypoint as FiftyOne stores it. points (K, 2): shares of the picture's width and height, NaN where absent."""
    own = {"_id": identity, "_cls": "Keypoint", "attributes": {}, "tags": [], "label": label, "points": points}
    return {**own, **attributes}


def embedded(values: Mapping[str, Any]) -> Document:
    """Named values, which a filter can reach as `field.name`."""
    return {"_cls": "DynamicEmbeddedDocument", **values}


def object_id(*parts: object) -> Document:
    """A document id that the same parts give again (12 bytes, as MongoDB's)."""
    return {"$oid": hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}
