"""Albumentations' transforms on a `Sample` (the other way round: `kpdata.augment.wrapper.for_albumentations`).

- `Pixels([A.ColorJitter(), …])`: colour, blur, noise, compression and weather, on the picture alone.
- `Spatial([A.Rotate(limit=30), …])`: a spatial pipeline of yours on the picture and everything that belongs to it.

Two things go wrong silently in albumentations, and do not here. Its flips do not swap left and right (2.0.8 has nothing
for it). And several transforms take the keypoints elsewhere than the pixels: blobs drawn at keypoints, followed through
every transform of 2.0.8, give the tables below. What is off by more than 0.2 px is refused, with what to use instead.

Version and licence. albumentations 2.0.8 (MIT) is the last permissive release, and no longer maintained; its
successor, albumentationsx, is AGPL-3.0 or commercial. kpdata stays with 2.0.8, exactly: the tables hold for it alone.
The bridge is thin: geometry and swapping are kpdata's own. When it is imported, albumentations asks the network for its
newest version; that is switched off here (NO_ALBUMENTATIONS_UPDATE=1) before the import.

Random numbers come from kpdata's generator alone: equal seed, epoch and index give equal pictures in any worker. One
object is not to be used by two threads at once (albumentations keeps state in its transforms); processes are fine.
"""

from __future__ import annotations

import copy
import importlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from kpdata.augment import kernels
from kpdata.augment.kernels import Floats, Size
from kpdata.augment.maps import targets_after
from kpdata.augment.sample import Sample
from kpdata.errors import KpdataError, MissingExtra, SchemaError

VERSION = "2.0.8"

EXACT = {
    "NoOp": 0.02, "HorizontalFlip": 0.02, "VerticalFlip": 0.02, "Transpose": 0.02, "D4": 0.02, "SquareSymmetry": 0.02,
    "RandomRotate90": 0.02, "Affine": 0.04, "Rotate": 0.03, "SafeRotate": 0.04, "ShiftScaleRotate": 0.04,
    "Perspective": 0.06, "Crop": 0.02, "CenterCrop": 0.02, "RandomCrop": 0.02, "RandomCropFromBorders": 0.02,
    "CropNonEmptyMaskIfExists": 0.02, "BBoxSafeRandomCrop": 0.02, "AtLeastOneBBoxRandomCrop": 0.02, "CropAndPad": 0.02,
    "Pad": 0.02, "PadIfNeeded": 0.02,
}  # fmt: skip
"""Spatial transforms whose keypoints stay on their pixels: the largest error measured, px. 0.02 is the measure's own
(8-bit blobs). Affine and its kind with bilinear interpolation; the nearest neighbour gives 0.17. Perspective with blobs
of 1.5 px: wider ones change their shape under it, which no keypoint can follow."""

MIRRORING = frozenset({"HorizontalFlip", "VerticalFlip", "Transpose", "D4", "SquareSymmetry"})
"""Those of EXACT that can mirror: left and right are then swapped."""


class Refusal(NamedTuple):
    """Why a transform is refused, and what to use."""

    why: str
    instead: str


_HALF_PIXEL = "its keypoints miss the half pixel of a resize: up to {} px off the picture"
_BENDS = "it bends the picture, and its keypoints follow only to {} px"
_COVERS = "it covers keypoints, and they silently stay visible"
_MOVES = "it moves the picture by up to {} px, and the keypoints stay"
_PICTURES = "it needs other pictures as an additional input, which a Sample does not have"
_FLOATS = "it gives floats, and a Sample's picture is uint8"
_CROPS = "kpdata.augment.RandomCropAroundPeople crops and resizes in one exact warp"
_RESIZES = "kpdata.augment.Resize or Letterbox, or RandomAffine for a random scale, are exact"
_WARPS = "kpdata.augment.RandomAffine or Perspective keep keypoints on their pixels"
_OCCLUDES = "kpdata.augment.{} turns the visibility of covered keypoints to occluded"
_LATER = "convert after the augmentation, in your data set or model"

REFUSED = {
    **{
        name: Refusal(_HALF_PIXEL.format(off), _RESIZES)
        for name, off in {"Resize": 0.55, "LongestMaxSize": 0.41, "SmallestMaxSize": 0.65, "RandomScale": 0.77}.items()
    },
    **{
        name: Refusal(_HALF_PIXEL.format(off), _CROPS)
        for name, off in {"RandomResizedCrop": 0.29, "RandomSizedCrop": 0.42, "RandomSizedBBoxSafeCrop": 0.76}.items()
    },
    **{
        name: Refusal(_BENDS.format(off), _WARPS)
        for name, off in {
            "ElasticTransform": 2.1, "GridDistortion": 2.7, "GridElasticDeform": 2.4, "OpticalDistortion": 2.0,
            "PiecewiseAffine": 3.6, "ThinPlateSpline": 3.8,
        }.items()
    },
    **{
        name: Refusal(_COVERS, _OCCLUDES.format(ours))
        for name, ours in {
            "CoarseDropout": "CoarseDropout", "Erasing": "CoarseDropout", "XYMasking": "CoarseDropout",
            "TimeMasking": "CoarseDropout", "FrequencyMasking": "CoarseDropout", "GridDropout": "GridMask",
            "ConstrainedCoarseDropout": "KeypointCutout", "MaskDropout": "PasteObject",
            "OverlayElements": "PasteObject",
        }.items()
    },
    **{
        name: Refusal(_MOVES.format(off), instead)
        for name, off, instead in (
            ("MotionBlur", 4.3, "A.MotionBlur(allow_shifted=False, direction_range=(0, 0)) stays in place"),
            ("ZoomBlur", 7.2, "A.Defocus or A.GaussianBlur stay in place"),
            ("GlassBlur", 1.6, "A.Defocus or A.GaussianBlur stay in place"),
            ("Downscale", 4.3, "A.GaussianBlur and A.ImageCompression lose detail in place"),
            ("Emboss", 2.1, "A.Sharpen or A.UnsharpMask stay in place"),
            ("Morphological", 0.7, "A.Blur or A.MedianBlur stay in place"),
            ("ChromaticAberration", 0.4, "A.RGBShift changes the channels in place"),
        )
    },
    **dict.fromkeys(("FDA", "HistogramMatching", "PixelDistributionAdaptation"), Refusal(_PICTURES, "A.ColorJitter")),
    **dict.fromkeys(("Normalize", "ToFloat"), Refusal(_FLOATS, _LATER)),
    "FromFloat": Refusal("it takes floats, and a Sample's picture is uint8", _LATER),
    "TextImage": Refusal(_PICTURES, _OCCLUDES.format("CoarseDropout")),
    "Mosaic": Refusal(_PICTURES, "kpdata.augment.Mosaic keeps ids and visibility"),
    "RandomCropNearBBox": Refusal("it needs a box as an additional input, which a Sample does not have", _CROPS),
    "RandomGridShuffle": Refusal("it tears people apart", _OCCLUDES.format("HideAndSeek")),
    "PixelDropout": Refusal("it covers single pixels, and those of masks", "A.SaltAndPepper is such a noise"),
    "Lambda": Refusal("nobody knows what your function does to keypoints", "write a transform of kpdata"),
}  # fmt: skip
"""Transforms of 2.0.8 that neither `Pixels` nor `Spatial` take. Resizes were measured at factors of 0.5 to 2, the
others at or near their default options, in a picture of 321 x 242 px: larger pictures or options move them farther."""


# -------------------------------------------------------------------------------------------------------- their side


@cache
def albumentations() -> Any:
    """The package, without its look-up on the network. MissingExtra without it, KpdataError for another version."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        package = importlib.import_module("albumentations")
    except ImportError as error:
        raise MissingExtra("albumentations", "augment", "kpdata.augment.bridge") from error
    if package.__version__ != VERSION:
        raise KpdataError(
            f"albumentations {package.__version__} is installed, kpdata's tables were measured with {VERSION}",
            hint=f"pip install 'albumentations=={VERSION}'",
        )
    return package


@dataclass(frozen=True)
class Pixels:
    """Albumentations' pixel transforms on the picture; keypoints, boxes and all else stay as they are.

    transforms: image-only transforms of albumentations, or subclasses of yours of `A.ImageOnlyTransform`, also within
    OneOf, SomeOf, Sequential and the like; applied in order, each with its own `p`. They are copied.

    Refused when it is made (SchemaError names the transform and what to use instead): spatial transforms, those that
    cover keypoints, those that move the picture (MotionBlur but for its symmetric form, ZoomBlur, Downscale, …), those
    that give no uint8 or need more than the picture. See `REFUSED`.
    """

    transforms: Sequence[Any]
    _pipeline: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        own = _checked(self, self.transforms, spatial=False)
        object.__setattr__(self, "transforms", own)
        object.__setattr__(self, "_pipeline", albumentations().Compose(list(own)))

    def draw(self, sample: Sample, rng: np.random.Generator) -> int:
        """The seed of albumentations' own random numbers, which it draws when it sees the picture."""
        return _seed(rng)

    def apply(self, sample: Sample, drawn: int) -> Sample:
        """KpdataError where albumentations fails on this picture, or gives one of another size."""
        image = _run(self, self._pipeline, drawn, image=sample.image)["image"]
        if image.shape[:2] != sample.image.shape[:2]:
            raise KpdataError(
                f"Pixels: a picture of {sample.size} px came back as {image.shape[1::-1]}: not a pixel transform"
            )
        return sample.changed(image=image)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample, rng))


@dataclass(frozen=True)
class Spatial:
    """A spatial pipeline of albumentations on a sample: every person, keypoint, box, area, outline and mask with it.

    transforms: members of `EXACT`, and what `Pixels` takes, also within OneOf, SomeOf, Sequential and the like;
    applied in order, each with its own `p`. They are copied. The picture is albumentations' own, with its options.
    Where it went is read from marker points, as one map, and checked with each keypoint and an index of its row. The
    other targets then follow that map in float64, as in every transform of kpdata: rows and visibility stay, absent
    points stay absent, `matrix` and `mirrored` account for it, and a map that mirrors swaps left and right.

    Refused when it is made (SchemaError names the transform and what to use instead): all that is not proven, reflected
    borders (they show people a second time, and albumentations multiplies the keypoints), CropAndPad(keep_size=True).
    SkeletonError where it could mirror and the skeleton's twins are not known, whatever the dice say.
    """

    transforms: Sequence[Any]
    _pipeline: Any = field(init=False, repr=False, compare=False)
    _names: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        own = _checked(self, self.transforms, spatial=True)
        package = albumentations()
        names = frozenset(type(leaf).__name__ for leaf in _leaves(own))
        pipeline = package.Compose(
            [*own, package.NoOp(p=1.0)],  # it takes points and boxes: no warning where all others are pixel transforms
            keypoint_params=package.KeypointParams(format="xy", label_fields=["row"], remove_invisible=False),
            bbox_params=package.BboxParams(
                format="coco", label_fields=["person"], clip=True, filter_invalid_bboxes=True
            ),
        )
        object.__setattr__(self, "transforms", own)
        object.__setattr__(self, "_pipeline", pipeline)
        object.__setattr__(self, "_names", names)

    def draw(self, sample: Sample, rng: np.random.Generator) -> int:
        """The seed of albumentations' own random numbers, which it draws when it sees the picture."""
        if self._names & MIRRORING:
            sample.skeleton.flip_index()
        return _seed(rng)

    def apply(self, sample: Sample, drawn: int) -> Sample:
        """KpdataError where albumentations fails on this sample, or its keypoints are not where the picture went."""
        source = _markers(sample.size)
        flat = sample.keypoints.reshape(-1, 2)
        inside = (sample.visibility.reshape(-1) > 0) & np.isfinite(flat).all(1) & ~kernels.outside(flat, sample.size)
        points = np.concatenate([source, np.where(inside[:, None], flat, source[-1])])
        data = {
            "image": sample.image,
            "keypoints": points,
            "row": np.arange(len(points)),
            **_guides(sample, self._names),
        }
        out = _run(self, self._pipeline, drawn, **data)
        moved = np.asarray(out["keypoints"], np.float64).reshape(-1, 2)
        if not np.array_equal(np.asarray(out["row"]), data["row"]):
            raise KpdataError(f"Spatial: {len(points)} points went in, rows {_few(out['row'])} came back")
        matrix = _matrix(source, moved[: len(source)])
        image = np.ascontiguousarray(out["image"])
        _prove(kernels.warp_keypoints(points, matrix), moved)
        return sample.changed(image=image, **targets_after(sample, matrix, (image.shape[1], image.shape[0])))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample, rng))


def _checked(owner: Pixels | Spatial, transforms: Sequence[Any], *, spatial: bool) -> tuple[Any, ...]:
    """Copies of the transforms; SchemaError for the first that is refused."""
    where, package = type(owner).__name__, albumentations()
    if isinstance(transforms, package.BaseCompose | package.BasicTransform):
        transforms = [transforms]
    if not isinstance(transforms, Sequence) or not transforms:
        raise SchemaError(f"{where}: {transforms!r}, expected a list of at least one transform of albumentations")
    for leaf in _leaves(transforms):
        refusal = _refusal(leaf, spatial=spatial)
        if refusal is not None:
            raise SchemaError(f"{where}: {type(leaf).__name__} is refused: {refusal.why}", hint=refusal.instead)
    return tuple(copy.deepcopy(list(transforms)))


def _leaves(transforms: Sequence[Any]) -> Iterator[Any]:
    """The transforms inside OneOf, Sequential and the like, however deep; a SelectiveChannelTransform itself too."""
    package = albumentations()
    for transform in transforms:
        if isinstance(transform, package.SelectiveChannelTransform):
            yield transform
        if isinstance(transform, package.BaseCompose):
            yield from _leaves(transform.transforms)
        else:
            yield transform


def _refusal(leaf: Any, *, spatial: bool) -> Refusal | None:
    """Why this transform is not taken; None: it is."""
    package, name = albumentations(), type(leaf).__name__
    if isinstance(leaf, package.SelectiveChannelTransform):
        return Refusal("it would move some channels only", "Pixels([…]) takes it") if spatial else None
    if not isinstance(leaf, package.BasicTransform):
        return Refusal(
            f"it is no transform of albumentations {VERSION}", "transforms of kpdata go beside it, in Compose"
        )
    known = type(leaf) is getattr(package, name, None)
    if known and name == "MotionBlur" and not leaf.allow_shifted and tuple(leaf.direction_range) == (0, 0):
        return None
    if known and name in REFUSED:
        return REFUSED[name]
    if isinstance(leaf, package.ImageOnlyTransform):
        return None
    if not (known and name in EXACT):
        instead = (
            f"proven are {', '.join(EXACT)}" if spatial else "kpdata.augment's own transforms, or a colour transform"
        )
        return Refusal("nobody has proven that its keypoints stay on their pixels", instead)
    return (
        _refused_options(leaf, name)
        if spatial
        else Refusal("it moves pixels", "Spatial([…]) moves keypoints with them")
    )


def _refused_options(leaf: Any, name: str) -> Refusal | None:
    """Options with which a transform of `EXACT` is not exact."""
    import cv2

    reflecting = (cv2.BORDER_REFLECT, cv2.BORDER_REFLECT_101, cv2.BORDER_WRAP)
    if name == "CropAndPad" and leaf.keep_size:
        return Refusal(
            f"keep_size=True resizes, and {_HALF_PIXEL.format(0.73)}", "keep_size=False, then kpdata.augment.Resize"
        )
    if getattr(leaf, "border_mode", None) in reflecting:
        hint = "border_mode=cv2.BORDER_CONSTANT or cv2.BORDER_REPLICATE"
        return Refusal("its border shows people a second time, and their keypoints are multiplied", hint)
    return None


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))


def _run(owner: object, pipeline: Any, seed: int, **data: Any) -> dict[str, Any]:
    """The pipeline's output; its random numbers from `seed` alone, shared by all members (`set_random_seed` would give
    each the same ones)."""
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    try:
        out: dict[str, Any] = pipeline(**data)
    except Exception as error:  # whatever a foreign pipeline raises is told in one line
        where, size = type(owner).__name__, data["image"].shape[1::-1]
        raise KpdataError(f"{where}: albumentations failed on a picture of {size} px: {error}") from error
    return out


def _guides(sample: Sample, names: frozenset[str]) -> dict[str, Any]:
    """Boxes and masks for the crops that look at them; what they become is read from the map instead."""
    assert sample.bbox is not None  # Sample fills it
    usable = np.isfinite(sample.bbox).all(1) & (sample.bbox[:, 2:] > 0).all(1)
    usable &= bool(names & {"BBoxSafeRandomCrop", "AtLeastOneBBoxRandomCrop"})
    guides: dict[str, Any] = {"bboxes": sample.bbox[usable], "person": np.flatnonzero(usable)}
    if sample.masks is not None and "CropNonEmptyMaskIfExists" in names:
        guides["mask"] = sample.masks.any(0).astype(np.uint8)
    return guides


def _markers(size: Size) -> Floats:
    """(5, 2) px: the corners of a picture of (W, H), and its middle."""
    width, height = size
    return np.array([[0, 0], [width, 0], [0, height], [width, height], [width / 2, height / 2]], np.float64)


def _matrix(source: Floats, moved: Floats) -> Floats:
    """(3, 3) the map that took the markers (5, 2) there. They come back in float32: whole numbers are made whole again,
    so that flips, crops and quarter turns are exact."""
    gap = float(np.abs(moved[1] + moved[2] - moved[0] - moved[3]).max())
    if gap > 5e-3:
        return kernels.perspective(source[:4], moved[:4])
    columns = (moved[1] - moved[0]) / source[3, 0], (moved[2] - moved[0]) / source[3, 1]
    matrix = np.eye(3)
    matrix[:2] = np.stack([*columns, moved[0]], axis=1)
    whole = np.round(matrix)
    return whole if np.abs(whole - matrix).max() < 1e-5 else matrix


def _prove(expected: Floats, found: Floats) -> None:
    """KpdataError where albumentations' keypoints are not those of one map, beyond what float32 loses."""
    off = np.abs(expected - found).max(axis=1)
    allowed = 0.02 + 1e-5 * np.abs(found).max(axis=1)
    if (off > allowed).any():
        worst = int(np.argmax(off - allowed))
        raise KpdataError(
            f"Spatial: row {worst} came back at {_few(found[worst])}, {off[worst]:.2f} px from where the picture went",
            hint="the pipeline is not one map of the plane; leave out its members one by one to find which",
        )


def _few(values: Any) -> str:
    shown = [f"{value:g}" for value in np.asarray(values).reshape(-1)[:8].tolist()]
    return f"[{', '.join(shown)}{', …' if np.size(values) > 8 else ''}]"
