"""A trained network at work: a picture and boxes in, keypoints in px of the picture out.

    predict = Predictor("best.pt")                       # or pose_hrnet_w32_256x192.pth: published files work as well
    people = predict(image, boxes)                       # uint8 (H, W, 3) RGB; (P, 4) x, y, w, h px
    people.keypoints, people.keypoint_scores             # (P, K, 2) px, (P, K); columns of predict.spec.skeleton

The checkpoint knows what its weights alone do not tell: crop convention, padding, colour order, decoding and whether
the mirrored maps move by a cell. For a whole dataset see `kpdata.train.predict`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kpdata.augment import batched
from kpdata.augment.image import warp
from kpdata.augment.kernels import box_to_center_scale, crop_matrix
from kpdata.augment.reading import Pixels
from kpdata.errors import TrainError
from kpdata.skeleton import Skeleton
from kpdata.train.checkpoint import open_network
from kpdata.train.distributed import pick_device
from kpdata.train.nms import rescored
from kpdata.train.spec import Colour, NetworkSpec
from kpdata.train.watch import about_memory

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Poses in P boxes. scores (P,): the mean of a person's keypoint scores above 0.2 (`nms.rescored`)."""

    keypoints: Floats  # (P, K, 2) px of the picture
    keypoint_scores: Floats  # (P, K) maxima of the heatmaps, about 0 to 1
    scores: Floats  # (P,)
    areas: Floats  # (P,) px² of the padded crops

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """People cut out. pixels (P, h, w, 3) uint8 RGB; matrices (P, 3, 3): px of the picture to px of the crop."""

    pixels: Pixels
    matrices: Floats
    areas: Floats  # (P,) px² of the padded crops


class Predictor:
    """A network, ready to be called with a picture and boxes.

    checkpoint: a file (`checkpoint.open_network`), or a spec with its network, which is moved to the device and into
    the layout channels_last, and set to `eval()`. device: cpu, cuda or cuda:1; None: a GPU where there is one.
    flip_test: the mean of the maps of the crop and of its mirror image; left out, with a note, where the skeleton does
    not tell left from right. batch: crops that go through the network at once, and once more mirrored. bf16: autocast.
    antialias: as `augment.image.warp`; False cuts crops as the official code does. skeleton, colour: of a file that
    does not tell them.

    notes: sentences about what the file did not tell. Raises TrainError for a file that is no network, is cut, or is of
    another model, and for a device that is not there.
    """

    def __init__(
        self,
        checkpoint: str | Path | tuple[NetworkSpec, nn.Module],
        *,
        device: str | None = None,
        flip_test: bool = True,
        batch: int = 64,
        bf16: bool = False,
        antialias: bool = True,
        skeleton: Skeleton | None = None,
        colour: Colour | None = None,
    ) -> None:
        if batch < 1:
            raise TrainError(f"batch {batch!r}, expected at least 1")
        notes: list[str] = []
        if isinstance(checkpoint, tuple):
            if skeleton is not None or colour is not None:
                raise TrainError("skeleton and colour belong to a file", hint="spec.changed(skeleton=..., colour=...)")
            self.spec, net = checkpoint
            self.name = self.spec.model
        else:
            self.spec, net, report = open_network(checkpoint, skeleton=skeleton, colour=colour)
            self.name = str(checkpoint)
            notes += report.notes if report.loaded == report.total else [str(report)]
        self.device = pick_device(device)
        self.batch, self.bf16, self.antialias = batch, bf16, antialias
        known = self.spec.skeleton.flip_pairs is not None
        self.flip = self.spec.skeleton.flip_index() if flip_test and known else None
        if flip_test and not known:
            notes.append(f"no flip test: left and right of {self.spec.skeleton.name!r} are not known")
        net = net.to(self.device).eval()
        # Layout NHWC is quicker on both: hrnet_tiny by a third on a CPU, at 96 x 128.
        self.net: nn.Module = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stubs
        self.notes = tuple(notes)

    def __call__(self, image: Pixels, boxes: ArrayLike) -> Predictions:
        """The poses of the people in these boxes (P, 4): x, y, w, h px, as COCO has them; nobody gives P = 0.

        Raises TrainError for a picture that is not uint8 (H, W, 3), for boxes of another shape, and for one without
        extent, endless or NaN: it names the row.
        """
        crops = self.cut(image, boxes)
        points, scores = self.poses(crops.pixels)
        return Predictions(to_picture(points, crops.matrices), scores, rescored(scores), crops.areas)

    def cut(self, image: Pixels, boxes: ArrayLike) -> Crops:
        """The crops of the people in these boxes: `augment.crops.TopDown` without chance."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise TrainError(f"picture: {found}, expected uint8 RGB (H, W, 3)", hint="kpdata.augment.image.read_image")
        center, sides = box_to_center_scale(_checked(boxes), self._ratio, self.spec.padding)
        size, convention = self.spec.input_size, self.spec.convention
        maps = [crop_matrix(*of, 0.0, size, convention) for of in zip(center, sides, strict=True)]
        pixels = [warp(image, matrix, size, antialias=self.antialias) for matrix in maps]
        empty = np.empty((0, size[1], size[0], 3), np.uint8)
        return Crops(
            np.stack(pixels) if pixels else empty, np.array(maps).reshape(-1, 3, 3), np.asarray(sides.prod(axis=-1))
        )

    def poses(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """Keypoints (P, K, 2) px of crops (P, h, w, 3) uint8 RGB, and their scores (P, K), batch by batch."""
        count = len(self.spec.skeleton)
        points, scores = np.empty((len(pixels), count, 2)), np.empty((len(pixels), count))
        for start in range(0, len(pixels), self.batch):
            part = slice(start, start + self.batch)
            points[part], scores[part] = self.spec.codec.decode(self.maps(pixels[part]))
        return points, scores

    def maps(self, pixels: Pixels) -> NDArray[np.float32]:
        """Heatmaps (B, K, h, w) of crops (B, H, W, 3) uint8 RGB, all at once; after the flip test."""
        with torch.inference_mode(), self._enough_memory(len(pixels)):
            planes = batched.planes(torch.from_numpy(pixels).to(self.device, non_blocking=True))
            images = batched.normalise(planes, self.spec.mean, self.spec.std, bgr=self.spec.colour == "bgr")
            images = images.contiguous(memory_format=torch.channels_last)
            found = heatmaps(self.net, images, self.spec, flip=self.flip, bf16=self.bf16)
            return np.asarray(found.cpu().numpy())

    @property
    def _ratio(self) -> float:
        return self.spec.input_size[0] / self.spec.input_size[1]

    @contextmanager
    def _enough_memory(self, count: int) -> Iterator[None]:
        try:
            yield
        except RuntimeError as problem:
            if not about_memory(problem):
                raise
            hint = f"--batch {count // 2}" if count > 1 else "--device cpu"
            raise TrainError(f"{self.device}: too little memory for {count} crops at once", hint=hint) from problem


def heatmaps(
    net: nn.Module, images: Tensor, spec: NetworkSpec, *, flip: NDArray[np.intp] | None = None, bf16: bool = False
) -> Tensor:
    """Heatmaps (B, K, h, w), float32, of network inputs (B, 3, H, W), on their device.

    flip (K,): the twin of each keypoint; the maps are the mean with those of the mirrored input then, brought back as
    `kpdata.codec.flip_heatmaps` does, with the shift that the spec's codec needs. bf16: autocast.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        maps: Tensor = net(images).float()
        if flip is None:
            return maps
        mirrored: Tensor = net(images.flip(3)).float()
    mirrored = mirrored.flip(3)[:, torch.as_tensor(flip, device=maps.device)]
    if spec.flip_shift:
        mirrored = torch.cat([mirrored[..., :1], mirrored[..., :-1]], dim=3)
    return (maps + mirrored) / 2


def to_picture(points: Floats, matrices: Floats) -> Floats:
    """(P, K, 2) px of crops as px of the picture; matrices (P, 3, 3) affine, from the picture to the crop."""
    back = np.linalg.inv(matrices)
    moved: Floats = np.einsum("pij,pkj->pki", back[:, :2, :2], points) + back[:, None, :2, 2]
    return moved


def _checked(boxes: ArrayLike) -> Floats:
    """(P, 4) float64. TrainError names the first that no crop can be made of."""
    found = np.asarray(boxes, np.float64)
    if found.size == 0:
        return np.empty((0, 4))
    if found.ndim != 2 or found.shape[1] != 4:
        raise TrainError(f"boxes of shape {found.shape}, expected (P, 4): x, y, w, h px")
    if wrong := np.flatnonzero(~croppable(found)).tolist():
        raise TrainError(
            f"box {wrong[0]} is {found[wrong[0]].tolist()}, expected finite x, y, w, h px with w and h above 0",
            hint=f"leave out those {len(wrong):,} of {len(found):,} boxes",
        )
    return found


def croppable(boxes: Floats) -> NDArray[np.bool_]:
    """(P,) a crop can be made of this box (P, 4): its numbers are finite, and both sides above 0."""
    return np.asarray(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1), bool)
