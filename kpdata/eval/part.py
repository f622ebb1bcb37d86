"""What every analysis reads: the people of one skeleton, the predictions for them, and who was matched with whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kpdata.arrays import isin
from kpdata.eval.matching import Matches, match
from kpdata.eval.oks import Bools, Detections, Floats, GroundTruth, Ints, Params
from kpdata.skeleton import Skeleton

ANALYSIS_OKS = (
    0.1  # Ronchi & Perona (ICCV 2017, section 3) match at 0.1, so that errors are seen and not only successes
)


@dataclass(frozen=True, eq=False)
class Part:
    """Ground truth and predictions of one skeleton as arrays, in the order of their tables.

    `truth_rows` and `detection_rows` lead back to the persons tables of the two datasets. `visibility` is the ground
    truth's (schema.Visibility); keypoints that the mask leaves out are not labelled in `truth`, whatever it says.
    """

    skeleton: Skeleton
    mask: Bools  # (K,) keypoints that are scored
    truth: GroundTruth  # N people, crowds and those of unlisted categories among them
    detections: Detections  # M predictions
    visibility: NDArray[np.int8]  # (N, K)
    keypoint_scores: Floats  # (M, K), NaN where the predictions have none
    truth_rows: Ints  # (N,)
    detection_rows: Ints  # (M,)
    image_ids: Ints  # (I,) images that the ground truth lists
    category_ids: Ints  # (C,) ascending: the categories of this skeleton
    params: Params

    @cached_property
    def matches(self) -> Matches:
        """Who is matched with whom by `params`, computed when it is first asked for."""
        return match(self.truth, self.detections, self.image_ids, self.category_ids, self.params)

    def matched(self, matches: Matches, **changes: Any) -> Self:
        """The part with these matches, which another choice of people or keypoints gave, and with fields changed."""
        part = replace(self, **changes)
        part.__dict__["matches"] = matches
        return part

    def counted(self) -> Bools:
        """(N,) people whom somebody can miss: listed, no crowd, with a labelled keypoint."""
        truth = self.truth
        listed = isin(truth.category_id, self.category_ids) & isin(truth.image_id, self.image_ids)
        return np.asarray(listed & ~truth.iscrowd & (truth.num_keypoints != 0))


@dataclass(frozen=True, slots=True, eq=False)
class Pairing:
    """One matching of a Part, all sizes of people together. Rows point into `Part.truth` and `Part.detections`."""

    truth: Ints  # (P,) rows of the people that were found, ascending by image and rank of the detection
    detection: Ints  # (P,) the rows of their detections
    oks: Floats  # (P,)
    missed: Ints  # rows of counted people that nothing was matched with
    spurious: Ints  # rows of detections that were matched with nobody (not even a crowd or an unlabelled person)


def pair(part: Part, threshold: float = ANALYSIS_OKS) -> Pairing:
    """Match at one OKS threshold with pycocotools' rules; matches with ignored people count neither way.

    At most the best `max_dets` predictions of an image take part, as in the numbers; the others are in no list.
    """
    params = replace(
        part.params,
        iou_thresholds=np.array([threshold]),
        area_ranges=np.array([[-np.inf, np.inf]]),
        area_labels=("all",),
    )
    # Everyone for themselves: an id that repeats, or is 0, has no meaning here.
    truth = replace(part.truth, annotation_id=np.arange(1, len(part.truth_rows) + 1))
    found = match(truth, part.detections, part.image_ids, part.category_ids, params)
    matched = found.matched[0, 0]
    hit = np.flatnonzero(matched >= 0)
    person = found.pair_gt[matched[hit]]
    counts = ~found.gt_ignored[0, person]
    missed = ~found.gt_ignored[0]
    missed[person[counts]] = False
    return Pairing(
        truth=found.gt_row[person[counts]],
        detection=found.dt_row[hit[counts]],
        oks=found.pair_oks[matched[hit[counts]]],
        missed=found.gt_row[missed],
        spurious=found.dt_row[matched < 0],
    )
