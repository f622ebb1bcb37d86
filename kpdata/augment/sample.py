"""One image in flight with everything that belongs to it: what a transform takes and returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
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
        if not isinstance(self.skeleton, Skeleton):
            raise SchemaError(f"Sample.skeleton: a {type(self.skeleton).__name__}, expected a kpdata.skeleton.Skeleton")
        self._check(_ARRAYS)
        if self.visibility.size and not 0 <= self.visibility.min() <= self.visibility.max() <= 3:
            found = np.unique(self.visibility)[:5].tolist()
            raise SchemaError(f"Sample.visibility: {found}, expected 0 to 3 (kpdata.schema.Visibility)")

    def _check(self, names: Iterable[str]) -> None:
        """Make these fields the arrays that they must be. SchemaError for the first that cannot."""
        image = np.asarray(self.image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise SchemaError(f"Sample.image: {image.dtype} of shape {image.shape}, expected uint8 (H, W, 3)")
        count = len(self.skeleton)
        people = len(self.keypoints) if hasattr(self.keypoints, "__len__") else 0
        for name in names:
            tail, kind = _ARRAYS[name]
            if tail == "HW":
                shape: tuple[int, ...] = (people, *image.shape[:2])
            else:
                shape = (
                    (3, 3) if name == "matrix" else (people, *(count if side == "K" else int(side) for side in tail))
                )
            value = getattr(self, name)
            if value is None and name not in _NEEDED:
                if name not in _FILLED:
                    continue
                value = np.full(shape, np.nan)
            array = value if type(value) is np.ndarray and value.dtype == kind else _converted(name, value, kind)
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
        """The sample with other values in some fields; errors as for a new one, TypeError for a field it has not."""
        if strangers := values.keys() - _FIELDS:
            raise TypeError(f"Sample has no field {sorted(strangers)}")
        people = values.get("keypoints", self.keypoints)
        if "skeleton" in values or getattr(people, "shape", ())[:1] != (len(self.keypoints),):
            return replace(self, **values)  # all others may have other shapes now
        new = object.__new__(Sample)
        for name in _FIELDS:
            object.__setattr__(new, name, values[name] if name in values else getattr(self, name))
        looked_at = {*values} & _ARRAYS.keys()
        if "image" in values:
            looked_at.add("masks")  # of the size of the picture
        new._check(looked_at)
        return new


# Of each array its shape after P (K: keypoints; HW: as the picture), and its type.
_ARRAYS: dict[str, tuple[str, np.dtype[Any]]] = {
    name: (tail, np.dtype(kind))
    for name, tail, kind in (
        ("keypoints", "K2", np.float64), ("visibility", "K", np.int8), ("bbox", "4", np.float64),
        ("area", "", np.float64), ("center", "2", np.float64), ("scale", "2", np.float64),
        ("annotation_ids", "", np.int64), ("masks", "HW", np.bool_), ("matrix", "33", np.float64),
    )
}  # fmt: skip
_NEEDED, _FILLED = {"keypoints", "visibility", "matrix"}, {"bbox", "area", "center", "scale"}
_FIELDS = tuple(each.name for each in fields(Sample))
_LIMITS = {"visibility": (0, 3), "masks": (0, 1)}


def _converted(name: str, value: Any, kind: np.dtype[Any]) -> NDArray[Any]:
    """The value as an array of that type. SchemaError where it is none, or would lose something on the way."""
    try:
        given: NDArray[Any] = np.asarray(value)
        with np.errstate(invalid="ignore"):
            array = given.astype(kind)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"Sample.{name}: {error}, expected an array of {kind}") from error
    if kind.kind == "f":
        return array
    low, high = _LIMITS.get(name, (-(2**63), 2**63 - 1))
    if (
        given.dtype.kind not in "biuf"
        or (given != array).any()
        or (given.size and not low <= given.min() <= given.max() <= high)
    ):
        found = np.unique(given)[:5].tolist()
        raise SchemaError(f"Sample.{name}: {given.dtype} such as {found}, expected {kind}, {low} to {high}")
    return array
