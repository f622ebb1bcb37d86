"""Keypoint-aware augmentation: an image with all that belongs to it in, the same out.

Nothing is imported before it is asked for: OpenCV and albumentations come with `pip install 'kpdata[augment]'`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kpdata.augment.adapters import CocoTransform as CocoTransform
    from kpdata.augment.adapters import HuggingFaceTransform as HuggingFaceTransform
    from kpdata.augment.adapters import from_coco as from_coco
    from kpdata.augment.adapters import from_torchvision as from_torchvision
    from kpdata.augment.adapters import to_coco as to_coco
    from kpdata.augment.adapters import to_torchvision as to_torchvision
    from kpdata.augment.bridge import Pixels as Pixels
    from kpdata.augment.bridge import Spatial as Spatial
    from kpdata.augment.compose import Compose as Compose
    from kpdata.augment.compose import Geometry as Geometry
    from kpdata.augment.compose import Maybe as Maybe
    from kpdata.augment.compose import OneOf as OneOf
    from kpdata.augment.crops import HalfBody as HalfBody
    from kpdata.augment.crops import TopDown as TopDown
    from kpdata.augment.crops import to_image as to_image
    from kpdata.augment.mosaic import Mosaic as Mosaic
    from kpdata.augment.occlusion import CoarseDropout as CoarseDropout
    from kpdata.augment.occlusion import GridMask as GridMask
    from kpdata.augment.occlusion import HideAndSeek as HideAndSeek
    from kpdata.augment.occlusion import KeypointCutout as KeypointCutout
    from kpdata.augment.paste import Pasteboard as Pasteboard
    from kpdata.augment.paste import PasteObject as PasteObject
    from kpdata.augment.paste import PastePerson as PastePerson
    from kpdata.augment.person_crops import PersonCrops as PersonCrops
    from kpdata.augment.presets import finetune_small as finetune_small
    from kpdata.augment.presets import hrnet as hrnet
    from kpdata.augment.presets import mmpose as mmpose
    from kpdata.augment.presets import occlusion_heavy as occlusion_heavy
    from kpdata.augment.presets import simple_baseline as simple_baseline
    from kpdata.augment.presets import vitpose as vitpose
    from kpdata.augment.reading import read_image as read_image
    from kpdata.augment.rng import EpochSampler as EpochSampler
    from kpdata.augment.rng import generator as generator
    from kpdata.augment.sample import Sample as Sample
    from kpdata.augment.samples import Samples as Samples
    from kpdata.augment.samples import people as people
    from kpdata.augment.transforms import D4 as D4
    from kpdata.augment.transforms import Affine as Affine
    from kpdata.augment.transforms import BoxJitter as BoxJitter
    from kpdata.augment.transforms import ColorJitter as ColorJitter
    from kpdata.augment.transforms import HorizontalFlip as HorizontalFlip
    from kpdata.augment.transforms import Letterbox as Letterbox
    from kpdata.augment.transforms import Perspective as Perspective
    from kpdata.augment.transforms import RandomAffine as RandomAffine
    from kpdata.augment.transforms import RandomCropAroundPeople as RandomCropAroundPeople
    from kpdata.augment.transforms import Resize as Resize
    from kpdata.augment.transforms import Rotate90 as Rotate90
    from kpdata.augment.transforms import Transpose as Transpose
    from kpdata.augment.transforms import VerticalFlip as VerticalFlip
    from kpdata.augment.wrapper import for_albumentations as for_albumentations

_HOMES = {
    "adapters": "CocoTransform HuggingFaceTransform from_coco from_torchvision to_coco to_torchvision",
    "bridge": "Pixels Spatial",
    "compose": "Compose Geometry Maybe OneOf",
    "crops": "HalfBody TopDown to_image",
    "mosaic": "Mosaic",
    "occlusion": "CoarseDropout GridMask HideAndSeek KeypointCutout",
    "paste": "PasteObject PastePerson Pasteboard",
    "person_crops": "PersonCrops",
    "presets": "finetune_small hrnet mmpose occlusion_heavy simple_baseline vitpose",
    "reading": "read_image",
    "rng": "EpochSampler generator",
    "sample": "Sample",
    "samples": "Samples people",
    "transforms": "Affine BoxJitter ColorJitter D4 HorizontalFlip Letterbox Perspective RandomAffine "
    "RandomCropAroundPeople Resize Rotate90 Transpose VerticalFlip",
    "wrapper": "for_albumentations",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = list(_HOME_OF)  # looked up when asked for, by __getattr__


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME_OF)
