"""Areas of the people of the ground truth, which OKS is relative to: by which rule, and what that does to the number.

Data sets measure "area" differently (the mask, the whole box, nothing at all) and OKS grows with it, so that numbers by
different rules are not comparable. The rules, by name:

file        the ground truth's `area` field, whatever it measures
bbox        w × h of the person's box (AI Challenger's evaluator; Human-Art and OCHuman store it as `area`)
bbox×0.53   0.53 × w × h (Jeff-sjtu/CrowdPose crowdposetools/cocoeval.py; jin-s13/xtcocoapi with use_area=False)
keypoints   w × h of the extent of the labelled keypoints, not enlarged (talmolab/sleap sleap/nn/evals.py,
            compute_instance_area; `COCO.loadRes` measures detections so); who has no labelled keypoint, and so is only
            a region to ignore, has that of the box
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kpdata import geometry, schema
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.eval.wording import many

RULES = ("file", "bbox", "bbox×0.53", "keypoints")
OWN_SHARE = 0.53
OWN_RULE = "box×0.53"  # `area_kind` of data sets without areas whose own evaluator takes bbox×0.53: CrowdPose
_ALIASES = {"bbox*0.53": "bbox×0.53", "bboxx0.53": "bbox×0.53"}
_FILE, _BOX, _CROWDPOSE, _KEYPOINTS, _NONE = 0, 1, 2, 3, -1
_WORDS = (
    "the ground truth's area field",
    "w × h of the ground truth's bbox",
    "0.53 × w × h of the ground truth's bbox",
    "the extent of the labelled keypoints",
)


@dataclass(frozen=True, slots=True, eq=False)
class Areas:
    """Area of each person of a dataset, with the rules that gave them."""

    values: Floats  # (N,) square pixels; 0 for people who are not needed and have none
    rules: tuple[str, ...]  # names of RULES, in the order in which they were tried
    words: str  # the same for people: "the ground truth's area field, else …"


def rule_named(name: str) -> str:
    """The rule's own spelling; `bbox*0.53` is one for keyboards. EvaluationError lists the rules."""
    found = _ALIASES.get(name, name)
    if found not in RULES:
        raise EvaluationError(f"no area rule {name!r}", hint=f"expected one of {', '.join(RULES)}")
    return found


def areas(gt: Dataset, needed: Bools, rule: str | None, notes: list[str]) -> Areas:
    """The area of everyone of `gt`; `needed` (N,) says who takes part in the evaluation.

    rule: one of RULES for everyone; None takes the file's area, else bbox×0.53 where there is a box, else the labelled
    keypoints, and writes a note, unless 0.53 is what the data set's own evaluator takes. EvaluationError names the
    first needed person for whom the rule finds nothing.
    """
    people = gt.persons
    filed, boxed = schema.valid(people["area"]), schema.valid(people["bbox"])
    field = schema.values(people["area"])
    if rule in (None, "file") and filed.all():
        return Areas(field, ("file",), _WORDS[_FILE])
    labelled = _labelled(gt)
    chosen = _chosen(rule, filed, boxed, labelled)
    if (missing := needed & (chosen == _NONE)).any():
        raise _nothing_for(gt, missing, rule)
    values = _measured(gt, chosen, field, labelled)
    tried = sorted(range(len(RULES)), key=lambda number: rule == "keypoints" and number != _KEYPOINTS)
    used = [number for number in tried if (needed & (chosen == number)).any()] or [_FILE]
    own = _owned(gt) if rule is None else np.zeros(len(gt), bool)
    if rule is None:
        _tell(chosen, needed & ~own, notes)
    words = ", else ".join(_WORDS[number] for number in used)
    by_definition = own.any() and not (needed & ~own & (chosen > _FILE)).any()
    return Areas(values, tuple(RULES[n] for n in used), words + (", the data set's own rule" if by_definition else ""))


def _labelled(gt: Dataset) -> Ints:
    """(N,) number of labelled keypoints."""
    flags, offsets = schema.ragged(gt.persons["visibility"])
    return np.diff(np.concatenate([[0], np.cumsum(flags > 0)])[offsets])


def _chosen(rule: str | None, filed: Bools, boxed: Bools, labelled: Ints) -> Ints:
    """(N,) index into RULES for each person, _NONE where nothing fits."""
    posed = labelled > 0
    if rule is None:
        return np.select([filed, boxed, posed], [_FILE, _CROWDPOSE, _KEYPOINTS], _NONE)
    if rule == "keypoints":
        return np.select([posed, boxed], [_KEYPOINTS, _BOX], _NONE)
    return np.where(filed if rule == "file" else boxed, RULES.index(rule), _NONE)


def _measured(gt: Dataset, chosen: Ints, field: Floats, labelled: Ints) -> Floats:
    boxes = schema.matrix(gt.persons["bbox"], 4)
    whole = boxes[:, 2] * boxes[:, 3]
    values: Floats = np.select(
        [chosen == _FILE, chosen == _BOX, chosen == _CROWDPOSE], [field, whole, whole * OWN_SHARE], 0.0
    )
    for name, rows in gt.groups():
        mine = rows[(chosen[rows] == _KEYPOINTS) & (labelled[rows] > 0)]
        if name is None or not len(mine):
            continue
        people, k = schema.take(gt.persons, mine), len(gt.skeletons[name])
        xy = schema.matrix(people["keypoints"], 2 * k).reshape(-1, k, 2)
        values[mine] = geometry.box_area(geometry.box_from_keypoints(xy, schema.matrix(people["visibility"], k)))
    return values


def _owned(gt: Dataset) -> NDArray[np.bool_]:
    """(N,) people of data sets whose own definition is bbox×0.53."""
    names = {name for name, facts in gt.datasets.items() if facts.get("area_kind") == OWN_RULE}
    return np.array([name in names for name in schema.texts(gt.persons["dataset"])], bool)


def _tell(chosen: Ints, strangers: Bools, notes: list[str]) -> None:
    """What stood in for a missing area, unless the data set is defined so."""
    for number in (_CROWDPOSE, _KEYPOINTS):
        if count := int((strangers & (chosen == number)).sum()):
            notes.append(
                f"{many(count, 'person has', 'people have')} no area: {_WORDS[number]} stands in for it "
                f"({RULES[number]}), so the numbers are not comparable with a leaderboard"
            )


def _nothing_for(gt: Dataset, missing: Bools, rule: str | None) -> EvaluationError:
    row = int(missing.argmax())
    person = f"annotation {int(schema.values(gt.persons['annotation_id'])[row])}"
    count = f"{int(missing.sum()):,} of {len(gt):,} people"
    if rule == "file":
        return EvaluationError(
            f"the ground truth has no area for {count}, such as {person}: OKS is a distance relative to it",
            hint="without the area rule 'file' kpdata takes 0.53 × w × h of the box, or the keypoints' extent",
        )
    lacking = {"keypoints": "labelled keypoint, nor a bbox", None: "area, nor a bbox, nor a labelled keypoint"}
    return EvaluationError(
        f"{count}, such as {person}, have no {lacking.get(rule, 'bbox')}: OKS is a distance relative to the person's "
        "area" + (f", here by the rule {rule!r}" if rule else ""),
        hint="give them a bbox or an area (COCO: the mask's, in square pixels), or take them out of the ground truth",
    )
