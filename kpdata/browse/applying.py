"""What a review changes in a dataset: keypoints moved, marked, added and taken away, people added, labels confirmed."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.arrays import lookup
from kpdata.browse.facts import missing
from kpdata.browse.people import data_key
from kpdata.dataset import Dataset
from kpdata.errors import BrowseError
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.geometry import box_from_keypoints
from kpdata.schema import Visibility

if TYPE_CHECKING:
    from kpdata.browse.people import People
    from kpdata.browse.review import Review

STILL = 1e-6  # px: a keypoint that is no farther from its old place has not moved
CHANGES = pa.schema(
    [
        ("annotation_id", pa.int64()),
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("change", pa.string()),  # moved, marked, added, removed; person added; confirmed
        ("keypoint", pa.string()),  # null: the whole person
        ("x", pa.float64()),  # before, px; null: it had no place
        ("y", pa.float64()),
        ("visibility", pa.int8()),
        ("new_x", pa.float64()),
        ("new_y", pa.float64()),
        ("new_visibility", pa.int8()),
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class _Cells:
    """What a review says of C keypoints. person: row of the persons, or N + number of the new person."""

    person: Ints  # (C,)
    keypoint: Ints  # (C,) column
    xy: Floats  # (C, 2); NaN: stays
    visibility: NDArray[np.int8]  # (C,) -1: stays
    review_row: Ints  # (C,)


def apply_review(dataset: Dataset, review: Review, people: People | None) -> tuple[Dataset, pa.Table]:
    """See `review.apply_review`."""
    expect_data(dataset, review)
    person, fresh = _persons(dataset, review)
    grown = _with_fresh(dataset, review, fresh)
    cells = _cells(grown, review, person, people)
    _expect_places(review, person[fresh], cells)
    changed, changes = _placed(grown, cells, len(dataset), review)
    confirmed = _confirmed(dataset, review, person)
    table = pa.concat_tables([changes, *_whole(changed, review, person, len(dataset), confirmed)])
    ids = schema.values(dataset.persons["annotation_id"])[confirmed].tolist()
    kinds = schema.texts(table["change"])
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    facts = {"key": review.key, "source": review.source, "changes": counts, "confirmed": ids}
    return changed.with_history("review", **facts), table


def expect_data(dataset: Dataset, review: Review) -> None:
    """BrowseError where the review is of other data."""
    if review.key == data_key(dataset):
        return
    done = any(entry.get("op") == "review" and entry.get("key") == review.key for entry in dataset.history)
    hint = "give the ground truth that was browsed, as it was then" if not done else "it has been applied to it already"
    raise BrowseError(
        f"{review.source}: the review is of other data (its key is {review.key[:12]!r}, this data's "
        f"{data_key(dataset)[:12]!r})", hint=hint,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- people


def _persons(dataset: Dataset, review: Review) -> tuple[Ints, Ints]:
    """(R,) row of each reviewed person, N + number for a new one, -1 for nobody; and the review's rows of the new."""
    ids, known = missing(review.people["annotation_id"]), schema.values(dataset.persons["annotation_id"])
    person = lookup(known, ids)
    named = schema.valid(review.people["annotation_id"])
    if (lost := np.flatnonzero(named & (person < 0))).size:
        raise BrowseError(f"{review.source}: annotation_id {ids[lost[0]]} is not in the data")
    wanted = ids[named]
    repeated = np.array([int((known == i).sum()) for i in wanted.tolist()], np.int64) > 1
    if repeated.any():
        raise BrowseError(
            f"annotation_id {wanted[repeated][0]} stands for several people: a review cannot tell them apart",
            hint="`kpdata validate` lists repeated ids",
        )
    fresh = np.flatnonzero(~named & schema.among(review.people["decision"], ("accept",)))
    person[fresh] = len(dataset) + np.arange(len(fresh))
    return person, fresh


def _with_fresh(dataset: Dataset, review: Review, fresh: Ints) -> Dataset:
    """The dataset with a row for each person to add, without keypoints yet."""
    if not len(fresh):
        return dataset
    rows = schema.take(review.people, fresh)
    image = lookup(schema.values(dataset.images["image_id"]), missing(rows["image_id"]))
    if (image < 0).any():
        raise BrowseError(
            f"{review.source}: a person is to be added to image_id {missing(rows['image_id'])[image < 0][0]}, which is "
            "not in the data"
        )
    skeletons = [_skeleton_name(dataset, name, review) for name in schema.texts(rows["skeleton"])]
    first = {name: int(index[0]) for name, index in dataset.groups() if name is not None}
    like = np.array([first.get(name, -1) for name in skeletons], np.int64)
    persons, count = dataset.persons, len(fresh)
    top = int(schema.values(persons["annotation_id"]).max(initial=0))
    texts = {
        key: np.array([*schema.texts(persons[key]), None], object)[like].tolist() for key in ("category", "dataset")
    }
    own = np.array(schema.texts(dataset.images["dataset"]), object)[image].tolist()
    category = persons["category_id"]
    known = (like >= 0) & np.append(schema.valid(category), False)[like]
    columns = {
        "annotation_id": schema.fixed(top + 1 + np.arange(count), pa.int64()),
        "image_id": schema.fixed(missing(rows["image_id"]), pa.int64()),
        "dataset": schema.strings([a if a is not None else b for a, b in zip(own, texts["dataset"], strict=True)]),
        "category": schema.strings(texts["category"]),
        "category_id": schema.fixed(np.append(schema.values(category), 0)[like], pa.int64(), known),
        "skeleton": schema.strings(skeletons),
        "iscrowd": schema.fixed(np.zeros(count), pa.bool_()),
    }
    added = schema.table(schema.PERSONS, count, columns)
    return replace(dataset, persons=pa.concat_tables([persons, added]).combine_chunks())


def _skeleton_name(dataset: Dataset, name: str | None, review: Review) -> str:
    if name is None and len(dataset.skeletons) == 1:
        return next(iter(dataset.skeletons))
    if name not in dataset.skeletons:
        known = ", ".join(dataset.skeletons)
        raise BrowseError(f"{review.source}: a person to add has the skeleton {name!r}, the data have {known}")
    return str(name)


def _confirmed(dataset: Dataset, review: Review, person: Ints) -> Ints:
    """Rows of the persons whose label was found right."""
    rejected = schema.among(review.people["decision"], ("reject",))
    return person[rejected & (person >= 0)]


# ---------------------------------------------------------------------------------------------------------------- cells


def _cells(dataset: Dataset, review: Review, person: Ints, people: People | None) -> _Cells:
    """What the review says, and what was suggested to those who are accepted without saying where."""
    row = schema.values(review.points["row"]).astype(np.int64)
    keep = person[row] >= 0 if len(row) else np.empty(0, bool)  # a rejected prediction of nobody has no label to change
    names = schema.texts(review.points["keypoint"])
    skeletons = schema.texts(dataset.persons["skeleton"])
    column = np.array(
        [_column(dataset, skeletons[person[r]], name, review) if k else -1
         for r, name, k in zip(row.tolist(), names, keep.tolist(), strict=True)], np.int64,
    )  # fmt: skip
    xy = np.stack(
        [np.where(schema.valid(review.points[a]), schema.values(review.points[a]), np.nan) for a in "xy"], axis=1
    )
    mark = review.points["visibility"]
    visibility = np.where(schema.valid(mark), schema.values(mark), -1).astype(np.int8)
    told = _Cells(person[row][keep], column[keep], xy[keep], visibility[keep], row[keep])
    suggested = _suggested(dataset, review, person, people, told)
    return _Cells(
        person=np.concatenate([suggested.person, told.person]),
        keypoint=np.concatenate([suggested.keypoint, told.keypoint]),
        xy=np.concatenate([suggested.xy, told.xy]),
        visibility=np.concatenate([suggested.visibility, told.visibility]),
        review_row=np.concatenate([suggested.review_row, told.review_row]),
    )


def _expect_places(review: Review, fresh: Ints, cells: _Cells) -> None:
    """BrowseError where somebody is to be added of whom nothing says where the keypoints are."""
    bare = np.flatnonzero(~np.isin(fresh, cells.person[np.isfinite(cells.xy).all(1)]))
    if len(bare):
        raise BrowseError(
            f"{review.source}: {len(bare)} of {len(fresh)} people to add have no keypoints",
            hint="pull with the predictions that were browsed: an unlabelled person gets the places of the prediction",
        )


def _column(dataset: Dataset, skeleton: str | None, name: str | None, review: Review) -> int:
    names = () if skeleton is None else dataset.skeletons[skeleton].keypoint_names
    if name in names:
        return names.index(str(name))
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}" if names else ""
    raise BrowseError(f"{review.source}: {skeleton or 'a person without skeleton'} has no keypoint {name!r}", hint=hint)


def _suggested(dataset: Dataset, review: Review, person: Ints, people: People | None, told: _Cells) -> _Cells:
    """Cells of `proposed_keypoints` for accepted people; none for a keypoint that the review places itself."""
    accepted = np.flatnonzero(schema.among(review.people["decision"], ("accept",)))
    silent = accepted[~np.isin(accepted, told.review_row)]
    if people is None:
        if len(silent):
            entry = review.people.slice(int(silent[0]), 1).to_pylist()[0]
            who = f"annotation_id {entry['annotation_id']}" if entry["annotation_id"] is not None else "a new person"
            raise BrowseError(
                f"{review.source}: {who} is accepted, but the review does not say where the keypoints belong",
                hint="give the predictions that were browsed: their suggestions are taken",
            )
        none = np.empty(0, np.int64)
        return _Cells(none, none, np.empty((0, 2)), none.astype(np.int8), none)
    table = people.table
    by_label = lookup(missing(table["annotation_id"]), missing(review.people["annotation_id"])[accepted])
    alone = np.where(schema.valid(table["annotation_id"]), -2, missing(table["detection_id"]))
    by_result = lookup(alone, missing(review.people["detection_id"])[accepted])
    at = np.where(schema.valid(review.people["annotation_id"])[accepted], by_label, by_result)
    accepted, at = accepted[at >= 0], at[at >= 0]
    flat, offsets = schema.ragged(schema.chunk(table["proposed_keypoints"]).take(schema.fixed(at, pa.int64())))
    owner = np.repeat(np.arange(len(at)), np.diff(offsets) // 2)
    place = np.arange(len(owner)) - (offsets[:-1] // 2)[owner]
    xy = flat.reshape(-1, 2)
    target = person[accepted][owner]
    width = int(max(place.max(initial=0), told.keypoint.max(initial=0))) + 1
    given = np.isin(target * width + place, told.person * width + told.keypoint)
    given |= ~np.isfinite(xy).all(1)
    kept = ~given
    nothing = np.full(int(kept.sum()), -1, np.int8)
    return _Cells(target[kept], place[kept], xy[kept], nothing, accepted[owner][kept])


# ----------------------------------------------------------------------------------------------------------- new values


def _placed(dataset: Dataset, cells: _Cells, before: int, review: Review) -> tuple[Dataset, pa.Table]:
    """The dataset with the cells' values, and the changes. before: number of people before new ones were added."""
    touched = np.unique(cells.person)
    xy, widths = _filled(dataset, "keypoints", touched, np.nan)
    visibility, marks = _filled(dataset, "visibility", touched, 0)
    xy = xy.reshape(-1, 2)
    at, mark_at = ((np.cumsum(n) - n)[cells.person] + cells.keypoint for n in (widths, marks))
    old_xy, old = xy[at], visibility[mark_at]
    new_xy, new = _values(old_xy, old, cells, dataset, review)
    moved = ~(np.hypot(*(new_xy - old_xy).T) <= STILL) & np.isfinite(new_xy).all(1)
    changed = moved | (new != old)
    xy[at[changed]], visibility[mark_at[changed]] = new_xy[changed], new[changed]
    rows = np.unique(cells.person[changed])
    persons = dataset.persons
    columns = {
        "keypoints": schema.lists(xy.reshape(-1), 2 * widths, schema.valid(persons["keypoints"]) | (widths > 0)),
        "visibility": schema.lists(visibility, marks, schema.valid(persons["visibility"]) | (marks > 0), pa.int8()),
    }
    columns |= _derived(dataset, rows, before, (visibility, marks), (xy, widths))
    columns |= _raw_visibility(dataset, cells, changed, new)
    for name, column in columns.items():
        persons = persons.set_column(persons.schema.get_field_index(name), schema.PERSONS.field(name), column)
    kind = np.select([old == 0, new == 0, moved], ["added", "removed", "moved"], "marked")
    changes = _changes(dataset, cells, changed, kind, (old_xy, old), (new_xy, new), review)
    return replace(dataset, persons=persons), changes


def _values(
    old_xy: Floats, old: NDArray[np.int8], cells: _Cells, dataset: Dataset, review: Review
) -> tuple[Floats, NDArray[np.int8]]:
    """(C, 2) and (C,) of the keypoints as the review wants them."""
    placed = np.isfinite(cells.xy).all(1)
    near = placed & (np.hypot(*(cells.xy - old_xy).T) <= STILL)
    new_xy = np.where((placed & ~near)[:, None], cells.xy, old_xy)
    appeared = np.where((old == 0) & placed, np.int8(Visibility.VISIBLE), old)
    new = np.where(cells.visibility >= 0, cells.visibility, appeared).astype(np.int8)
    nowhere = np.flatnonzero((new > 0) & ~np.isfinite(new_xy).all(1) & (cells.visibility > 0))
    if len(nowhere):
        person = int(cells.person[nowhere[0]])
        skeleton = dataset.skeletons[str(schema.texts(dataset.persons["skeleton"])[person])]
        name = skeleton.keypoint_names[int(cells.keypoint[nowhere[0]])]
        who = int(schema.values(dataset.persons["annotation_id"])[person])
        raise BrowseError(
            f"{review.source}: annotation_id {who}: {name!r} is marked, but has no place", hint="place it"
        )
    return np.where((new == 0)[:, None] & (old > 0)[:, None], np.nan, new_xy), new


def _filled(dataset: Dataset, name: str, rows: Ints, fill: float) -> tuple[NDArray[Any], Ints]:
    """A list column's values, writable, with lists of `fill` for those of `rows` that have none; and (N,) number of
    keypoints of each."""
    column = schema.chunk(dataset.persons[name])
    flat, offsets = schema.ragged(column)
    each = 2 if name == "keypoints" else 1
    lengths = np.diff(offsets)
    wanted = lengths.copy()
    for skeleton, members in dataset.groups():
        if skeleton is not None:
            bare = members[np.isin(members, rows) & (lengths[members] == 0)]
            wanted[bare] = each * len(dataset.skeletons[skeleton])
    out = np.full(int(wanted.sum()), fill, flat.dtype)
    out[np.repeat(wanted == lengths, wanted)] = flat
    return out, wanted // each


def _derived(
    dataset: Dataset, rows: Ints, before: int, marks: tuple[NDArray[np.int8], Ints], places: tuple[Floats, Ints]
) -> dict[str, pa.Array]:
    """num_keypoints where it was the number of labelled keypoints, and boxes that were made from keypoints."""
    persons = dataset.persons
    everybody = np.arange(len(dataset))
    count = _labelled(*marks)
    flat, offsets = schema.ragged(persons["visibility"])
    old = _labelled(flat, np.diff(offsets))
    stated, told = schema.values(persons["num_keypoints"]), schema.valid(persons["num_keypoints"])
    fresh, mine = everybody >= before, np.isin(everybody, rows)
    follow = mine & told & (stated == old) | fresh
    box, boxed = schema.matrix(persons["bbox"], 4).copy(), schema.valid(persons["bbox"])
    sources = schema.texts(persons["bbox_source"])
    remade = mine & (fresh | np.array([source == "keypoints" for source in sources], bool))
    for row in np.flatnonzero(remade).tolist():  # a handful: those of a review whose box says nothing by itself
        box[row] = box_from_keypoints(places[0][_span(places[1], row)][None], marks[0][_span(marks[1], row)][None])[0]
    boxed = boxed | (remade & np.isfinite(box).all(1))
    return {
        "num_keypoints": schema.fixed(np.where(follow, count, stated), pa.int32(), told | fresh),
        "bbox": schema.rows(box, boxed),
        "bbox_source": schema.strings(
            ["keypoints" if new else text for new, text in zip((fresh & boxed).tolist(), sources, strict=True)]
        ),
    }


def _span(sizes: Ints, row: int) -> slice:
    """Where the list of a row lies."""
    start = int(sizes[:row].sum())
    return slice(start, start + int(sizes[row]))


def _labelled(visibility: NDArray[np.int8], widths: Ints) -> Ints:
    """(N,) number of labelled keypoints of each person."""
    return np.bincount(np.repeat(np.arange(len(widths)), widths)[visibility > 0], minlength=len(widths))


def _raw_visibility(dataset: Dataset, cells: _Cells, changed: Bools, new: NDArray[np.int8]) -> dict[str, pa.Array]:
    """visibility_raw with the new values, where a person has it."""
    column = schema.chunk(dataset.persons["visibility_raw"])
    if column.null_count == len(column):
        return {}
    flat, offsets = schema.ragged(column)
    flat, present = flat.copy(), schema.valid(column)
    some = changed & present[cells.person]
    flat[offsets[cells.person[some]] + cells.keypoint[some]] = new[some]
    return {"visibility_raw": schema.lists(flat, np.diff(offsets), present)}


# ----------------------------------------------------------------------------------------------------------- the record


def _changes(
    dataset: Dataset, cells: _Cells, chosen: Bools, kind: NDArray[np.str_], old: Any, new: Any, review: Review
) -> pa.Table:
    person, notes = cells.person[chosen], schema.texts(review.people["note"])
    skeletons = schema.texts(dataset.persons["skeleton"])
    pairs = zip(person.tolist(), cells.keypoint[chosen].tolist(), strict=True)
    columns = {
        "change": schema.strings([str(k) for k in kind[chosen]]),
        "keypoint": schema.strings([dataset.skeletons[str(skeletons[p])].keypoint_names[k] for p, k in pairs]),
        "note": schema.strings([notes[row] or None for row in cells.review_row[chosen].tolist()]),
        **_who(dataset, person),
    }
    for prefix, (xy, visibility) in (("", old), ("new_", new)):
        for i, axis in enumerate("xy"):
            columns[f"{prefix}{axis}"] = schema.fixed(
                np.nan_to_num(xy[chosen, i]), pa.float64(), np.isfinite(xy[chosen, i])
            )
        columns[f"{prefix}visibility"] = schema.fixed(visibility[chosen], pa.int8())
    return schema.table(CHANGES, len(person), columns)


def _whole(dataset: Dataset, review: Review, person: Ints, before: int, confirmed: Ints) -> list[pa.Table]:
    """Rows for whole people: those added, and labels confirmed."""
    tables = []
    notes = dict(zip(person.tolist(), schema.texts(review.people["note"]), strict=True))
    for change, rows in (("person added", np.sort(person[person >= before])), ("confirmed", confirmed)):
        columns = {
            "change": schema.constant(change, len(rows)),
            "note": schema.strings([notes[row] or None for row in rows.tolist()]),
        }
        tables.append(schema.table(CHANGES, len(rows), columns | _who(dataset, rows)))
    return tables


def _who(dataset: Dataset, rows: Ints) -> dict[str, pa.Array]:
    images = schema.values(dataset.persons["image_id"])[rows]
    place = lookup(schema.values(dataset.images["image_id"]), images)
    names = np.array([*schema.texts(dataset.images["file_name"]), None], object)[place]
    return {
        "annotation_id": schema.fixed(schema.values(dataset.persons["annotation_id"])[rows], pa.int64()),
        "image_id": schema.fixed(images, pa.int64()),
        "file_name": schema.strings(names.tolist()),
    }
