"""CrowdPose annotations: COCO's shape with 14 keypoints, `crowdIndex` on images, and neither area nor segmentation.

Kept as the files have it: `num_keypoints` counts v > 0 over the first 12 keypoints only (8,527 of 8,527 in val), the
category carries COCO-17's edges on 14 keypoints and calls the top of the head `head`, `crowdIndex` may exceed 1.
OKS scale and area ranges use 0.53 x w x h of the box (Jeff-sjtu/CrowdPose
crowdpose-api/PythonAPI/crowdposetools/cocoeval.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kpdata import dataset as ds
from kpdata import files
from kpdata.converters import _coco_write, coco
from kpdata.converters._source import Source
from kpdata.losses import LossReport

SKELETON = "crowdpose_14"
AREA_KIND = "box×0.53"


def detect(source: Source) -> str | None:
    """A COCO-shaped file whose images carry `crowdIndex`."""
    if not coco.detect(source):
        return None
    if any(isinstance(image, dict) and "crowdIndex" in image for image in source.first_rows(100, "images")):
        return "a COCO-shaped JSON whose images carry 'crowdIndex'"
    return None


def read(path: Path | Source, *, skeleton: str | None = None) -> ds.Dataset:
    """A CrowdPose annotation file."""
    source = Source.of(path)
    return source.decode(lambda raw: decode(raw, source=str(source.path), skeleton=skeleton))


def decode(raw: Any, *, source: str = "memory", skeleton: str | None = None) -> ds.Dataset:
    """As `coco.decode`; area is 0.53 x w x h by the data set's definition and is not stored."""
    return coco.decode(raw, source=source, skeleton=skeleton, name="crowdpose", provenance={"area_kind": AREA_KIND})


def encode(dataset: ds.Dataset, *, unknown_as: str = "visible") -> tuple[dict[str, Any], LossReport]:
    """As `coco.encode`: the same keys; masks and areas of other sources are written along."""
    return _coco_write.encode(dataset, unknown_as=unknown_as, name="crowdpose")


def write(
    dataset: ds.Dataset, path: Path, *, allow_lossy: bool = False, force: bool = False, unknown_as: str = "visible"
) -> LossReport:
    """Write a CrowdPose annotation file."""
    files.refuse_existing(path, force)
    text, losses = _coco_write.document(dataset, unknown_as=unknown_as, name="crowdpose")
    losses.require(allow_lossy, path)
    files.write_bytes(path, text, force=force)
    return losses
