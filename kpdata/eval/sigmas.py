"""OKS sigmas for keypoints of your own, measured on people who were labelled more than once.

COCO measured its sigmas on 5,000 images that were annotated redundantly: `sigma_i² = E[d_i² / s²]`, where `s²` is the
person's area, and OKS uses `k_i = 2 sigma_i` (cocodataset.org/#keypoints-eval, "Tuning OKS"). `d_i` is the distance, in
the plane, of a label from where the keypoint is. Nobody knows that place: the mean of the n labels of it stands in, and
lies nearer to each of them than the truth does. Σ |x_j − mean|² therefore estimates (n − 1) E[d²], not n E[d²]
(Bessel's correction; for two labels: half of their squared distance). So

    sigma_i² = Σ_people Σ_labels |x − mean of that person's labels|² / area  /  Σ_people (n − 1)

is free of bias for sigma_i² whatever the number of labels and the shape of the noise, as long as labels are made
independently. Labels that copy one another make it too small. It is a variance in the plane, of x and y together, as
d in OKS is: for equal noise on both axes √2 times what one axis shows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpdata import files, schema
from kpdata.dataset import Dataset
from kpdata.errors import EvaluationError, WriteError
from kpdata.eval.labels import Labels, repeated_labels, two_annotators
from kpdata.skeleton import Skeleton, load, names

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MINIMUM = 30  # people labelled twice that a keypoint needs: at 30 the 95 % interval is about sigma ± 18 %
OUTLIER = 1e-4  # share of labels that would be as far apart by chance, were the noise Gaussian
_ROUND = 5  # decimals of ten times a sigma, as the published ones are stored
_BLOCK = 64  # bootstrap resamples at once: bounds memory
_WIDE = 0.02  # share of outliers from which on a sentence says so
_NAMED = 3  # keypoints that it names


@dataclass(frozen=True, slots=True)
class SigmaEstimate:
    """Sigmas of the K keypoints of `skeleton`, with what they rest on. None where too few people were labelled twice.

    sigmas: root of the mean squared deviation over area, everything counted. low, high: 95 % bootstrap interval over
    people. robust: what the median deviation would give for Gaussian noise; it does not see gross errors (left and
    right swapped, another person), nor the tails that human labels really have: usually smaller.
    pairs: people with at least two labels of the keypoint. outliers: share of these whose labels lie farther apart than
    one in 10,000 would at the robust sigma. people, labels: people labelled at least twice, and their labels.
    facts: `matching`, `area`, `minimum`, `resamples`, `seed`. notes: a sentence for each thing to know.
    """

    skeleton: Skeleton
    sigmas: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    robust: tuple[float | None, ...]
    pairs: tuple[int, ...]
    outliers: tuple[float | None, ...]
    people: int
    labels: int
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def table(self) -> pa.Table:
        """A row a keypoint: `keypoint`, `sigma`, `low`, `high`, `robust`, `pairs`, `outliers`; nulls where None."""
        rows = {"sigma": self.sigmas, "low": self.low, "high": self.high, "robust": self.robust}
        columns = {"keypoint": schema.strings(self.skeleton.keypoint_names)}
        columns |= {name: _nullable(values) for name, values in rows.items()}
        columns["pairs"] = schema.fixed(np.array(self.pairs, np.int64), pa.int64())
        columns["outliers"] = _nullable(self.outliers)
        return pa.Table.from_arrays(list(columns.values()), names=list(columns))

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`: a row a keypoint in `keypoints`, beside counts, facts and notes."""
        rows: list[dict[str, Any]] = self.table().to_pylist()
        counts = {"people": self.people, "labels": self.labels}
        return {"skeleton": self.skeleton.name, "keypoints": rows, **counts, **self.facts, "notes": list(self.notes)}

    def with_sigmas(self, name: str | None = None, *, robust: bool = False) -> Skeleton:
        """The skeleton with these sigmas (the robust ones on demand), called `name`, else `<its name>_measured`.

        Rounded to 6 decimals, so that a file of ten times each holds the very same numbers. EvaluationError where a
        keypoint has none (no number is made up for it), or one of 0: labels that were copied.
        """
        values = self.robust if robust else self.sigmas
        keypoints = self.skeleton.keypoint_names
        rows = zip(keypoints, values, self.pairs, strict=True)
        short = [f"{keypoint} ({count})" for keypoint, value, count in rows if value is None]
        if short:
            raise EvaluationError(
                f"{len(short)} of {len(keypoints)} keypoints have fewer than {self.facts['minimum']} people labelled "
                f"twice: {', '.join(short)}",
                hint="label more of them, or write sigmas of your choice into the file yourself",
            )
        tenfold = [round(10 * value, _ROUND) for value in values if value is not None]
        if nothing := [n for n, value in zip(keypoints, tenfold, strict=True) if not value > 0]:
            raise EvaluationError(
                f"the labels of {', '.join(nothing)} do not differ: a sigma of 0 is none",
                hint="were they copied from one another? sigmas need labels that were made independently",
            )
        kind = "median deviation" if robust else "mean squared deviation"
        told = f"measured: {kind} of {self.labels:,} labels of {self.people:,} people; area: {self.facts['area']}"
        changed = {"sigmas": tuple(value / 10.0 for value in tenfold), "sigma_source": told}
        return replace(self.skeleton, name=name or f"{self.skeleton.name}_measured", **changed)  # type: ignore[arg-type]


def estimate_sigmas(
    a: Dataset,
    b: Dataset | None = None,
    *,
    skeleton: str | Skeleton | None = None,
    group: str | None = None,
    box_share: float | None = None,
    minimum: int = MINIMUM,
    resamples: int = 1000,
    seed: int = 0,
) -> SigmaEstimate:
    """Sigmas from repeated labels of the same people: those of two annotators, or several in one data set.

    a, b: two annotators' labels of the same images; people are paired by annotation id where these meet, else by image
    and box (`labels.two_annotators`). `a` alone: people labelled several times, found by `group` (`track_id`, or a key
    of the extras), else by track id, else by their boxes (`labels.repeated_labels`). Only keypoints that are labelled
    (visibility above 0) by both count; crowds do not.
    skeleton: stands in for that of `a` where that names no keypoints. box_share: area as this share of w × h of the
    box, or of the keypoints' extent without one, for people whose area is not known (CrowdPose takes 0.53).
    minimum: people labelled twice that a keypoint needs. resamples, seed: of the bootstrap.
    EvaluationError: other keypoints on the two sides, nobody labelled twice, no areas, labels all equal.
    """
    if minimum < 2 or resamples < 1 or seed < 0 or not (box_share is None or 0 < box_share < np.inf):
        raise EvaluationError(
            f"minimum={minimum}, resamples={resamples}, seed={seed}, box_share={box_share}: expected at least 2, 1 and "
            "0, and a share above 0"
        )
    bones = load(skeleton) if isinstance(skeleton, str) else skeleton
    labels = repeated_labels(a, bones, group, box_share) if b is None else two_annotators(a, b, bones, box_share)
    squares, freedom = spread(labels)  # (G, K)
    notes = [*labels.notes, *_copies(squares, freedom)]
    pairs = (freedom > 0).sum(0)
    enough = pairs >= minimum
    with np.errstate(invalid="ignore", divide="ignore"):
        sigma = np.sqrt(squares.sum(0) / freedom.sum(0))
    low, high = _interval(squares, freedom, resamples, seed)
    robust, outliers = _robust(squares, freedom)
    estimate = SigmaEstimate(
        skeleton=labels.skeleton,
        sigmas=_known(sigma, enough),
        low=_known(low, enough),
        high=_known(high, enough),
        robust=_known(robust, enough),
        pairs=tuple(pairs.tolist()),
        outliers=_known(outliers, enough),
        people=len(labels.area),
        labels=len(labels.person),
        facts={"matching": labels.matching, "area": labels.area_rule, "minimum": minimum, "resamples": resamples,
               "seed": seed},
    )  # fmt: skip
    return replace(estimate, notes=(*notes, *_remarks(estimate)))


def spread(labels: Labels) -> tuple[Floats, Ints]:
    """Σ |label − mean of the person's labels|² / area, and labels − 1, of each person and keypoint: (G, K) each.

    0 and 0 where a person has fewer than two labels of a keypoint.
    """
    order = np.argsort(labels.person, kind="stable")
    starts = np.searchsorted(labels.person[order], np.arange(len(labels.area)))
    counted = labels.labelled[order]
    xy = np.where(counted[..., None], labels.xy[order], 0)
    n = np.add.reduceat(counted.astype(np.int64), starts, axis=0)  # (G, K)
    mean = np.add.reduceat(xy, starts, axis=0) / np.maximum(n, 1)[..., None]
    off = np.where(counted[..., None], xy - mean[labels.person[order]], 0)
    squares = np.add.reduceat(np.square(off).sum(-1), starts, axis=0) / labels.area[:, None]
    freedom = np.maximum(n - 1, 0)
    return np.where(freedom > 0, squares, 0), freedom


def _interval(squares: Floats, freedom: Ints, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """(K,) 2.5 and 97.5 percentiles of the sigma over resampled people; NaN where nobody was labelled twice."""
    rng = np.random.default_rng(seed)
    people = len(squares)
    found = []
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        drawn = rng.integers(0, people, (count, people)) + np.arange(count)[:, None] * people
        weight = np.bincount(drawn.ravel(), minlength=count * people).reshape(count, people).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.sqrt((weight @ squares) / (weight @ freedom)))
    samples = np.concatenate(found)
    samples = np.where(np.isnan(samples).all(0), 0, samples)
    low, high = np.nanpercentile(samples, [2.5, 97.5], axis=0)
    return low, high


def _robust(squares: Floats, freedom: Ints) -> tuple[Floats, Floats]:
    """(K,) sigma of the median deviation, and the share of people whose labels lie too far apart for it.

    For isotropic Gaussian noise Σ |x − mean|² / sigma² / area of n labels is the sum of 2 (n − 1) squares of variance
    1/2: a Gamma(n − 1) variable, whose quantiles are known.
    """
    from scipy.special import gammaincinv

    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.where(freedom > 0, squares / gammaincinv(np.maximum(freedom, 1), 0.5), np.nan)
        nobody = ~(freedom > 0).any(0)
        variance = np.nanmedian(np.where(nobody, 0, scaled), axis=0)
        far = (squares > variance * gammaincinv(np.maximum(freedom, 1), 1 - OUTLIER)) & (freedom > 0)
        share = far.sum(0) / (freedom > 0).sum(0)
    return np.sqrt(variance), share


def _copies(squares: Floats, freedom: Ints) -> list[str]:
    """A sentence where people's labels are equal to the bit; EvaluationError where all are."""
    twice = (freedom > 0).any(1)
    equal = int((twice & (squares == 0).all(1)).sum())
    if equal == twice.sum():
        raise EvaluationError(
            f"the labels of all {equal:,} people are equal to the last bit: nothing to measure",
            hint="are these two copies of one file? sigmas need labels that were made independently",
        )
    words = f"{equal:,} of {int(twice.sum()):,} people have equal labels to the last bit: copies make sigmas too small"
    return [words] if equal else []


def _remarks(estimate: SigmaEstimate) -> list[str]:
    """What a reader of the numbers should know: too few labels, labels that lie very far apart."""
    keypoints = estimate.skeleton.keypoint_names
    few = [f"{name} ({n})" for name, s, n in zip(keypoints, estimate.sigmas, estimate.pairs, strict=True) if s is None]
    least = estimate.facts["minimum"]
    notes = [f"no sigma where fewer than {least} people were labelled twice: {', '.join(few)}"] if few else []
    rows = zip(keypoints, estimate.outliers, estimate.sigmas, estimate.robust, strict=True)
    wide = [(share, f"{name} ({share:.0%}: sigma {s:.3g}, robust {r:.3g})") for name, share, s, r in rows
            if share is not None and share > _WIDE and s is not None and r is not None]  # fmt: skip
    if wide:
        worst = [words for _, words in sorted(wide, reverse=True)[:_NAMED]]
        notes.append(
            f"labels of {len(wide)} keypoints lie farther apart than chance lets them, and count all the same: left "
            f"and right swapped, or another person? Most: {', '.join(worst)}"
        )
    return notes


def skeleton_toml(skeleton: Skeleton) -> str:
    """A skeleton file (its shape: `kpdata.skeleton`); `load` of it gives an equal skeleton, bit for bit.

    Sigmas are written ×10 with a divisor, as published ones, where that gives the same bits back.
    """
    document = skeleton.to_json()
    columns = document["keypoints"]
    lines = [f"name = {_text(document['name'])}"]
    lines += [f"source = {_text(document['source'])}"] if "source" in document else []
    lines += _listed("keypoints", [_text(name) for name in columns])
    lines += _listed("edges", [_texts([columns[a], columns[b]]) for a, b in document["edges"]])
    if "flip_pairs" in document:
        lines += _listed("flip_pairs", [_texts(pair) for pair in document["flip_pairs"]])
    for key in ("aliases", "landmarks"):
        table = document.get(key) or {}
        lines += ["", f"[{key}]"] if table else []
        lines += [f"{_text(name)} = {_texts(v) if isinstance(v, list) else _text(v)}" for name, v in table.items()]
    if skeleton.sigmas is not None:
        tenfold = [round(10 * sigma, _ROUND) for sigma in skeleton.sigmas]
        exact = all(value / 10.0 == sigma for value, sigma in zip(tenfold, skeleton.sigmas, strict=True))
        lines += ["", "[sigmas]"]
        lines += _listed("values", [repr(float(v)) for v in (tenfold if exact else skeleton.sigmas)])
        lines += [f"divisor = {10.0 if exact else 1.0}"]
        lines += [f"source = {_text(skeleton.sigma_source)}"] if skeleton.sigma_source is not None else []
    return "\n".join(lines) + "\n"


def write_skeleton(skeleton: Skeleton, target: Path, *, force: bool = False) -> None:
    """Write a skeleton file; DestinationExists without `force`, WriteError where disk or name refuse."""
    if skeleton.name in names() and skeleton != load(skeleton.name):
        raise WriteError(f"{target}: the name {skeleton.name!r} is a built-in skeleton's", hint="choose another name")
    if target.suffix != ".toml":
        raise WriteError(f"{target}: a skeleton file is TOML", hint="its name ends in .toml")
    files.write_bytes(target, skeleton_toml(skeleton).encode(), force=force)


def _text(text: str) -> str:
    """A TOML basic string; JSON's escapes are a part of TOML's, which also wants DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _texts(items: list[str]) -> str:
    return f"[{', '.join(_text(item) for item in items)}]"


def _listed(key: str, items: list[str], width: int = 110) -> list[str]:
    """`key = [ … ]`, broken into lines of at most `width` characters."""
    if len(whole := f"{key} = [{', '.join(items)}]") <= width:
        return [whole]
    lines, row = [f"{key} = ["], "   "
    for item in items:
        if len(row) + len(item) + 2 > width:
            lines.append(row)
            row = "   "
        row += f" {item},"
    return [*lines, row, "]"]


def _known(values: Floats, enough: NDArray[np.bool_]) -> tuple[float | None, ...]:
    return tuple(v if ok else None for v, ok in zip(values.tolist(), enough.tolist(), strict=True))


def _nullable(values: tuple[float | None, ...]) -> pa.Array:
    present = np.array([value is not None for value in values], bool)
    return schema.fixed(np.array([np.nan if v is None else v for v in values], np.float64), pa.float64(), present)
