"""Pictures made worse on purpose, to see how much a network loses: blur, noise, compression, occlusion, 1 to 5.

The idea is that of COCO-C (Wang et al., *When Human Pose Estimation Meets Robustness*, CVPR 2021), and the strengths of
blur, noise and compression are ImageNet-C's (Hendrycks & Dietterich, ICLR 2019, `imagenet_c/corruptions.py` of
hendrycks/robustness). Numbers of that package vary from run to run; these are drawn from a seed, and each severity is
the one before with more of the same. They are therefore kpdata's own, not to be set beside published tables of COCO-C:
compare networks by the same kinds, severities and seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kpdata.augment.image import opencv
from kpdata.augment.reading import Pixels
from kpdata.errors import TrainError

Kind = Literal["blur", "noise", "compression", "occlusion"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SEVERITIES = (1, 2, 3, 4, 5)

BLUR = (1.0, 2.0, 3.0, 4.0, 6.0)
"""Sigma of the Gaussian blur in px of the picture."""
NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
"""Standard deviation of the Gaussian noise of every channel, of 1 for white."""
QUALITY = (25, 18, 15, 10, 7)
"""Quality of the JPEG file in between."""
COVERED = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Share of each person's box that one rectangle covers."""


@dataclass(frozen=True, slots=True)
class Corruption:
    """One kind at one severity. seed: of all chance in it. Checked when it is made (TrainError)."""

    kind: Kind
    severity: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TrainError(f"corruption {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.severity not in SEVERITIES:
            raise TrainError(f"severity {self.severity!r} of {self.kind}, expected 1 to 5")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise TrainError(f"seed {self.seed!r}, expected a whole number from 0 on")

    def __str__(self) -> str:
        return f"{self.kind} {self.severity}"

    def __call__(self, image: Pixels, boxes: NDArray[np.floating], number: int) -> Pixels:
        """The picture (H, W, 3) uint8 RGB after it; a new array.

        boxes (P, 4): x, y, w, h px of the people in it, whom occlusion covers; it changes nothing else. number: of the
        picture (its image id): the same seed, kind and number give the same noise and places. MissingExtra without
        OpenCV, where it blurs or compresses.
        """
        at = self.severity - 1
        if self.kind == "blur":
            return _blurred(image, BLUR[at])
        if self.kind == "compression":
            return _compressed(image, QUALITY[at])
        rng = np.random.default_rng([self.seed, KINDS.index(self.kind), number % (1 << 64)])
        if self.kind == "noise":
            return _noisy(image, NOISE[at], rng)
        return _covered(image, np.asarray(boxes, np.float64), COVERED[at], rng)


def corruptions(kinds: tuple[Kind, ...] = KINDS, seed: int = 0) -> tuple[Corruption, ...]:
    """These kinds at all severities."""
    return tuple(Corruption(kind, severity, seed) for kind in kinds for severity in SEVERITIES)


def _blurred(image: Pixels, sigma: float) -> Pixels:
    cv2 = opencv("blurring pictures")
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def _compressed(image: Pixels, quality: int) -> Pixels:
    cv2 = opencv("compressing pictures")
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def _noisy(image: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    noise = rng.standard_normal(image.shape, np.float32)
    noise *= np.float32(255 * deviation)
    noise += image
    return np.clip(np.rint(noise), 0, 255).astype(np.uint8)


def _covered(image: Pixels, boxes: NDArray[np.float64], share: float, rng: np.random.Generator) -> Pixels:
    """A rectangle of the box's proportions and the picture's mean colour, somewhere within each box."""
    place = rng.random((len(boxes), 2))
    height, width = image.shape[:2]
    side = boxes[:, 2:] * share**0.5
    first = boxes[:, :2] + place * (boxes[:, 2:] - side)
    limit = np.array([width, height])
    low, high = (np.clip(np.rint(edge), 0, limit).astype(np.intp) for edge in (first, first + side))
    steps = np.zeros((height + 1, width + 1), np.int32)  # its sums count the rectangles over each pixel
    for x, y, sign in ((low, low, 1), (high, low, -1), (low, high, -1), (high, high, 1)):
        np.add.at(steps, (y[:, 1], x[:, 0]), sign)
    over = steps.cumsum(axis=0).cumsum(axis=1)[:height, :width] > 0
    covered = image.copy()
    covered[over] = np.rint(image.reshape(-1, 3).mean(axis=0))
    return covered
