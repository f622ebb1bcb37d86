"""What changes the meaning of a single-person score, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kpdata.eval.oks import Bools, Floats
from kpdata.eval.points import arrays
from kpdata.eval.points.lengths import Length
from kpdata.eval.points.measures import METRICS, Measured
from kpdata.eval.points.people import Points
from kpdata.eval.wording import many

MPII_PEOPLE, LSP_PEOPLE = 2958, 1000  # of MPII's validation set (Newell's valid.h5) and of LSP's test set
# Length and thresholds (of an AUC: the end of its range) of the numbers that a data set's own evaluation, or HRNet's,
# gives. Sub-JHMDB's PCK has numbers by the torso and by the box (open-mmlab/mmpose, JhmdbPCKAccuracy).
_BENCHMARKS = {
    ("pckh", "mpii_16"): ("head", (0.5, 0.1, 0.11)),
    ("auc", "mpii_16"): ("head", (0.5,)),
    ("pck", "lsp_14"): ("torso", (0.2,)),
    ("auc", "lsp_14"): ("torso", (0.2,)),
    ("pck", "jhmdb_15"): ("torso", (0.2,)),
}
_FEW = 20  # keypoints: of fewer a median says nothing about a file


def sentences(
    points: Points, measured: Measured, length: Length | None, metric: str, variant: str | None, counts: dict[str, int]
) -> list[str]:
    """Notes about people and keypoints that count otherwise than one thinks, whose rules these are, what does not look
    like poses of these people, and what the numbers cannot be compared with."""
    return [
        *_about_counts(points, measured, metric, counts),
        *_about_lengths(points, length, metric, variant, counts["people without a length"]),
        *(_about_variant(points, measured, variant) if metric == "pckh" else []),
        *_about_sense(points),
        *_about_comparing(points, measured, length, metric),
    ]


def is_of_benchmark(points: Points, measured: Measured, length: Length | None, metric: str) -> bool:
    """Whether skeleton, metric, length and thresholds are those of one of `_BENCHMARKS`."""
    name, limits = _BENCHMARKS.get((metric, points.skeleton.name), ("", ()))
    used = measured.thresholds if measured.top is None else (measured.top,)
    return length is not None and length.name == name and set(used) <= set(limits)


def range_of(measured: Measured, length: Length | None) -> str | None:
    """What an AUC is taken over, in words; None for the other metrics."""
    if measured.top is None or length is None:
        return None
    if length.name == "constant":
        return f"from 0 to {measured.top * float(length.px[0]):g} px"
    return f"from 0 to {measured.top:g} of the length"


def _about_counts(points: Points, measured: Measured, metric: str, counts: dict[str, int]) -> list[str]:
    what = measured.columns.what
    unpaired, missing = counts["people without a prediction"], counts[f"{what}s missing"]
    effect = "in no mean, which looks better for it" if metric in ("epe", "nme") else "misses"
    nowhere = int((points.labelled & ~arrays.finite(points.truth)).sum())
    left, title = counts["predictions of nobody"], METRICS[metric].title
    facts = [
        (not len(points.predictions), "there are no predictions"),
        (unpaired > 0, f"{unpaired:,} of {counts['people scored']:,} people have no prediction"),
        (missing > 0, f"{missing:,} of {counts[f'{what}s labelled']:,} labelled {what}s have no prediction: {effect}"),
        (
            left > 0,
            f"{many(left, 'prediction belongs', 'predictions belong')} to nobody: {title} does not see what is one "
            "too many",
        ),
        (nowhere > 0, f"{many(nowhere, 'labelled keypoint')} of the ground truth without a coordinate: left out"),
    ]
    return [sentence for so, sentence in facts if so]


def _about_lengths(points: Points, length: Length | None, metric: str, variant: str | None, without: int) -> list[str]:
    if length is None:
        return []
    who = many(without, "person is", "people are")
    found = [f"{who} left out, without a length: {length.words}"] if without else []
    if zero := int(((length.px == 0) & points.labelled.any(1)).sum()):
        left_out = metric == "nme" or variant == "mmpose"
        effect = "left out" if left_out else "all keypoints are misses, as in MPII's own code"
        found.append(f"{many(zero, 'person has', 'people have')} a length of 0 px ({length.words}): {effect}")
    return found


def _about_variant(points: Points, measured: Measured, variant: str | None) -> list[str]:
    """Where the three evaluations of MPII print different numbers under one name."""
    values = next(iter(measured.values.values()))
    found = []
    if points.skeleton.name == "mpii_16":
        neck, top = (values[points.skeleton.keypoint_names.index(name)] for name in ("upper_neck", "head_top"))
        other, number = "MPII's own is the mean with the upper neck", (neck + top) / 2
        if variant == "official":
            other, number = "HRNet's and mmpose's is the head top alone", top
        found.append(f"the Head column is {_NAMES[variant]}; {other}: {100 * number:.2f} %")
    if "PCKh@0.11" in measured.values:
        found.append("HRNet's 'Mean@0.1' is measured at 0.11: here it is called PCKh@0.11, and its 'Mean' is the total")
    if variant == "mmpose":
        found.append("as mmpose: distances in float32, correct only below the threshold (MPII's own code: up to it)")
    return found


_NAMES = {"hrnet": "HRNet's", "official": "MPII's own", "mmpose": "mmpose's", None: "none's"}


def _about_sense(points: Points) -> list[str]:
    """Errors as large as people, or smaller with left and right swapped, keypoints that stay where they are: then the
    numbers mean little."""
    far = arrays.distances(points.truth, points.predicted, points.labelled)
    error, found = _median(far), list(_about_still(points))
    size = _median(arrays.extents(points.truth, points.labelled))
    if error > size / 2:
        found.append(
            f"the median error is {error:.0f} px, where the median person measures {size:.0f} px: "
            f"are these predictions of these people (paired by {points.pairing}), in pixels of these images?"
        )
    if points.skeleton.flip_pairs:
        order = points.skeleton.flip_index()
        sided = np.flatnonzero(order != np.arange(len(order)))
        straight = _median(far[:, sided])
        swapped = arrays.distances(points.truth, points.predicted[:, order], points.labelled)
        if (crossed := _median(swapped[:, sided])) < straight / 2:
            found.append(
                f"left and right look swapped: then the median error of sided keypoints is {crossed:.1f} px, not "
                f"{straight:.1f} (person-centric labels against observer-centric ones?)"
            )
    return found


def _about_still(points: Points) -> Iterator[str]:
    """Keypoints at one place for everybody, or at one place with each other: a network that does not know them writes
    0, 0, or the corner of each crop."""
    given = arrays.finite(points.predicted)
    first = points.predicted[given.argmax(axis=0), np.arange(given.shape[1])]
    enough = given.sum(axis=0) >= _FEW
    still = enough & ((points.predicted == first).all(axis=2) | ~given).all(axis=0)
    if still.any():
        yield f"all predictions of {_named(points, still)} lie at one place: {_UNKNOWN}"
    whole = np.flatnonzero(given.all(axis=1))[:_LOOKED_AT]
    if len(whole) < _FEW:
        return
    few = points.predicted[whole][:, enough & ~still]
    equal = (few[:, :, None] == few[:, None]).all(axis=3).mean(axis=0) > _MOSTLY
    np.fill_diagonal(equal, False)
    if equal.any():
        together = np.zeros(len(still), bool)
        together[np.flatnonzero(enough & ~still)[equal.any(axis=1)]] = True
        yield f"{_named(points, together)} are predicted at one place, each time: {_UNKNOWN}"


def _named(points: Points, chosen: Bools) -> str:
    return " and ".join(points.skeleton.keypoint_names[k] for k in np.flatnonzero(chosen).tolist())


_UNKNOWN = "if the model does not know them leave them out; here they count"
_MOSTLY = 0.9  # of these people: two neighbours may meet in one pixel, not in nearly everybody
_LOOKED_AT = 100  # people in whom keypoints are compared with each other


def _median(values: Floats) -> float:
    """The median of the finite ones; NaN, which no comparison holds for, of a few."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) >= _FEW else np.nan


def _about_comparing(points: Points, measured: Measured, length: Length | None, metric: str) -> list[str]:
    """Why these numbers cannot stand beside the published ones."""
    name, people = points.skeleton.name, len(points.truth)
    if metric == "pckh" and name != "mpii_16":
        return [f"PCKh on {name}, not on MPII's 16 keypoints: not comparable with MPII's numbers"]
    if metric == "pckh":
        who = many(people, "person", "people")
        fewer = f"{who}: not comparable with published PCKh, of MPII's {MPII_PEOPLE:,} for validation"
        return [fewer] if people != MPII_PEOPLE else []
    found = _about_lsp(points, people) if name == "lsp_14" else []
    return [*found, *_about_length(points, measured, length, metric)]


def _about_length(points: Points, measured: Measured, length: Length | None, metric: str) -> list[str]:
    """Of PCK, AUC and NME by a length (of an AUC: or a range) that is not the benchmark's."""
    own, _ = _BENCHMARKS.get((metric, points.skeleton.name), ("", ()))
    if length is None or (length.name == own and metric == "pck" and points.skeleton.name != "jhmdb_15"):
        return []
    if metric != "auc":
        return [f"{METRICS[metric].title} by {length.words}: comparable only with numbers by the same length"]
    if is_of_benchmark(points, measured, length, metric):
        return []
    over = range_of(measured, length)
    return [f"AUC by {length.words}, {over}: comparable only with numbers by the same length and over the same range"]


def _about_lsp(points: Points, people: int) -> list[str]:
    """LSP is scored on people 1001 to 2000, and there are two versions of its left and right."""
    centric = {str(facts.get("centric")) for facts in points.gt.datasets.values()} & {"person", "observer"}
    sided = " and ".join(sorted(centric)) or "person- or observer"
    found = [f"left and right are {sided}-centric, as in the ground truth: the two versions of LSP are not comparable"]
    if people != LSP_PEOPLE:
        who = many(people, "person", "people")
        found.append(f"{who}: not comparable with published numbers, of LSP's {LSP_PEOPLE:,} test people")
    return found
