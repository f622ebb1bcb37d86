"""What each benchmark means by its numbers, and which of them a data set is scored by when nobody says.

Each protocol is the common engine with rules of its own:

oks        COCO: pycocotools 2.0.11, ten numbers.
crowdpose  Jeff-sjtu/CrowdPose crowdposetools/cocoeval.py: the area is 0.53 × w × h of the box, also where the file has
           one; AP again over the images of `crowdIndex` < 0.2 (easy), < 0.8 (medium), and the rest (hard).
wholebody  jin-s13/xtcocoapi xtcocotools/cocoeval.py (iouType keypoints_wholebody, _body, _foot, _face, _lefthand,
           _righthand), as jin-s13/COCO-WholeBody evaluation/ before it: ten numbers for each group of keypoints, with
           the person's area. A person counts for a group if a keypoint of the group is labelled; the flags face_valid,
           … of the files are not read.
aic        AIChallenger/AI_Challenger_2017 Evaluation/keypoint_eval/keypoint_eval.py: `ai_challenger` below.

`like="xtcocotools"` (the evaluator of mmpose; wholebody has no other) differs in three points: predictions whose third
values are all 0 or less are dropped; people are ignored by their labelled keypoints, not by the field num_keypoints
(in CrowdPose by the field); a person with annotation id 0 is found like any other. For aic it is COCO's AP with AI
Challenger's sigmas and 0.53 × w × h.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.arrays import distinct, isin
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError
from kpdata.eval.average_precision import Curves
from kpdata.eval.matching import match
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.eval.part import Part
from kpdata.eval.wording import many
from kpdata.skeleton import Skeleton

OKS_METRICS = ("oks", "crowdpose", "wholebody", "aic")
POINT_METRICS = ("pckh", "pck", "pcp", "auc", "epe", "nme")
XTCOCOTOOLS = "xtcocotools"
CROWD_BOUNDS = (0.2, 0.8)  # crowdposetools/cocoeval.py, get_type_result(first=0.2, second=0.8)
CROWD_LEVELS = {"AP(E)": "easy", "AP(M)": "medium", "AP(H)": "hard"}
BODY = slice(0, 17)  # `keypoints` of a WholeBody file, whose extent is the area of a detection for all groups
GROUPS = {
    "body": BODY,
    "foot": slice(17, 23),
    "face": slice(23, 91),
    "lefthand": slice(91, 112),
    "righthand": slice(112, 133),
    "whole": slice(0, 133),
}
PAIRS_PER_BLOCK = 1 << 16  # pairs of a person and a prediction at once: bounds memory


@dataclass(frozen=True, slots=True)
class Protocol:
    """Rules of one benchmark. `skeleton` names the one that it is defined for; another one is not comparable."""

    name: str
    title: str
    source: str
    skeleton: str | None = None
    area: str | None = None  # a rule of `areas.RULES` for everyone; None: the file's area, else a stand-in
    like: str | None = None
    by_labels: bool = False  # people are ignored by their labelled keypoints instead of by the field num_keypoints

    @property
    def xtcocotools(self) -> bool:
        """Predictions with third values of 0 are dropped, and annotation id 0 is an id."""
        return self.like == XTCOCOTOOLS

    @property
    def greedy_by_person(self) -> bool:
        """AI Challenger's own score: people choose predictions, which the engine's matches have no part in."""
        return self.name == "aic" and not self.xtcocotools


_OFFICIAL = {
    "oks": Protocol("oks", "COCO OKS AP/AR", "pycocotools 2.0.11"),
    "crowdpose": Protocol("crowdpose", "CrowdPose OKS AP/AR", "CrowdPose API", "crowdpose_14", "bbox×0.53"),
    "wholebody": Protocol(
        "wholebody", "COCO-WholeBody OKS AP/AR", "xtcocotools 1.14.3", "coco_wholebody_133", None, XTCOCOTOOLS, True
    ),
    "aic": Protocol("aic", "AI Challenger OKS mAP", "AI Challenger keypoint_eval.py", "aic_14", "bbox"),
}
OKS = _OFFICIAL["oks"]


def protocol(metric: str, like: str | None = None) -> Protocol:
    """The rules of one of OKS_METRICS, or xtcocotools' variant of them. EvaluationError for another `like`."""
    official = _OFFICIAL[metric]
    if like in (None, official.like):
        return official
    if like != XTCOCOTOOLS:
        raise EvaluationError(f"no evaluator {like!r} to score like", hint=f"expected {XTCOCOTOOLS!r}, or none")
    fresh = replace(official, like=like, source="xtcocotools 1.14.3", by_labels=metric != "crowdpose")
    if metric == "aic":
        return replace(fresh, title="AI Challenger OKS AP/AR as xtcocotools", area="bbox×0.53")
    return fresh


def choose(gt: Dataset, predictions: Dataset, metric: str | None, skeleton: Skeleton | None = None) -> str:
    """The metric asked for, else the one that the ground truth's skeleton and provenance stand for.

    MPII: pckh; LSP and sub-JHMDB: pck; CrowdPose (by its format or its crowd_index), WholeBody (unless the predictions
    have the 17 body keypoints only), AI Challenger: their own; everything else, also several skeletons: oks. Who brings
    a skeleton of another name, and with it other sigmas, means oks.
    EvaluationError lists the metrics where `metric` is none of them.
    """
    if metric is not None:
        if metric not in (*OKS_METRICS, *POINT_METRICS):
            known = ", ".join((*OKS_METRICS, *POINT_METRICS))
            raise EvaluationError(f"no metric {metric!r}", hint=f"expected one of {known}")
        return metric
    names = {name for name, _ in gt.groups() if name is not None} or set(gt.skeletons)
    if len(names) != 1 or (skeleton is not None and skeleton.name not in names):
        return "oks"
    name = names.pop()
    if name == "crowdpose_14":
        formats = {facts.get("source_format") for facts in gt.datasets.values()}
        return "crowdpose" if "crowdpose" in formats or schema.valid(gt.images["crowd_index"]).any() else "oks"
    if name == "coco_wholebody_133":
        return "oks" if {len(s) for s in predictions.skeletons.values()} == {17} else "wholebody"
    return {"mpii_16": "pckh", "lsp_14": "pck", "jhmdb_15": "pck", "aic_14": "aic"}.get(name, "oks")


# --------------------------------------------------------------------------------------- what the ground truth is like


def looked_up(gt: Dataset, categories: Ints, image_ids: Ints, listed: Ints) -> Ints | None:
    """The rows of the persons table that pycocotools sees where annotation ids repeat in the file, whatever the
    skeletons; None where they do not.

    It goes through the listed images, keeps the people of listed categories, and looks each up by its id in a dict of
    all (coco.py, getAnnIds and loadAnns), where the last of an id is. As `oks.resolve_repeated_ids`, for all skeletons.
    """
    ids, image = (schema.values(gt.persons[name]) for name in ("annotation_id", "image_id"))
    if len(distinct(ids)) == len(ids):
        return None
    rows = np.flatnonzero(isin(image, image_ids) & isin(categories, listed))
    rows = rows[np.argsort(image[rows], kind="stable")]
    _, last, inverse = np.unique(ids[::-1], return_index=True, return_inverse=True)
    found: Ints = (len(ids) - 1 - last)[inverse[::-1]][rows]
    return found


# ------------------------------------------------------------------------------------------ what predictions are like


def without_scores(keypoint_scores: Floats, labelled: Bools) -> Bools:
    """(M,) predictions that xtcocotools drops: no third value above 0. Where there is none, `labelled` (M, K) says."""
    told = np.isfinite(keypoint_scores).any(axis=1)
    with np.errstate(invalid="ignore"):
        above = (keypoint_scores > 0).any(axis=1)
    return ~np.where(told, above, labelled.any(axis=1))


def group_scores(people: pa.Table, group: str, notes: list[str]) -> Floats:
    """(M,) scores of a WholeBody group: `foot_score`, … where a result has one, else its `score`, as xtcocotools."""
    score = np.array(schema.values(people["score"]))
    if group == "body":
        return score
    key = f"{group}_score" if group != "whole" else "wholebody_score"
    texts = schema.texts(people["extras"])
    rows = [row for row, text in enumerate(texts) if text and f'"{key}"' in text]
    if rows:
        found = json.loads(f"[{','.join(texts[row] or '' for row in rows)}]")
        score[rows] = [_number(extras[key], key) for extras in found]
        if len(rows) < len(score):
            one, several = f"prediction has no {key}: its", f"predictions have no {key}: their"
            notes.append(f"{many(len(score) - len(rows), one, several)} score stands in, as xtcocotools")
    return score


def _number(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EvaluationError(f"a prediction's {key!r} is {value!r}, expected a number")
    return float(value)


# ------------------------------------------------------------------------------------------------- CrowdPose's levels


def crowd_levels(gt: Dataset, notes: list[str]) -> dict[str, Ints]:
    """Image ids of easy, medium and hard; images without a crowd_index are in none, and counted in a note."""
    index = schema.values(gt.images["crowd_index"])
    ids = schema.values(gt.images["image_id"])
    low, high = CROWD_BOUNDS
    if unknown := int(np.isnan(index).sum()):
        notes.append(f"{unknown:,} of {len(ids):,} images have no crowdIndex: they are in none of easy, medium, hard")
    return {
        "easy": ids[index < low],
        "medium": ids[(index >= low) & (index < high)],
        "hard": ids[index >= high],
    }


def of_images(part: Part, image_ids: Ints) -> Part:
    """The part with the matches of some of the images alone, as if the ground truth listed no others."""
    return replace(part, image_ids=image_ids)


def crowdpose_stats(whole: dict[str, float], levels: dict[str, Curves]) -> dict[str, float]:
    """AP, AP50, AP75, AR, AR50, AR75, AP(E), AP(M), AP(H).

    The levels are exact means over the categories that have people there. CrowdPose's evaluator rounds them to four
    digits and lets a category without people enter with its -1; with one category, as in its files, only the rounding
    differs.
    """
    stats = {name: whole[name] for name in ("AP", "AP50", "AP75", "AR", "AR50", "AR75")}
    for name, level in CROWD_LEVELS.items():
        known = levels[level].precision[..., 0, :]
        known = known[known > -1]
        stats[name] = float(np.mean(known)) if len(known) else -1.0
    return stats


# ------------------------------------------------------------------------------------------------- WholeBody's groups


def of_group(part: Part, people: pa.Table, group: str, notes: list[str]) -> Part:
    """The part with the matches of one group of the 133 keypoints: its own sigmas, scores and drops; the person's area,
    and the area of detections as for the body. All else is that of the 133.

    people: the persons table of the predictions, which `part.detection_rows` point into.
    """
    columns = GROUPS[group]
    labelled = part.truth.labelled[:, columns]
    scores = part.keypoint_scores[:, columns]
    kept = ~without_scores(scores, np.ones(scores.shape, bool))
    rows = part.detection_rows[kept]
    truth = replace(
        part.truth,
        keypoints=part.truth.keypoints[:, columns],
        labelled=labelled,
        num_keypoints=labelled.sum(axis=1),
    )
    detections = replace(
        part.detections,
        image_id=part.detections.image_id[kept],
        category_id=part.detections.category_id[kept],
        keypoints=part.detections.keypoints[kept][:, columns],
        score=group_scores(schema.take(people.select(["score", "extras"]), rows), group, notes),
        area=part.detections.area[kept],
    )
    params = replace(part.params, sigmas=part.params.sigmas[columns])
    return part.matched(match(truth, detections, part.image_ids, part.category_ids, params), params=params)


# ----------------------------------------------------------------------------------------------- AI Challenger's score


def ai_challenger(parts: tuple[Part, ...]) -> dict[str, float]:
    """mAP, and the shares at 0.50 and 0.75 that enter it: AI Challenger's own score, which knows no confidences.

    Only visible keypoints count (v = 1 in its files, 2 in COCO's; those labelled without saying so count too). OKS is
    the mean of exp(-d² / 2 / (2σ)² / (area + 1)) with the area in float32. Everyone takes the best prediction of the
    image, which others may take as well; the share above a threshold (not at it) is divided by the greater of people
    and predictions, summed over all images; mAP is the mean over 0.50:0.95. People without a visible keypoint count as
    missed. -1 where there is nobody and nothing predicted.

    Deviations: crowds, which its files do not have, are left out; the script runs on Python 2, whose `/` of whole
    numbers rounds d²/2 down, here it is divided exactly.
    """
    hits, most = ai_challenger_images(parts)
    shares = hits.sum(axis=0) / most.sum() if most.sum() else np.full(len(AI_THRESHOLDS), -1.0)
    return ai_challenger_numbers(shares[None])[0]


AI_THRESHOLDS = np.linspace(0.5, 0.95, 10)


def ai_challenger_numbers(shares: Floats) -> list[dict[str, float]]:
    """The numbers of `ai_challenger` for each row of shares (B, T) above the thresholds."""
    return [
        {"mAP": float(np.mean(row)), "mAP50": float(row[0]), "mAP75": float(row[5])} for row in np.atleast_2d(shares)
    ]


def ai_challenger_images(parts: tuple[Part, ...]) -> tuple[Floats, Ints]:
    """(I, T) people of each image above each threshold, and (I,) the greater of its people and predictions, summed over
    the skeletons: what `ai_challenger` is the ratio of. I: the images of all parts, ascending."""
    ids = np.unique(np.concatenate([np.empty(0, np.int64), *(part.image_ids for part in parts)]))
    hits, most = np.zeros((len(ids), len(AI_THRESHOLDS))), np.zeros(len(ids), np.int64)
    for part in parts:
        people, above, found = ai_challenger_hits(part)
        gt_at, dt_at = (
            np.searchsorted(ids, of.image_id[rows]) for of, rows in ((part.truth, people), (part.detections, found))
        )
        counts = (np.bincount(at, minlength=len(ids)) for at in (gt_at, dt_at))
        most += np.maximum(*counts)
        np.add.at(hits, gt_at, above)
    return hits, most


def ai_challenger_hits(part: Part) -> tuple[Ints, Bools, Ints]:
    """(P,) rows of the people of a part that count, (P, T) whether each is above each threshold, and (D,) rows of the
    predictions that count."""
    people = np.flatnonzero(_listed(part, part.truth.image_id, part.truth.category_id) & ~part.truth.iscrowd)
    found = np.flatnonzero(_listed(part, part.detections.image_id, part.detections.category_id))
    oks = _best_oks(part, people, part.truth.image_id[people], found, part.detections.image_id[found])
    return people, np.asarray(oks[:, None] > AI_THRESHOLDS), found


def _listed(part: Part, image_id: Ints, category_id: Ints) -> Bools:
    return isin(image_id, part.image_ids) & isin(category_id, part.category_ids)


def _best_oks(part: Part, people: Ints, gt_at: Ints, found: Ints, dt_at: Ints) -> Floats:
    """(P,) the best OKS of each person with the predictions of the same image; 0 without one. gt_at (P,), dt_at (D,):
    their images."""
    order = np.argsort(dt_at, kind="stable")
    first = np.searchsorted(dt_at[order], gt_at, side="left")
    counts = np.searchsorted(dt_at[order], gt_at, side="right") - first
    visible = part.truth.labelled & (part.visibility >= schema.Visibility.VISIBLE)
    scale = (part.truth.area.astype(np.float32) + np.float32(1)).astype(np.float64)
    deltas = 2 * part.params.sigmas
    best = np.zeros(len(people))
    ends = np.cumsum(counts)
    for start in range(0, int(ends[-1]) if len(ends) else 0, PAIRS_PER_BLOCK):
        pair = np.arange(start, min(start + PAIRS_PER_BLOCK, int(ends[-1])))
        p = np.searchsorted(ends, pair, side="right")
        d = found[order[first[p] + pair - (ends[p] - counts[p])]]
        g = people[p]
        squared = ((part.truth.keypoints[g] - part.detections.keypoints[d]) ** 2).sum(-1)
        terms = np.where(visible[g], np.exp(-squared / 2 / deltas**2 / scale[g, None]), 0)
        seen = visible[g].sum(1)
        np.maximum.at(best, p, np.where(seen > 0, terms.sum(1) / np.maximum(seen, 1), 0))
    return best
