"""One image in flight with everything that belongs to it: what a transform takes and returns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata.errors import SchemaError
from kpdata.skeleton import Skeleton

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sample:
    """An image and its P people of one skeleton with K keypoints. Frozen: a transform returns a new one.

    Pixels as in `kpdata.geometry`. Columns that are not given become NaN (bbox, area, center, scale) or what says
    "absent". Raises SchemaError where shapes or dtypes contradict each other.
    """

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    keypoints: Floats  # (P, K, 2) px, NaN where absent
    visibility: NDArray[np.int8]  # (P, K) kpdata.schema.Visibility
    skeleton: Skeleton
    bbox: Floats | None = None  # (P, 4) x, y, w, h
    area: Floats | None = None  # (P,) square px
    center: Floats | None = None  # (P, 2) crop centre, a point
    scale: Floats | None = None  # (P, 2) width and height of the crop in px before it is resized
    masks: NDArray[np.bool_] | None = None  # (P, H, W)
    polygons: tuple[tuple[Floats, ...], ...] | None = None  # of each person, (n, 2) px each, continuous edges
    annotation_ids: NDArray[np.int64] | None = None  # (P,)
    image_id: int | None = None
    # 3 x 3, pixel of the picture as it was read -> pixel of `image`: its inverse takes predictions back.
    matrix: Floats = field(default_factory=lambda: np.eye(3))
    mirrored: bool = False  # left and right were exchanged an odd number of times on the way
    extras: dict[str, Any] = field(default_factory=dict)  # carried along, never looked at

    def __post_init__(self) -> None:
        image = np.asarray(self.image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise SchemaError(f"Sample.image: {image.dtype} of shape {image.shape}, expected uint8 (H, W, 3)")
        people, count = len(self.keypoints), len(self.skeleton)
        shapes = {
            "keypoints": (people, count, 2), "visibility": (people, count), "bbox": (people, 4), "area": (people,),
            "center": (people, 2), "scale": (people, 2), "annotation_ids": (people,),
            "masks": (people, *image.shape[:2]), "matrix": (3, 3),
        }  # fmt: skip
        types: dict[str, type] = {"visibility": np.int8, "annotation_ids": np.int64, "masks": np.bool_}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None and name in ("bbox", "area", "center", "scale"):
                value = np.full(shape, np.nan)
            if value is None:
                continue
            array: NDArray[Any] = np.asarray(value, types.get(name, np.float64))
            if array.shape != shape:
                raise SchemaError(f"Sample.{name}: shape {array.shape}, expected {shape} ({self.skeleton.name!r})")
            object.__setattr__(self, name, array)
        if self.polygons is not None and len(self.polygons) != people:
            raise SchemaError(f"Sample.polygons: of {len(self.polygons)} people, expected {people}")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the image in px."""
        return self.image.shape[1], self.image.shape[0]

    def changed(self, **values: Any) -> Sample:
        """The sample with other values in some fields."""
        return replace(self, **values)
