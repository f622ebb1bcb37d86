"""The one table behind the page and the App: a row a person, worst first, and the views that pick from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata.eval.failures import FAILURES
from kpdata.skeleton import Skeleton

PEOPLE = pa.schema(
    [
        *FAILURES,
        ("source", pa.string()),  # of the image: the dataset's name
        ("crowding", pa.float64()),  # 0…1: largest overlap (IoU) of the person's box with another's in the image
        ("truncated", pa.bool_()),  # the box touches an edge of the image
        ("occluded_share", pa.float64()),  # of the labelled keypoints
        ("suspicion", pa.float64()),  # 0…1, of the label (eval.suspects); null: nothing contradicts it
        ("suspect", pa.string()),  # what is suspicious, in words
        ("suspect_keypoints", pa.list_(pa.int32())),  # columns
        ("other_oks", pa.float64()),  # of the same person with the model compared; null: none or not compared
        ("lost", pa.float64()),  # other_oks - oks where the other model found the person better; null: not compared
        ("loss", pa.float64()),  # of a training's ledger, the last epoch's mean over the person's keypoints; null: none
        ("findings", pa.string()),  # what the lint says of the person, in words; null: nothing
    ]
)
"""Without predictions, `kind` is "annotation" and the columns of predictions, matches and errors are null."""


@dataclass(frozen=True, slots=True)
class View:
    """Some of the people, with what they have in common. rows: positions in the table, in the order to be shown."""

    name: str
    sentence: str
    rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class People:
    """Everything that `browse` shows. Frozen.

    table: rows of PEOPLE, worst first. key: identity of the ground truth (a hash of its annotation ids, image ids and
    keypoints): a review says which data it reviewed. stats: the numbers of the evaluation by name, empty without.
    per_keypoint: an Arrow table a skeleton (`keypoints.per_keypoint` of all visibilities together, and counts of the
    error kinds), for bars. curves: (name, recall, precision) lines at a few OKS thresholds.
    """

    table: pa.Table
    skeletons: Mapping[str, Skeleton]
    views: tuple[View, ...]
    key: str
    title: str = ""
    images: Path | None = None
    stats: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    per_keypoint: Mapping[str, Any] = field(default_factory=dict)
    curves: tuple[tuple[str, NDArray[np.float64], NDArray[np.float64]], ...] = ()
