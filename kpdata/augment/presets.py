"""Published recipes of top-down training, as plain calls.

    train = hrnet()                                  # or simple_baseline, mmpose, vitpose, occlusion_heavy, …
    sample = train(person, generator(seed, epoch, index))        # a Sample of one person -> its augmented crop
    plain = train.evaluation(person)                             # the crop that validation and prediction use

The numbers and their sources stand in `kpdata.augment.recipes`; every one can be given as a keyword. Crops are RGB.
What differs from the published code: pictures that shrink by 2 or more are averaged first (`antialias=False` gives the
plain warp); the official Simple Baseline was trained on BGR, which matters only to who loads its weights.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from kpdata.augment.compose import Maybe
from kpdata.augment.crops import Crop, HalfBody, TopDown
from kpdata.augment.kernels import Convention, Size
from kpdata.augment.maps import Transform
from kpdata.augment.occlusion import CoarseDropout, Covered, KeypointCutout
from kpdata.augment.recipes import (
    FINETUNE_SMALL,
    HRNET,
    MMPOSE,
    OCCLUSION_HEAVY,
    SIMPLE_BASELINE,
    VITPOSE,
    Recipe,
    Spread,
)
from kpdata.augment.sample import Sample
from kpdata.augment.transforms import ColorJitter
from kpdata.errors import SchemaError


@dataclass(frozen=True, slots=True)
class PresetDraw:
    """What a preset draws: the crop, and the seed of the steps after it, whose numbers depend on the crop."""

    crop: Crop
    seed: int


@dataclass(frozen=True, slots=True)
class Preset:
    """The transform of a recipe: a crop of the one person of a sample, then `after`, one step after the other.

    recipe: the numbers, which `crop` was made from. `draw`, `apply` and the call are those of every transform.
    """

    recipe: Recipe
    crop: TopDown
    after: tuple[Transform, ...] = ()

    def draw(self, sample: Sample, rng: np.random.Generator) -> PresetDraw:
        """The parameters. Errors as `TopDown.draw`: not one person, no box, twins or halves that are not known."""
        return PresetDraw(self.crop.draw(sample, rng), int(rng.integers(2**63)))

    def apply(self, sample: Sample, drawn: PresetDraw) -> Sample:
        """The augmented crop; equal parameters give an equal one."""
        return self.finish(self.crop.apply(sample, drawn.crop), drawn)

    def finish(self, found: Sample, drawn: PresetDraw) -> Sample:
        """The crop after `after`."""
        rng = np.random.Generator(np.random.PCG64(drawn.seed))
        for step in self.after:
            found = step(found, rng)
        return found

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw the parameters and apply them."""
        return self.apply(sample, self.draw(sample, rng))

    @property
    def plain(self) -> TopDown:
        """The crop without anything random: equal for every generator."""
        return TopDown(
            self.crop.size, self.crop.padding,
            convention=self.crop.convention, clean=self.crop.clean, border=self.crop.border,
            antialias=self.crop.antialias,
        )  # fmt: skip

    def evaluation(self, sample: Sample) -> Sample:
        """The plain crop of the one person, as validation and prediction use it; `crops.to_image` is the way back."""
        return self.plain(sample, np.random.default_rng(0))


def _preset(recipe: Recipe, antialias: bool, after: tuple[Transform, ...] = ()) -> Preset:
    spreads = {s.distribution for s in (recipe.rotation, recipe.scale, recipe.shift) if s.factor}
    if len(spreads) > 1:
        raise SchemaError(f"recipe {recipe.name!r}: distributions {sorted(spreads)}, expected one for all amounts")
    half = None
    if recipe.half_body:
        half = HalfBody(recipe.half_body, recipe.half_body_above, recipe.upper, at_least=recipe.half_body_least)
    crop = TopDown(
        recipe.size, recipe.padding,
        rotation=recipe.rotation.factor, rotation_p=recipe.rotation.p,
        scale=recipe.scale.factor, scale_p=recipe.scale.p,
        shift=recipe.shift.factor, shift_p=recipe.shift.p,
        flip=recipe.flip, half_body=half, distribution=spreads.pop() if spreads else "normal",
        convention=recipe.convention, antialias=antialias,
    )  # fmt: skip
    return Preset(recipe, crop, after)


def _changed(spread: Spread, factor: float) -> Spread:
    return replace(spread, factor=factor)


def hrnet(
    size: Size = (192, 256),
    *,
    rotation: float = 45.0,
    scale: float = 0.35,
    flip: float = 0.5,
    half_body: float = 0.3,
    padding: float = 1.25,
    convention: Convention = "official",
    antialias: bool = True,
) -> Preset:
    """HRNet on COCO. Its MPII: `hrnet((256, 256), rotation=30, scale=0.25, half_body=0)`.

    size (width, height) px; rotation: degrees, one standard deviation, clipped at two; scale: one standard deviation,
    clipped there; flip, half_body: probabilities; padding: of the box. SchemaError for numbers out of range.
    """
    recipe = replace(
        HRNET, size=size, rotation=_changed(HRNET.rotation, rotation), scale=_changed(HRNET.scale, scale),
        flip=flip, half_body=half_body, padding=padding, convention=convention,
    )  # fmt: skip
    return _preset(recipe, antialias)


def simple_baseline(
    size: Size = (192, 256),
    *,
    rotation: float = 40.0,
    scale: float = 0.3,
    flip: float = 0.5,
    padding: float = 1.25,
    antialias: bool = True,
) -> Preset:
    """Simple Baseline (ResNet with deconvolutions) on COCO: no half body. Keywords as `hrnet`.

    Its MPII: `simple_baseline((256, 256), rotation=30, scale=0.25)`.
    """
    base = SIMPLE_BASELINE
    recipe = replace(
        base, size=size, rotation=_changed(base.rotation, rotation), scale=_changed(base.scale, scale),
        flip=flip, padding=padding,
    )  # fmt: skip
    return _preset(recipe, antialias)


def mmpose(
    size: Size = (192, 256),
    *,
    rotation: float = 80.0,
    scale: float = 0.5,
    shift: float = 0.16,
    flip: float = 0.5,
    half_body: float = 0.3,
    padding: float = 1.25,
    convention: Convention = "official",
    antialias: bool = True,
) -> Preset:
    """mmpose 1.x's HRNet on COCO: normals cut at one, and shifted crops. Keywords as `hrnet`.

    rotation, scale, shift: the largest amounts (degrees; 1 ± scale; crop widths and heights). convention="udp" is that
    of its UDP configs, of RTMPose and of its ViTPose.
    """
    recipe = _mmpose_like(MMPOSE, size, (rotation, scale, shift), flip, half_body, padding)
    return _preset(replace(recipe, convention=convention), antialias)


def _mmpose_like(
    base: Recipe, size: Size, amounts: tuple[float, float, float], flip: float, half_body: float, padding: float
) -> Recipe:
    rotation, scale, shift = amounts
    return replace(
        base, size=size, rotation=_changed(base.rotation, rotation), scale=_changed(base.scale, scale),
        shift=_changed(base.shift, shift), flip=flip, half_body=half_body, padding=padding,
    )  # fmt: skip


def vitpose(
    size: Size = (192, 256),
    *,
    rotation: float = 40.0,
    scale: float = 0.5,
    flip: float = 0.5,
    half_body: float = 0.3,
    padding: float = 1.25,
    antialias: bool = True,
) -> Preset:
    """ViTPose on COCO: UDP's crops, to be encoded with `HeatmapCodec(target="udp")`. Keywords as `hrnet`."""
    recipe = replace(
        VITPOSE, size=size, rotation=_changed(VITPOSE.rotation, rotation), scale=_changed(VITPOSE.scale, scale),
        flip=flip, half_body=half_body, padding=padding,
    )  # fmt: skip
    return _preset(recipe, antialias)


def occlusion_heavy(
    size: Size = (192, 256),
    *,
    rotation: float = 80.0,
    scale: float = 0.5,
    shift: float = 0.16,
    flip: float = 0.5,
    half_body: float = 0.3,
    holes: float = 0.5,
    cutouts: float = 0.5,
    covered: Covered = "occluded",
    padding: float = 1.25,
    antialias: bool = True,
) -> Preset:
    """mmpose's geometry with things in front of people; covered keypoints become occluded. Keywords as `mmpose`.

    holes: probability of 1 to 8 rectangles of 10 to 40 px (of a crop 192 px wide; larger crops have larger ones);
    cutouts: of patches on each fifth keypoint, up to a patch's radius beside it, so that a patch does not give its
    keypoint away. covered: what becomes of hidden keypoints, see `occlusion`.
    """
    recipe = _mmpose_like(OCCLUSION_HEAVY, size, (rotation, scale, shift), flip, half_body, padding)
    larger = size[0] / OCCLUSION_HEAVY.size[0]
    side = (10 * larger, 40 * larger)
    after = (
        Maybe(CoarseDropout((1, 8), side, side, unit="px", fill=(0, 0, 0), covered=covered), holes),
        Maybe(KeypointCutout(0.2, (0.05, 0.15), jitter=1.0, covered=covered), cutouts),
    )
    return _preset(recipe, antialias, after)


def finetune_small(
    size: Size = (192, 256),
    *,
    rotation: float = 30.0,
    scale: float = 0.25,
    shift: float = 0.08,
    flip: float = 0.5,
    half_body: float = 0.0,
    colour: float = 0.8,
    holes: float = 0.3,
    padding: float = 1.25,
    antialias: bool = True,
) -> Preset:
    """For a pretrained network and some dozens of photographs: milder geometry, and the variety that few photographs
    lack: light, colour, boxes that do not fit, things in front. Keywords as `hrnet`.

    shift: crop widths and heights, p 0.5. colour: probability of other brightness, contrast, saturation and hue; holes:
    of 1 to 4 rectangles in the mean colour, a twentieth to a fifth of the sides. No half body unless asked for: it
    needs a skeleton with an upper and a lower half.
    """
    base = FINETUNE_SMALL
    recipe = replace(
        base, size=size, rotation=_changed(base.rotation, rotation), scale=_changed(base.scale, scale),
        shift=_changed(base.shift, shift), flip=flip, half_body=half_body, padding=padding,
    )  # fmt: skip
    after = (
        Maybe(ColorJitter(0.3, 0.3, 0.3, 10.0), colour),
        Maybe(CoarseDropout((1, 4), (0.05, 0.2), (0.05, 0.2)), holes),
    )
    return _preset(recipe, antialias, after)


PRESETS: dict[str, Callable[[], Preset]] = {
    "hrnet": hrnet,
    "simple_baseline": simple_baseline,
    "mmpose": mmpose,
    "vitpose": vitpose,
    "occlusion_heavy": occlusion_heavy,
    "finetune_small": finetune_small,
}


def named(name: str) -> Preset:
    """The preset of that name with its published numbers. SchemaError lists the names."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"did you mean {close[0]!r}?" if close else ""
        raise SchemaError(f"no preset is named {name!r}, expected one of {', '.join(PRESETS)}", hint=hint)
    return PRESETS[name]()
