"""People as FiftyOne samples: one a person, a picture of that person alone, all facts in named fields."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.browse import ondisk
from kpdata.browse.facts import off_by
from kpdata.eval.errors import Kind
from kpdata.schema import Visibility
from kpdata.skeleton import Skeleton

if TYPE_CHECKING:
    from kpdata.browse.crops import Crops
    from kpdata.browse.people import People

# field, column of people.PEOPLE, what the App says of it
FACTS = (
    ("failure", "kind", "What happened to the person or the prediction: the error kind that costs most."),
    ("oks", "oks", "Object keypoint similarity of prediction and label, 0 to 1."),
    ("score", "score", "The prediction's score."),
    ("severity", "severity", "Order of the people: sure and wrong is 1."),
    ("annotation_id", "annotation_id", "Id of the labelled person."),
    ("detection_id", "detection_id", "Id of the prediction."),
    ("image_id", "image_id", "Id of the image."),
    ("file_name", "file_name", "The image that the person is cut out of."),
    ("source", "source", "The dataset that the image is from."),
    ("skeleton", "skeleton", "Names and order of the keypoints."),
    ("area", "area", "Of the labelled person, square pixels of the image."),
    ("size", "size", "COCO's bounds of the area: 32² and 96² pixels."),
    ("labelled", "labelled", "Labelled keypoints."),
    ("occluded", "occluded", "Labelled keypoints that are occluded."),
    ("occluded_share", "occluded_share", "Of the labelled keypoints."),
    ("crowding", "crowding", "Largest overlap (IoU) of the person's box with another's."),
    ("truncated", "truncated", "The box touches an edge of the image."),
    ("suspicion", "suspicion", "How much a confident prediction contradicts the label, 0 to 1."),
    ("suspect", "suspect", "What is suspicious about the label."),
    ("other_oks", "other_oks", "OKS of the same person with the model compared."),
    ("lost", "lost", "OKS, or share of right keypoints, that the model compared has more."),
    ("loss", "loss", "Of the training's ledger, the last epoch's mean."),
    ("novelty", "novelty", "Share of training poses that are nearer to others of them than this pose is to any."),
    ("nearest", "nearest", "The nearest training poses, by annotation id."),
    ("findings", "findings", "What validation says of the label."),
)
RANK, WORST, ERROR, KINDS = "rank", "worst_keypoint", "err", "kind"
GROUND_TRUTH, PREDICTIONS, SUGGESTION = "ground_truth", "predictions", "suggestion"
_POSES = ((GROUND_TRUTH, "keypoints"), (PREDICTIONS, "predicted_keypoints"), (SUGGESTION, "proposed_keypoints"))
COLOURS = {GROUND_TRUTH: "#00b37a", PREDICTIONS: "#ff9d00", SUGGESTION: "#56b4e9"}  # near Okabe and Ito's, brighter
_BINS, _LARGEST = 25, 0.5  # of the histogram: error / √area; the last bin takes all that is larger
_WRONG = ("jitter", "inversion", "swap", "miss")
_SEEN = {v.value: v.name.lower() for v in Visibility if v}


@dataclass(frozen=True, slots=True)
class Fields:
    """Names in FiftyOne: of facts (with values), of each skeleton's keypoints, and of the labels of each skeleton."""

    facts: tuple[tuple[str, str, str], ...]
    keypoints: Mapping[str, tuple[str, ...]]  # by skeleton, K field names
    labels: Mapping[str, Mapping[str, str]]  # by skeleton: ground_truth, predictions, suggestion to field names
    predicted: bool  # there are errors; else `kind` holds visibilities


def fields_of(people: People, taken: Sequence[str] = ()) -> Fields:
    """Names for everything that these people have. taken: attributes of FiftyOne's documents, not to be used."""
    table = people.table
    facts = tuple(fact for fact in FACTS if schema.valid(table[fact[1]]).any())
    present = [(label, column) for label, column in _POSES if schema.valid(table[column]).any()]
    names = [name for name in people.skeletons if name in set(schema.texts(table["skeleton"]))]
    labels = {
        name: {label: label if not number else f"{label}_{sanitised([name])[0]}" for label, _ in present}
        for number, name in enumerate(names)
    }
    keypoints = {name: sanitised(people.skeletons[name].keypoint_names, taken) for name in names}
    return Fields(facts, keypoints, labels, any(label == PREDICTIONS for label, _ in present))


def sanitised(names: Sequence[str], taken: Sequence[str] = ()) -> tuple[str, ...]:
    """Names that FiftyOne takes for fields: letters, digits and `_`, a letter first; all different, none in `taken`."""
    out: list[str] = []
    for number, name in enumerate(names):
        plain = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_") or f"keypoint_{number}"
        plain = plain if plain[0].isalpha() else f"k_{plain}"
        if plain in taken or plain in out:
            plain = f"{plain}_{number}"
        out.append(plain)
    return tuple(out)


def identity(people: People) -> str:
    """A hash of all that is shown: the same people, skeletons, views and numbers give the same."""
    digest = hashlib.sha256()
    with pa.ipc.new_stream(sink := pa.BufferOutputStream(), people.table.schema) as stream:
        stream.write_table(people.table.combine_chunks())
    digest.update(sink.getvalue())
    views = [(view.name, view.sentence, view.rows.tolist()) for view in people.views]
    bones = {name: skeleton.to_json() for name, skeleton in people.skeletons.items()}
    curves = [(name, x.tolist(), y.tolist()) for name, x, y in people.curves]
    rest = [people.key, people.title, bones, views, dict(people.stats), list(people.notes), curves]
    digest.update(json.dumps(rest).encode())
    return digest.hexdigest()[:32]


# ------------------------------------------------------------------------------------------------------------ samples


def documents(
    people: People, crops: Crops, fields: Fields, tags: Mapping[tuple[Any, ...], Sequence[str]]
) -> Iterator[ondisk.Document]:
    """A sample a row, in the table's order. tags: by (annotation, detection and image id) of the row."""
    table = people.table
    columns = {field: table[column].to_pylist() for field, column, _ in fields.facts}
    ids = list(zip(*(table[name].to_pylist() for name in ("annotation_id", "detection_id", "image_id")), strict=True))
    poses = _poses(people, crops, fields)
    named = _named(people, fields)
    files, sizes = crops.files, crops.sizes.tolist()
    for row in range(table.num_rows):
        facts: dict[str, Any] = {RANK: row + 1, **{field: values[row] for field, values in columns.items()}}
        yield ondisk.sample(
            people.key, row, files[row], tuple(sizes[row]), facts | poses[row] | named[row], tags.get(ids[row], ())
        )


def template(fo: Any, people: People, fields: Fields) -> Any:
    """A Sample with a value in every field."""
    kinds = {"int64": 1, "int32": 1, "double": 0.5, "string": "text", "bool": True}
    table = people.table
    facts = {field: kinds[str(table.schema.field(column).type)] for field, column, _ in fields.facts}
    every = dict.fromkeys(name for names in fields.keypoints.values() for name in names)
    named = {KINDS: fo.DynamicEmbeddedDocument(**dict.fromkeys(every, "text"))}
    if fields.predicted:
        named |= {ERROR: fo.DynamicEmbeddedDocument(**dict.fromkeys(every, 0.5)), WORST: "text"}
    poses = {
        field: fo.Keypoints(keypoints=[fo.Keypoint(label="text", points=[(0.5, 0.5)], confidence=[0.5])])
        for labels in fields.labels.values()
        for field in labels.values()
    }
    metadata = fo.ImageMetadata(mime_type="image/jpeg", width=1, height=1)
    return fo.Sample(filepath="/crop.jpg", metadata=metadata, **{RANK: 1}, **facts, **named, **poses)


def _poses(people: People, crops: Crops, fields: Fields) -> list[dict[str, Any]]:
    """Of each row its Keypoints labels by field."""
    table = people.table
    out: list[dict[str, Any]] = [{} for _ in range(table.num_rows)]
    names = np.array(schema.texts(table["skeleton"]), object)
    texts = schema.texts(table["kind"])
    for skeleton, labels in fields.labels.items():
        rows = np.flatnonzero(names == skeleton)
        chosen, width = schema.take(table, rows), len(people.skeletons[skeleton])
        scores = np.round(schema.matrix(chosen["keypoint_scores"], width), 3)
        for label, column in _POSES:
            if label not in labels:
                continue
            xy = schema.matrix(chosen[column], 2 * width).reshape(-1, width, 2)
            points = np.round(crops.relative(xy, rows), 6)
            absent = np.asarray(np.isnan(points).any(axis=2))
            for place in np.flatnonzero(~absent.all(axis=1)).tolist():
                row = int(rows[place])
                more = {}
                if label == PREDICTIONS and not np.isnan(scores[place]).all():
                    more["confidence"] = scores[place].tolist()
                words = {GROUND_TRUTH: "labelled", SUGGESTION: "suggested"}.get(label, str(texts[row]))
                identity = ondisk.object_id(people.key, row, labels[label])
                mark = ondisk.keypoint(identity, words, points[place].tolist(), **more)
                out[row][labels[label]] = ondisk.keypoints([mark])
    return out


def _named(people: People, fields: Fields) -> list[dict[str, Any]]:
    """Of each row: err.<keypoint> in px, kind.<keypoint>, and the name of the keypoint that is farthest off."""
    table = people.table
    out: list[dict[str, Any]] = [{} for _ in range(table.num_rows)]
    for skeleton, names, rows in _by_skeleton(people, fields):
        words = _words(table, rows, len(names), fields.predicted).tolist()
        for place, row in enumerate(rows.tolist()):
            here = {name: word for name, word in zip(names, words[place], strict=True) if word}
            out[row][KINDS] = ondisk.embedded(here)
        if not fields.predicted:
            continue
        errors = np.round(_finite(schema.matrix(schema.take(table, rows)["error_px"], len(names))), 2)
        sigma = _finite(off_by(schema.take(table, rows), len(names)))
        some, worst = np.isfinite(sigma).any(axis=1), np.nan_to_num(sigma, nan=-1.0).argmax(axis=1)
        for place, row in enumerate(rows.tolist()):
            here = {n: e for n, e in zip(names, errors[place].tolist(), strict=True) if e == e}
            bone: Skeleton = people.skeletons[skeleton]
            out[row] |= {
                ERROR: ondisk.embedded(here),
                WORST: bone.keypoint_names[worst[place]] if some[place] else None,
            }
    return out


def _by_skeleton(people: People, fields: Fields) -> Iterator[tuple[str, tuple[str, ...], NDArray[np.int64]]]:
    """(skeleton, field names of its keypoints, rows)."""
    used = np.array(schema.texts(people.table["skeleton"]), object)
    for skeleton, names in fields.keypoints.items():
        yield skeleton, names, np.flatnonzero(used == skeleton)


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    """NaN for infinite errors too: keypoints that have no place at all."""
    return np.where(np.isfinite(values), values, np.nan)


def _words(table: pa.Table, rows: NDArray[np.int64], width: int, predicted: bool) -> NDArray[Any]:
    """(M, K) the kind of error of each keypoint, or else its visibility; "" where it is not labelled or not matched."""
    chosen = schema.take(table, rows)
    if not predicted:
        seen = schema.matrix(chosen["visibility"], width)
        names: NDArray[Any] = np.array(["", *(_SEEN[v] for v in sorted(_SEEN))], object)
        said: NDArray[Any] = names[np.clip(seen, 0, max(_SEEN))]
        return said
    kinds = schema.matrix(chosen["classes"], width).astype(np.int64)
    kinds[~schema.valid(chosen["classes"])] = int(Kind.UNLABELLED)
    words = {int(kind): "" if kind == Kind.UNLABELLED else kind.name.lower() for kind in Kind}
    low = min(words)
    return np.array([words.get(number, "") for number in range(low, max(words) + 1)], object)[kinds - low]


# -------------------------------------------------------------------------------------------------------- for the panel


def figures(people: People, fields: Fields) -> dict[str, Any]:
    """What the panel draws, of the people shown; JSON-ready.

    keypoints: of each field name (`field`) its `name`, `kinds` (people by kind of error, or by visibility), and median
    and p90 of error / √area; histogram: `edges`, and `counts` by field ("" for all); curves, stats, notes, title.
    """
    table = people.table
    kinds = _WRONG if fields.predicted else tuple(_SEEN[v] for v in sorted(_SEEN))
    per_name: dict[str, dict[str, Any]] = {}
    parts: dict[str, list[NDArray[Any]]] = {}
    words: dict[str, list[NDArray[Any]]] = {}
    for skeleton, names, rows in _by_skeleton(people, fields):
        said = _words(table, rows, len(names), fields.predicted)
        off = relative_errors(schema.take(table, rows), len(names))
        for column, name in enumerate(names):
            per_name.setdefault(name, {"field": name, "name": people.skeletons[skeleton].keypoint_names[column]})
            parts.setdefault(name, []).append(off[:, column])
            words.setdefault(name, []).append(said[:, column])
    edges = np.linspace(0, _LARGEST, _BINS + 1)
    counts = {}
    for name, entry in per_name.items():
        known = np.concatenate(parts[name])
        known = known[np.isfinite(known)]
        entry["kinds"] = {kind: int((np.concatenate(words[name]) == kind).sum()) for kind in kinds}
        entry["median"], entry["p90"] = (
            (round(float(q), 4) for q in np.quantile(known, (0.5, 0.9))) if len(known) else (None, None)
        )
        counts[name] = _binned(known, edges)
    total = np.sum(list(counts.values()), axis=0).astype(int).tolist() if counts else []
    return {
        "title": people.title,
        "notes": list(people.notes),
        "people": table.num_rows,
        "predicted": fields.predicted,
        "stats": {name: round(float(value), 4) for name, value in people.stats.items()},
        "kinds": list(kinds),
        "keypoints": list(per_name.values()),
        "histogram": {"edges": edges.tolist(), "counts": {"": total, **counts}},
        "curves": [{"name": name, "x": x.tolist(), "y": y.tolist()} for name, x, y in people.curves],
    }


def relative_errors(table: pa.Table, width: int) -> NDArray[np.float64]:
    """(R, K) error / √area, NaN where there is none: of the errors as stored, so that filters find whom bars count."""
    errors = np.round(_finite(schema.matrix(table["error_px"], width)), 2)
    area = schema.values(table["area"], missing=np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: NDArray[np.float64] = _finite(errors / np.sqrt(area)[:, None])
    return shares


def _binned(values: NDArray[Any], edges: NDArray[Any]) -> list[int]:
    """People in each bin [edge, next edge); the last has no end."""
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    counts: list[int] = np.bincount(bins, minlength=len(edges) - 1).tolist()
    return counts
