"""Batches on the way into a network, in torch: warped, recoloured, covered, normalised; and their target heatmaps.

The same arithmetic as the NumPy and OpenCV way (`image.warp`, `image.recolour`, `occlusion.paint`,
`kpdata.codec.HeatmapCodec.encode`) on the same parameters, for B people at once, on the CPU or a GPU:

    pixels = warp(images, matrix, (192, 256))           # (B, 3, 256, 192) float32, whole values 0 to 255
    pixels = fill_holes(recolour(pixels, colour), holes)
    network_input = normalise(pixels, mean, std)
    maps, weights = heatmaps(keypoints, label_worth(visibility), codec)

Nothing here waits for the device: no value is read back, no shape depends on one, no constant is copied from the host,
so that a CUDA graph can capture it. Therefore values are not checked: what the parameters must be stands below. Pixels
are float32 under autocast too. torch is needed to import this module, and no other of `kpdata.augment` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kpdata.augment.image import BLACK
from kpdata.codec import Absent, HeatmapCodec, Occluded
from kpdata.schema import Visibility

IGNORE, TARGET, NEGATIVE = 0, 1, 2
"""What a label is worth: weight 0; a Gaussian with weight 1; an empty map with weight 1."""

_WORTH = {"ignore": IGNORE, "target": TARGET, "negative": NEGATIVE}
_FAR = 1e6  # cells: beyond every map, and still a number
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# R, G, B to the chroma I, Q of YIQ: FCC NTSC, 1953, as in Python's colorsys
_I = (0.596, -0.274, -0.322)
_Q = (0.211, -0.523, 0.312)


# -------------------------------------------------------------------------------------------------------------- pixels


def planes(images: Tensor) -> Tensor:
    """Pictures (B, H, W, 3) uint8 as planes (B, 3, H, W) float32, 0 to 255."""
    return images.permute(0, 3, 1, 2).float()


def warp(images: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures (B, h, w, 3) uint8 after the maps (B, 3, 3), as (B, 3, H, W) float32 of whole values; size is (W, H).

    matrix: pixel of the picture -> pixel of the result, any float type; integers are the centres of pixels, as in
    `kpdata.geometry`. Affine or perspective; one without inverse gives NaN. Beyond the picture lies black. Flips and
    quarter turns copy pixels exactly.

    This is `image.warp(..., antialias=False)`, with bilinear weights in float32 where OpenCV rounds them to 1/32 px.
    `antialias=True` differs from it only where the map shrinks by 2 or more: keep packed crops smaller than that.
    """
    height, width = images.shape[1:3]
    x, y, z = _inverse(matrix.double()).unbind(1)  # rows: pixel of the result -> pixel of the picture
    # grid_sample without align_corners: -1 and 1 are the outer edges, so that pixel x lies at (2 x + 1) / width - 1.
    rows = torch.stack((x * (2 / width) + z * (1 / width - 1), y * (2 / height) + z * (1 / height - 1), z), 1)
    along = rows[..., :1] * torch.arange(size[0], device=images.device) + rows[..., 2:]  # (B, 3, W)
    down = rows[..., 1:2] * torch.arange(size[1], device=images.device)  # (B, 3, H)
    place = along.float()[:, :, None] + down.float()[..., None]  # (B, 3, H, W)
    grid = (place[:, :2] / place[:, 2:]).permute(0, 2, 3, 1)
    return F.grid_sample(planes(images), grid, "bilinear", "zeros", align_corners=False).round()


def recolour(pixels: Tensor, colour: Tensor) -> Tensor:
    """Pixels (B, 3, H, W), RGB of whole values, in other colours, rounded to whole values 0 to 255 again.

    colour (B, 4): factors of brightness, contrast and saturation, and degrees of hue, as `ColorJitter` draws them; a
    row of 1, 1, 1, 0 leaves its picture as it is. The arithmetic is `image.recolour`'s: one linear map a picture.
    """
    brightness, contrast, saturation, hue = colour.double().unbind(1)  # (B,) each
    mean = (pixels.mean((2, 3)) * _row(_LUMA, contrast)).sum(1)  # (B,) the picture's grey
    offset = ((1 - contrast) * brightness * mean).float()[:, None, None, None]
    factors = ((brightness * contrast)[:, None, None] * _turn(saturation, hue)).float()[..., None, None]
    # Sums of planes and no matrix product, which autocast and TF32 would shorten to 8 and 11 bits.
    for channel in range(3):
        offset = torch.addcmul(offset, factors[:, :, channel], pixels[:, channel : channel + 1])
    return offset.round().clamp(0, 255)


def fill_holes(pixels: Tensor, holes: Tensor, fill: tuple[int, int, int] | Literal["mean"] = BLACK) -> Tensor:
    """Pixels (B, 3, H, W) with rectangles filled, as `CoarseDropout` fills them.

    holes (B, R, 4): whole x, y, w, h, px: columns x to x + w - 1 and rows y to y + h - 1, cut to the picture; a row of
    NaN is none. fill: a colour (R, G, B), or "mean", that of each picture in whole values.
    """
    height, width = pixels.shape[2:]
    x, y, w, h = (holes[..., i, None] for i in range(4))  # (B, R, 1)
    column = torch.arange(width, device=pixels.device)
    row = torch.arange(height, device=pixels.device)
    across = (column >= x) & (column < x + w)  # (B, R, W)
    down = (row >= y) & (row < y + h)  # (B, R, H)
    cover = torch.bmm(down.float().mT, across.float())[:, None] > 0  # (B, 1, H, W); sums of ones: any precision will do
    if fill == "mean":
        return torch.where(cover, pixels.mean((2, 3), keepdim=True).round(), pixels)
    return torch.where(cover, _row(fill, pixels)[:, None, None], pixels)


def normalise(
    pixels: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float], *, bgr: bool = False
) -> Tensor:
    """Pixels (B, 3, H, W), RGB 0 to 255, as a network takes them: (pixels / 255 - mean) / std.

    bgr: the channels in the order B, G, R; mean and std are in the order of the result.
    """
    factor, offset = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    a, b = (_row(values, pixels)[:, None, None] for values in (factor, offset))
    return torch.addcmul(b, pixels.flip(1) if bgr else pixels, a)  # one pass, and the layout stays what it is


def _inverse(m: Tensor) -> Tensor:
    """(B, 3, 3) inverses, from cross products: torch's own waits for the device, to report a matrix without one."""
    a, b, c = m.unbind(2)  # columns
    rows = torch.stack((torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)), 1)
    return rows / (rows[:, 2] * c).sum(1)[:, None, None]


def _turn(saturation: Tensor, hue: Tensor) -> Tensor:
    """(B, 3, 3) maps of (R, G, B) that keep the luma: chroma times saturation (B,), turned by hue (B,), in degrees.

    A colour is its luma · (1, 1, 1) plus its chroma; chroma is I and Q times what one unit of each is in (R, G, B).
    """
    luma, i, q = (_row(values, hue) for values in (_LUMA, _I, _Q))
    volume = (luma * torch.linalg.cross(i, q)).sum()
    of_i, of_q = torch.linalg.cross(q, luma) / volume, torch.linalg.cross(luma, i) / volume
    angle = torch.deg2rad(hue)[:, None]
    new_i = angle.cos() * i - angle.sin() * q  # (B, 3) rows: from a colour to its I after the turn
    new_q = angle.sin() * i + angle.cos() * q
    chroma = of_i[:, None] * new_i[:, None] + of_q[:, None] * new_q[:, None]
    turned: Tensor = luma + saturation[:, None, None] * chroma
    return turned


def _row(values: Sequence[float], like: Tensor) -> Tensor:
    """(3,) of three numbers, with device and type of `like`, made there: a tensor of a list would be copied to it."""
    return torch.stack([like.new_full((), value) for value in values])


# ------------------------------------------------------------------------------------------------------------- targets


def label_worth(visibility: Tensor, occluded: Occluded = "target", absent: Absent = "ignore") -> Tensor:
    """(B, K) int8, IGNORE, TARGET or NEGATIVE: what labels of this visibility (B, K) are worth; see `HeatmapCodec`."""
    worth = torch.full_like(visibility, TARGET, dtype=torch.int8)
    worth = worth.masked_fill(visibility == Visibility.OCCLUDED.value, _WORTH[occluded])
    return worth.masked_fill(visibility == Visibility.ABSENT.value, _WORTH[absent])


def worth_table(policies: Iterable[tuple[Occluded, Absent]]) -> Tensor:
    """(S, 4) int8: the worth of visibility 0 to 3 in each of S sources that differ in (occluded, absent).

    `table[source[:, None], visibility.long()]` is `label_worth` of people of several sources, without a branch.
    """
    order = torch.tensor([value.value for value in Visibility], dtype=torch.int8)
    return torch.stack([label_worth(order, occluded, absent) for occluded, absent in policies])


def heatmaps(keypoints: Tensor, worth: Tensor, codec: HeatmapCodec) -> tuple[Tensor, Tensor]:
    """Maps (B, K, H, W) and weights (B, K), float32, of keypoints (B, K, 2) px: `codec.encode` to 1e-6, odd cases too.

    worth (B, K): of `label_worth`, or of a row of `worth_table`; the codec's own `occluded` and `absent` are not looked
    at. NaN counts as outside. The places are float64 until the maps are drawn: rounding to cells has ties.
    """
    touches, profiles = worth == TARGET, []
    for axis in (0, 1):
        profile, meets = _profile(keypoints[..., axis].double(), axis, codec)
        touches = touches & meets
        profiles.append(profile)
    across, down = profiles[0], profiles[1] * touches[..., None]
    return down[..., :, None] * across[..., None, :], (touches | (worth == NEGATIVE)).float()


def _profile(place: Tensor, axis: int, codec: HeatmapCodec) -> tuple[Tensor, Tensor]:
    """(B, K, cells) the Gaussian along an axis about `place` (B, K) px, and (B, K) whether its patch meets the map."""
    cells, radius = codec.heatmap_size[axis], 3 * codec.sigma
    exact = (place / float(codec.cell[axis])).nan_to_num(-_FAR).clamp(-_FAR, _FAR)
    rounded = (exact + 0.5).trunc()  # toward zero, as the official `int(x + 0.5)`
    centre, patch = (rounded if codec.target == "gaussian" else exact), (exact if codec.target == "dark" else rounded)
    step = torch.arange(cells, device=place.device, dtype=place.dtype)
    profile = (-(step - centre[..., None]).square() / (2 * codec.sigma**2)).exp()
    if codec.target != "dark":  # cut to whole cells about the rounded centre
        radius = math.floor(radius)
        profile = profile * ((step - patch[..., None]).abs() <= radius)
    return profile.float(), (patch - radius < cells) & (patch + radius + 1 >= 0)
