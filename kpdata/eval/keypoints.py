"""Per keypoint: how many are found, how far off they are, in which direction, and what each alone would score.

Everything is measured on one matching of people (`part.pair`), all sizes together. A keypoint is *labelled* where its
person counts and its visibility is above 0, and *found* where that person was matched with a prediction.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import schema
from kpdata.eval.average_precision import accumulate
from kpdata.eval.matching import Matches, match_pairs
from kpdata.eval.oks import Bools, Detections, Floats, Order, Pairs, Params, candidate_pairs, order_rows
from kpdata.eval.part import Pairing, Part
from kpdata.schema import Visibility

PCK_TOLERANCES = (0.05, 0.1, 0.2)  # times the square root of the person's area
TERM_LEVELS = (0.5, 0.75, 0.85)  # of a keypoint's own OKS term; Ronchi & Perona call it good from 0.85 on

_GROUPS = (
    ("occluded", Visibility.OCCLUDED),
    ("visible", Visibility.VISIBLE),
    ("unknown", Visibility.UNKNOWN),
)


def distances(part: Part, pairing: Pairing) -> Floats:
    """(P, K) pixels from each found keypoint's label to its prediction, in the order of `pairing`.

    NaN where the keypoint is not labelled; infinite where it is labelled and the prediction is no finite place.
    """
    off = offsets(part, pairing)
    with np.errstate(over="ignore", invalid="ignore"):
        distance = np.hypot(off[..., 0], off[..., 1])
    distance = np.where(np.isfinite(distance), distance, np.inf)
    return np.where(part.truth.labelled[pairing.truth], distance, np.nan)


def offsets(part: Part, pairing: Pairing) -> Floats:
    """(P, K, 2) prediction minus label in pixels (x to the right, y down), whatever is labelled."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(part.detections.keypoints[pairing.detection] - part.truth.keypoints[pairing.truth])


def sizes(part: Part, pairing: Pairing) -> Floats:
    """(P,) pixels: the square root of each found person's area, 0 where that is not above 0."""
    return np.sqrt(np.maximum(np.nan_to_num(part.truth.area[pairing.truth]), 0))


def sigma_units(part: Part, pairing: Pairing) -> Floats:
    """(P, K) `distances` as they enter OKS: z = d / (2 sigma sqrt(area)), so that the OKS term is exp(-z² / 2).

    One unit is one standard deviation of the similarity's Gaussian: z = 1.18 halves the term. NaN where the keypoint
    is not labelled; at an area of 0 infinite, but 0 where the prediction is exact.
    """
    reach = sizes(part, pairing)[:, None] * (2 * part.params.sigmas)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = distances(part, pairing)
        return np.where(distance == 0, 0.0, distance / reach)


def per_keypoint(part: Part, pairing: Pairing) -> pa.Table:
    """One row a keypoint and visibility, in long form: `frame[frame.visibility == "all"]` is the usual table.

    keypoint: its name, or "all": every keypoint of everybody pooled, each counting once.
    visibility: "all", "occluded", "visible", and "unknown" where the ground truth has such labels.
    labelled, found: counts (the module says of what); found_share: found / labelled.
    oks: mean OKS term exp(-d² / (2 area (2 sigma)²)) of the found; oks_with_missed: those of missed people count as 0.
    pck_05, pck_10, pck_20: share of the found within 0.05, 0.1, 0.2 times sqrt(area); term_50, term_75, term_85: share
    whose OKS term is at least that, which is a tolerance of 1.18, 0.76, 0.57 of `sigma_units`. For missed people as
    wrong multiply by found_share.
    error_px, error_area, error_sigma with _median and _p90 (linear interpolation): the distance in pixels, in
    sqrt(area), in `sigma_units`.
    bias_x_px, bias_y_px, bias_x_area, bias_y_area: mean of prediction minus label, in pixels and in sqrt(area), over
    the predictions that are finite.
    Counts are int64, the others float64, NaN where there is nothing to average. Keypoints outside `part.mask` have no
    labels.
    """
    found = part.truth.labelled[pairing.truth]
    lost = part.truth.labelled[pairing.missed]
    groups: list[tuple[str, Bools, Bools]] = [("all", found, lost)]
    for name, level in _GROUPS:
        seen, unseen = (part.visibility[rows] == level for rows in (pairing.truth, pairing.missed))
        if level != Visibility.UNKNOWN or (found & seen).any() or (lost & unseen).any():
            groups.append((name, found & seen, lost & unseen))
    measured = _measure(part, pairing)
    blocks = [_block(measured, chosen, missed) for _, chosen, missed in groups]
    names = [*part.skeleton.keypoint_names, "all"]
    columns = {
        "keypoint": schema.strings(names * len(groups)),
        "visibility": schema.strings([group[0] for group in groups for _ in names]),
    }
    for key in blocks[0]:
        values = np.concatenate([block[key] for block in blocks])
        columns[key] = schema.fixed(values, pa.int64() if values.dtype.kind == "i" else pa.float64())
    return pa.Table.from_arrays(list(columns.values()), names=list(columns))


def _measure(part: Part, pairing: Pairing) -> dict[str, Floats]:
    """(P, K) each: distances in three units, OKS term, offsets in two units; only where labelled do they mean much."""
    off, size = offsets(part, pairing), sizes(part, pairing)[:, None]
    distance, z = distances(part, pairing), sigma_units(part, pairing)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return {
            "px": distance,
            "area": np.where(distance == 0, 0.0, distance / size),
            "sigma": z,
            "term": np.exp(-np.square(z) / 2),
            "x_px": off[..., 0],
            "y_px": off[..., 1],
            "x_area": off[..., 0] / size,
            "y_area": off[..., 1] / size,
        }


def _block(measured: dict[str, Floats], chosen: Bools, missed: Bools) -> dict[str, NDArray[np.generic]]:
    """Columns of K + 1 rows: each keypoint, then all of them pooled. chosen (P, K), missed (missed people, K)."""
    single = _statistics(measured, chosen, missed)
    pooled = _statistics(
        {name: values.reshape(-1, 1) for name, values in measured.items()}, chosen.reshape(-1, 1), missed.reshape(-1, 1)
    )
    return {name: np.concatenate([single[name], pooled[name]]) for name in single}


def _statistics(measured: dict[str, Floats], chosen: Bools, missed: Bools) -> dict[str, NDArray[np.generic]]:
    found = chosen.sum(axis=0)
    labelled = found + missed.sum(axis=0)
    columns: dict[str, NDArray[np.generic]] = {
        "labelled": labelled,
        "found": found,
        "found_share": _ratio(found, labelled),
        "oks": _ratio(np.where(chosen, measured["term"], 0).sum(axis=0), found),
        "oks_with_missed": _ratio(np.where(chosen, measured["term"], 0).sum(axis=0), labelled),
    }
    for tolerance in PCK_TOLERANCES:
        columns[f"pck_{tolerance * 100:02.0f}"] = _ratio((chosen & (measured["area"] <= tolerance)).sum(axis=0), found)
    for level in TERM_LEVELS:
        columns[f"term_{level * 100:.0f}"] = _ratio((chosen & (measured["term"] >= level)).sum(axis=0), found)
    for unit in ("px", "area", "sigma"):
        median, high = _quantiles(measured[unit], chosen, (0.5, 0.9))
        columns |= {f"error_{unit}_median": median, f"error_{unit}_p90": high}
    for unit in ("px", "area"):
        for axis in "xy":
            signed = measured[f"{axis}_{unit}"]
            finite = chosen & np.isfinite(signed)
            columns[f"bias_{axis}_{unit}"] = _ratio(np.where(finite, signed, 0).sum(axis=0), finite.sum(axis=0))
    return columns


def _ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.true_divide(part, whole), dtype=np.float64)


def _quantiles(values: Floats, chosen: Bools, levels: tuple[float, ...]) -> list[Floats]:
    """(K,) a level, over the chosen rows of each column, between neighbours as np.quantile does; NaN without any."""
    ranked = np.sort(np.where(chosen, values, np.nan), axis=0)  # NaN goes last
    count = chosen.sum(axis=0)
    out = []
    for level in levels:
        if not len(ranked):
            out.append(np.full(len(count), np.nan))
            continue
        place = np.maximum(count - 1, 0) * level
        below = np.floor(place).astype(np.int64)
        low, high = (
            np.take_along_axis(ranked, np.minimum(at, len(ranked) - 1)[None], axis=0)[0]
            for at in (below, np.minimum(below + 1, np.maximum(count - 1, 0)))
        )
        with np.errstate(invalid="ignore"):
            out.append(np.where((low == high) | (place == below), low, low + (high - low) * (place - below)))
    return out


def all_sizes(part: Part) -> Params:
    """The part's Params with one area range: the one labelled "all", or everything where none is."""
    labels = part.params.area_labels
    at = labels.index("all") if "all" in labels else None
    ranges = np.array([[-np.inf, np.inf]]) if at is None else part.params.area_ranges[at : at + 1]
    return replace(part.params, area_ranges=ranges, area_labels=("all",))


def rematch(part: Part, params: Params, order: Order, pairs: Pairs, ignored: Bools, detections: Detections) -> Matches:
    """What `matching.match` gives where order and pairs are known already; ignored (A, G) of `order.gt_rows`."""
    low, high = params.area_ranges[:, :1], params.area_ranges[:, 1:]
    area, images = detections.area[order.dt_rows], max(1, len(order.image_ids))
    return replace(
        part.matches,
        gt_ignored=ignored,
        dt_row=order.dt_rows,
        dt_image_id=order.image_ids[order.dt_group % images],
        dt_category=order.dt_group // images,
        dt_rank=order.dt_rank,
        dt_score=detections.score[order.dt_rows],
        dt_outside=(area < low) | (area > high),
        pair_gt=pairs.gt,
        pair_oks=pairs.oks,
        matched=match_pairs(pairs, order, ignored, part.truth.iscrowd[order.gt_rows], params.iou_thresholds),
    )


def ignored_people(part: Part, params: Params, order: Order) -> Bools:
    """(A, G) who of `order.gt_rows` does not count in each area range: crowds, people without labels, other sizes."""
    low, high = params.area_ranges[:, :1], params.area_ranges[:, 1:]
    rows, truth = order.gt_rows, part.truth
    area = truth.area[rows]
    return np.asarray(truth.iscrowd[rows] | (truth.num_keypoints[rows] == 0) | (area < low) | (area > high))


def keypoint_ap(part: Part) -> Floats:
    """(K,) COCO AP, in [0, 1], of a skeleton of one keypoint only: as pycocotools gives it for data cut down so.

    People without a label of it are ignored, as those without any label are: their enlarged box may swallow
    predictions. Area range "all" (everything, where `part.params` names no such range), all thresholds and the largest
    `max_dets` of `part.params`, mean over the categories. NaN where nobody counted has a label.
    """
    params, most = all_sizes(part), part.params.max_dets[-1]
    order = order_rows(part.truth, part.detections, part.image_ids, part.category_ids, most, mode=params.mode)
    ignored = ignored_people(part, params, order)
    numbers = np.full(len(part.mask), np.nan)
    for k in range(len(part.mask)):  # each step matches everybody anew
        one = slice(k, k + 1)
        truth = replace(part.truth, keypoints=part.truth.keypoints[:, one], labelled=part.truth.labelled[:, one])
        detections = replace(part.detections, keypoints=part.detections.keypoints[:, one])
        single = replace(params, sigmas=part.params.sigmas[one])
        pairs = candidate_pairs(truth, detections, order, single)
        unlabelled = ignored | ~truth.labelled[order.gt_rows, 0]
        precision = accumulate(rematch(part, single, order, pairs, unlabelled, detections), single).precision[..., -1]
        known = precision[precision > -1]
        numbers[k] = known.mean() if len(known) else np.nan
    return numbers


def keypoint_ap_table(part: Part) -> pa.Table:
    """`keypoint_ap` beside the names: `keypoint`, `ap`, null where nobody counted has a label."""
    values = keypoint_ap(part)
    columns = [schema.strings(part.skeleton.keypoint_names), schema.fixed(values, pa.float64(), ~np.isnan(values))]
    return pa.Table.from_arrays(columns, names=["keypoint", "ap"])
