"""Checks of what ties a file together: ids, categories, file names and sizes, and pictures in a folder."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from kpdata import schema
from kpdata.checks.files import Picture
from kpdata.checks.view import Faults, Ints, Level, View
from kpdata.skeleton import load

_COCO_BODY, _CROWDPOSE = "coco_17", "crowdpose_14"


# ---------------------------------------------------------------------------------------------------------------- ids


def annotation_id_repeated(view: View) -> Iterator[Faults]:
    """error: an annotation id that an earlier person of the same dataset has. Evaluators keep one of them, silently."""
    ids = schema.values(view.dataset.persons["annotation_id"])
    order = np.lexsort((ids, view.person_dataset))  # stable: equal ids stay in file order
    same = (np.diff(ids[order]) == 0) & (np.diff(view.person_dataset[order]) == 0)
    rows = np.sort(order[1:][same])
    yield Faults(
        "error", "persons", rows, [f"annotation id {i} is taken already, expected unique ids" for i in ids[rows]]
    )


def image_unknown(view: View) -> Iterator[Faults]:
    """error: an image id that no image has."""
    rows = np.flatnonzero(view.image_row < 0)
    ids = schema.values(view.dataset.persons["image_id"])[rows].tolist()
    yield Faults(
        "error", "persons", rows, [f"image {i} is not listed, expected the id of one of the images" for i in ids]
    )


def category_unknown(view: View) -> Iterator[Faults]:
    """error: a category id that the file's categories lack; a single one where it has no category at all."""
    persons = view.dataset.persons
    ids, present = schema.values(persons["category_id"]), schema.valid(persons["category_id"])
    for number in range(len(view.names)):
        listed = view.facts(number).get("categories_raw")
        own = present & (view.person_dataset == number)
        if listed is None or not own.any():
            continue
        known = [row["id"] for row in listed if type(row.get("id")) is int]
        if not listed:
            yield _of_dataset(
                number, "error", f"no categories, but {own.sum():,} people of one: evaluators skip them all"
            )
            continue
        rows = np.flatnonzero(own & ~np.isin(ids, np.array(known, np.int64)))
        expected = f"expected one of {reprlib.repr(sorted(known))}"
        yield Faults("error", "persons", rows, [f"category {i} is not listed, {expected}" for i in ids[rows].tolist()])


# --------------------------------------------------------------------------------------------------------- categories


def category_skeletons(view: View) -> Iterator[Faults]:
    """warning: people of one category with different skeletons, so that a column means two things."""
    persons = view.dataset.persons
    ids, present = schema.values(persons["category_id"]), schema.valid(persons["category_id"])
    used: dict[tuple[int, int], dict[str, int]] = {}
    for name, rows in view.dataset.groups():
        rows = rows[present[rows]]
        if name is None or not len(rows):
            continue
        pairs, counts = np.unique(np.stack([view.person_dataset[rows], ids[rows]], 1), axis=0, return_counts=True)
        for (number, category), count in zip(pairs.tolist(), counts.tolist(), strict=True):
            used.setdefault((number, category), {})[name] = count
    for (number, category), skeletons in used.items():
        if len(skeletons) > 1:
            found = " and ".join(
                f"{name} ({len(view.dataset.skeletons[name])} keypoints, {n:,} people)" for name, n in skeletons.items()
            )
            yield _of_dataset(number, "warning", f"category {category} has people of {found}, expected one skeleton")


def category_edges(view: View) -> Iterator[Faults]:
    """error: an edge of a category that leaves its keypoints, 1 to K (0 to K - 1 where a 0 occurs).

    CrowdPose's own files carry edges of COCO's 17 keypoints on their 14: a note, kpdata uses crowdpose_14's edges.
    """
    for number, category, k in _categories(view):
        edges = category.get("skeleton")
        if not isinstance(edges, list) or not edges:
            continue
        low = 0 if any(isinstance(edge, list) and 0 in edge for edge in edges) else 1
        wrong = [edge for edge in edges if not _inside(edge, low, low + k - 1)]
        where = f"category {category['id']}: edges {reprlib.repr(wrong)}"
        if wrong and k == len(load(_CROWDPOSE)) and _crowdpose_edges(edges):
            known = "CrowdPose's known fault: they are COCO-17's; kpdata draws and checks with crowdpose_14's own"
            yield _of_dataset(number, "note", f"{where} leave its {k} keypoints. {known}")
        elif wrong:
            yield _of_dataset(number, "error", f"{where}, expected pairs of whole numbers from {low} to {low + k - 1}")


def category_flips(view: View) -> Iterator[Faults]:
    """error: `flip_idx` (or `flip_indices`, 0-based) or `flip_pairs` of a category that is not its own inverse."""
    for number, category, k in _categories(view):
        where = f"category {category['id']}"
        for key in ("flip_idx", "flip_indices"):
            order = category.get(key)
            if order is not None and not _undoes_itself(order, k):
                expected = f"expected 0 to {k - 1} in an order that flipping twice undoes"
                yield _of_dataset(number, "error", f"{where}: {key} {reprlib.repr(order)}, {expected}")
        pairs = category.get("flip_pairs")
        ends = [end for pair in pairs if isinstance(pair, list) for end in pair] if isinstance(pairs, list) else []
        if repeated := sorted({str(end) for end in ends if ends.count(end) > 1}):
            expected = "expected each keypoint in one pair at most"
            yield _of_dataset(
                number, "error", f"{where}: flip_pairs name {', '.join(repeated)} more than once, {expected}"
            )


def category_sigmas(view: View) -> Iterator[Faults]:
    """error: `sigmas` of a category that are not K numbers above 0."""
    for number, category, k in _categories(view):
        sigmas = category.get("sigmas")
        if sigmas is None:
            continue
        found = sigmas if isinstance(sigmas, list) else [sigmas]
        good = [s for s in found if type(s) in (int, float) and 0 < s < float("inf")]
        if len(found) != k or len(good) != k:
            where = f"category {category['id']}: {len(found)} sigmas, {len(good)} of them numbers above 0"
            yield _of_dataset(number, "error", f"{where}, expected {k}, one a keypoint")


def _categories(view: View) -> Iterable[tuple[int, Mapping[str, Any], int]]:
    """(dataset, category, K) of each category as the file has it; K: of its names, else of its people."""
    persons = view.dataset.persons
    ids, present = schema.values(persons["category_id"]), schema.valid(persons["category_id"])
    for number in range(len(view.names)):
        for category in view.facts(number).get("categories_raw") or ():
            k = len(category.get("keypoints") or ())
            if not k and type(category.get("id")) is int:
                own = present & (view.person_dataset == number) & (ids == category["id"])
                k = max((len(g.skeleton) for g in view.groups if own[g.rows].any()), default=0)
            if k:
                yield number, category, k


def _inside(edge: Any, low: int, high: int) -> bool:
    return isinstance(edge, list) and len(edge) == 2 and all(type(end) is int and low <= end <= high for end in edge)


def _crowdpose_edges(edges: Sequence[Any]) -> bool:
    return all(_inside(edge, 1, 17) and frozenset(edge) in _coco_edges() for edge in edges)


@cache
def _coco_edges() -> frozenset[frozenset[int]]:
    return frozenset(frozenset((a + 1, b + 1)) for a, b in load(_COCO_BODY).edges)


def _undoes_itself(order: Any, k: int) -> bool:
    whole = isinstance(order, list) and all(type(i) is int for i in order) and sorted(order) == list(range(k))
    return whole and all(order[order[i]] == i for i in range(k))


def _of_dataset(number: int, level: Level, message: str) -> Faults:
    return Faults(level, "datasets", np.array([number], np.int64), [message])


# ------------------------------------------------------------------------------------------------- images and pictures


def image_without_facts(view: View) -> Iterator[Faults]:
    """note: how many images of a dataset have no file name, and how many no size; results files never do."""
    unnamed = ~schema.valid(view.dataset.images["file_name"])
    unsized = np.isnan(view.image_size).any(1)
    for number in range(len(view.names)):
        own = view.image_dataset == number
        if view.facts(number).get("source_format") == "coco_results":
            continue
        for missing, what in ((unnamed, "file name"), (unsized, "width and height")):
            count = int((missing & own).sum())
            if count:
                yield _of_dataset(
                    number, "note", f"{count:,} of {own.sum():,} images have no {what}: some checks skip them"
                )


def image_missing(view: View) -> Iterator[Faults]:
    """error: an image whose file is not in the folder; a single one where the folder has none of them."""
    lost = [(row, p) for row, p in enumerate(view.pictures) if p is not None and not p.found]
    wanted = sum(p is not None for p in view.pictures)
    if lost and len(lost) == wanted:
        message = f"none of {wanted:,} image files is in {view.folder}, e.g. {lost[0][1].path}: is it the right folder?"
        yield _of_dataset(int(view.image_dataset[lost[0][0]]), "error", message)
        return
    yield _of_images(
        "error", [(row, f"no such file: {p.path} ({len(lost):,} of {wanted:,} are missing)") for row, p in lost]
    )


def image_unreadable(view: View) -> Iterator[Faults]:
    """error: a file that does not decode to its end."""
    yield _of_images("error", [(row, f"{p.path} cannot be decoded: {p.problem}") for row, p in enumerate(view.pictures)
                               if p is not None and p.problem])  # fmt: skip


def image_size(view: View) -> Iterator[Faults]:
    """error: a file of another size than stated; of a rotated one, the size before or after rotation is right."""
    found = []
    for row, picture in _readable(view):
        size = view.image_size[row]
        if np.isnan(size).any():
            continue
        stated, stored = (int(size[0]), int(size[1])), (picture.width, picture.height)
        shown = stored[::-1] if picture.orientation > 4 else stored
        if stated not in (stored, shown):
            swapped = " (width and height are swapped)" if stated == stored[::-1] else ""
            found.append((row, f"{picture.path} has {_px(stored)}, the annotations say {_px(stated)}{swapped}"))
    yield _of_images("error", found)


def image_rotated(view: View) -> Iterator[Faults]:
    """warning: EXIF says that the picture is shown rotated or mirrored: tools differ on where a keypoint then is."""
    found = []
    for row, picture in _readable(view):
        if picture.orientation > 1:
            size = view.image_size[row]
            stated = "no size" if np.isnan(size).any() else _px((int(size[0]), int(size[1])))
            stored = f"EXIF orientation {picture.orientation} on {_px((picture.width, picture.height))}"
            found.append((row, f"{picture.path}: {stored}, the annotations say {stated}; expected upright pixels (1)"))
    yield _of_images("warning", found)


def _readable(view: View) -> Iterable[tuple[int, Picture]]:
    return ((row, p) for row, p in enumerate(view.pictures) if p is not None and p.found and not p.problem)


def _of_images(level: Level, found: Sequence[tuple[int, str]]) -> Faults:
    rows: Ints = np.array([row for row, _ in found], np.int64)
    return Faults(level, "images", rows, [message for _, message in found])


def _px(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px"
