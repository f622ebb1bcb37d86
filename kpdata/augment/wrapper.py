"""A transform of kpdata as a member of albumentations' `A.Compose`, with left and right swapped where it mirrors."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata.augment import kernels
from kpdata.augment.bridge import albumentations
from kpdata.augment.image import opencv
from kpdata.augment.kernels import Floats, Size
from kpdata.augment.maps import Transform
from kpdata.augment.sample import Sample
from kpdata.errors import KpdataError, SchemaError
from kpdata.geometry import box_from_keypoints
from kpdata.schema import Visibility
from kpdata.skeleton import Skeleton


def for_albumentations(
    transform: Transform, skeleton: Skeleton, *, visibility: str = "visibility", p: float = 1.0
) -> Any:
    """A transform of kpdata (or `Compose([…])` of several) as a member of `A.Compose`: an `A.DualTransform`.

    The pipeline's `keypoints` are all keypoints of all people, (P * K, 2) or a list, person after person in the columns
    of `skeleton`: a mirror swaps left and right, so it must know which row is which. It needs

        A.Compose([…], keypoint_params=A.KeypointParams("xy", label_fields=["visibility"], remove_invisible=False))

    visibility: the label field that holds 0 to 3 of every row (`kpdata.schema.Visibility`); it moves and changes with
    the points. Without that field every point with finite numbers counts as visible. Other label fields stay with their
    row: names and indices name the column. Boxes follow the map; where there are as many as people, they are the
    people's boxes for transforms that look at them, else the extent of the visible keypoints is. Masks are warped by
    the nearest neighbour. p: the chance to be applied.

    KpdataError or SchemaError, when it is applied, for rows that are no multiple of K, remove_invisible=True, a picture
    that is not uint8 (H, W, 3) (put it before Normalize), additional targets that are pictures or keypoints, and a
    transform that changes the number of people.
    """
    if not 0 <= p <= 1:
        raise SchemaError(f"for_albumentations: p {p!r}, expected a probability of 0 to 1")
    if not all(callable(getattr(transform, name, None)) for name in ("draw", "apply")):
        raise SchemaError(f"for_albumentations: {transform!r}, expected a transform of kpdata (draw and apply)")
    return _wrapper()(transform, skeleton, visibility, p)


@cache
def _wrapper() -> type:
    """The class; made late, because its base is imported late."""
    package = albumentations()
    kinds = importlib.import_module("albumentations.core.type_definitions").Targets

    base: Any = package.DualTransform

    class Kpdata(base):  # type: ignore[misc]  # the package has no types
        """A transform of kpdata inside `A.Compose`."""

        _targets = (kinds.IMAGE, kinds.MASK, kinds.BBOXES, kinds.KEYPOINTS)

        def __init__(self, transform: Transform, skeleton: Skeleton, visibility: str, p: float) -> None:
            super().__init__(p=p)
            self.transform, self.skeleton, self.visibility = transform, skeleton, visibility

        def __reduce__(self) -> tuple[Any, ...]:
            # The class has no name that a worker could import: a function makes it there.
            return _rebuilt, (self.transform, self.skeleton, self.visibility, self.p), self.__dict__

        @property
        def targets(self) -> dict[str, Any]:
            return {
                "image": self.apply, "mask": self.apply_to_mask, "masks": self.apply_to_masks,
                "bboxes": self.apply_to_bboxes, "keypoints": self.apply_to_keypoints,
            }  # fmt: skip

        @property
        def targets_as_params(self) -> list[str]:
            return ["image"]

        def add_targets(self, additional_targets: dict[str, str]) -> None:
            _refuse_targets(additional_targets)
            super().add_targets(additional_targets)

        def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            return _transformed(self, data, params["shape"])

        def apply(self, img: Any, after: Sample, **params: Any) -> Any:
            return after.image

        def apply_to_mask(self, mask: Any, after: Sample, **params: Any) -> Any:
            return _warp_labels(mask, after.matrix, after.size)

        def apply_to_bboxes(self, bboxes: Any, before: Sample, after: Sample, **params: Any) -> Any:
            return _warp_corners(np.array(bboxes, np.float64), before.size, after)

        def apply_to_keypoints(self, keypoints: Any, after: Sample, column: int | None, **params: Any) -> Any:
            return _moved_rows(np.array(keypoints), after, column)

        def get_transform_init_args(self) -> dict[str, Any]:
            return {"transform": repr(self.transform), "skeleton": self.skeleton.name, "visibility": self.visibility}

    return Kpdata


def _rebuilt(transform: Transform, skeleton: Skeleton, visibility: str, p: float) -> Any:
    return _wrapper()(transform, skeleton, visibility, p)


def _refuse_targets(additional: dict[str, str]) -> None:
    for name, kind in additional.items():
        if kind in ("image", "keypoints"):
            found = f"an additional target {name!r} of kind {kind!r}"
            raise KpdataError(f"for_albumentations: {found}; expected one picture and its keypoints alone")


def _transformed(wrapper: Any, data: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """The Sample of the pipeline's data, before and after the transform, and the column of the visibility."""
    column = _visibility_column(wrapper, data)
    before = _sample(wrapper.skeleton, data, shape, column)
    after = wrapper.transform.apply(before, wrapper.transform.draw(before, wrapper.random_generator))
    if after.keypoints.shape != before.keypoints.shape:
        raise KpdataError(f"{wrapper.transform!r} made {len(after.keypoints)} people of {len(before.keypoints)}")
    return {"before": before, "after": after, "column": column}


def _warp_corners(rows: Floats, size: Size, after: Sample) -> Floats:
    """Rows of the pipeline's boxes: x0, y0, x1, y1 as shares of the picture of (W, H), then labels, which stay."""
    corners = rows[:, :4] * np.tile(size, 2)
    boxes = kernels.warp_boxes(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1), after.matrix)
    rows[:, :4] = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) / np.tile(after.size, 2)
    return rows


def _moved_rows(rows: NDArray[Any], after: Sample, column: int | None) -> NDArray[Any]:
    """Rows of the pipeline's keypoints: x, y from the Sample, the visibility in its column."""
    rows[:, :2] = after.keypoints.reshape(-1, 2)
    if column is not None:
        rows[:, column] = after.visibility.reshape(-1)
    return rows


def _visibility_column(wrapper: Any, data: dict[str, Any]) -> int | None:
    """Where in the rows of the pipeline's keypoints the visibility is; None where it has no such label field."""
    processor = wrapper.get_processor("keypoints")
    if processor is None or data.get("keypoints") is None:
        return None
    if processor.params.remove_invisible:
        hint = "A.KeypointParams(…, remove_invisible=False)"
        raise KpdataError(
            "for_albumentations: remove_invisible=True drops rows, and nobody knows which is left", hint=hint
        )
    labels = list(processor.params.label_fields or ())
    if wrapper.visibility not in labels or not len(data["keypoints"]):
        return None
    return int(data["keypoints"].shape[1]) - len(labels) + labels.index(wrapper.visibility)


def _sample(skeleton: Skeleton, data: dict[str, Any], shape: tuple[int, ...], column: int | None) -> Sample:
    """The pipeline's data as a Sample: what a transform of kpdata takes."""
    found, k = data.get("keypoints"), len(skeleton)
    rows = np.zeros((0, 5)) if found is None else np.asarray(found, np.float64)
    if len(rows) % k:
        raise SchemaError(
            f"for_albumentations: {len(rows)} keypoints, expected a multiple of {k} ({skeleton.name!r})",
            hint="give all keypoints of every person, absent ones too, person after person",
        )
    xy = rows[:, :2].reshape(-1, k, 2)
    seen = np.where(np.isfinite(xy).all(-1), np.int8(Visibility.VISIBLE), np.int8(Visibility.ABSENT))
    if column is not None:
        stated = rows[:, column].reshape(-1, k)
        if not np.isin(stated, list(Visibility)).all():
            raise SchemaError(f"for_albumentations: visibility {np.unique(stated).tolist()[:8]}, expected 0 to 3")
        seen = stated.astype(np.int8)
    boxes, bbox = data.get("bboxes"), box_from_keypoints(xy, seen)
    if boxes is not None and len(boxes) == len(xy) and len(xy):
        corners = np.asarray(boxes, np.float64)[:, :4] * np.tile([shape[1], shape[0]], 2)
        bbox = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return Sample(np.asarray(data["image"]), xy, seen, skeleton, bbox=bbox)


def _warp_labels(mask: NDArray[Any], matrix: Floats, size: Size) -> NDArray[Any]:
    """A label mask (H, W) or (H, W, C) of any dtype after the map: nearest neighbour, 0 beyond the old picture."""
    if np.array_equal(matrix, np.eye(3)) and mask.shape[1::-1] == size:
        return mask
    cv2 = opencv("warping masks")
    planes = np.atleast_3d(mask)
    if mask.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        planes = planes.astype(np.float64)  # OpenCV has no other integers; exact to 2 ** 53
    moved = [
        cv2.warpPerspective(np.ascontiguousarray(planes[..., channel]), matrix, size, flags=cv2.INTER_NEAREST)
        for channel in range(planes.shape[2])
    ]
    return np.stack(moved, axis=-1).astype(mask.dtype).reshape(*moved[0].shape, *mask.shape[2:])
