"""From datasets to batches: everybody's crop, decoded once an image, with labels, by any number of workers.

    crops = Crops([Source(dataset, folder)], skeleton, hrnet())
    loader = make_loader(crops, batch=128, workers=8)
    for batch in loader:                      # one epoch; the next loop over it is the next epoch
        ...                                   # a kpdata.train.batch.Batch

Person number `index` of epoch `epoch` gets the very crop, keypoints and visibility of
`preset(sample, generator(seed, epoch, index))`, whichever worker makes it. Absent keypoints become NaN.
"""

from __future__ import annotations

import math
import signal
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, get_worker_info

from kpdata.augment import kernels
from kpdata.augment.image import BLACK, Border, opencv, warp
from kpdata.augment.presets import Preset
from kpdata.augment.sample import Sample
from kpdata.errors import FormatError, KpdataError, TrainError
from kpdata.skeleton import Skeleton
from kpdata.train.batch import Batch
from kpdata.train.draws import Chance, Drawn, Later, draw_later, for_device
from kpdata.train.mixed import Source
from kpdata.train.order import Batches
from kpdata.train.packed import Pack, Progress, Room, build
from kpdata.train.table import Absences, Missing, People, gather
from kpdata.train.watch import worker_died

__all__ = ["Crops", "Loader", "Source", "make_loader"]

Warp = Literal["cpu", "device"]

cv2 = opencv("training")  # MissingExtra without it

_AVERAGED = 0.5 + 1e-4  # px of the input a px of the picture: below, `image.warp` may average
_LARGEST = 32_000  # px: OpenCV's warps keep coordinates in 16 bits; `image.warp` cuts such a picture
_OTHERS = 20  # people who are tried in the place of one whose picture cannot be read
_OTHER = 2**32  # keeps the stream that chooses them apart from those of the samples, as `order` does


class Crops(Dataset[Any]):
    """Everybody of some datasets who can be trained on, as a map-style dataset of torch: a list of `(epoch, index)`
    gives a `Batch`.

    sources: where people come from; all are put on `skeleton` (`mixed.union` has everything). preset: size, padding,
    convention and chance of the crops. augment False: the plain crops of validation. seed: of every draw. missing: of
    pictures that are not there, `refuse`, or `skip` them and those that cannot be read; absent: which these were, where
    a training goes on that has found them (`table.gather`). left_out: sentences about who is not taken.

    replace: what a picture (or packed crop) means that cannot be read when its turn comes. False: the batch becomes a
    `Failure`. True: somebody of the same source, chosen from (seed, epoch, index), takes the person's place in this
    batch, with the draw of that place; `Batch.replaced` tells of it. So a batch stays a mean over whole people, its
    shape is what it was, and everything is the same when the epoch is gone through again.

    TrainError where nobody is left or pictures are missing; SkeletonError where left and right are not known and the
    preset flips; SchemaError where the halves of the body are not clear and it takes half bodies.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        skeleton: Skeleton,
        preset: Preset,
        *,
        augment: bool = True,
        seed: int = 0,
        missing: Missing = "refuse",
        absent: Absences | None = None,
        replace: bool = False,
    ) -> None:
        self.skeleton, self.preset, self.augment, self.seed = skeleton, preset, augment, seed
        self.shares, self.replace = tuple(source.share for source in sources), replace
        self.people, self.pictures, self.left_out, self.absent = gather(
            sources, skeleton, preset.crop, missing=missing, absent=absent
        )
        self.pack: Pack | None = None
        self.warp: Warp = "cpu"
        self.side: int | None = None
        self._later: Later | None = None
        self._prepare()

    def _prepare(self) -> None:
        flips = self.augment and self.preset.crop.flip > 0
        self._flip_index = self.skeleton.flip_index() if flips else np.arange(len(self.skeleton))
        self._chance = Chance(self.people, self.skeleton, self.preset, augment=self.augment)

    def __len__(self) -> int:
        """N, the people of the table."""
        return len(self.people)

    def subset(self, chosen: NDArray[Any]) -> Crops:
        """The people at these positions, or of this mask, with the same options; they are numbered anew from 0.

        Not of packed crops: choose first. TrainError for nobody.
        """
        if self.pack is not None:
            raise TrainError("a subset of packed crops", hint="choose the people before packing")
        found = self._copy()
        found.people = self.people.take(np.asarray(chosen))
        if not len(found):
            raise TrainError("nobody to train on: the choice is empty")
        found._prepare()
        return found

    def packed(self, pack: Pack, *, warp: Warp = "cpu", side: int | None = None) -> Crops:
        """The same people from packed crops instead of pictures.

        warp: `cpu` gives crops of the network's size. `device` gives packed crops as they lie on disk, each in the
        upper left corner of a black square of the side `side` (None: the largest of the batch, but `pack.side` where
        people may be replaced; `pack.side`: one shape for all batches), with `matrix`, `colour` and `holes` for
        `prepare` to apply. TrainError where the pack is of other data or has too little room, the side is too small, or
        the device cannot do a step of the preset.
        """
        pack.check_for(self.people, self.pictures, self.preset.crop, augment=self.augment)
        if side is not None and side < pack.side:
            raise TrainError(f"side {side}, expected at least that of the largest packed crop, {pack.side} px")
        found = self._copy()
        found.pack, found.warp, found.side = pack, warp, side
        if warp == "device":
            found._later = for_device(self.preset if self.augment else replace(self.preset, after=()))
        return found

    def pack_into(
        self, folder: Path, *, quality: int | None = 90, workers: int = 1, progress: Progress | None = None
    ) -> Pack:
        """Their packed crops in `folder`, made, or finished where it was interrupted; see `packed.build`."""
        room, halves = Room.of(self.preset.crop, augment=self.augment), self._chance.halves
        return build(
            folder, self.people, self.pictures, room, halves, quality=quality, workers=workers, progress=progress
        )

    def _copy(self) -> Crops:
        found = object.__new__(Crops)
        found.__dict__.update(self.__dict__)
        return found

    # ------------------------------------------------------------------------------------------------ one batch

    def __getitem__(self, place: tuple[int, int]) -> Batch | Failure:
        """A batch of one."""
        return self.__getitems__([place])

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> Batch | Failure:
        """The batch of these `(epoch, index)`; index + N, + 2 N, … are the same person, drawn anew."""
        try:
            return self._batch(np.array(places, np.int64).reshape(-1, 2))
        except KpdataError as problem:  # a worker cannot raise it: torch would wrap it into a traceback
            return Failure(problem.message, problem.hint)

    def _batch(self, places: NDArray[np.int64]) -> Batch:
        rows = places[:, 1] % len(self)
        streams = [(self.seed, epoch, index) for epoch, index in places.tolist()]
        making = _Making(len(rows), len(self.skeleton))
        drawn, replaced = self._pixels(rows, streams, making)
        self._labels(rows, drawn, making)
        self._afterwards(rows, drawn, making)
        absent = making.visibility == 0
        making.keypoints[absent] = np.nan
        return making.batch(self.people.take(rows), rows, drawn, places, replaced)

    def _pixels(
        self, rows: NDArray[np.int64], streams: list[tuple[int, int, int]], making: _Making
    ) -> tuple[Drawn, tuple[str, ...]]:
        """Everybody's draw and pixels; and what was wrong with the pictures of those whose place another person takes,
        in `rows` too."""
        self._make_room(rows, making)
        todo, replaced = np.arange(len(rows)), None
        for turn in range(_OTHERS + 1):
            drawn = self._chance.draw(rows, streams)  # each by its own stream: those who stay draw the same again
            broken = (self._untouched if self.warp == "device" else self._warped)(todo, rows, drawn, making)
            if replaced is None:
                replaced = tuple(problem.message for problem in broken.values())
            if not broken:
                return drawn, replaced
            todo = np.array(list(broken))
            rows[todo] = [self._another(int(rows[i]), streams[i], turn) for i in todo.tolist()]
        raise TrainError(
            f"{_OTHERS} people chosen in the place of one whose picture cannot be read have none that can: "
            + next(iter(broken.values())).message,
            hint="is the disk, or the folder of the pictures, still there?",
        )

    def _another(self, row: int, stream: tuple[int, int, int], turn: int) -> int:
        """Somebody of the same source."""
        rng = np.random.Generator(np.random.PCG64([*stream, _OTHER + turn]))
        return int(rng.choice(np.flatnonzero(self.people.source == self.people.source[row])))

    def _make_room(self, rows: NDArray[np.int64], making: _Making) -> None:
        if self.warp != "device":
            width, height = self.preset.crop.size
            making.room_for(height, width, black=False)  # warps fill them
            return
        assert self.pack is not None
        of, side = self.pack.columns, self.side or (self.pack.side if self.replace else 0)
        side = side or int(max(of["width"][rows].max(), of["height"][rows].max()))
        making.room_for(side, side, black=True)
        making.matrix = np.empty((len(rows), 3, 3), np.float32)

    def _warped(
        self, todo: NDArray[np.int64], rows: NDArray[np.int64], drawn: Drawn, making: _Making
    ) -> dict[int, FormatError]:
        """The crops of these places of the batch, each picture decoded once; the places whose picture cannot be read,
        and why."""
        crop, broken = self.preset.crop, {}
        border: Border = crop.border or BLACK
        at, image, back = -1, np.empty((0, 0, 3), np.uint8), np.eye(3)
        for i in todo[np.argsort(self.people.image[rows[todo]], kind="stable")].tolist():
            row = int(rows[i])
            number = int(self.people.image[row])
            try:
                if self.pack is not None:
                    image, back, size = self.pack.read(row)
                else:
                    image, at = image if at == number else self.pictures.read(number), number
                    size = (image.shape[1], image.shape[0])
            except FormatError as problem:
                broken[i] = self._replaceable(problem)
                continue
            making.crop[i] = drawn.matrix(i, size, crop.size, crop.convention)
            seen = making.crop[i] if self.pack is None else making.crop[i] @ back
            _warp_into(making.images[i], image, seen, border, crop.antialias)
        return broken

    def _untouched(
        self, todo: NDArray[np.int64], rows: NDArray[np.int64], drawn: Drawn, making: _Making
    ) -> dict[int, FormatError]:
        """Packed crops as they are, in one array, and their maps; the places whose crop is damaged, and how."""
        assert self.pack is not None and making.matrix is not None
        crop, broken = self.preset.crop, {}
        for i in todo.tolist():
            try:
                image, back, size = self.pack.read(int(rows[i]))
            except FormatError as problem:
                broken[i] = self._replaceable(problem)
                continue
            making.images[i, : image.shape[0], : image.shape[1]] = image
            making.crop[i] = drawn.matrix(i, size, crop.size, crop.convention)
            making.matrix[i] = making.crop[i] @ back
        return broken

    def _replaceable(self, problem: FormatError) -> FormatError:
        if not self.replace:
            raise problem
        return problem

    def _labels(self, rows: NDArray[np.int64], drawn: Drawn, making: _Making) -> None:
        """Keypoints in px of the input, left and right exchanged where it is a mirror."""
        people, m = self.people, making.crop
        order = np.where(drawn.flip[:, None], self._flip_index, np.arange(len(self.skeleton)))  # (B, K)
        xy = np.take_along_axis(people.keypoints[rows], order[..., None], axis=1)
        x, y, linear = xy[..., 0], xy[..., 1], m[:, :, :, None]
        making.keypoints = np.stack([linear[:, r, 0] * x + linear[:, r, 1] * y + linear[:, r, 2] for r in (0, 1)], -1)
        making.visibility = np.take_along_axis(people.visibility[rows], order, axis=1)
        making.known = np.take_along_axis(people.known[rows], order, axis=1)

    def _afterwards(self, rows: NDArray[np.int64], drawn: Drawn, making: _Making) -> None:
        """The preset's steps after the crop: done here, or their parameters for the device."""
        if not self.augment or not self.preset.after:
            return
        if self._later is not None:
            making.prepare(self._later)
        width, height = self.preset.crop.size
        nothing = np.broadcast_to(np.uint8(0), (height, width, 3))
        for i, row in enumerate(rows.tolist()):
            crop = self._sample(nothing if self._later else making.images[i], row, i, making)
            if self._later is not None:
                told = making.of(i, "colour"), making.of(i, "holes")
                making.visibility[i] = draw_later(self._later, crop, int(drawn.seed[i]), *told)
                continue
            rng = np.random.Generator(np.random.PCG64(int(drawn.seed[i])))
            for step in self.preset.after:
                crop = step(crop, rng)
            making.images[i], making.visibility[i] = crop.image, crop.visibility[0]

    def _sample(self, image: NDArray[np.uint8], row: int, i: int, making: _Making) -> Sample:
        """The crop of one person as the steps after it see it."""
        one, people = slice(row, row + 1), self.people
        return Sample(
            image, making.keypoints[i : i + 1], making.visibility[i : i + 1], self.skeleton,
            bbox=kernels.warp_boxes(people.bbox[one], making.crop[i]),
            area=kernels.warp_area(people.area[one], making.crop[i]),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Failure:
    """What a worker could not do, on its way to the process that says it."""

    message: str
    hint: str


class _Making:
    """The arrays of a batch while it is made."""

    def __init__(self, count: int, keypoints: int) -> None:
        self.images: NDArray[np.uint8] = np.empty((count, 0, 0, 3), np.uint8)
        self.pixels = torch.from_numpy(self.images)  # the same memory
        self.keypoints = np.empty((count, keypoints, 2))
        self.visibility = np.empty((count, keypoints), np.int8)
        self.known = np.empty((count, keypoints), bool)
        self.crop = np.empty((count, 3, 3))
        self.matrix: NDArray[np.float32] | None = None
        self.colour: NDArray[np.float32] | None = None
        self.holes: NDArray[np.float32] | None = None
        self.fill: tuple[int, int, int] | Literal["mean"] = (0, 0, 0)

    def room_for(self, height: int, width: int, *, black: bool) -> None:
        """Pictures of this size, black if so asked; in a worker where the training sees them: torch would copy them
        there, black corners and all, which took longer than to decode what is in them."""
        shape = (len(self.images), height, width, 3)
        if get_worker_info() is None:
            self.pixels = torch.from_numpy((np.zeros if black else np.empty)(shape, np.uint8))
        else:
            storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
            self.pixels = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
        self.images = self.pixels.numpy()

    def prepare(self, later: Later) -> None:
        """Room for what the device is told, which says "nothing" so far."""
        count, self.fill = len(self.images), later.fill
        if later.colour is not None:
            self.colour = np.tile(np.array([1, 1, 1, 0], np.float32), (count, 1))
        if later.holes is not None:
            self.holes = np.full((count, later.count, 4), np.nan, np.float32)

    def of(self, i: int, name: Literal["colour", "holes"]) -> NDArray[np.float32] | None:
        array: NDArray[np.float32] | None = getattr(self, name)
        return None if array is None else array[i]

    def batch(
        self,
        people: People,
        rows: NDArray[np.int64],
        drawn: Drawn,
        places: NDArray[np.int64],
        replaced: tuple[str, ...],
    ) -> Batch:
        """The arrays as tensors; people: those of the batch."""
        given = {name: getattr(self, name) for name in ("matrix", "colour", "holes")}
        tensors = {
            "keypoints": self.keypoints.astype(np.float32), "visibility": self.visibility,
            "known": self.known, "source": people.source, "index": rows, "epoch": places[:, 0].copy(),
            "image_ids": people.image_ids, "annotation_ids": people.annotation_ids, "crop": self.crop,
            "mirrored": drawn.flip, **{name: array for name, array in given.items() if array is not None},
        }  # fmt: skip
        found = {name: torch.from_numpy(array) for name, array in tensors.items()}
        return Batch(images=self.pixels, **found, fill=self.fill, replaced=replaced)


# ------------------------------------------------------------------------------------------------------------- loader


class Loader:
    """Batches of `Crops`, an epoch a loop. See `make_loader`."""

    def __init__(self, crops: Crops, batches: Batches, *, workers: int, pin: bool, persistent: bool) -> None:
        self.crops, self.batches = crops, batches
        self._loader: DataLoader[Any] = DataLoader(
            crops,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin,
            persistent_workers=persistent and workers > 0,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # its own: else each epoch would take a number of the training's
        )
        # At the end of a process that still holds its loader, Python asks workers by SIGTERM, which they sit out.
        weakref.finalize(self, _dismiss, self._loader)

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, people used in it by all ranks) that the next loop starts with; set it to resume.

        A checkpoint in the middle of an epoch needs the people that were *trained on*, batches x batch x ranks: workers
        run ahead, so the loader cannot know.
        """
        return self.batches.position

    @position.setter
    def position(self, value: tuple[int, int]) -> None:
        self.batches.position = value
        self.batches.start()

    @property
    def per_epoch(self) -> int:
        """Batches of a whole epoch; `len` is that of the coming one, which may have begun."""
        return self.batches.per_epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """One epoch. TrainError where a worker met a picture that cannot be used, or died."""
        try:
            for found in self._loader:
                if isinstance(found, Failure):
                    raise TrainError(found.message, hint=found.hint)
                yield found
        except (RuntimeError, ConnectionError, EOFError) as problem:
            if died := worker_died(problem):
                raise died from problem
            raise


def make_loader(
    crops: Crops,
    *,
    batch: int,
    workers: int = 0,
    seed: int | None = None,
    shuffle: bool | None = None,
    rank: int = 0,
    world: int = 1,
    drop_last: bool | None = None,
    pin: bool = False,
    persistent: bool = True,
    position: tuple[int, int] = (0, 0),
) -> Loader:
    """A loader of `Batch`es of `batch` people for this process; the number of workers changes no batch.

    seed: of the order; None: that of the crops. shuffle, drop_last: None: where the crops are augmented; else the
    table's order, everybody. rank, world, position: see `order.Batches`. pin: page-locked memory, for CUDA.
    persistent: workers live from epoch to epoch. TrainError as of `Batches`.
    """
    batches = Batches(
        crops.people.image, crops.people.source, batch,
        seed=crops.seed if seed is None else seed,
        shuffle=crops.augment if shuffle is None else shuffle, shares=crops.shares,
        rank=rank, world=world, drop_last=crops.augment if drop_last is None else drop_last,
    )  # fmt: skip
    batches.position = position
    batches.start()
    return Loader(crops, batches, workers=workers, pin=pin, persistent=persistent)


def _warp_into(
    out: NDArray[np.uint8], image: NDArray[np.uint8], m: kernels.Floats, border: Border, antialias: bool
) -> None:
    """`image.warp` to `out` (H, W, 3), for a map that cannot be wrong. The ordinary case, nothing to average and one
    colour beyond, goes straight to OpenCV: checks and special cases were a tenth of the loader's time."""
    # px of the input a px of the picture, along x and y
    least = min(math.hypot(m[0, 0], m[1, 0]), math.hypot(m[0, 1], m[1, 1]))
    size = out.shape[1], out.shape[0]
    if (antialias and least < _AVERAGED) or isinstance(border, str) or max(image.shape) > _LARGEST:
        out[:] = warp(image, m, size, border, antialias=antialias)
        return
    cv2.warpAffine(
        image, m[:2], size, dst=out, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _dismiss(loader: DataLoader[Any]) -> None:
    """Ends the workers that are kept from one epoch to the next."""
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()  # type: ignore[attr-defined]


def _start_worker(number: int) -> None:
    """One thread a worker: there are as many workers as cores, and OpenCV's threads do not survive a fork.

    Ctrl-C and a scheduler's SIGTERM go to all processes of a group: the training's own decides what they mean, and its
    step in hand needs the workers. A second SIGTERM ends a worker; one whose training is gone ends by itself.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
