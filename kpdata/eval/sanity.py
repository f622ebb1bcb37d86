"""What makes a score meaningless, seen in the data before anybody believes the number.

Each finding is a sentence: what was found, what it does to the number, what to do. They are about files that are wrong
as a whole (another unit, another order, the wrong field); single bad rows are `kpdata validate`'s. A bar is set so that
real models of any quality raise none: a finding wants most of the people or predictions to agree on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kpdata import schema
from kpdata.arrays import distinct, isin, lookup, median, mixed
from kpdata.dataset import Dataset
from kpdata.eval.fields import odd_fields
from kpdata.eval.misfits import Finding, misfits
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.eval.part import Part
from kpdata.eval.prepare import Sides
from kpdata.eval.remarks import trapped
from kpdata.geometry import box_from_keypoints, box_iou

FEW = 5  # people, predictions or images below which nothing is said about all of them
_LOW_AP = 0.05  # from here down an AP is worth a "because"
_ROWS = 2000  # rows looked at where a sample tells as much as all
REPEATED = 0.1  # share of predictions that repeat another one of their image, above which it is said


_DROPPED = "xtcocotools drops those whose keypoints' third values are all 0; write scores there, or score without --as"


class _Scene(NamedTuple):
    """One skeleton's arrays with what several checks ask for."""

    part: Part
    counted: Bools  # (N,)
    truth_image: Ints  # (N,) row of the person's image in the ground truth's images, -1 for an unlisted one
    found_image: Ints  # (M,)
    images: int


@np.errstate(invalid="ignore", over="ignore", divide="ignore")  # NaN and infinity are data here, and fit nothing
def findings(sides: Sides, *, seed: int = 0) -> list[Finding]:
    """What makes the numbers of these two sides meaningless; nothing where nothing is suspicious. Needs no matches.

    Areas, num_keypoints, scores, flags in the place of keypoint scores, images without predictions, repeated poses,
    boxes given by their corners, normalised coordinates, another resolution, x and y exchanged, left and right
    exchanged, another order of keypoints, shifted ids or coordinates.
    Poses are compared on at most 300 images, drawn with `seed`; boxes and units on 2,000 rows.
    """
    found: list[Finding] = []
    for part in sides.parts:
        images = lookup(part.image_ids, part.truth.image_id), lookup(part.image_ids, part.detections.image_id)
        scene = _Scene(part, part.counted(), *images, len(part.image_ids))
        of_part = [*_labels(scene), *_scores(scene), *_coverage(scene), *_boxes(sides, scene)]
        unit = list(_units(scene))
        of_part += unit or misfits(part, scene.counted, sides.gt, seed)
        where = f"{part.skeleton.name}: " if len(sides.parts) > 1 else ""
        found += [Finding(where + finding.words, finding.decisive) for finding in of_part]
    return found + [Finding(words, False) for words in odd_fields(sides)]


def told(sides: Sides, found: Sequence[Finding], stats: Mapping[str, float] | None = None) -> list[str]:
    """The findings in words. stats: the numbers, where they are known: with an AP of at most 0.05 a cause is told as
    such ("AP is 0.000 because …"), and if none was found what the poses look like."""
    sentences = [finding.words for finding in found]
    ap = None if stats is None else stats.get("AP")
    if ap is None or ap > _LOW_AP:
        return sentences
    because = f"AP is {ap:.3f} because " if ap >= 0 else "AP is -1 because "
    causes = [finding.words for finding in found if finding.decisive]
    if causes:
        rest = [finding.words for finding in found if not finding.decisive]
        return [because + causes[0], *causes[1:], *rest]
    if ap < 0 and (outside := _out_of_range(sides)):
        return [because + outside, *sentences]
    if ap < 0 or not len(sides.predictions) or not sides.parts:
        return sentences
    if not any(len(part.detections.score) for part in sides.parts):
        own = np.unique(schema.values(sides.predictions.persons["category_id"]))
        if np.isin(own, sides.category_ids).any() and sides.facts.get("like"):
            return [f"{because}none of the {len(sides.predictions):,} predictions is left: {_DROPPED}", *sentences]
        listed = ", ".join(map(str, sides.category_ids.tolist()))
        return [f"{because}no prediction has a category_id that the ground truth lists ({listed})", *sentences]
    if sides.facts.get("mode") == "strict" and trapped(sides):
        return sentences  # a note says what AP is without the trap
    return [*sentences, _no_cause(sides, ap)]


def _out_of_range(sides: Sides) -> str:
    """Why nobody counts though there are people who could: areas that are in no range, the widest of 0 to 1e10 px²."""
    areas = np.concatenate([np.empty(0), *(part.truth.area[part.counted()] for part in sides.parts)])
    if not len(areas) or ((areas >= 0) & (areas <= 1e10)).any():
        return ""
    shown = f"{areas[0]:g}" if (areas == areas[0]).all() else f"{areas[0]:g}, {areas[-1]:g} …"
    return (
        f"the area of all {len(areas):,} people is below 0, above 1e10 px² or no number ({shown}): they are in no size "
        "range; give 'area' in square pixels, or take the rule bbox×0.53"
    )


def unmet_ids(gt: Dataset, predictions: Dataset) -> list[str]:
    """Why the image ids of two data sets do not meet: sentences, none where every prediction's image is listed.

    For what `evaluate` refuses or leaves out: few or no common ids, ids shifted by one, ids that are the numbers in the
    ground truth's file names, texts that are its file names without ending or folder.
    """
    listed = schema.values(gt.images["image_id"])
    own = distinct(schema.values(predictions.persons["image_id"]))
    texts = schema.texts(predictions.images["source_image_id"])
    if any(texts):
        return _texts_as_names(gt, [text for text in texts if text])
    shared = int((lookup(listed, own) >= 0).sum())
    if shared == len(own):
        return []
    words = [f"{shared:,} of the predictions' {len(own):,} image ids are among the ground truth's {len(listed):,}"]
    for step in (1, -1):
        if (moved := int((lookup(listed, own + step) >= 0).sum())) > max(shared, 0.9 * len(own)):
            words.append(
                f"with {step:+d} on each {moved:,} are: ids that count from {'0' if step > 0 else '1'} on one side and "
                f"from {'1' if step > 0 else '0'} on the other? add {step} to the predictions' image_id"
            )
            break
    numbers = np.array([_number_in(name) for name in schema.texts(gt.images["file_name"])], np.int64)
    usable = distinct(numbers[numbers >= 0])
    if (named := int((lookup(usable, own) >= 0).sum())) > max(shared, 0.9 * len(own)):
        words.append(
            f"{named:,} are the numbers in its file names: the predictions name images by file, the ground truth by "
            "other ids; give predictions the ground truth's ids, or file names for ids"
        )
    return words


def _number_in(name: str | None) -> int:
    """The number that a file's name (without folder and ending) is, or ends with; -1 for none."""
    digits = re.search(r"(\d{1,18})(?:\.[^./\\]*)?$", name or "")
    return int(digits[1]) if digits else -1


def _stem(name: str) -> str:
    return re.sub(r"\.[A-Za-z0-9]{1,5}$", "", name.replace("\\", "/").rsplit("/", 1)[-1])


def _texts_as_names(gt: Dataset, texts: list[str]) -> list[str]:
    names = {name for name in schema.texts(gt.images["file_name"]) if name}
    ids = {text for text in schema.texts(gt.images["source_image_id"]) if text}
    last = {name.replace("\\", "/").rsplit("/", 1)[-1] for name in names}
    if not (lost := [text for text in texts if text not in names | ids | last and _last(text) not in last]):
        return []
    stems = {_stem(name) for name in names}
    words = [
        f"{len(texts) - len(lost):,} of the predictions' {len(texts):,} image names are among the ground truth's "
        f"{len(names) or len(ids):,}; {lost[0]!r} is not"
    ]
    if (close := sum(_stem(text) in stems for text in lost)) > 0.9 * len(lost):
        words.append(f"{close:,} are when endings and folders are left out: write the whole file name as image_id")
    return words


def _last(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


# --------------------------------------------------------------------------------------------------- the ground truth


def _labels(scene: _Scene) -> Iterator[Finding]:
    """Areas and num_keypoints that cannot be."""
    part, counted = scene.part, scene.counted
    yield from _areas(part, counted)
    if not part.mask.all():
        return  # counts of a remapped skeleton are made from the labels
    listed = isin(part.truth.category_id, part.category_ids) & ~part.truth.iscrowd
    given, labelled = part.truth.num_keypoints[listed], (part.visibility[listed] > 0).sum(1)
    k = len(part.skeleton)
    if len(given) >= 1 and labelled.any() and not given.any():
        yield Finding(
            f"num_keypoints is 0 for all {len(given):,} people, though {int((labelled > 0).sum()):,} have labelled "
            "keypoints: such people are ignored; write the number of keypoints with v > 0 into it",
            True,
        )
    elif (over := int((given > k).sum())) > 0:
        most = int(given.max())
        yield Finding(
            f"num_keypoints is up to {most} for {over:,} people, the skeleton has {k} keypoints: write the "
            "number of keypoints with v > 0 into it",
            False,
        )
    elif (over := int((given > labelled).sum())) > 0.05 * len(given):
        empty = int(((given > 0) & (labelled == 0)).sum())
        more = f"; {empty:,} of them have none, and match whatever lies in their box" if empty else ""
        yield Finding(
            f"num_keypoints is larger than the number of labelled keypoints for {over:,} of {len(given):,} "
            f"people{more}: was visibility (v) lost on the way?",
            False,
        )


def _areas(part: Part, counted: Bools) -> Iterator[Finding]:
    area = part.truth.area[counted]
    if len(area) < FEW:
        return
    rows = np.flatnonzero(counted)[_every(len(area))]
    extent = box_from_keypoints(part.truth.keypoints[rows], part.truth.labelled[rows].astype(np.int8))
    boxes = extent[:, 2] * extent[:, 3]
    hint = "OKS is a distance relative to the person's area: give 'area' in square pixels, or take the rule bbox×0.53"
    small = float(np.mean(area <= 1))
    if small > 0.5 and not float(median(boxes)) <= 4:  # no box at all is NaN
        unit = "normalised to the image?" if len(np.unique(area)) > 1 else "a placeholder?"
        yield Finding(f"the area of {small:.0%} of the people is 1 or less ({unit}): no pose can match. {hint}", True)
    elif area.min() == area.max():
        yield Finding(f"all {len(area):,} people have the area {area[0]:g}: numbers mean little. {hint}", False)
    elif (known := boxes > 0).sum() >= FEW:
        ratio = float(
            np.sort(part.truth.area[rows[known]] / boxes[known])[known.sum() // 2]
        )  # np.median imports numpy.ma
        if ratio < 0.02 or ratio > 50:
            yield Finding(
                f"areas are {ratio:.2g} times the box around the labelled keypoints (median; COCO's masks: about 1): "
                f"are they of another resolution than the keypoints? {hint}",
                True,
            )


def _every(count: int, most: int = _ROWS) -> NDArray[np.int64]:
    """Positions of at most `most` rows, evenly spread: deterministic."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)


def _boxes(sides: Sides, scene: _Scene) -> Iterator[Finding]:
    """Boxes that fit the keypoints only when read as corners x0, y0, x1, y1."""
    part = scene.part
    people = np.flatnonzero(scene.counted & (part.truth.labelled.sum(1) >= 3))
    people = people[_every(len(people))]
    truth = part.truth.keypoints[people], part.truth.labelled[people], part.truth.bbox[people]
    found = sides.predictions.persons["bbox"]
    rows = _every(len(part.detections.score))
    whole: Bools = np.tile(part.mask, (len(rows), 1))
    boxes = schema.matrix(found, 4)[part.detection_rows[rows]] if schema.valid(found).any() else np.zeros((0, 4))
    cases = {"ground truth's": truth, "predictions'": (part.detections.keypoints[rows], whole, boxes)}
    for name, (xy, labelled, box) in cases.items():
        if len(box) >= FEW and _are_corners(xy, labelled, box):
            yield Finding(
                f"the {name} boxes fit the keypoints as x0, y0, x1, y1 and not as x, y, w, h: areas and size ranges "
                "are wrong; subtract the corner to get w and h",
                False,
            )


def _are_corners(xy: Floats, labelled: Bools, box: Floats) -> bool:
    extent = box_from_keypoints(xy, labelled.astype(np.int8))
    corners = np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], axis=1)
    possible: Bools = np.asarray((corners[:, 2:] >= 0).all(1))
    given, other = box_iou(box, extent), box_iou(np.where(possible[:, None], corners, 0), extent)
    known = np.isfinite(given) & np.isfinite(other)
    if known.sum() < FEW:
        return False
    given, other = given[known], other[known]
    return bool(np.mean(possible) > 0.95 and np.mean(other > given) > 0.9 and float(median(other)) > 0.3)


# --------------------------------------------------------------------------------------------------- the predictions


def _scores(scene: _Scene) -> Iterator[Finding]:
    """Scores that order nothing, or are on another scale; flags in the place of keypoint scores; repeated poses."""
    part = scene.part
    score = part.detections.score
    finite = score[np.isfinite(score)]
    if len(finite) < FEW:
        return
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        yield Finding(
            f"all {len(finite):,} predictions have the score {low:g}: nothing tells good from bad, the order of the "
            "file decides the precision; write each person's confidence into 'score'",
            False,
        )
    elif high > 1:
        yield Finding(
            f"scores go up to {high:.3g}: fine for AP, which reads their order alone; thresholds and calibration "
            "expect 0 to 1",
            False,
        )
    yield from _flags(part)
    if (repeats := _repeats(part)) > REPEATED * len(score) and part.detections.keypoints.any():
        yield Finding(
            f"{repeats:,} of {len(score):,} predictions repeat a pose of the same image to the last bit: each but the "
            "first is a false positive; was the file written twice, or non-maximum suppression left out?",
            False,
        )


def _flags(part: Part) -> Iterator[Finding]:
    """Third values of 0, 1 and 2 are visibilities; all 1 says nothing, and is what many tools write."""
    if not all(_only_flags(part.keypoint_scores[_every(len(part.keypoint_scores), most)]) for most in (100, _ROWS)):
        return
    values = distinct(part.keypoint_scores[:, part.mask])
    values = values[~np.isnan(values)]
    if _only_flags(values) and values.tolist() not in ([], [1]):
        told = ", ".join(f"{value:g}" for value in values.tolist())
        yield Finding(
            f"the predictions' third values are all {told}: flags, not keypoint scores. OKS does not read them, but "
            "calibration and label suspects would; write each keypoint's confidence there",
            False,
        )


def _only_flags(values: Floats) -> bool:
    return bool(((values == 0) | (values == 1) | (values == 2) | np.isnan(values)).all())


def _repeats(part: Part) -> int:
    """Predictions equal to an earlier one of their image: rows are compared by a 64-bit sum of their bits."""
    xy = part.detections.keypoints
    bits = xy.reshape(len(xy), -1).view(np.uint64)
    odd = mixed(np.arange(1, bits.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)
    image = part.detections.image_id.astype(np.uint64) * odd[0]
    if _equal(bits[:, 0] * odd[0] + bits[:, 1] * odd[1] + image) <= REPEATED * len(xy):
        return 0  # fewer than are worth a word agree even in their first keypoint
    return _equal((bits * odd).sum(1, dtype=np.uint64) + image)


def _equal(keys: NDArray[np.uint64]) -> int:
    ordered = np.sort(keys)
    return int((ordered[1:] == ordered[:-1]).sum())


def _coverage(scene: _Scene) -> Iterator[Finding]:
    """Images with people and without predictions; one prediction an image; a run that stopped half-way."""
    if len(scene.found_image) < FEW:
        return
    listed = scene.counted & (scene.truth_image >= 0)
    people = np.bincount(scene.truth_image[listed], minlength=scene.images)
    given = np.bincount(scene.found_image[scene.found_image >= 0], minlength=scene.images)
    crowded, total = people > 1, int(people.sum())
    reach = int(np.minimum(people, given).sum())
    if given.max(initial=0) == 1 and (crowded & (given > 0)).sum() >= FEW:
        yield Finding(
            f"one prediction an image, while {int((crowded & (given > 0)).sum()):,} of these images hold several "
            f"people: at most {reach:,} of {total:,} people can be found (AR {reach / max(1, total):.2f}); write all "
            "people of an image",
            False,
        )
    empty = (people > 0) & (given == 0)
    missed = int(people[empty].sum())
    if empty.sum() < FEW or missed <= 0.1 * total:
        return
    last = int(np.flatnonzero(given).max())
    after = (people > 0) & (np.arange(scene.images) > last)
    # A run that stopped has predictions nearly everywhere before its end, and nowhere after it.
    stopped = missed and int(people[after].sum()) > 0.8 * missed
    if stopped or missed > 0.5 * total:
        why = f"they end at image {last + 1:,} of {scene.images:,}: did the run stop?" if stopped else (
            "are they of a part of the images?"
        )  # fmt: skip
        yield Finding(
            f"{int(empty.sum()):,} of {int((people > 0).sum()):,} images with people have no predictions, {why} Their "
            f"{missed:,} people count as missed: AR cannot exceed {1 - missed / total:.2f}; score the same images",
            missed >= (1 - _LOW_AP) * total,
        )


# ----------------------------------------------------------------------------------------------------------- the unit


def _units(scene: _Scene) -> Iterator[Finding]:
    """Coordinates that are shares of the image, or all the same."""
    part = scene.part
    people = np.flatnonzero(scene.counted)
    people = people[_every(len(people))]
    truth = part.truth.keypoints[people][part.truth.labelled[people]]
    found = part.detections.keypoints[_every(len(part.detections.score))][:, part.mask].reshape(-1, 2)
    if len(part.detections.score) < FEW or len(truth) < FEW:
        return
    sides = [_reach(xy) for xy in (truth, found)]
    if sides[1] == 0:
        yield Finding("all coordinates of the predictions are 0: nothing was predicted, or nothing was written", True)
        return
    for name, own, other in (
        ("the ground truth's", sides[0], sides[1]),
        ("the predictions'", sides[1], sides[0]),
    ):
        if own <= 2 < 20 <= other:
            yield Finding(
                f"{name} coordinates are normalised (99 % are below {own:.3g}; the other side's reach {other:,.0f}): "
                "multiply x by the image's width and y by its height",
                True,
            )


def _reach(xy: Floats) -> float:
    """The 99th percentile of |x| and |y|, in px (`np.percentile` would import numpy.ma)."""
    finite = np.abs(xy[np.isfinite(xy).all(1)]).ravel()
    at = int(0.99 * (len(finite) - 1))
    return float(np.partition(finite, at)[at]) if len(finite) else 0.0


def _no_cause(sides: Sides, ap: float) -> str:
    """Where nothing explains a low AP: what the best-lying predictions look like."""
    from kpdata.eval.part import pair

    pairs = [pair(part) for part in sides.parts]
    found, missed = sum(len(p.truth) for p in pairs), sum(len(p.missed) for p in pairs)
    oks = np.concatenate([p.oks for p in pairs])
    middle = f" with a median OKS of {float(median(oks)):.2f}" if len(oks) else ""
    return (
        f"AP is {ap:.3f} and no fault of the files explains it: {found:,} of {found + missed:,} people have a "
        f"prediction within reach (OKS 0.1){middle}; look at some pictures"
    )
