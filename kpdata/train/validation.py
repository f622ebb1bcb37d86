"""Numbers of a network within a training: predictions for the true boxes of some people, scored by `kpdata.eval`.

    validator = Validator(crops, sources, spec)          # crops without augmentation, of the same sources
    validator(net)                                       # {"AP": 0.71, "AP50": …, "AR": …, "PCK@0.2": …, "loss": …}

The first number decides which network is the best. It is that of the protocol which `kpdata eval` chooses for the same
data: AP by the rules of COCO, CrowdPose, COCO-WholeBody or AI Challenger, PCKh@0.5 for MPII with its head boxes; or
PCK@0.2, where there is none (no sigmas), or several sources have different ones. True boxes are kinder than a
detector's: pose_resnet_50 has 72.4 AP with the one and 70.4 with the other (HRNet issue 15). `words` says all this of
the data at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from kpdata import schema
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError, TrainError
from kpdata.eval import protocols
from kpdata.eval.evaluation import evaluate
from kpdata.eval.points import arrays, groups
from kpdata.remapping import remap
from kpdata.skeleton import Skeleton
from kpdata.train import distributed
from kpdata.train.data import Crops, make_loader
from kpdata.train.distributed import ALONE, Ranks
from kpdata.train.losses import heatmap_loss
from kpdata.train.mixed import Source
from kpdata.train.nms import rescored
from kpdata.train.predictor import heatmaps, to_picture
from kpdata.train.prepare import prepare
from kpdata.train.spec import NetworkSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PCK = "PCK@0.2"
THRESHOLD = 0.2  # of the torso: Yang & Ramanan, PAMI 2013
_SHOWN = {  # of each protocol: names of the numbers here and there, the one that decides first
    "oks": {name: name for name in ("AP", "AP50", "AP75", "AR")},
    "crowdpose": {name: name for name in ("AP", "AP50", "AP75", "AR", "AP(E)", "AP(M)", "AP(H)")},
    "wholebody": {
        "AP": "whole_AP", "AP50": "whole_AP50", "AP75": "whole_AP75", "AR": "whole_AR",
        **{f"{group} AP": f"{group}_AP" for group in ("body", "foot", "face", "lefthand", "righthand")},
    },
    "aic": {"AP": "mAP", "AP50": "mAP50", "AP75": "mAP75"},
    "pckh": {"PCKh@0.5": "PCKh@0.5", "PCKh@0.1": "PCKh@0.1"},
    "pck": {},
}  # fmt: skip
_TITLES = {
    "oks": "AP by OKS", "crowdpose": "AP by CrowdPose's rules", "wholebody": "AP of the whole body by COCO-WholeBody's "
    "rules", "aic": "mAP by AI Challenger's rules", "pckh": "PCKh@0.5",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """People of one source and one skeleton. gt: they, and all else in their pictures; people (n,) in the crops'.

    metric: of `_SHOWN`, what its numbers mean; "pck" where no protocol can score it.
    """

    name: str
    gt: Dataset
    skeleton: Skeleton
    people: Ints
    rows: Ints  # (n,) of the people in gt
    metric: str


class Validator:
    """Measures a network on everybody in `crops`: call it with the network, in `eval()`.

    sources: those of the crops, in their order; each is scored with its own skeleton, of whose keypoints the network
    may lack some. flip_test: the mean of the maps of the crop and of its mirror image, where left and right are known.
    bf16: autocast. ranks: each process takes a share, process 0 has the numbers and the others an empty dict.

    Raises TrainError or EvaluationError at once, not after the first epoch, where the data cannot be scored.
    """

    def __init__(
        self,
        crops: Crops,
        sources: Sequence[Source],
        spec: NetworkSpec,
        *,
        batch: int = 64,
        workers: int = 0,
        flip_test: bool = True,
        device: torch.device | None = None,
        bf16: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        if crops.augment:
            raise TrainError("crops with chance in them to measure on", hint="Crops(..., augment=False)")
        self.crops, self.spec, self.ranks, self.bf16 = crops, spec, ranks, bf16
        self.device = torch.device("cpu") if device is None else device
        self.flip = spec.skeleton.flip_index() if flip_test and spec.skeleton.flip_pairs is not None else None
        few = max(1, -(-len(crops) // (batch * ranks.world)))
        self.loader = make_loader(
            crops, batch=batch, workers=min(workers, few - 1), rank=ranks.rank, world=ranks.world,
            pin=self.device.type == "cuda",
        )  # fmt: skip
        self.parts = _parts(crops, sources, spec.skeleton)
        firsts = {next(iter(_SHOWN[part.metric]), PCK) for part in self.parts}
        self.decides = firsts.pop() if len(firsts) == 1 else PCK  # a mean of AP and PCKh would say nothing
        self._labelled, self._lengths, torsos = self._truth()
        self.words = self._words(flip_test, torsos)
        self._rehearse()

    def __call__(self, net: nn.Module) -> dict[str, float]:
        """The numbers of a network, the one that decides first; `loss` is that of the plain crops."""
        points, scores, losses = self.predict(net)
        if not self.ranks.first:
            return {}
        return {**self.numbers(points, scores), "loss": float(losses.mean())}

    @torch.no_grad()
    def predict(self, net: nn.Module) -> tuple[Floats, Floats, Floats]:
        """Keypoints (N, K, 2) px of the pictures, their scores (N, K), and the loss (N,) of each person, in the order
        of the crops' table. In several processes: of all."""
        self.loader.position = (0, 0)
        index, points, scores, losses = [], [], [], []
        for given in self.loader:
            batch = given.to(self.device)
            images, targets, weights = prepare(batch, self.spec)
            maps = heatmaps(net, images, self.spec, flip=self.flip, bf16=self.bf16)
            _, errors = heatmap_loss(maps, targets, weights, known=batch.known)
            losses.append(errors.nan_to_num(0.0).sum(1) / batch.known.sum(1).clamp(1))
            found, score = self.spec.codec.decode(maps.cpu().numpy())
            points.append(to_picture(found, given.crop.numpy()))
            scores.append(score)
            index.append(given.index.numpy())
        return self._in_order(index, points, scores, [loss.cpu().double().numpy() for loss in losses])

    def _in_order(
        self, index: list[Ints], points: list[Floats], scores: list[Floats], losses: list[Floats]
    ) -> tuple[Floats, Floats, Floats]:
        count = len(self.spec.skeleton)
        mine = [
            np.concatenate([p.reshape(len(p), 2 * count), s, loss[:, None], i[:, None].astype(np.float64)], axis=1)
            for p, s, loss, i in zip(points, scores, losses, index, strict=True)
        ]
        none = np.empty((0, 3 * count + 2))
        rows = distributed.gather_rows(np.concatenate([none, *mine]), self.ranks)
        rows = rows[np.argsort(rows[:, -1], kind="stable")]
        found = rows[:, : 2 * count].reshape(-1, count, 2)
        return found, rows[:, 2 * count : 3 * count], rows[:, 3 * count]

    # ----------------------------------------------------------------------------------------------------------- scores

    def numbers(self, points: Floats, scores: Floats) -> dict[str, float]:
        """AP and PCK of keypoints (N, K, 2) px of the pictures with scores (N, K); of several parts first the means."""
        found = {part.name: self._of_part(part, points, scores) for part in self.parts}
        every = [name for name in next(iter(found.values())) if all(name in numbers for numbers in found.values())]
        names = every if self.decides != PCK else [PCK]  # a mean over some of the parts would say nothing
        means = {name: float(np.mean([numbers[name] for numbers in found.values()])) for name in names}
        if len(found) == 1:
            return means
        return means | {f"{part} {name}": value for part, of in found.items() for name, value in of.items()}

    def _of_part(self, part: Part, points: Floats, scores: Floats) -> dict[str, float]:
        numbers, shown = {}, _SHOWN[part.metric]
        if shown:
            stats = self.stats(part, points, scores)
            numbers = {name: stats[key] for name, key in shown.items()}
        far = arrays.distances(
            self.crops.people.keypoints[part.people], points[part.people], self._labelled[part.people]
        )
        rates, counts = arrays.pck(far, self._lengths[part.people], np.array([THRESHOLD]))
        return {**numbers, PCK: arrays.mean_and_total(rates[0], counts, np.ones(len(counts), bool))[1]}

    def stats(self, part: Part, points: Floats, scores: Floats) -> dict[str, float]:
        """All numbers of a part's protocol, as `kpdata eval` gives them for the same people."""
        found = under(self.crops.people.annotation_ids[part.people], self.predictions(part, points, scores))
        return evaluate(part.gt, found, metric=part.metric).stats

    def predictions(self, part: Part, points: Floats, scores: Floats) -> Dataset:
        """The people of a part as predictions on its skeleton, scored by their keypoints: true boxes have no score."""
        xy, each = points[part.people], scores[part.people]
        count, k = each.shape
        people = {
            "annotation_id": schema.fixed(np.arange(1, count + 1), pa.int64()),
            "image_id": schema.fixed(self.crops.people.image_ids[part.people], pa.int64()),
            "dataset": schema.constant("predictions", count),
            "category_id": schema.chunk(schema.take(part.gt.persons, part.rows)["category_id"]),
            "category": schema.chunk(schema.take(part.gt.persons, part.rows)["category"]),
            "skeleton": schema.constant(self.spec.skeleton.name, count),
            "keypoints": schema.rows(xy),
            "visibility": schema.rows(np.full((count, k), schema.Visibility.UNKNOWN, np.int8), kind=pa.int8()),
            "score": schema.fixed(rescored(each), pa.float64()),
            "keypoint_scores": schema.rows(each),
        }
        found = Dataset(
            part.gt.images, schema.table(schema.PERSONS, count, people), {self.spec.skeleton.name: self.spec.skeleton},
            {**part.gt.datasets, "predictions": {"source_format": "kpdata", "area_kind": "none"}},
        )  # fmt: skip
        return found if part.skeleton == self.spec.skeleton else remap(found, part.skeleton)[0]

    def _truth(self) -> tuple[NDArray[np.bool_], Floats, int]:
        """(N, K) labelled, (N,) px to measure by, and how many of those are torsos."""
        people, bones = self.crops.people, self.spec.skeleton
        labelled = (people.visibility > 0) & people.known & np.isfinite(people.keypoints).all(axis=2)
        diagonal = np.hypot(people.bbox[:, 2], people.bbox[:, 3])
        shoulder, hip = (groups.landmark(bones, name) for name in ("left_shoulder", "right_hip"))
        if shoulder is None or hip is None:
            return labelled, diagonal, 0
        torso = arrays.pair_lengths(people.keypoints, labelled, shoulder, hip)
        has = torso > 0
        return labelled, np.where(has, torso, diagonal), int(has.sum())

    def _words(self, flip_test: bool, torsos: int) -> str:
        count = len(self.crops)
        titles = " and ".join(dict.fromkeys(_TITLES[part.metric] for part in self.parts if part.metric in _TITLES))
        metric = titles if self.decides != PCK else f"{PCK} ({self._why_pck()})"
        flip = "with the flip test" if self.flip is not None else "without a flip test"
        if flip_test and self.flip is None:
            flip += f" (left and right of {self.spec.skeleton.name!r} are not known)"
        by = [f"the torso for {torsos:,}"] * (torsos > 0)
        by += [f"the diagonal of the box for {count - torsos:,}"] * (count > torsos)
        return f"measured on {count:,} people in their true boxes, {flip}: {metric} decides; {PCK} of {', '.join(by)}"

    def _why_pck(self) -> str:
        if any(part.skeleton.sigmas is None for part in self.parts):
            return "no sigmas, so no AP"
        return "the data's own number" if len(self.parts) == 1 else "the numbers of the sources are of different kinds"

    def _rehearse(self) -> None:
        """Scores the truth itself: what cannot be scored is told before the training."""
        truth = np.nan_to_num(self.crops.people.keypoints)
        try:
            self.numbers(truth, np.ones(truth.shape[:2]))
        except EvaluationError as problem:
            raise TrainError(f"val cannot be scored: {problem.message}", hint=problem.hint) from problem


def under(ids: Ints, people: Dataset) -> Dataset:
    """Predictions under the annotation ids of the people whom they are for."""
    place = people.persons.schema.get_field_index("annotation_id")
    column = schema.fixed(ids, pa.int64())
    return replace(people, persons=people.persons.set_column(place, schema.PERSONS.field(place), column))


def _metric(gt: Dataset, skeleton: Skeleton, network: Skeleton) -> str:
    """The protocol that `kpdata eval` takes for predictions of this network, if it can score these people."""
    chosen = protocols.choose(gt, replace(gt, persons=gt.persons.slice(0, 0), skeletons={network.name: network}), None)
    if chosen == "pckh" and schema.valid(gt.persons["head_bbox"]).any():
        return "pckh"
    if chosen == "pck" or skeleton.sigmas is None:
        return "pck"
    return chosen if chosen in protocols.OKS_METRICS else "oks"


def _parts(crops: Crops, sources: Sequence[Source], network: Skeleton) -> list[Part]:
    """The people by source and skeleton, with their ground truth: all who are in the pictures that are used."""
    people = crops.people
    parts: list[Part] = []
    for number, source in enumerate(sources):
        mine = np.flatnonzero(people.source == number)
        if not len(mine):
            continue
        dataset = source.dataset
        listed = np.isin(schema.values(dataset.images["image_id"]), people.image_ids[mine])
        shown = dataset.image_rows()
        in_picture = np.flatnonzero((shown >= 0) & listed[shown])
        named = [(name, rows) for name, rows in dataset.groups() if name is not None]
        for name, rows in named:
            theirs = mine[np.isin(people.rows[mine], rows)]
            if not len(theirs):
                continue
            kept = np.intersect1d(in_picture, rows)
            gt = dataset.select(persons=kept, images=listed)
            label = Path(source.name).stem + (f" {name}" if len(named) > 1 else "")
            label = label if label not in {part.name for part in parts} else f"{label} {number + 1}"
            place = np.searchsorted(kept, people.rows[theirs])
            bones = dataset.skeletons[name]
            alone = replace(gt, skeletons={name: bones})
            parts.append(Part(label, gt, bones, theirs, place, _metric(alone, bones, network)))
    return parts
