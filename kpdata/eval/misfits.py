"""Poses that would fit if only … : the one transformation of all predictions that explains why they do not.

People and predictions of an image are compared without regard to what is tested: by their boxes where order, left and
right are in question, by shape (position and size taken away) where place and size are. Distances are shares of the
person's extent (the diagonal of the labelled keypoints' box), where good models lie near 0.03 and strangers above 0.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kpdata import schema, skeleton
from kpdata.arrays import distinct, isin, lookup, median, mixed, pairs_in_images
from kpdata.dataset import Dataset
from kpdata.eval.oks import Bools, Floats, Ints
from kpdata.eval.part import Part
from kpdata.geometry import box_from_keypoints, box_iou

IMAGES = 300  # looked at, at most
PEOPLE = 8  # below, nothing is said
_NEAR = 0.3  # intersection over union of two poses' boxes from which on they are compared
_FITS = 0.12  # distance up to which a prediction fits a person
_BETTER = 0.6  # another column or twin explains a misfit if its distance is below this share of the own one's
_FINE = 0.6  # share of people with a fitting prediction from which on nothing is wrong with all of them,
_ENOUGH = 0.3  # and that a remedy has to reach,
_MORE = 0.25  # and by how much it has to be more than without
_EQUAL = 0.03  # differences of that share that mean nothing
_SAME = 0.07  # residual of two poses of one shape, and
_SAME_SHARE = 0.6  # of how many people, for crops to be suspected
_CELLS = 1 << 18  # distances of columns to keypoints at most: bounds memory where K is 133, and time
_HUGE = 1e7  # px, as nobody's image
_MOST = 10  # predictions of an image, best first
_INPUTS = np.array([192, 224, 256, 288, 320, 368, 384, 416, 448, 512, 640, 768, 896, 960, 1024, 1280])


class Finding(NamedTuple):
    """A sentence, and whether it alone explains an AP near 0."""

    words: str
    decisive: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """Sampled people and the predictions of their images, with all pairs of one image (P,)."""

    truth: Floats  # (n, K, 2)
    labelled: Bools  # (n, K)
    size: Floats  # (n,) diagonal of the labelled keypoints' box
    image: Ints  # (n,) row of the ground truth's images
    found: Floats  # (m, K, 2)
    placed: Bools  # (m, K) keypoints that are somewhere: 0, 0 is what results write for none
    found_image: Ints  # (m,)
    found_size: Floats  # (m, 2) width and height of its image, NaN where not known
    g: Ints  # (P,)
    d: Ints  # (P,)


def misfits(part: Part, counted: Bools, gt: Dataset, seed: int) -> list[Finding]:
    """What is wrong with all poses at once: a sentence or none; none for a model that is merely bad.

    A remedy for place or size is told only if, applied, it lets predictions fit at least 30 % of the people, and many
    more than without. counted (N,): people to look at. At most IMAGES images, drawn with `seed`.
    """
    scene = _sample(part, counted, gt, seed)
    if scene is None:
        return _other_image(part, counted, gt, seed, 0.0)
    near = _best_boxes(scene)
    if len(near[0]) >= PEOPLE and len(near[0]) >= _NEAR * len(scene.truth):
        table, twin = _distances(scene, near, part)
        for finding in (_sides(part, twin), _order(part, table)):
            if found := list(finding):
                return found
    before = _share(scene, scene.found)
    if before >= _FINE:
        return list(_offset(scene, near))
    shares = [(_share(scene, xy), words) for words, xy in _remedies(scene, part)]
    best = max(share for share, _ in shares)
    after, words = next(pair for pair in shares if pair[0] >= best - _EQUAL)  # the simplest of those that do as well
    if _explains(before, after):
        return [Finding(f"{words} ({after:.0%} of {len(scene.truth):,} people then have a prediction in their place, "
                        f"{before:.0%} as it is)", True)]  # fmt: skip
    if before >= _ENOUGH:
        return list(_offset(scene, near))
    return _other_image(part, counted, gt, seed, before) or list(_crops(scene))


def _explains(before: float, after: float) -> bool:
    return after >= max(_ENOUGH, before + _MORE, 1.5 * before)


# -------------------------------------------------------------------------------------------------------- who with whom


def _sample(part: Part, counted: Bools, gt: Dataset, seed: int, step: int = 0) -> _Scene | None:
    """People with at least 4 labelled keypoints, with the predictions of the image `step` rows on; None if too few."""
    truth, found = part.truth, part.detections
    ids = np.sort(part.image_ids)
    small = np.abs(truth.keypoints) < _HUGE  # no NaN, no infinity
    labelled = truth.labelled & small[..., 0] & small[..., 1]
    usable = np.flatnonzero(counted & (labelled.sum(1) >= 4))
    image, found_image = lookup(ids, truth.image_id), lookup(ids, found.image_id)
    found_image = np.where(found_image >= 0, found_image + step, -1)
    both = distinct(image[usable])
    both = both[(both >= 0) & isin(both, found_image)]
    if len(both) > IMAGES:
        drawn = np.argsort(mixed(np.arange(len(both), dtype=np.uint64) + np.uint64((seed << 32) % 2**64)))[:IMAGES]
        both = both[np.sort(drawn)]
    usable = usable[isin(image[usable], both)]
    rows = np.flatnonzero(isin(found_image, both))
    rows = rows[(np.abs(found.keypoints[rows]) < _HUGE).all((1, 2))]
    rows = _best(rows, found_image[rows], found.score[rows])
    placed = ((found.keypoints[rows, :, 0] != 0) | (found.keypoints[rows, :, 1] != 0)) & part.mask
    rows, placed = rows[placed.sum(1) >= 4], placed[placed.sum(1) >= 4]
    extent = box_from_keypoints(truth.keypoints[usable], labelled[usable].astype(np.int8))
    size = np.hypot(extent[:, 2], extent[:, 3])
    usable, size = usable[size > 0], size[size > 0]
    if len(usable) < PEOPLE or not len(rows):
        return None
    g, d = pairs_in_images(image[usable], found_image[rows])
    return _Scene(
        truth=np.where(labelled[usable][..., None], truth.keypoints[usable], 0),
        labelled=labelled[usable],
        size=size,
        image=image[usable],
        found=found.keypoints[rows],
        placed=placed,
        found_image=found_image[rows],
        found_size=_image_sizes(gt, ids[found_image[rows]]),
        g=g,
        d=d,
    )


def _image_sizes(gt: Dataset, ids: Ints) -> Floats:
    rows = lookup(schema.values(gt.images["image_id"]), ids)
    sides = [np.where(schema.valid(gt.images[name]), schema.values(gt.images[name]), np.nan)[rows]
             for name in ("width", "height")]  # fmt: skip
    return np.stack(sides, axis=1)


def _best(rows: Ints, image: Ints, score: Floats) -> Ints:
    """The best _MOST of each image."""
    order = np.lexsort((-score, image))
    first = np.searchsorted(image[order], image[order])
    kept: Ints = rows[order[np.arange(len(order)) - first < _MOST]]
    return kept


def _best_boxes(scene: _Scene) -> tuple[Ints, Ints]:
    """(person, prediction) of everyone whose best box overlaps by _NEAR: blind to order and sides."""
    one = box_from_keypoints(scene.truth, scene.labelled.astype(np.int8))
    two = box_from_keypoints(scene.found, scene.placed.astype(np.int8))
    return _least(scene, 1 - box_iou(one[scene.g], two[scene.d]), 1 - _NEAR)


def _least(scene: _Scene, distance: Floats, limit: float = np.inf) -> tuple[Ints, Ints]:
    """(person, prediction) of each person's least distance (P,), where that is within the limit."""
    chosen = _first_of_each(scene, distance)
    chosen = chosen[distance[chosen] <= limit]
    return scene.g[chosen], scene.d[chosen]


def _first_of_each(scene: _Scene, distance: Floats) -> Ints:
    """Position of each person's pair of least distance, by person."""
    order = np.lexsort((distance, scene.g))
    return order[np.flatnonzero(np.diff(scene.g[order], prepend=-1))]


# -------------------------------------------------------------------------------------------------- order and sides


def _distances(scene: _Scene, near: tuple[Ints, Ints], part: Part) -> tuple[Floats, Floats]:
    """Distances over person sizes, cut at 1: (K, K) median of column j to keypoint k, NaN where few have both; and
    (2, n) means of each person's sided keypoints to their own place and to their twin's."""
    k = len(part.skeleton)
    few = np.linspace(0, len(near[0]) - 1, min(len(near[0]), max(4 * PEOPLE, _CELLS // k**2))).astype(np.int64)
    g, d = near[0][few], near[1][few]
    gap = scene.found[d][:, :, None] - scene.truth[g][:, None]  # (n, K, K, 2): column, keypoint
    far = np.minimum(np.hypot(gap[..., 0], gap[..., 1]) / scene.size[g, None, None], 1)
    known = scene.labelled[g][:, None, :] & scene.placed[d][:, :, None]
    far = np.where(known, far, np.nan)
    table = np.where(known.sum(0) < PEOPLE, np.nan, _median(far, 0))
    if not part.skeleton.flip_pairs:
        return table, np.empty((2, 0))
    flip = part.skeleton.flip_index()
    sided = np.flatnonzero(flip != np.arange(len(flip)))
    twin = np.stack([_mean(far[:, sided, sided]), _mean(far[:, flip[sided], sided])])
    return table, twin[:, np.isfinite(twin).all(0)]


def _mean(values: Floats) -> Floats:
    """Mean along the last axis of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(known, values, 0).sum(-1) / known.sum(-1)
    return mean


def _median(values: Floats, axis: int) -> Floats:
    """As np.nanmedian, without its warning and its import of numpy.ma: NaN where nothing is known."""
    ordered = np.sort(values, axis=axis)  # NaN last
    count = np.isfinite(values).sum(axis, keepdims=True)
    low, high = (np.take_along_axis(ordered, np.maximum(at, 0), axis) for at in ((count - 1) // 2, count // 2))
    middle: Floats = (np.where(count > 0, (low + np.where(count % 2, low, high)) / 2, np.nan)).squeeze(axis)
    return middle


def _sides(part: Part, twin: Floats) -> Iterator[Finding]:
    """Left and right exchanged: the twin's column fits most people better."""
    if twin.shape[1] < PEOPLE:
        return
    clear = np.abs(twin[0] - twin[1]) > 0.02  # people seen from the side fit both ways
    better = float(np.mean(twin[1, clear] < twin[0, clear])) if clear.any() else 0.0
    here, there = (float(median(row)) for row in twin)
    if clear.sum() >= PEOPLE and better > 0.7 and there < _FITS and there < _BETTER * here:
        yield Finding(
            f"left and right are exchanged: for {better:.0%} of {int(clear.sum())} people the predictions fit better "
            f"with {part.skeleton.name}'s twins exchanged (distance {there:.2f} instead of {here:.2f} of the person's "
            "size); are the columns in another order, or were flipped images' twins not swapped back?",
            True,
        )


def _order(part: Part, table: Floats) -> Iterator[Finding]:
    """Another order of the columns: a permutation fits much better than the order of the skeleton."""
    k = len(table)
    blind = ~np.isfinite(table)
    cost = np.where(blind, 1.0, table)
    nowhere: Bools = np.asarray(blind.all(0) | blind.all(1))
    cost[nowhere], cost[:, nowhere] = 1.0, 1.0
    cost[nowhere, nowhere] = 0.0  # never seen: they stay where they are
    here = np.diagonal(cost)
    if ((cost.min(0) < _BETTER * here) & (here > 0.06)).sum() < 2:
        return
    from scipy.optimize import linear_sum_assignment

    columns, keypoints = linear_sum_assignment(cost)
    holds = np.empty(k, np.int64)
    holds[columns] = keypoints  # column -> the keypoint that lies there
    of = np.empty(k, np.int64)
    of[keypoints] = columns
    gain = here - cost[of, np.arange(k)]
    moved = (of != np.arange(k)) & (gain > 0.04) & (cost[of, np.arange(k)] < _BETTER * here)
    fit = float(cost[of, np.arange(k)][~nowhere].mean())
    if moved.sum() < 2 or fit > _FITS:
        return
    known = _known_order(part, cost, nowhere, fit)
    names = part.skeleton.keypoint_names
    wrong = [f"column {j} ({names[j]}) holds {names[i]}" for j, i in enumerate(holds.tolist()) if i != j and moved[i]]
    shown = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
    fix = f"the order is that of {known}" if known else "write the columns in the skeleton's order"
    yield Finding(f"keypoints are in another order than {part.skeleton.name}'s: {shown}; {fix}", True)


def _known_order(part: Part, cost: Floats, nowhere: Bools, fit: float) -> str:
    """A built-in skeleton whose keypoints, those that this one lacks left out, lie in the order that was found."""
    points = [mark.partition("/")[0] for mark in part.skeleton.landmarks]
    best, chosen = fit * 1.15 + 0.01, ""
    for other in sorted(map(skeleton.load, skeleton.names()), key=len):
        theirs = [mark.partition("/")[0] for mark in other.landmarks]
        shared = [point for point in theirs if point in points]
        if sorted(shared) != sorted(points) or "" in points or shared == points:
            continue
        of = np.array([shared.index(point) for point in points])
        distance = float(cost[of, np.arange(len(of))][~nowhere].mean())
        if distance < best:
            dropped = [n for n, p in zip(other.keypoint_names, theirs, strict=True) if p not in points]
            best, chosen = distance, other.name + (f" without {', '.join(dropped)}" if dropped else "")
    return chosen


# -------------------------------------------------------------------------------------------------- place and size


def _share(scene: _Scene, found: Floats) -> float:
    """Share of people with a prediction in their place; found (m, K, 2): the predictions, perhaps transformed."""
    gap = found[scene.d] - scene.truth[scene.g]
    far = np.minimum(np.hypot(gap[..., 0], gap[..., 1]) / scene.size[scene.g, None], 1)
    mean = np.nan_to_num(_mean(np.where(scene.labelled[scene.g] & scene.placed[scene.d], far, np.nan)), nan=1.0)
    return float((mean[_first_of_each(scene, mean)] < _FITS).sum() / len(scene.truth))


def _remedies(scene: _Scene, part: Part) -> Iterator[tuple[str, Floats]]:
    """What may have happened, and the predictions as they were before it did."""
    found, width, longest = scene.found, scene.found_size[:, :1], scene.found_size.max(1)[:, None, None]
    yield "x and y are exchanged: write x first", found[..., ::-1]
    mirrored = np.stack([width - 1 - found[..., 0], found[..., 1]], axis=-1)
    yield "predictions are mirrored (x became width - 1 - x): undo the flip of the images", mirrored
    if part.skeleton.flip_pairs:
        flip = part.skeleton.flip_index()
        yield "predictions are mirrored, left and right exchanged: undo the flip of the images", mirrored[:, flip]
    shape = _shapes(scene)
    if len(shape.scale) < PEOPLE:
        return
    for factor in _factors(shape):
        yield (
            f"predictions look {factor:.2g} x the ground truth's size, as in the pixels of a resized image: divide "
            f"their coordinates by {factor:.3g}",
            found / factor,
        )
    shift = median(shape.found_centre - shape.centre)
    yield (
        f"predictions are shifted by {shift[0]:+.0f}, {shift[1]:+.0f} px, as by a padding or a crop's corner: subtract "
        "it",
        found - shift,
    )
    size = scene.found_size[shape.detection]
    stretch = median(shape.found_centre / np.maximum(shape.centre, 1) * size)
    yield (
        f"predictions look as in images resized to about {stretch[0]:.0f} x {stretch[1]:.0f}: scale them back to each "
        "image's size",
        found * (scene.found_size / stretch)[:, None],
    )
    about = float(median(shape.scale * size.max(1)))
    for side in _INPUTS[np.argsort(np.abs(np.log(_INPUTS / about)))[:3]].tolist() if np.isfinite(about) else ():
        ratio = side / longest
        pad = (side - scene.found_size[:, None] * ratio) / 2
        words = f"predictions look as in images resized to {side} px on the longer side"
        yield f"{words}: scale them back to each image's size", found / ratio
        yield f"{words} and padded to a square: take off the padding and scale them back", (found - pad) / ratio


def _factors(shape: _Shape) -> list[float]:
    """The ratio of places and that of sizes, as they are and rounded to one that people choose."""
    at = float(median(np.hypot(*shape.found_centre.T) / np.maximum(np.hypot(*shape.centre.T), 1)))
    size = float(median(shape.scale))
    usual = np.array([1 / 8, 1 / 4, 1 / 3, 1 / 2, 2, 3, 4, 8])
    near = usual[np.argsort(np.abs(np.log(usual / max(at, 1e-9))))[:2]]
    return [factor for factor in (at, size, *near.tolist()) if factor > 1e-3]


class _Shape(NamedTuple):
    """Each person's prediction of most similar shape: residual, size ratio, and both centres, (n,) and (n, 2)."""

    residual: Floats
    scale: Floats
    size: Floats  # (n, 2) root mean square size of person and prediction
    centre: Floats
    found_centre: Floats
    detection: Ints


def _shapes(scene: _Scene) -> _Shape:
    """Compare all pairs of at least 4 common keypoints, with place and size taken away."""
    known = scene.labelled[scene.g] & scene.placed[scene.d]
    enough = known.sum(1) >= 4
    g, d, known = scene.g[enough], scene.d[enough], known[enough]
    count = known.sum(1)[:, None]
    sides = []
    for xy in (scene.truth[g], scene.found[d]):
        centre = np.where(known[..., None], xy, 0).sum(1) / count
        off = np.where(known[..., None], xy - centre[:, None], 0)
        sides.append((centre, off, np.sqrt(np.square(off).sum((1, 2)) / count[:, 0])))
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sides[1][1] / sides[1][2][:, None, None] - sides[0][1] / sides[0][2][:, None, None]
        # In units of the extent, which is about three times the root mean square of a standing person.
        residual = np.hypot(gap[..., 0], gap[..., 1]).sum(1) / count[:, 0] / 3
        scale = sides[1][2] / sides[0][2]
    residual = np.where(np.isfinite(residual) & (scale > 0), residual, np.inf)
    order = np.lexsort((residual, g))
    best = order[np.flatnonzero(np.diff(g[order], prepend=-1))]
    best = best[np.isfinite(residual[best])]
    size = np.stack([sides[0][2][best], sides[1][2][best]], axis=1)
    return _Shape(residual[best], scale[best], size, sides[0][0][best], sides[1][0][best], d[best])


def _crops(scene: _Scene) -> Iterator[Finding]:
    """Poses of the right shape, all of about one size, though the people are not: pixels of each person's crop."""
    shape = _shapes(scene)
    same = shape.residual < _SAME
    if same.sum() < PEOPLE or np.mean(same) < _SAME_SHARE:
        return
    low, high = np.percentile(np.log(shape.size[same]), [15, 85], axis=0)
    if (high - low)[1] < 0.6 * (high - low)[0]:
        smallest, largest = np.percentile(shape.scale[same], [10, 90])
        yield Finding(
            f"poses have the right shape, but lie elsewhere in {smallest:.2g} to {largest:.2g} x the size, all about "
            "equally large: are these the pixels of each person's crop? map them back to the image",
            True,
        )


def _offset(scene: _Scene, near: tuple[Ints, Ints]) -> Iterator[Finding]:
    """Poses that fit, and nearly all lie to one side: 1-based coordinates, or a small shift."""
    g, d = near
    known = scene.labelled[g] & scene.placed[d]
    gap = _median(np.where(known[..., None], scene.found[d] - scene.truth[g], np.nan), 1)  # (n, 2)
    gap = gap[np.isfinite(gap).all(1)]
    if len(gap) < 4 * PEOPLE:
        return
    middle = median(gap)
    deviation = median(np.abs(gap - middle))
    # Standard error of a median of Gaussian numbers: 1.2533 sigma / sqrt(n), sigma = 1.4826 deviations.
    error = float((1.2533 * 1.4826 * deviation / np.sqrt(len(gap))).max())
    told = f"{middle[0]:+.2f}, {middle[1]:+.2f} px aside of the ground truth (median of {len(gap):,} people)"
    if (np.abs(np.abs(middle) - 1) < 0.15).all() and middle[0] * middle[1] > 0 and error < 0.08:
        side = "1-based" if middle[0] > 0 else "0-based, the ground truth 1-based"
        yield Finding(f"predictions lie {told}: are they {side}? shift them by {-np.sign(middle[0]):+.0f} px", False)
    elif np.hypot(*middle) > max(3, 2 * np.hypot(*deviation), 10 * error):
        yield Finding(f"predictions lie {told}: a shift of all of them, as by a padding or a crop's corner", False)


# ------------------------------------------------------------------------------------------------------ another image


def _other_image(part: Part, counted: Bools, gt: Dataset, seed: int, before: float) -> list[Finding]:
    """Predictions that fit the people of the next or the previous image."""
    for step, words in ((1, "next"), (-1, "previous")):
        scene = _sample(part, counted, gt, seed, step)
        if scene is not None and _explains(before, after := _share(scene, scene.found)):
            return [Finding(
                f"predictions fit the people of the {words} image ({after:.0%} of {len(scene.truth):,}, {before:.0%} "
                f"of their own): ids are shifted by one place; add {step} to each image_id, in the order of the ground "
                "truth's ids where they have gaps",
                True,
            )]  # fmt: skip
    return []
