"""Slices by AI Challenger's own measure, whose numbers are shares: people found above an OKS over the greater of the
people and the predictions of each image, summed over the images (`protocols.ai_challenger`).

A slice holds its own people, found and not. The predictions of an image that are more than its people belong to no
person: where slices are made of images they are its image's, else each slice takes a part of them, as large as its part
of the image's people (of all people, where nobody is on the image). So the whole is the mean of the slices, weighed by
what they divide by; a slice of everybody has the mAP of the whole, and one of images that of these images alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from kpdata import schema
from kpdata.dataset import Dataset
from kpdata.eval import bootstrap
from kpdata.eval.oks import Floats, Ints
from kpdata.eval.part import Pairing, Part, pair
from kpdata.eval.protocols import AI_THRESHOLDS, ai_challenger_hits, ai_challenger_numbers
from kpdata.eval.slices import Slicing, people_of, slicings, sorted_table

SHARES = pa.schema(
    [
        ("by", pa.string()),
        ("slice", pa.string()),
        ("people", pa.int64()),
        ("images", pa.int64()),
        *((name, pa.float64()) for name in ("mAP", "mAP_low", "mAP_high", "mAP50", "mAP75", "mean_oks", "missed")),
    ]
)


def share_slices(
    part: Part,
    gt: Dataset,
    by: str | Sequence[str] | None = None,
    *,
    n: int = 0,
    seed: int = 0,
    level: float = 0.95,
    pairing: Pairing | None = None,
) -> pa.Table:
    """mAP, and its shares at 0.50 and 0.75, of each kind of people, the worst mAP first: a table of `SHARES`.

    Arguments, errors and the other columns as of `slices.slices`: `mean_oks` and `missed` are of those with a labelled
    keypoint, by pycocotools' matching.
    """
    kinds = slicings(part, gt, by)
    if not kinds or not part.counted().any():
        return schema.table(SHARES, 0, {})
    hits, most = sliced_shares(part, kinds)
    people = people_of(part, kinds, pairing or pair(part))
    low = high = np.full(hits.shape[1], np.nan)
    if n != 0:
        bootstrap.check_settings(n, seed, level)
        drawn = resampled_shares(hits, most, n, seed).mean(axis=2)
        low, high = bootstrap.percentiles(drawn, level, people["images"])
    numbers = ai_challenger_numbers(divided(hits.sum(axis=0), most.sum(axis=0)))
    columns = {name: np.array([row[name] for row in numbers]) for name in numbers[0]}
    columns |= {"mAP_low": low, "mAP_high": high}
    return sorted_table(kinds, columns | people, SHARES, "mAP")


def sliced_shares(part: Part, kinds: Sequence[Slicing]) -> tuple[Floats, Floats]:
    """(I, S, T) people of each image and slice above each threshold, and (I, S) what they are divided by; I: the images
    of the part, ascending; S: the slices of all kinds, one after the other."""
    images, first = np.unique(part.image_ids, return_index=True)
    people, above, found = ai_challenger_hits(part)
    image = np.searchsorted(images, part.truth.image_id[people])
    size = np.bincount(image, minlength=len(images))
    more = np.maximum(_counts(images, part.detections.image_id[found]) - size, 0)
    hits, most = [], []
    for kind in kinds:
        own, of = np.zeros((len(images), len(kind.labels))), kind.person[people]
        inside, counts = of >= 0, np.zeros((len(images), len(kind.labels), len(AI_THRESHOLDS)))
        np.add.at(own, (image[inside], of[inside]), 1)
        np.add.at(counts, (image[inside], of[inside]), above[inside])
        hits.append(counts)
        most.append(own + more[:, None] * _parts(kind, own, size, first))
    return np.concatenate(hits, axis=1), np.concatenate(most, axis=1)


def _parts(kind: Slicing, own: Floats, size: Ints, first: Ints) -> Floats:
    """(I, S) the part of an image's further predictions that each slice takes."""
    if kind.image is not None:
        inside: Floats = (kind.image[first][:, None] == np.arange(own.shape[1])).astype(np.float64)
        return inside
    everybody: Floats = np.tile(own.sum(axis=0) / max(int(size.sum()), 1), (len(own), 1))
    return np.divide(own, size[:, None], out=everybody, where=size[:, None] > 0)


def _counts(images: Ints, of: Ints) -> Ints:
    return np.bincount(np.searchsorted(images, of), minlength=len(images))


def resampled_shares(hits: Floats, most: Floats, n: int, seed: int) -> Floats:
    """(n, S, T) the shares of resamples of the images; NaN where a slice has nothing to divide by."""
    flat = hits.reshape(len(hits), -1)
    blocks = []
    for _, weight in bootstrap.drawn(n, len(hits), seed):
        drawn = weight.astype(np.float64)
        blocks.append(divided((drawn @ flat).reshape(len(weight), *hits.shape[1:]), drawn @ most))
    return np.concatenate(blocks)


def divided(hits: Floats, most: Floats) -> Floats:
    """Shares (…, S, T) of hits (…, S, T) over (…, S); NaN over 0."""
    shares: Floats = hits / np.where(most > 0, most, np.nan)[..., None]
    return shares
