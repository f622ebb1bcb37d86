"""Per keypoint: a plain loop over people gives the same table, pycocotools the same OKS and AP."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdata.eval.keypoints import distances, keypoint_ap, per_keypoint, sigma_units
from kpdata.eval.part import pair

SEEDS = st.integers(0, 2**32 - 1)


def part_of(coco, case, visibility=None):
    """With the third values of the labels for visibility, unless told."""
    part = coco.part(case)
    if visibility is None:
        k = len(part.params.sigmas)
        visibility = np.reshape([row["keypoints"] for row in case.truth["annotations"]], (-1, k, 3))[..., 2]
    return replace(part, visibility=np.asarray(visibility, np.int8))


def small(coco, seed):
    """A random case of at most 17 keypoints whose people have areas above 0."""
    case = coco.random_case(seed, k=int(np.random.default_rng(seed).choice([1, 5, 17])))
    for row in case.truth["annotations"]:
        row["area"] = max(row["area"], 400.0)
    return case


def loop(part, pairing, column, level):
    """One row of the table, person by person; column None pools all keypoints, level None all visibilities."""
    truth, sigmas = part.truth, part.params.sigmas
    chosen = range(len(sigmas)) if column is None else [column]
    pixels, units, sigma, terms, shifts, lost = [], [], [], [], [], 0
    for t, d in [*zip(pairing.truth, pairing.detection, strict=True), *((t, None) for t in pairing.missed)]:
        for k in chosen:
            if not truth.labelled[t, k] or (level is not None and part.visibility[t, k] != level):
                continue
            if d is None:
                lost += 1
                continue
            dx, dy = part.detections.keypoints[d, k] - truth.keypoints[t, k]
            size = np.sqrt(truth.area[t])
            pixels.append(np.sqrt(dx**2 + dy**2))
            units.append(pixels[-1] / size)
            sigma.append(pixels[-1] / (2 * sigmas[k] * size))
            terms.append(np.exp(-(dx**2 + dy**2) / (2 * size**2 * (2 * sigmas[k]) ** 2)))
            shifts.append((dx, dy, dx / size, dy / size))
    row = {"labelled": len(pixels) + lost, "found": len(pixels)}
    if row["labelled"]:
        row |= {"found_share": len(pixels) / row["labelled"], "oks_with_missed": sum(terms) / row["labelled"]}
    if pixels:
        row["oks"] = np.mean(terms)
        row |= {f"pck_{t}": np.mean(np.array(units) <= int(t) / 100) for t in ("05", "10", "20")}
        row |= {f"term_{t}": np.mean(np.array(terms) >= t / 100) for t in (50, 75, 85)}
        for name, values in (("px", pixels), ("area", units), ("sigma", sigma)):
            row |= {f"error_{name}_median": np.median(values), f"error_{name}_p90": np.quantile(values, 0.9)}
        names = ("bias_x_px", "bias_y_px", "bias_x_area", "bias_y_area")
        row |= dict(zip(names, np.mean(shifts, axis=0).tolist(), strict=True))
    return row


@given(SEEDS)
@settings(max_examples=30)
def test_naive_loop(coco, seed):
    """Every number of every row; NaN exactly where the loop has nothing to average."""
    part = part_of(coco, small(coco, seed))
    pairing = pair(part)
    levels = {"all": None, "occluded": 1, "visible": 2}
    rows = per_keypoint(part, pairing).to_pylist()
    names = [*part.skeleton.keypoint_names, "all"]
    assert [(row["keypoint"], row["visibility"]) for row in rows] == [(n, level) for level in levels for n in names]
    for at, row in enumerate(rows):
        column = at % len(names)
        column = None if column == len(names) - 1 else column
        expected = loop(part, pairing, column, levels[row["visibility"]])
        numbers = {key: value for key, value in row.items() if key not in ("keypoint", "visibility")}
        known = {key for key, value in numbers.items() if not np.isnan(value)}
        assert known == set(expected)
        for key, value in expected.items():
            # Right at a tolerance either side is right.
            slack = {"abs": 1.1 / row["found"]} if key.startswith(("pck", "term")) and row["found"] else {"abs": 1e-9}
            assert numbers[key] == pytest.approx(value, rel=1e-9, **slack), key


@given(SEEDS)
@settings(max_examples=30)
def test_sigma_units_are_those_of_oks(coco, seed):
    """The mean of exp(-z² / 2) over a person's labels is the OKS that he was matched with."""
    part = part_of(coco, small(coco, seed))
    pairing = pair(part)
    terms = np.exp(-np.square(sigma_units(part, pairing)) / 2)
    labelled = part.truth.labelled[pairing.truth].any(1)
    assert np.nanmean(terms[labelled], axis=1) == pytest.approx(pairing.oks[labelled], abs=1e-12)
    assert (np.isnan(distances(part, pairing)) == ~part.truth.labelled[pairing.truth]).all()


def one_image(coco, shift=(0.0, 0.0), v=2, area=4000.0):
    """Three people of five keypoints, found with the same shift."""
    poses = [np.arange(5)[:, None] * [30, 10] + [0, 400 * i] for i in range(3)]
    flats = [np.column_stack([pose, np.full(5, v)]).ravel().tolist() for pose in poses]
    base = {"image_id": 1, "category_id": 1}
    rows = [
        base | {"id": i + 1, "keypoints": flat, "num_keypoints": 5, "area": area, "iscrowd": 0, "bbox": [0, 0, 1, 1]}
        for i, flat in enumerate(flats)
    ]
    found = [
        base | {"score": 0.5, "keypoints": np.column_stack([pose + shift, np.ones(5)]).ravel().tolist()}
        for pose in poses
    ]
    truth = {"images": [{"id": 1}], "annotations": rows, "categories": [{"id": 1}]}
    return coco.Case(truth, found, {"sigmas": np.full(5, 0.05)})


def test_bias(coco):
    """A model that is always 3 pixels to the right and 4 up is told so, in pixels and in sqrt(area)."""
    part = part_of(coco, one_image(coco, shift=(3.0, -4.0), area=2500.0))
    for row in per_keypoint(part, pair(part)).to_pylist()[:6]:
        assert (row["bias_x_px"], row["bias_y_px"], row["error_px_median"]) == (3, -4, 5)
        assert (row["bias_x_area"], row["bias_y_area"], row["error_area_p90"]) == pytest.approx((0.06, -0.08, 0.1))
        assert (row["pck_05"], row["pck_10"], row["pck_20"]) == (0, 1, 1)
        assert row["error_sigma_median"] == pytest.approx(1)


def test_unknown_visibility_has_rows_where_it_occurs(coco):
    """Labels that do not say whether they can be seen: rows of their own, and counted in "all"."""
    part = part_of(coco, one_image(coco))
    visibility = part.visibility.copy()
    visibility[0] = 3
    some = replace(part, visibility=visibility)
    assert {row["visibility"] for row in per_keypoint(part, pair(part)).to_pylist()} == {"all", "occluded", "visible"}
    rows = {(row["keypoint"], row["visibility"]): row["found"] for row in per_keypoint(some, pair(some)).to_pylist()}
    assert [rows["all", level] for level in ("all", "occluded", "visible", "unknown")] == [15, 0, 10, 5]


def test_odd_predictions(coco):
    """A keypoint without a place is infinitely far off, counts as wrong, and leaves the bias alone."""
    case = one_image(coco)
    case.results[0]["keypoints"][0] = float("inf")
    part = part_of(coco, case)
    pairing = pair(part)
    assert np.isinf(distances(part, pairing)).sum() == 1
    row = per_keypoint(part, pairing).to_pylist()[0]
    assert row["found"] == 3 and row["pck_20"] == row["oks"] == pytest.approx(2 / 3)
    assert row["bias_x_px"] == row["error_px_median"] == 0 and row["error_px_p90"] == np.inf


def test_nobody(coco):
    """No predictions: labelled people, nothing found, and no crash."""
    case = one_image(coco)
    case.results.clear()
    part = part_of(coco, case)
    row = per_keypoint(part, pair(part)).to_pylist()[5]
    assert (row["labelled"], row["found"], row["oks_with_missed"]) == (15, 0, 0) and np.isnan(row["oks"])
    assert keypoint_ap(part).tolist() == [0] * 5


@given(SEEDS)
@settings(max_examples=12)
def test_ap_of_one_keypoint(coco, seed):
    """pycocotools' AP of the files cut down to that keypoint, whatever thresholds, limits and categories."""
    case = coco.random_case(seed, k=5)
    numbers = keypoint_ap(part_of(coco, case))
    for k in range(5):
        rows = [cut(row, k) for row in case.truth["annotations"]]
        found = [cut(row, k) for row in case.results]
        alone = {**case.settings, "sigmas": case.settings["sigmas"][k : k + 1]}
        one = coco.Case({**case.truth, "annotations": rows}, found, alone, case.image_ids, case.category_ids)
        precision = coco.by_pycocotools(one)[0].precision[..., 0, -1]
        known = precision[precision > -1]
        assert numbers[k] == pytest.approx(known.mean() if known.size else np.nan, nan_ok=True, abs=1e-12)


def cut(row, k):
    flat = row["keypoints"][3 * k : 3 * k + 3]
    labels = {"num_keypoints": int(row["num_keypoints"] and flat[2] > 0)} if "num_keypoints" in row else {}
    return {**row, "keypoints": flat, **labels}
