"""The numbers of published top-down recipes, as data: what the presets are made from, and what `--stats` compares with.

| recipe | turn of the crop | its scale | half body | beside | source |
| --- | --- | --- | --- | --- | --- |
| simple_baseline | p 0.6, N(0, 40°) clipped to ±80° | 1 + N(0, 0.3) clipped to ±0.3 | never | | 1 |
| hrnet | p 0.6, N(0, 45°) clipped to ±90° | 1 + N(0, 0.35) clipped to ±0.35 | p 0.3 | | 2 |
| mmpose | p 0.6, 80° × N(0, 1) cut to ±1 | 1 + 0.5 × N(0, 1) cut to ±1 | p 0.3 | shift, p 0.3 | 3 |
| vitpose | p 0.6, N(0, 40°) clipped to ±80° | 1 + N(0, 0.5) clipped to ±0.5 | p 0.3 | UDP's crops | 4 |
| occlusion_heavy | as mmpose | as mmpose | p 0.3 | shift; holes; cut-outs on keypoints | 3, 5, 6 |
| finetune_small | p 0.6, N(0, 30°) clipped to ±60° | 1 + N(0, 0.25) clipped to ±0.25 | never | shift, colour, holes | |

The last is kpdata's own. All flip with probability 0.5 and cut out the box, brought to the shape of the crop and padded
by 1.25, as 192 x 256 px (width x height). A normal that is *clipped* has mass on its ends, one that is *cut* has none.

1. Xiao et al., Simple Baselines for Human Pose Estimation, ECCV 2018; microsoft/human-pose-estimation.pytorch
   (`experiments/coco/resnet50/256x192_d256x3_adam_lr1e-3.yaml`, `lib/dataset/JointsDataset.py`).
2. Sun et al., Deep High-Resolution Representation Learning, CVPR 2019; leoxiaobin/deep-high-resolution-net.pytorch
   (`experiments/coco/hrnet/w32_256x192_adam_lr1e-3.yaml`, `lib/dataset/JointsDataset.py`).
3. open-mmlab/mmpose 1.3.2 (`mmpose/datasets/transforms/common_transforms.py`: RandomHalfBody, RandomBBoxTransform;
   `configs/body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py`).
4. Xu et al., ViTPose, NeurIPS 2022; ViTAE-Transformer/ViTPose
   (`configs/body/2d_kpt_sview_rgb_img/topdown_heatmap/coco/ViTPose_base_coco_256x192.py`).
5. mmpose's `td-hm_hrnet-w32_coarsedropout-8xb64-210e_coco-256x192.py`: 1 to 8 holes of 10 to 40 px, p 0.5.
6. Ke et al., Multi-Scale Structure-Aware Network, ECCV 2018: keypoint masking.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from kpdata.augment.crops import LEAST_MMPOSE, UPPER_MMPOSE, UPPER_OFFICIAL
from kpdata.augment.kernels import Convention, Size
from kpdata.augment.rng import Distribution

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Spread:
    """How a recipe draws an amount: with probability `p`, `factor` times a number of a distribution; else nothing.

    distribution, clip: as `kpdata.augment.rng.spread` has them.
    """

    factor: float
    p: float = 1.0
    distribution: Distribution = "normal"
    clip: float = 1.0

    @property
    def limit(self) -> float:
        """The largest amount, either way."""
        return self.factor * (self.clip if self.distribution == "normal" else 1.0)

    def size(self) -> tuple[float, float]:
        """(mean, standard deviation) of the absolute amount where one is drawn, from the distribution's integrals."""
        if self.distribution == "uniform":
            return self.factor / 2, self.factor / math.sqrt(12)
        c = self.clip if self.distribution == "normal" else 1.0
        inside = 2 * _NORMAL.cdf(c) - 1
        first = 2 * (_NORMAL.pdf(0) - _NORMAL.pdf(c))  # integral of |z| over -c..c
        second = inside - 2 * c * _NORMAL.pdf(c)  # of z²
        if self.distribution == "normal":  # what is beyond lies on the ends
            first, second = first + c * (1 - inside), second + c * c * (1 - inside)
        else:
            first, second = first / inside, second / inside
        return self.factor * first, self.factor * math.sqrt(second - first * first)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a top-down recipe does to a person. Frozen.

    rotation: of the content, degrees. scale: of the crop, 1 plus this. shift: of the crop's centre, in crop widths and
    heights. half_body: probability, for a person with more than `half_body_above` labelled keypoints; `upper`: the
    chance that it is the upper half, where both have enough: `half_body_least` in the upper and the lower one. beside:
    what else it does, in words.
    """

    name: str
    source: str
    rotation: Spread
    scale: Spread
    shift: Spread = Spread(0.0, 0.0)
    flip: float = 0.5
    half_body: float = 0.3
    half_body_above: int = 8
    half_body_least: tuple[int, int] = (3, 3)
    upper: float = UPPER_OFFICIAL
    size: Size = (192, 256)
    padding: float = 1.25
    convention: Convention = "official"
    beside: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data, for provenance and `--json`."""
        return asdict(self)


HRNET = Recipe(
    "hrnet", "leoxiaobin/deep-high-resolution-net.pytorch, experiments/coco/hrnet/w32_256x192_adam_lr1e-3.yaml",
    rotation=Spread(45, 0.6, clip=2), scale=Spread(0.35),
)  # fmt: skip
SIMPLE_BASELINE = Recipe(
    "simple_baseline",
    "microsoft/human-pose-estimation.pytorch, experiments/coco/resnet50/256x192_d256x3_adam_lr1e-3.yaml",
    rotation=Spread(40, 0.6, clip=2), scale=Spread(0.3), half_body=0.0,
)  # fmt: skip
MMPOSE = Recipe(
    "mmpose",
    "open-mmlab/mmpose 1.3.2, configs/body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py",
    rotation=Spread(80, 0.6, "truncated"), scale=Spread(0.5, 1.0, "truncated"), shift=Spread(0.16, 0.3, "truncated"),
    upper=UPPER_MMPOSE, half_body_least=LEAST_MMPOSE,
)  # fmt: skip
VITPOSE = Recipe(
    "vitpose",
    "ViTAE-Transformer/ViTPose, configs/body/2d_kpt_sview_rgb_img/topdown_heatmap/coco/ViTPose_base_coco_256x192.py",
    rotation=Spread(40, 0.6, clip=2), scale=Spread(0.5), convention="udp",
)  # fmt: skip
OCCLUSION_HEAVY = Recipe(
    "occlusion_heavy",
    "open-mmlab/mmpose 1.3.2, td-hm_hrnet-w32_coarsedropout-8xb64-210e_coco-256x192.py, with the cut-outs of Ke et al. "
    "(ECCV 2018); the combination is kpdata's, without a published number",
    rotation=MMPOSE.rotation, scale=MMPOSE.scale, shift=MMPOSE.shift, upper=UPPER_MMPOSE,
    half_body_least=LEAST_MMPOSE,
    beside="p 0.5: 1 to 8 holes of 10 to 40 px; p 0.5: patches on a fifth of the keypoints",
)  # fmt: skip
FINETUNE_SMALL = Recipe(
    "finetune_small", "kpdata's own, for a pretrained network and some dozens of photographs; no published number",
    rotation=Spread(30, 0.6, clip=2), scale=Spread(0.25), shift=Spread(0.08, 0.5), half_body=0.0,
    beside="p 0.8: brightness, contrast, saturation 1 ± 0.3, hue ± 10 degrees; p 0.3: 1 to 4 holes of 5 to 20 %",
)  # fmt: skip
