"""What a pose network learns and says, as keypoints: heatmaps and SimCC labels from keypoints, and back. Pure NumPy.

    codec = HeatmapCodec(input_size=(192, 256))                    # the official HRNet and SimpleBaseline targets
    maps, weights = codec.encode(sample.keypoints, sample.visibility)       # (N, K, 64, 48), (N, K)
    keypoints, scores = codec.decode(maps)                                  # px of the crop

Keypoints are pixels of the network's input (the crop), as in `kpdata.geometry`; `kpdata.augment` takes them to the
picture and back. A heatmap has W × H *cells*. How pixels become cells is half of a codec:

| target | cell of pixel x | drawn | decoded, as published |
| --- | --- | --- | --- |
| gaussian | x / stride | about the rounded centre, cut at 3σ | argmax, a quarter cell toward the larger neighbour |
| dark | x / stride | about the exact centre, uncut | a Newton step on the logarithm of the blurred map |
| udp | x · (W − 1) / (width − 1) | about the exact centre, cut at 3σ about the rounded one | UDP's variant of that |

Sources: gaussian, leoxiaobin/deep-high-resolution-net.pytorch (`lib/...` below); dark, Zhang et al., arXiv 1910.06278;
udp, Huang et al., arXiv 1911.07524; SimCC, Li et al., arXiv 2107.03332; the last three as in open-mmlab/mmpose 1.3.2.
`udp` belongs with crops of UDP's convention and without a shift in the flip test, the other two with official crops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kpdata.errors import SchemaError
from kpdata.skeleton import Skeleton

Floats = NDArray[np.float64]
Maps = NDArray[np.float32]  # (N, K, H, W), or (N, K, bins)
Target = Literal["gaussian", "dark", "udp"]
Refinement = Literal["argmax", "quarter", "dark", "udp_dark"]
Occluded = Literal["target", "ignore", "negative"]
Absent = Literal["ignore", "negative"]

PUBLISHED: dict[Target, Refinement] = {"gaussian": "quarter", "dark": "dark", "udp": "udp_dark"}
BLUR = 11  # cells: kernel of DARK's and UDP's blur for heatmaps of sigma 2
_FAR = 1e6  # cells: beyond every map, and still a number that can be an index
# cv2.getGaussianKernel takes these for small kernels whose sigma is not given, and the formula for larger ones.
_SMALL_KERNELS = {
    1: [1],
    3: [1, 2, 1],
    5: [1, 4, 6, 4, 1],
    7: [2, 7, 14, 18, 14, 7, 2],
    9: [4, 13, 30, 51, 60, 51, 30, 13, 4],
}


@dataclass(frozen=True, slots=True)
class HeatmapCodec:
    """One heatmap a keypoint. Frozen; checked when it is made (SchemaError).

    input_size: (width, height) of the network's input in px. stride: px a cell along both axes; it divides both sides.
    sigma: of the Gaussian, in cells: 2 at 256×192, 3 at 384×288. target: how maps are drawn. refine: how a maximum
    becomes a coordinate; None: as published for the target. kernel: side of the blur in cells, of `dark` and `udp_dark`
    alone; None: 11 (published also: 17 for DARK at 384×288, 3 at 128×96).

    What a label is worth: one that is visible, or not known to be, is a target. occluded: `target` (as all published
    COCO trainings do), `ignore` (weight 0) or `negative` (an empty map with weight 1: the network learns to say
    nothing). absent: `ignore`, or `negative` where "not labelled" means "not there" (open-mmlab/mmpose#1542).
    """

    input_size: tuple[int, int] = (192, 256)
    stride: int = 4
    sigma: float = 2.0
    target: Target = "gaussian"
    refine: Refinement | None = None
    kernel: int | None = None
    occluded: Occluded = "target"
    absent: Absent = "ignore"

    def __post_init__(self) -> None:
        _one_of("target", self.target, Target)
        if self.refine is not None:
            _one_of("refine", self.refine, Refinement)
        _one_of("occluded", self.occluded, Occluded)
        _one_of("absent", self.absent, Absent)
        _positive("sigma", self.sigma)
        _size("input_size", self.input_size)
        if not _whole(self.stride) or any(side % self.stride for side in self.input_size):
            raise SchemaError(f"stride {self.stride!r}, expected a whole number that divides {self.input_size}")
        if self.target == "udp" and min(self.heatmap_size) < 2:
            raise SchemaError(f"heatmap_size {self.heatmap_size}: UDP needs at least 2 cells a side")
        if self.kernel is not None and self.refinement not in ("dark", "udp_dark"):
            raise SchemaError(f"kernel {self.kernel!r}: refine {self.refinement!r} does not blur", hint="leave it out")
        _odd(self.blur)

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(W, H) of a heatmap in cells."""
        return self.input_size[0] // self.stride, self.input_size[1] // self.stride

    @property
    def refinement(self) -> Refinement:
        """How `decode` refines a maximum: `refine`, or what was published for the target."""
        return self.refine or PUBLISHED[self.target]

    @property
    def blur(self) -> int:
        """Side of the blur's kernel in cells."""
        return BLUR if self.kernel is None else self.kernel

    @property
    def cell(self) -> Floats:
        """(2,) px a cell: the stride; of UDP, whose corners of input and map coincide, (size − 1) / (cells − 1)."""
        size, cells = np.array(self.input_size, float), np.array(self.heatmap_size, float)
        cell: Floats = (size - 1) / (cells - 1) if self.target == "udp" else size / cells
        return cell

    def encode(self, keypoints: NDArray[np.floating], visibility: NDArray[np.integer]) -> tuple[Maps, Maps]:
        """Heatmaps (N, K, H, W) with peaks up to 1, and weights (N, K), float32, of keypoints (N, K, 2) px.

        visibility (N, K): `kpdata.schema.Visibility`. The weight is 1 where the label is a target and its Gaussian
        touches the map, even if the keypoint itself is outside; else 0, with an empty map. NaN counts as outside, an
        absent keypoint's coordinates are not looked at. Of the official test's odd case see `gaussian_heatmaps`.
        Raises SchemaError where shapes do not fit, or a visibility is none of 0 to 3.
        """
        xy, drawn, negative = _labels(keypoints, visibility, self.occluded, self.absent)
        draw = {"gaussian": gaussian_heatmaps, "dark": dark_heatmaps, "udp": udp_heatmaps}[self.target]
        maps, weights = draw(xy / self.cell, drawn, self.heatmap_size, self.sigma)
        weights[negative] = 1
        return maps, weights

    def decode(self, maps: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """Keypoints (N, K, 2) in px of the input, and scores (N, K), the maxima, of heatmaps (N, K, H, W).

        Where the maximum is not above 0, the keypoint is (0, 0): look at the score. Of a map that has its maximum twice
        the first in reading order counts. px are those of the crop, also for UDP; mmpose's own `decode` gives
        cells / (W − 1) · width instead, and its picture coordinates are the same.
        Raises SchemaError where the maps have another shape.
        """
        width, height = self.heatmap_size
        maps = _maps(maps)
        if maps.shape[2:] != (height, width):
            raise SchemaError(f"heatmaps of shape {maps.shape}, expected (N, K, {height}, {width})")
        cells, scores = argmax(maps)
        if self.refinement == "quarter":
            cells = quarter(maps, cells, scores)
        elif self.refinement != "argmax":
            newton = dark if self.refinement == "dark" else udp_dark
            with np.errstate(invalid="ignore", over="ignore"):  # a map with endless values is not moved
                cells = newton(maps, cells, scores, self.blur)
        return cells * self.cell, scores


@dataclass(frozen=True, slots=True)
class SimCC:
    """Two 1-D labels a keypoint, one over the bins of each axis (`split` bins a px). Frozen; SchemaError when made.

    input_size: (width, height) px. sigma: of the labels in bins, one number or that of x and that of y (RTMPose: 4.9
    and 5.66 at 256×192). normalize: labels sum to 1 (divided by sigma·√2π), else their peak is 1. occluded: `target`
    or `ignore`; "nothing there" has no distribution, so there are no negatives.
    """

    input_size: tuple[int, int] = (192, 256)
    split: float = 2.0
    sigma: float | tuple[float, float] = 6.0
    normalize: bool = True
    occluded: Literal["target", "ignore"] = "target"

    def __post_init__(self) -> None:
        _size("input_size", self.input_size)
        _positive("split", self.split)
        if len(self.sigmas) != 2:
            raise SchemaError(f"sigma {self.sigma!r}, expected a number or (of x, of y)")
        for sigma in self.sigmas:
            _positive("sigma", sigma)
        _one_of("occluded", self.occluded, Literal["target", "ignore"])

    @property
    def sigmas(self) -> tuple[float, float]:
        """Sigma of the x and of the y label, in bins."""
        return self.sigma if isinstance(self.sigma, tuple) else (self.sigma, self.sigma)

    @property
    def bins(self) -> tuple[int, int]:
        """Length of the x and of the y labels."""
        return round(self.input_size[0] * self.split), round(self.input_size[1] * self.split)

    def encode(self, keypoints: NDArray[np.floating], visibility: NDArray[np.integer]) -> tuple[Maps, Maps, Maps]:
        """x labels (N, K, bins), y labels (N, K, bins), weights (N, K), float32, of keypoints (N, K, 2) px.

        The centre is the nearest bin, halves to even. Weight 0, and labels of zeros, where the keypoint is not
        labelled, NaN, 3σ or more beyond the last bin or more than 3σ + 1 before the first (mmpose
        `codecs/simcc_label.py`). Raises as `HeatmapCodec.encode`.
        """
        xy, drawn, _ = _labels(keypoints, visibility, self.occluded, "ignore")
        centre = np.rint(_reachable(xy * self.split))
        drawn &= _touches(centre, np.array(self.sigmas) * 3, self.bins)
        labels = []
        for axis in (0, 1):
            label = _profile(centre[..., axis], self.bins[axis], self.sigmas[axis]) * drawn[..., None]
            labels.append(label / (self.sigmas[axis] * math.sqrt(2 * math.pi)) if self.normalize else label)
        return labels[0].astype(np.float32), labels[1].astype(np.float32), drawn.astype(np.float32)

    def decode(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """Keypoints (N, K, 2) px, the largest bins of labels (N, K, bins), and scores (N, K), the smaller maximum.

        Where the score is not above 0, the keypoint is (0, 0); mmpose says −1 bin. Raises SchemaError where the labels
        have other shapes.
        """
        x, y = np.asarray(x), np.asarray(y)
        if x.ndim != 3 or y.ndim != 3 or x.shape[:2] != y.shape[:2] or (x.shape[2], y.shape[2]) != self.bins:
            expected = " and ".join(f"(N, K, {bins})" for bins in self.bins)
            raise SchemaError(f"SimCC labels of shapes {x.shape} and {y.shape}, expected {expected}")
        scores = np.minimum(x.max(2), y.max(2)).astype(np.float64)
        bins = np.stack([x.argmax(2), y.argmax(2)], axis=-1)
        return np.where((scores > 0)[..., None], bins, 0) / self.split, scores


def gaussian_heatmaps(
    cells: Floats, drawn: NDArray[np.bool_], size: tuple[int, int], sigma: float
) -> tuple[Maps, Maps]:
    """The official targets: maps (N, K, H, W) and weights (N, K) of keypoints (N, K, 2) in cells; size (W, H).

    The centre is `int(x + 0.5)`, which rounds toward zero: a keypoint half a cell left of the map is drawn one cell off
    a floor. Peak 1, cut at 3σ (whole cells) about the centre. drawn (N, K): who is drawn at all. Weight 0 where the
    patch misses the map, except exactly 3σ + 1 cells off its left or top edge, where the official test is strict:
    weight 1 with an empty map (`lib/dataset/JointsDataset.py`, generate_target).
    """
    centre = np.trunc(_reachable(cells) + 0.5)
    return _draw(centre, centre, drawn, size, sigma)


def udp_heatmaps(cells: Floats, drawn: NDArray[np.bool_], size: tuple[int, int], sigma: float) -> tuple[Maps, Maps]:
    """UDP's targets: as `gaussian_heatmaps`, but the Gaussian inside that patch is centred on the exact keypoint."""
    exact = _reachable(cells)
    return _draw(exact, np.trunc(exact + 0.5), drawn, size, sigma)


def dark_heatmaps(cells: Floats, drawn: NDArray[np.bool_], size: tuple[int, int], sigma: float) -> tuple[Maps, Maps]:
    """DARK's targets: as `gaussian_heatmaps`, but centred on the exact keypoint and not cut to a patch.

    Weight 0, and an empty map, where the keypoint is 3σ or more off the right or bottom edge (which is at W or H), or
    more than 3σ + 1 cells off the left or top one.
    """
    return _draw(_reachable(cells), None, drawn, size, sigma)


def argmax(maps: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Cells (N, K, 2) of the maxima of heatmaps (N, K, H, W), and the maxima (N, K).

    (0, 0) where the maximum is not above 0 (`lib/core/inference.py`, get_max_preds), or is NaN.
    """
    maps = _maps(maps)
    flat = maps.reshape(*maps.shape[:2], maps.shape[2] * maps.shape[3])
    best = flat.argmax(2)
    scores = np.take_along_axis(flat, best[..., None], 2)[..., 0].astype(np.float64)
    xy = np.stack([best % maps.shape[3], best // maps.shape[3]], axis=-1)
    return np.where((scores > 0)[..., None], xy, 0).astype(np.float64), scores


def quarter(maps: NDArray[np.floating], cells: Floats, scores: Floats) -> Floats:
    """Cells (N, K, 2) of `argmax`, moved by 0.25 on both axes toward the larger neighbour; equal ones: not moved.

    Only where 1 < x < W − 1 and 1 < y < H − 1, strictly (`lib/core/inference.py`, get_final_preds).
    """
    maps = _maps(maps)
    height, width = maps.shape[2:]
    x, y = np.moveaxis(cells.astype(np.intp), -1, 0)
    inside = (scores > 0) & (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    around = _window(maps, x, y, 1)
    step = np.stack([around[..., 1, 2] - around[..., 1, 0], around[..., 2, 1] - around[..., 0, 1]], axis=-1)
    return cells + np.where(inside[..., None], np.sign(step) * 0.25, 0)


def dark(maps: NDArray[np.floating], cells: Floats, scores: Floats, kernel: int = BLUR) -> Floats:
    """Cells (N, K, 2) of `argmax`, moved by one Newton step on log(blurred map) (DARK, arXiv 1910.06278, section 3.2).

    The blur keeps each map's maximum, values below 1e-10 count as that, second derivatives are taken two cells apart.
    Only where 1 < x < W − 2 and 1 < y < H − 2; not moved where the Hessian is singular.
    """
    maps = _maps(maps)
    height, width = maps.shape[2:]
    x, y = np.moveaxis(cells.astype(np.intp), -1, 0)
    inside = (scores > 0) & (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    p = np.log(np.maximum(_window(blurred(maps, kernel), x, y, 2), 1e-10))  # (N, K, 5, 5)
    dx, dy = (p[..., 2, 3] - p[..., 2, 1]) / 2, (p[..., 3, 2] - p[..., 1, 2]) / 2
    dxx = (p[..., 2, 4] - 2 * p[..., 2, 2] + p[..., 2, 0]) / 4
    dyy = (p[..., 4, 2] - 2 * p[..., 2, 2] + p[..., 0, 2]) / 4
    dxy = (p[..., 3, 3] - p[..., 1, 3] - p[..., 3, 1] + p[..., 1, 1]) / 4
    return cells + np.where(inside[..., None], _newton(dx, dy, dxx, dxy, dyy), 0)


def udp_dark(maps: NDArray[np.floating], cells: Floats, scores: Floats, kernel: int = BLUR) -> Floats:
    """Cells (N, K, 2) of `argmax`, moved by UDP's variant of `dark` (mmpose `refine_keypoints_dark_udp`).

    The blurred map is clipped to [0.001, 50], derivatives are one cell apart, and cells at the border take part: beyond
    it the map goes on as it ends.
    """
    x, y = np.moveaxis(cells.astype(np.intp), -1, 0)
    p = np.log(np.clip(_window(blurred(maps, kernel), x, y, 1), 1e-3, 50.0))  # (N, K, 3, 3)
    middle = p[..., 1, 1]
    dx, dy = (p[..., 1, 2] - p[..., 1, 0]) / 2, (p[..., 2, 1] - p[..., 0, 1]) / 2
    dxx, dyy = p[..., 1, 2] - 2 * middle + p[..., 1, 0], p[..., 2, 1] - 2 * middle + p[..., 0, 1]
    sides = p[..., 1, 2] + p[..., 2, 1] + p[..., 1, 0] + p[..., 0, 1]
    dxy = (p[..., 2, 2] + p[..., 0, 0] + 2 * middle - sides) / 2
    tiny = float(np.finfo(np.float32).eps)  # as published: a flat map has an inverse, and does not move
    return cells + np.where((scores > 0)[..., None], _newton(dx, dy, dxx + tiny, dxy, dyy + tiny), 0)


def blurred(maps: NDArray[np.floating], kernel: int = BLUR) -> NDArray[np.floating]:
    """Heatmaps (N, K, H, W) blurred with a Gaussian of `kernel` cells (odd), then scaled to each map's old maximum.

    Zeros surround the map; sigma is `cv2.GaussianBlur`'s own for that kernel, 0.3·((kernel − 1)/2 − 1) + 0.8. A map
    whose blurred maximum is not above 0 is not scaled. float32 stays float32.
    """
    maps = _maps(maps)
    height, width = maps.shape[2:]
    vertical, horizontal = _band(height, kernel).astype(maps.dtype), _band(width, kernel).astype(maps.dtype)
    out: NDArray[np.floating] = vertical @ maps @ horizontal
    old, new = maps.max((2, 3), keepdims=True), out.max((2, 3), keepdims=True)
    out *= np.divide(old, new, out=np.ones_like(old), where=new > 0)
    return out


def flip_heatmaps(maps: NDArray[np.floating], skeleton: Skeleton, *, shift: bool) -> NDArray[np.floating]:
    """Heatmaps (N, K, H, W) of a mirrored input as those of the input: mirrored, left and right swapped.

    shift: one cell to the right afterwards (the first column stays as it is), for targets of `x / stride`: pixel x is
    `width − 1 − x` in the mirrored input, whose cell is W − 1/stride − x/stride and not the W − 1 − x/stride that
    mirroring the map stands for (`lib/core/function.py`, SHIFT_HEATMAP: 72.0 → 74.0 AP). UDP's cells mirror exactly:
    no shift. Raises SkeletonError where the twins are not known, SchemaError where the maps are not of the skeleton.
    """
    maps = _maps(maps)
    if maps.shape[1] != len(skeleton):
        raise SchemaError(f"heatmaps of {maps.shape[1]} keypoints, expected {len(skeleton)} ({skeleton.name!r})")
    out = maps[:, skeleton.flip_index(), :, ::-1]  # a copy: an index array was used
    if shift:
        out[..., 1:] = out[..., :-1].copy()
    return out


def _labels(
    keypoints: NDArray[np.floating], visibility: NDArray[np.integer], occluded: Occluded, absent: Absent
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """Keypoints (N, K, 2) as float64, whose maps are drawn (N, K), whose are to be learnt as empty (N, K)."""
    xy, seen = np.asarray(keypoints, np.float64), np.asarray(visibility)
    if xy.ndim != 3 or xy.shape[2] != 2 or seen.shape != xy.shape[:2]:
        raise SchemaError(f"keypoints of shape {xy.shape}, visibility of {seen.shape}; expected (N, K, 2) and (N, K)")
    missing, hidden, shown = seen == 0, seen == 1, (seen == 2) | (seen == 3)
    if not (missing | hidden | shown).all():
        found = np.unique(seen[~(missing | hidden | shown)])[:5].tolist()
        raise SchemaError(f"visibility {found}, expected 0 (absent), 1 (occluded), 2 (visible) or 3 (not known)")
    drawn = shown | hidden if occluded == "target" else shown
    nothing = np.zeros_like(missing)
    return xy, drawn, (hidden if occluded == "negative" else nothing) | (missing if absent == "negative" else nothing)


def _reachable(cells: Floats) -> Floats:
    """NaN and endless coordinates as ones far outside, which can be made indices."""
    return np.clip(np.where(np.isnan(cells), -_FAR, cells), -_FAR, _FAR)


def _touches(centre: Floats, radius: float | Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(N, K): the patch about a centre (N, K, 2) touches the map, by the official test: `< 0` of its exclusive end."""
    touches: NDArray[np.bool_] = np.all((centre - radius < np.array(size)) & (centre + radius + 1 >= 0), axis=-1)
    return touches


def _profile(centre: Floats, cells: int, sigma: float) -> Floats:
    """(N, K, cells) Gaussian of peak 1 about centres (N, K) along one axis."""
    profile: Floats = np.exp(-np.square(np.arange(cells) - centre[..., None]) / (2 * sigma**2))
    return profile


def _draw(
    centre: Floats, patch: Floats | None, drawn: NDArray[np.bool_], size: tuple[int, int], sigma: float
) -> tuple[Maps, Maps]:
    """Maps and weights of Gaussians about `centre`, cut to whole 3σ about `patch` (None: not cut).

    A Gaussian is the product of its two profiles, so that only W + H exponentials a keypoint are taken.
    """
    radius = 3 * sigma if patch is None else math.floor(3 * sigma)
    drawn = drawn & _touches(centre if patch is None else patch, radius, size)
    cells = np.concatenate([np.arange(size[0]), np.arange(size[1])])  # both axes at once: small arrays take their time
    steps = cells - np.repeat(centre, size, axis=-1)  # (N, K, W + H)
    profiles = np.exp(-np.square(steps) / (2 * sigma**2))
    if patch is not None:
        profiles *= np.abs(steps if patch is centre else cells - np.repeat(patch, size, axis=-1)) <= radius
    across, down = np.split(profiles.astype(np.float32), [size[0]], axis=-1)
    down *= drawn[..., None]
    return down[..., :, None] * across[..., None, :], drawn.astype(np.float32)


def _maps(maps: NDArray[np.floating]) -> NDArray[np.floating]:
    array: NDArray[Any] = np.asarray(maps)
    if array.ndim != 4 or 0 in array.shape[2:] or array.dtype.kind != "f":
        raise SchemaError(f"heatmaps: {array.dtype} of shape {array.shape}, expected floats (N, K, H, W)")
    return array if array.dtype.itemsize > 2 else array.astype(np.float32)


def _window(maps: NDArray[np.floating], x: NDArray[np.intp], y: NDArray[np.intp], reach: int) -> Floats:
    """(N, K, 2·reach + 1, 2·reach + 1) cells about x, y (N, K); beyond the border, the border's."""
    height, width = maps.shape[2:]
    steps = np.arange(-reach, reach + 1)
    columns = np.clip(x[..., None] + steps, 0, width - 1)  # (N, K, side)
    rows = np.clip(y[..., None] + steps, 0, height - 1)
    n, k = np.ogrid[: maps.shape[0], : maps.shape[1]]
    found = maps[n[..., None, None], k[..., None, None], rows[..., :, None], columns[..., None, :]]
    return np.asarray(found, np.float64)


def _newton(dx: Floats, dy: Floats, dxx: Floats, dxy: Floats, dyy: Floats) -> Floats:
    """(N, K, 2) step −H⁻¹·d; 0 where H is singular, or a neighbour is not finite."""
    determinant = (dxx * dyy - np.square(dxy))[..., None]
    top = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=-1)
    step = np.divide(top, determinant, out=np.zeros_like(top), where=(determinant != 0) & np.isfinite(determinant))
    moved: Floats = np.where(np.isfinite(step), step, 0)
    return moved


def _band(cells: int, kernel: int) -> Floats:
    """(cells, cells) matrix of the blur along one axis, zeros beyond the ends."""
    _odd(kernel)
    half = kernel // 2
    if kernel in _SMALL_KERNELS:
        weights = np.array(_SMALL_KERNELS[kernel], np.float64)
    else:
        weights = np.exp(-np.square(np.arange(kernel) - half) / (2 * (0.3 * (half - 1) + 0.8) ** 2))
    offset = np.subtract.outer(np.arange(cells), np.arange(cells)) + half
    return np.where((offset >= 0) & (offset < kernel), (weights / weights.sum())[np.clip(offset, 0, kernel - 1)], 0.0)


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) > 0


def _size(name: str, value: tuple[int, int]) -> None:
    if not isinstance(value, tuple) or len(value) != 2 or not all(map(_whole, value)):
        raise SchemaError(f"{name} {value!r}, expected (width, height), whole numbers above 0")


def _positive(name: str, value: float) -> None:
    if not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
        raise SchemaError(f"{name} {value!r}, expected a number above 0")


def _odd(kernel: int) -> None:
    if not _whole(kernel) or kernel % 2 == 0:
        raise SchemaError(f"kernel {kernel!r}, expected an odd whole number of cells above 0")


def _one_of(name: str, value: str, names: Any) -> None:
    if value not in get_args(names):
        raise SchemaError(f"{name} {value!r}, expected one of {', '.join(get_args(names))}")
