"""What correcting each kind of mistake would be worth, in AP and AR: the analysis of Ronchi and Perona (ICCV 2017).

Every kind is corrected on its own, and then all of them one after the other in the order of `ERRORS`; after each
correction everybody is matched and AP accumulated anew. Two sets of rules:

"kpdata" (what a fix would be worth)
    A wrong keypoint is put to the right of its label, at a distance of similarity ks (`errors` defines it): 0.85 after
    jitter, 0.5 after a miss, and after inversion and swap as far as it was from the wrong place.
    Scores: each prediction gets the OKS with the person that it serves best, one prediction a person, greatest OKS
    first; all others get 0.
    False positives and false negatives: the predictions and people that nothing was matched with at the OKS of the
    pairing (0.1) are left out, at every threshold the same: predictions where they would be false positives, people as
    if they were found as well as the others.

"coco-analyze" (comparable with the figures of the paper's code, matteorr/coco-analyze, pycocotools/cocoanalyze.py)
    The keypoint lands at half that distance: the code (line 350) takes sigma² where its similarity has (2 sigma)², so
    that jitter ends at ks 0.85 ** 0.25 = 0.96 and a miss at 0.84.
    Scores: the greatest OKS with any counted person, and soft non-maximum suppression among the predictions of an
    image (`_soft_nms`). Like run_analysis.py only the best `max_dets` of an image are rescored.
    False positives and negatives: whatever is unmatched at the threshold itself, so that badly placed people are both;
    people are left out after the predictions were, and their gain counts from there.
    (Its area range "all" starts at 32²; here it is that of `Part.params`.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.errors import EvaluationError
from kpdata.eval.average_precision import accumulate
from kpdata.eval.errors import (
    GOOD_KS,
    JITTER_KS,
    PROXIMITY_OKS,
    KeypointErrors,
    Kind,
    Proximity,
    duplicates,
    missed_people,
    proximity,
    score_errors,
)
from kpdata.eval.keypoints import all_sizes, ignored_people, rematch
from kpdata.eval.matching import Matches
from kpdata.eval.oks import (
    Detections,
    Floats,
    Ints,
    Order,
    Pairs,
    Params,
    candidate_pairs,
    order_rows,
)
from kpdata.eval.part import Pairing, Part
from kpdata.eval.wording import many

Rules = Literal["kpdata", "coco-analyze"]

# Somebody whose keypoints are all corrected to a similarity of 0.85 has that OKS, which is a threshold of AP: placed a
# hair inside, they reach it whatever the last bit of `exp` is.
_WITHIN = 1 - 1e-9
# errorsAPImpact.py corrects in this order.
KEYPOINT_ERRORS = {"miss": Kind.MISS, "swap": Kind.SWAP, "inversion": Kind.INVERSION, "jitter": Kind.JITTER}
ERRORS = (*KEYPOINT_ERRORS, "score", "false_positives", "false_negatives")
NUMBERS = ("ap", "ap50", "ap75", "ar", "ar50", "ar75")
GROUPS_PER_BLOCK = 1024  # images whose predictions are compared with each other at once: bounds memory


def opportunity(part: Part, pairing: Pairing, errors: KeypointErrors, *, rules: Rules = "kpdata") -> pa.Table:
    """AP and AR after each correction: a row "baseline", then one for each of `ERRORS`, in that order.

    error; count: keypoints of that kind, people of `score_errors`, predictions in `pairing.spurious`, people in
    `pairing.missed`. After this correction alone: ap, ap50, ap75, ar, ar50, ar75 in [0, 1], and each with _gain: minus
    the baseline. After it and all corrections above: cumulative_ap, cumulative_ar, …, each with _gain: minus the row
    above. ap_by_oks, cumulative_ap_by_oks: lists, AP at each of `part.params.iou_thresholds`.

    Area range "all", the largest of `max_dets`. NaN where there is nothing to average or no such threshold. The
    baseline equals the reported numbers; traps of the strict mode stay in all of them.
    Raises EvaluationError for other rules.
    """
    return _corrected(part, pairing, errors, rules, all_sizes(part))[0]


def opportunity_by_size(part: Part, pairing: Pairing, errors: KeypointErrors, *, rules: Rules = "kpdata") -> pa.Table:
    """`opportunity` for each area range of `part.params`: its rows behind a first column `size` ("all", "medium", …).

    As in APm and APl, people of other sizes are ignored, with those who found them, and unmatched predictions of other
    sizes too; scores are mended for everybody. Counts are of people, and of predictions, of that size.
    """
    params = part.params
    tables = _corrected(part, pairing, errors, rules, params)
    return pa.concat_tables(
        table.add_column(0, "size", schema.constant(label, table.num_rows))
        for label, table in zip(params.area_labels, tables, strict=True)
    )


def of_size(table: pa.Table, size: str) -> pa.Table:
    """The rows of one size of an `opportunity_by_size`, as `opportunity` gives them; none where it has no such size."""
    rows = [row for row, label in enumerate(schema.texts(table["size"])) if label == size]
    return schema.take(table, np.array(rows, np.int64)).drop_columns(["size"])


def _corrected(part: Part, pairing: Pairing, errors: KeypointErrors, rules: Rules, params: Params) -> list[pa.Table]:
    """A table for each area range of `params`: matched together, since only who is ignored differs."""
    if rules not in ("kpdata", "coco-analyze"):
        raise EvaluationError(f"rules {rules!r}, expected 'kpdata' or 'coco-analyze'")
    scene = _Scene(part, pairing, errors, rules, params)
    start = step = scene.start()
    baseline = _numbers(scene, start)
    alone, cumulative = {"baseline": baseline}, {"baseline": baseline}
    single = start
    for name in ERRORS:
        beside = rules == "coco-analyze" and name == "false_negatives"
        single = _correct(scene, single if beside else start, name)
        step = single if step is start else _correct(scene, step, name)
        alone[name], cumulative[name] = _numbers(scene, single), _numbers(scene, step)
    return [_table(scene, start, alone, cumulative, a) for a in range(len(params.area_labels))]


def _table(
    scene: _Scene, start: _Step, alone: dict[str, list[_Numbers]], cumulative: dict[str, list[_Numbers]], a: int
) -> pa.Table:
    """The rows of area range `a`."""
    columns = {"error": schema.strings(list(alone)), "count": schema.fixed(_counts(scene, start, a), pa.int64())}
    before = ["baseline", *(["baseline"] * len(ERRORS))]
    if scene.rules == "coco-analyze":
        before[-1] = "false_positives"
    columns |= _columns({name: of[a] for name, of in alone.items()}, before, "")
    above = ["baseline", "baseline", *ERRORS[:-1]]
    columns |= _columns({name: of[a] for name, of in cumulative.items()}, above, "cumulative_")
    return pa.Table.from_arrays(list(columns.values()), names=list(columns))


def _counts(scene: _Scene, start: _Step, a: int) -> list[int]:
    part, pairing = scene.part, scene.pairing
    low, high = scene.params.area_ranges[a]
    people, found = (~((area < low) | (area > high)) for area in (part.truth.area, part.detections.area))
    mine = people[pairing.truth][:, None]
    keypoints = [int(((scene.errors.kind == kind) & mine).sum()) for kind in KEYPOINT_ERRORS.values()]
    truth, looked_at = start.order.gt_rows[start.links.gt], np.isin(start.links.row, start.order.dt_rows)
    kept = looked_at & part.counted()[truth]
    near = Proximity(start.links.row[kept], truth[kept], start.links.oks[kept])
    misscored = int(people[score_errors(near, part.detections.score)].sum())
    return [0, *keypoints, misscored, int(found[pairing.spurious].sum()), int(people[pairing.missed].sum())]


def _columns(rows: dict[str, _Numbers], before: list[str], prefix: str) -> dict[str, pa.Array]:
    """The numbers of all rows, and each minus that of the row which `before` names."""
    table = np.array([row.values for row in rows.values()])
    place = {name: at for at, name in enumerate(rows)}
    gains = table - table[[place[name] for name in before]]
    columns = {f"{prefix}{name}": schema.fixed(table[:, at], pa.float64()) for at, name in enumerate(NUMBERS)}
    columns |= {f"{prefix}{name}_gain": schema.fixed(gains[:, at], pa.float64()) for at, name in enumerate(NUMBERS)}
    return columns | {f"{prefix}ap_by_oks": schema.rows(np.array([row.ap_by_oks for row in rows.values()]))}


# ------------------------------------------------------------------------------------------------------------- matching


@dataclass(frozen=True, slots=True)
class _Links:
    """Predictions beside the ground truth that they resemble, whatever their rank."""

    row: Ints  # (L,) row of Detections
    gt: Ints  # (L,) position in Order.gt_rows
    oks: Floats  # (L,)


@dataclass(frozen=True, slots=True)
class _Step:
    """Predictions as corrected so far, with their matches."""

    detections: Detections
    order: Order
    links: _Links
    matches: Matches
    without_unmatched: bool = False  # people whom nothing reaches at a threshold do not count at that threshold


class _Scene:
    """What all corrections share."""

    def __init__(self, part: Part, pairing: Pairing, errors: KeypointErrors, rules: Rules, params: Params) -> None:
        self.part, self.pairing, self.errors, self.rules, self.params = part, pairing, errors, rules, params
        least = min(PROXIMITY_OKS, float(self.params.iou_thresholds.min()))
        self.near = replace(self.params, iou_thresholds=np.array([least]))

    def ordered(self, detections: Detections, max_dets: int) -> Order:
        part = self.part
        return order_rows(part.truth, detections, part.image_ids, part.category_ids, max_dets, mode=self.params.mode)

    def linked(self, detections: Detections, order: Order) -> _Links:
        pairs = candidate_pairs(self.part.truth, detections, order, self.near)
        return _Links(order.dt_rows[pairs.dt], pairs.gt, pairs.oks)

    def start(self) -> _Step:
        detections = self.part.detections
        everyone = self.ordered(detections, max(1, len(detections.score)))
        return self.step(detections, self.best(everyone), self.linked(detections, everyone))

    def best(self, order: Order) -> Order:
        """The order with the best `max_dets` of each image only."""
        return _some(order, np.flatnonzero(order.dt_rank < self.params.max_dets[-1]))

    def step(self, detections: Detections, order: Order, links: _Links) -> _Step:
        position = np.full(len(detections.score), -1)
        position[order.dt_rows] = np.arange(len(order.dt_rows))
        d = position[links.row]
        pairs = Pairs(d[d >= 0], links.gt[d >= 0], links.oks[d >= 0])
        ignored = ignored_people(self.part, self.params, order)
        return _Step(detections, order, links, rematch(self.part, self.params, order, pairs, ignored, detections))


def _some(order: Order, at: Ints) -> Order:
    """Only these positions of the detections."""
    return replace(order, dt_rows=order.dt_rows[at], dt_group=order.dt_group[at], dt_rank=order.dt_rank[at])


def _moved(scene: _Scene, step: _Step, detections: Detections, rows: Ints) -> _Step:
    """Match again after the keypoints of the predictions `rows` changed: only their links are looked for anew."""
    changed = np.zeros(len(detections.score), bool)
    changed[rows] = True
    new = scene.linked(detections, _some(step.order, np.flatnonzero(changed[step.order.dt_rows])))
    old = step.links
    kept = ~changed[old.row]
    links = _Links(
        np.concatenate([old.row[kept], new.row]),
        np.concatenate([old.gt[kept], new.gt]),
        np.concatenate([old.oks[kept], new.oks]),
    )
    return scene.step(detections, step.order, links)


# ---------------------------------------------------------------------------------------------------------- corrections


def _correct(scene: _Scene, step: _Step, name: str) -> _Step:
    """The step after this kind of mistake is corrected in it as well."""
    pairing, matches = scene.pairing, step.matches
    original = scene.rules == "coco-analyze"
    if name in KEYPOINT_ERRORS:
        wrong = scene.errors.kind == KEYPOINT_ERRORS[name]
        if not wrong.any():
            return step
        return _moved(scene, step, _placed(scene, step.detections, wrong), pairing.detection[wrong.any(axis=1)])
    if name == "score":
        score = _soft_nms(scene, step) if original else _served(scene, step)
        detections = replace(step.detections, score=score)
        return scene.step(detections, scene.ordered(detections, scene.params.max_dets[-1]), step.links)
    if name == "false_positives":  # what is outside the area range does not count where it is unmatched
        gone = np.ones_like(matches.dt_outside) if original else np.isin(matches.dt_row, pairing.spurious)
        return replace(step, matches=replace(matches, dt_outside=matches.dt_outside | gone))
    if original:
        return replace(step, without_unmatched=True)
    gone = np.isin(matches.gt_row, pairing.missed)
    return replace(step, matches=replace(matches, gt_ignored=matches.gt_ignored | gone))


def _placed(scene: _Scene, detections: Detections, wrong: NDArray[np.bool_]) -> Detections:
    """The predictions with the `wrong` (P, K) keypoints put where `rules` put them; areas stay as they were."""
    part, pairing, errors = scene.part, scene.pairing, scene.errors
    similarity = np.select([errors.kind == Kind.JITTER, errors.kind == Kind.MISS], [GOOD_KS, JITTER_KS], errors.nearest)
    spread = part.params.sigmas if scene.rules == "coco-analyze" else 2 * part.params.sigmas
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = np.sqrt(-2 * np.log(similarity) * part.truth.area[pairing.truth][:, None]) * spread * _WITHIN
    target = part.truth.keypoints[pairing.truth].copy()
    target[..., 0] += np.where(np.isfinite(reach), reach, 0)
    keypoints = detections.keypoints.copy()
    keypoints[pairing.detection] = np.where(wrong[..., None], target, keypoints[pairing.detection])
    return replace(detections, keypoints=keypoints)


def _served(scene: _Scene, step: _Step) -> Floats:
    """(M,) scores: the OKS with one's own person, where greatest OKS chooses first; 0 for those who serve nobody.

    All predictions take part, not only the best `max_dets`. Nothing below the least threshold can matter.
    """
    links, truth = step.links, step.order.gt_rows[step.links.gt]
    kept = scene.part.counted()[truth] & ~np.isnan(links.oks)
    best = np.argsort(-links.oks[kept], kind="stable")
    d, g, oks = (values[kept][best] for values in (links.row, truth, links.oks))
    score = np.zeros(len(step.detections.score))
    while len(d):  # everyone who is each other's best, at once: as many rounds as the longest chain of rivals
        both = np.intersect1d(np.unique(d, return_index=True)[1], np.unique(g, return_index=True)[1])
        score[d[both]] = oks[both]
        free = ~np.isin(d, d[both]) & ~np.isin(g, g[both])
        d, g, oks = d[free], g[free], oks[free]
    return score


def _soft_nms(scene: _Scene, step: _Step) -> Floats:
    """(M,) scores of coco-analyze (cocoanalyze.py, find_score_errors and _soft_nms; cocoeval.py, check_scores).

    The greatest OKS with any counted person of the image, 0 where there is none. Then best first: the scores of all
    that come later fall by exp(-2 OKS²), where OKS is that of the two predictions, over all keypoints and with the
    mean of their extents as area. Beyond the best `max_dets` of an image the score is 0.
    """
    detections, order, part = step.detections, step.order, scene.part
    params = replace(scene.params, iou_thresholds=np.zeros(1), mode="fixed")  # every pair, none of them NaN
    pairs = candidate_pairs(part.truth, detections, order, params)
    kept = part.counted()[order.gt_rows[pairs.gt]]
    greatest = np.zeros(len(order.dt_rows))
    np.maximum.at(greatest, pairs.dt[kept], pairs.oks[kept])
    useful = np.isin(order.dt_group, order.dt_group[greatest > 0])
    rows, column = order.dt_rows[useful], order.dt_rank[useful]
    groups, line = np.unique(order.dt_group[useful], return_inverse=True)
    score = np.zeros(len(detections.score))
    for start in range(0, len(groups), GROUPS_PER_BLOCK):
        block = (line >= start) & (line < start + GROUPS_PER_BLOCK)
        at, rank, who = line[block] - start, column[block], rows[block]
        table = np.full((at[-1] + 1, rank.max() + 1), -1.0)
        people = np.zeros((*table.shape, len(part.skeleton)), np.complex128)
        table[at, rank] = greatest[useful][block]
        people[at, rank] = np.ascontiguousarray(detections.keypoints[who]).view(np.complex128)[..., 0]
        score[who] = _suppressed(table, people, (part.params.sigmas * 2) ** 2)[at, rank]
    return score


def _suppressed(score: Floats, people: NDArray[np.complex128], variances: Floats) -> Floats:
    """(I, D) scores after suppression. score (I, D), -1 where an image has fewer; people (I, D, K) as x + iy."""
    area = np.ptp(people.real, axis=2) * np.ptp(people.imag, axis=2)
    waiting = score >= 0
    images = np.arange(len(score))
    for _ in range(score.shape[1]):
        best = np.where(waiting, score, -1).argmax(axis=1)
        waiting[images, best] = False
        d = people - people[images, best][:, None]
        shared = 0.5 * (area + area[images, best][:, None]) + np.spacing(1)
        oks = np.nan_to_num(np.exp(-(d.real**2 + d.imag**2) / variances / shared[..., None] / 2).mean(axis=2))
        score = np.where(waiting, score * np.exp(-(oks**2) / 0.5), score)
    return score


# -------------------------------------------------------------------------------------------------------------- numbers


@dataclass(frozen=True, slots=True)
class _Numbers:
    values: tuple[float, ...]  # of NUMBERS
    ap_by_oks: list[float]  # (T,)


def _numbers(scene: _Scene, step: _Step) -> list[_Numbers]:
    """For each area range."""
    curves = _curves(scene, step)
    half, three_quarters = (np.isclose(scene.params.iou_thresholds, level, rtol=0, atol=1e-9) for level in (0.5, 0.75))
    found = []
    for a in range(len(scene.params.area_labels)):
        precision, recall = (each[..., a] for each in curves)
        values = [_mean(of) for each in (precision, recall) for of in (each, each[half], each[three_quarters])]
        found.append(_Numbers(tuple(values), [_mean(row) for row in precision]))
    return found


def _curves(scene: _Scene, step: _Step) -> tuple[Floats, Floats]:
    """Precision (T, R, C, A) and recall (T, C, A)."""
    params, matches = scene.params, step.matches
    if not step.without_unmatched:
        curves = accumulate(matches, params)
        return curves.precision[..., -1], curves.recall[..., -1]
    precision, recall = [], []
    for t in range(len(params.iou_thresholds)):
        hit = matches.matched[:, t : t + 1]
        unmatched = np.ones_like(matches.gt_ignored)
        for a, found in enumerate(hit[:, 0]):
            unmatched[a, matches.pair_gt[found[found >= 0]]] = False
        single = replace(params, iou_thresholds=params.iou_thresholds[t : t + 1])
        curves = accumulate(replace(matches, matched=hit, gt_ignored=matches.gt_ignored | unmatched), single)
        precision.append(curves.precision[0, ..., -1])
        recall.append(curves.recall[0, ..., -1])
    return np.array(precision), np.array(recall)


def _mean(values: Floats) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


# ---------------------------------------------------------------------------------------------------------------- words


def worst(part: Part, pairing: Pairing, errors: KeypointErrors, gains: pa.Table, *, top: int = 3) -> list[str]:
    """The corrections that would add most to AP on their own, most first, one plain sentence each.

    gains: what `opportunity` gave for the same three. AP in points (AP 0.617 is 61.7). At most `top` sentences; fewer
    where fewer would add at least 0.05 points, none where nothing is left to correct.
    """
    names = schema.texts(gains["error"])
    added, counts = schema.values(gains["ap_gain"]), schema.values(gains["count"]).tolist()
    order = np.argsort(-np.nan_to_num(added), kind="stable").tolist()
    chosen = [at for at in order if names[at] != "baseline" and added[at] >= 0.0005][:top]
    return [_sentence(part, pairing, errors, str(names[at]), counts[at], f"{added[at] * 100:.1f} AP") for at in chosen]


def _sentence(part: Part, pairing: Pairing, errors: KeypointErrors, name: str, count: int, gain: str) -> str:
    if name in KEYPOINT_ERRORS:
        start, what = FIXES[name]
        where = " and ".join(most_often(part, errors, KEYPOINT_ERRORS[name]))
        return f"{start} would add {gain}: {many(count, 'keypoint')} {what}, most often {where}."
    if name == "score":
        people = f"for {many(count, 'person', 'people')} a worse pose has the higher score"
        why = people if count else "better poses of other people come later"
        return f"Scores that say how good a pose is would add {gain}: {why}."
    if name == "false_positives":
        twice = int(duplicates(part, pairing, proximity(part)).sum())
        what = many(count, "prediction")
        return f"Leaving out {what} that find nobody new would add {gain}: {twice:,} of them repeat somebody."
    group, missed, total = _most_missed(part, pairing)
    share = f"most often those with {group} ({missed:,} of {total:,} missed)"
    return f"Finding {many(count, 'missed person', 'missed people')} would add {gain}: {share}."


FIXES = {
    "jitter": ("Placing keypoints more precisely", "near the right place but not on it"),
    "inversion": ("Telling left from right", "at their left/right twin"),
    "swap": ("Keeping people apart", "on somebody else"),
    "miss": ("Finding lost keypoints", "near no keypoint of anybody"),
}


def most_often(part: Part, errors: KeypointErrors, kind: Kind) -> list[str]:
    """The one or two kinds of keypoint, twins together, that have this error most often, by their number of errors."""
    skeleton = part.skeleton
    totals: dict[str, int] = {}
    pairs = {name: pair for pair in skeleton.flip_pairs or () for name in pair}
    for name, count in zip(skeleton.keypoint_names, (errors.kind == kind).sum(axis=0).tolist(), strict=True):
        common = _common(*pairs[name]) if name in pairs else name
        totals[common] = totals.get(common, 0) + count
    ranked = sorted(totals.items(), key=lambda item: -item[1])
    return [name.replace("_", " ") for name, count in ranked[:2] if count]


def _common(left: str, right: str) -> str:
    """left_ankle, right_ankle -> ankles; both names where they are no such twins."""
    a, b = left.split("_"), right.split("_")
    shared = [word for word, other in zip(a, b, strict=False) if word == other]
    if len(a) != len(b) or not shared:
        return f"{left} or {right}"
    last = shared[-1]
    plural = last if last.endswith("s") or not last.isalpha() else {"foot": "feet"}.get(last, f"{last}s")
    return "_".join([*shared[:-1], plural])


def _most_missed(part: Part, pairing: Pairing) -> tuple[str, int, int]:
    """The group of people of greatest missed share among those with a tenth of all missed: words, missed, people."""
    table = missed_people(part, pairing)
    missed, people = schema.values(table["missed"]), schema.values(table["people"])
    share = np.where(missed * 10 >= len(pairing.missed), np.nan_to_num(schema.values(table["share"])), -1)
    at = int(share.argmax())
    by, group = schema.texts(table["by"])[at], schema.texts(table["group"])[at]
    words = {"size": "an area of {} px", "labelled keypoints": "{} labelled keypoints", "crowding": "{} close by"}
    return words[str(by)].format(group), int(missed[at]), int(people[at])
