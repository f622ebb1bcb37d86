"""From a batch of the loader to what the network and the loss take, on whatever device the batch is.

    batch = batch.to(device)
    images, targets, weights = prepare(batch, spec, policies)
    loss, each = heatmap_loss(net(images), targets, weights, known=batch.known)

Nothing waits for the device, and no shape depends on a value: a CUDA graph can capture it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kpdata.augment import batched
from kpdata.codec import Absent, Occluded
from kpdata.errors import TrainError
from kpdata.train.batch import Batch
from kpdata.train.spec import NetworkSpec


def policy_table(policies: Iterable[tuple[Occluded, Absent]]) -> Tensor:
    """(S, 4) int8, what a label of visibility 0 to 3 is worth in each source, from its (occluded, absent).

    For `prepare`; made once, and moved to the device once.
    """
    return batched.worth_table(policies)


def prepare(batch: Batch, spec: NetworkSpec, policies: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, H, W) normalised in the spec's colour order, targets (B, K, h, w), weights (B, K); all float32, and
    images in NHWC on a GPU, where networks are too.

    Images are warped where `batch.matrix` is given, then recoloured where `batch.colour` is, then covered where
    `batch.holes` are; between the steps they are whole values, as on the way through OpenCV. policies: of
    `policy_table`, on the batch's device, a row for each number in `batch.source`; None: all sources as the spec's
    codec says. Keypoints that a source does not know have weight 0 and an empty map. TrainError where shapes do not fit
    the spec.
    """
    _check(batch, spec)
    with_worth = _worth(batch, spec, policies).masked_fill(~batch.known, batched.IGNORE)
    targets, weights = batched.heatmaps(batch.keypoints, with_worth, spec.codec)
    return _images(batch, spec), targets, weights


def _images(batch: Batch, spec: NetworkSpec) -> Tensor:
    if batch.matrix is None:
        pixels = batched.planes(batch.images)
    else:
        pixels = batched.warp(batch.images, batch.matrix, spec.input_size)
    if batch.colour is not None:
        pixels = batched.recolour(pixels, batch.colour)
    if batch.holes is not None:
        pixels = batched.fill_holes(pixels, batch.holes, batch.fill)
    images = batched.normalise(pixels, spec.mean, spec.std, bgr=spec.colour == "bgr")
    return images.contiguous(memory_format=torch.channels_last) if images.is_cuda else images


def _worth(batch: Batch, spec: NetworkSpec, policies: Tensor | None) -> Tensor:
    if policies is None:
        return batched.label_worth(batch.visibility, spec.codec.occluded, spec.codec.absent)
    return policies[batch.source[:, None], batch.visibility.long()]


def _check(batch: Batch, spec: NetworkSpec) -> None:
    """Shapes alone: values stay on the device."""
    width, height = spec.input_size
    if batch.matrix is None and tuple(batch.images.shape[1:]) != (height, width, 3):
        raise TrainError(
            f"crops of shape {tuple(batch.images.shape)}, expected (B, {height}, {width}, 3)",
            hint="packed crops of another size need the batch's matrix",
        )
    if batch.keypoints.shape[1] != len(spec.skeleton):
        raise TrainError(
            f"people with {batch.keypoints.shape[1]} keypoints, expected {len(spec.skeleton)} of {spec.skeleton.name!r}"
        )
