"""Skeletons: names of keypoint columns, left/right twins, edges, OKS sigmas, and how one skeleton maps to another.

The built-in ones are data, a file each in `kpdata/skeletons/`. Yours is a file of the same shape (TOML, or JSON
with the same keys), which `load("horse.toml")` and every `--skeleton` option take:

    name = "horse_5"                                                       # required; not that of a built-in skeleton
    keypoints = ["nose", "left_eye", "right_eye", "withers", "tail_base"]  # required: the order of the columns
    edges = [["nose", "left_eye"], ["withers", "tail_base"]]               # by name or 0-based column: [[0, 1], [3, 4]]
    flip_pairs = [["left_eye", "right_eye"]]         # left out: unknown, flipping refuses; []: there are none
    source = "our annotation guide, version 2"       # where this is from; `description`, `notes`: prose, not read
    [aliases]
    tail_base = ["tailbase"]                         # other spellings in files
    [landmarks]
    withers = "horse_withers"                        # the point of the body, where the name alone does not say it
    [sigmas]                                         # OKS sigmas: values / divisor; left out: none
    values = [0.26, 0.25, 0.25, 0.79, 0.89]
    divisor = 10.0
    source = "measured on 200 images labelled twice"

A remap copies keypoints of one *landmark*. Limbs, eyes, ears, nose, feet and fingers get theirs from their names in any
usual spelling (LShoulder, shoulder-left, l_shoulder). Necks and heads do not: data sets mean different points by them.
`mid_shoulders` and `mid_hips` are midpoints. `upper_neck/mpii` is a point as one protocol (after the slash) annotates
it: that of another protocol is close, and is taken only with `approximate`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import reprlib
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kpdata.errors import SkeletonError

Pair = tuple[str, str]
Floats = NDArray[np.floating[Any]]
RemapLine = tuple[str, str, tuple[str, ...], str]  # target keypoint, relation, source keypoints used, note

_FOLDER = Path(__file__).parent / "skeletons"
_KEYS = ("name", "description", "source", "notes", "keypoints", "edges", "flip_pairs", "aliases", "landmarks", "sigmas")


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Keypoint names in column order (K of them) and the facts about them; checked once, when it is made.

    edges: 0-based column pairs to draw. flip_pairs: left/right twins by name; None: not known, flipping must refuse;
    empty: declared to have none. sigmas: (K,) OKS sigmas, already divided, the very bits of the official evaluator;
    None: no official ones. landmarks: the point of the body of each keypoint, "" where not known; left out: derived
    from the names. aliases: (keypoint, other spelling in files) pairs.

    Raises SkeletonError for names that are missing or repeated, pairs that name strangers or a keypoint twice, edges
    out of range, sigmas or landmarks that are not K, sigmas not above 0, a landmark or alias of two keypoints.
    """

    name: str
    keypoint_names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...] = ()
    flip_pairs: frozenset[Pair] | None = None
    sigmas: tuple[float, ...] | None = None
    sigma_source: str | None = None
    source: str | None = None
    landmarks: tuple[str, ...] = ()
    aliases: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        if not self.landmarks:
            object.__setattr__(self, "landmarks", _derived_landmarks(self.keypoint_names))
        object.__setattr__(self, "aliases", tuple(sorted(self.aliases)))  # one order: they are a set
        for problem in _problems(self):
            raise SkeletonError(f"skeleton {self.name!r}: {problem}")

    def __len__(self) -> int:
        """K, the number of keypoints."""
        return len(self.keypoint_names)

    def flip_index(self) -> NDArray[np.intp]:
        """(K,) column order that swaps left and right: `keypoints[:, skeleton.flip_index()]`; applied twice, nothing.

        Raises SkeletonError where the twins are not known: a flip would silently call a left elbow a right one.
        """
        if self.flip_pairs is None:
            hint = "give it a skeleton file with flip_pairs ([] where it has none)"
            raise SkeletonError(f"skeleton {self.name!r}: its left/right twins are not known: no flipping", hint=hint)
        column = {name: index for index, name in enumerate(self.keypoint_names)}
        order = np.arange(len(self), dtype=np.intp)
        for left, right in self.flip_pairs:
            order[column[left]], order[column[right]] = column[right], column[left]
        return order

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready document of the shape of a skeleton file; `from_json` gives an equal skeleton, bit for bit."""
        names, derived = self.keypoint_names, _derived_landmarks(self.keypoint_names)
        told = {n: mark for n, mark, own in zip(names, self.landmarks, derived, strict=True) if mark != own}
        aliases = {n: [alias for keypoint, alias in self.aliases if keypoint == n] for n, _ in self.aliases}
        column = {name: index for index, name in enumerate(names)}
        document: dict[str, Any] = {"name": self.name, "keypoints": list(names), "edges": [list(e) for e in self.edges]}
        if self.flip_pairs is not None:
            document["flip_pairs"] = [list(pair) for pair in sorted(self.flip_pairs, key=lambda p: column[p[0]])]
        optional = {"source": self.source, "aliases": aliases or None, "landmarks": told or None}
        document |= {key: value for key, value in optional.items() if value is not None}
        if self.sigmas is not None:
            document["sigmas"] = {"values": list(self.sigmas), "divisor": 1.0, "source": self.sigma_source}
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, where: str = "skeleton document") -> Skeleton:
        """The skeleton of a document as this module's docstring shows it; SkeletonError says `where` and which key."""
        try:
            return _parsed(document)
        except SkeletonError as error:
            raise SkeletonError(f"{where}: {error.message}", hint=error.hint) from error


def _problems(skeleton: Skeleton) -> Iterable[str]:
    names, k = skeleton.keypoint_names, len(skeleton)
    twins = [name for pair in skeleton.flip_pairs or () for name in pair]
    spellings = [*names, *(alias for _, alias in skeleton.aliases)]
    if not skeleton.name or not names or "" in names:
        yield f"keypoint names {list(names)}, expected a name for it and for each of at least one keypoint"
    for what, used in (("flip_pairs", twins), ("aliases", [name for name, _ in skeleton.aliases])):
        if strangers := sorted(set(used) - set(names)):
            yield f"{what} name unknown keypoints {strangers}, known are {list(names)}"
    marks = [mark for mark in skeleton.landmarks if mark]
    for what, once in (("keypoint names", names), ("flip_pairs", twins), ("aliases", spellings), ("landmarks", marks)):
        if repeated := sorted(name for name, count in Counter(once).items() if count > 1):
            yield f"{what} hold {repeated} more than once"
    if outside := [edge for edge in skeleton.edges if not all(0 <= end < k for end in edge)]:
        yield f"edges {outside} leave its columns 0 to {k - 1}"
    for what, values in (("landmarks", skeleton.landmarks), ("sigmas", skeleton.sigmas)):
        if values is not None and len(values) != k:
            yield f"{len(values)} {what}, expected {k}, one a keypoint"
    if bad := [sigma for sigma in skeleton.sigmas or () if not (sigma > 0 and math.isfinite(sigma))]:
        yield f"sigmas {bad}, expected finite numbers above 0"
    if skeleton.sigmas is None and skeleton.sigma_source is not None:
        yield f"a sigma_source {skeleton.sigma_source!r} without sigmas"


def _parsed(document: Mapping[str, Any]) -> Skeleton:
    for key in document:
        if key not in _KEYS:
            raise SkeletonError(f"unknown key {key!r}", hint=_suggest(str(key), _KEYS))
    names = _strings(document, "keypoints")
    sigmas, sigma_source = _sigmas(document)
    marks, aliases = _table(document, "landmarks"), _table(document, "aliases")
    if strangers := sorted({*marks, *aliases} - set(names)):
        raise SkeletonError(f"landmarks or aliases of unknown keypoints {strangers}, known are {list(names)}")
    own = zip(names, _derived_landmarks(names), strict=True)
    column = {name: index for index, name in enumerate(names)}
    return Skeleton(
        name=_text(document, "name"),
        keypoint_names=names,
        edges=tuple((column[a], column[b]) for a, b in _pairs(document, "edges", names)),
        flip_pairs=frozenset(_pairs(document, "flip_pairs", names)) if "flip_pairs" in document else None,
        sigmas=sigmas,
        sigma_source=sigma_source,
        source=_text(document, "source") if "source" in document else None,
        landmarks=tuple(_text(marks, name) if name in marks else derived for name, derived in own),
        aliases=tuple((name, alias) for name in aliases for alias in _strings(aliases, name)),
    )


def _value(document: Mapping[str, Any], key: str, kind: type | UnionType, expected: str) -> Any:
    if key not in document:
        raise SkeletonError(f"the key {key!r} is missing, found {sorted(document)}")
    if not isinstance(found := document[key], kind):
        raise SkeletonError(f"{key} is {reprlib.repr(found)}, expected {expected}")
    return found


def _text(document: Mapping[str, Any], key: str) -> str:
    return str(_value(document, key, str, "text"))


def _strings(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = _value(document, key, list | tuple, "a list of text")
    return tuple(_text({f"{key}[{index}]": item}, f"{key}[{index}]") for index, item in enumerate(found))


def _table(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    return dict(_value(document, key, Mapping, "a table")) if key in document else {}


def _pairs(document: Mapping[str, Any], key: str, names: tuple[str, ...]) -> list[Pair]:
    """Pairs of names; 0-based columns become names."""
    columns = dict(enumerate(names))
    pairs: list[Pair] = []
    for pair in _value(document, key, list | tuple, "a list of pairs") if key in document else ():
        ends = [columns.get(end) if type(end) is int else end for end in pair] if isinstance(pair, list | tuple) else []
        known = [str(end) for end in ends if end in names]
        if len(ends) != 2 or len(known) != 2:
            allowed = f"{list(names)}, or of their columns 0 to {len(names) - 1}"
            raise SkeletonError(f"{key} holds {reprlib.repr(pair)}, expected pairs of two of the keypoints {allowed}")
        pairs.append((known[0], known[1]))
    return pairs


def _sigmas(document: Mapping[str, Any]) -> tuple[tuple[float, ...] | None, str | None]:
    if "sigmas" not in document:
        return None, None
    table = {f"sigmas.{key}": value for key, value in _table(document, "sigmas").items()}
    values = _value(table, "sigmas.values", list | tuple, "a list of numbers")
    divisor = table.get("sigmas.divisor", 1.0)
    if not all(type(number) in (int, float) and 0 < number < 1e308 for number in (*values, divisor)):
        raise SkeletonError(f"sigmas.values {values} / sigmas.divisor {divisor!r}, expected numbers above 0")
    source = table.get("sigmas.source")
    return tuple(value / divisor for value in values), None if source is None else _text(table, "sigmas.source")


@cache
def names() -> tuple[str, ...]:
    """The names of the built-in skeletons, sorted; each ends in its number of keypoints."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.toml")))


@cache
def _built_in(name: str) -> Skeleton:
    return Skeleton.from_json(_document(_FOLDER / f"{name}.toml"), where=f"{name}.toml")


def load(name_or_path: str | Path) -> Skeleton:
    """A built-in skeleton by its name, else the one in a .toml or .json file (its shape: this module's docstring).

    Raises SkeletonError for a name that no skeleton has (with the closest ones), and for a file that is missing,
    damaged, contradicts itself, or takes a built-in name for something else.
    """
    if str(name_or_path) in names():
        return _built_in(str(name_or_path))
    path = Path(name_or_path)
    if path.suffix not in (".toml", ".json"):
        message = f"no skeleton is named {str(path)!r}, expected one of {', '.join(names())}, or a .toml or .json file"
        raise SkeletonError(message, hint=_suggest(str(path), names()))
    skeleton = Skeleton.from_json(_document(path), where=str(path))
    if skeleton.name in names() and skeleton != _built_in(skeleton.name):
        raise SkeletonError(f"{path}: the name {skeleton.name!r} is a built-in skeleton's", hint="choose another name")
    return skeleton


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise SkeletonError(f"{path}: the skeleton file cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:  # ValueError: of TOML, JSON and UTF-8 alike
        raise SkeletonError(f"{path}: not a {path.suffix[1:].upper()} file ({error})") from error
    if not isinstance(document, dict):
        raise SkeletonError(f"{path}: holds {reprlib.repr(document)}, expected a table of keys")
    return document


def _suggest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else ""


def match(keypoint_names: Sequence[str]) -> Skeleton | None:
    """The built-in skeleton with these keypoint names in this order, in any usual spelling or an alias; else None."""
    spelled = [_spelling(name) for name in keypoint_names]
    for skeleton in (_built_in(name) for name in names() if name.endswith(f"_{len(spelled)}")):
        accepted = {name: {_spelling(name)} for name in skeleton.keypoint_names}
        for name, alias in skeleton.aliases:
            accepted[name].add(_spelling(alias))
        if all(found in allowed for found, allowed in zip(spelled, accepted.values(), strict=True)):
            return skeleton
    return None


# Numbers of keypoints that only one COCO-shaped data set has: its files may leave the names out.
_BY_COUNT = {17: "coco_17", 21: "humanart_21", 26: "halpe_26", 133: "coco_wholebody_133", 136: "halpe_136"}
# (names in the category, keypoints in the annotations) that official files have: whole-body files list the body alone,
# and those of Human-Art name 21 keypoints above annotations of 17.
_OFFICIAL_MISMATCH = {("coco_17", 133): "coco_wholebody_133", ("humanart_21", 17): "coco_17"}
_SAY_WHICH = "say which skeleton it is: --skeleton NAME or FILE"


def from_category(category: Mapping[str, Any], *, num_keypoints: int | None = None) -> Skeleton:
    """The skeleton of a COCO category: `name`, `keypoints` (names), `skeleton` (1-based edges; 0-based if a 0 occurs).

    num_keypoints: how many its annotations have, where known. Names of a built-in skeleton give that one, its own edges
    too: CrowdPose and PoseTrack files carry those of COCO-17. No names: the built-in of that many keypoints where only
    one COCO-shaped data set has so many (17, 21, 26, 133, 136), else keypoint_0, keypoint_1, … with unknown twins.
    Other names: a skeleton `<category name>_K`, its twins from left/right names where every sided name has one, else
    unknown. Edges that leave the keypoints are left out.

    Raises SkeletonError for names that are not text or repeated, and where names and annotations differ in number.
    """
    where = f"category {category.get('name', '')!r}: keypoints"
    named = _strings({where: category["keypoints"]}, where) if category.get("keypoints") else ()
    k = num_keypoints or len(named)
    known = match(named) if named else _built_in(_BY_COUNT[k]) if k in _BY_COUNT else None
    if named and len(named) != k:
        if known is None or (known.name, k) not in _OFFICIAL_MISMATCH:
            raise SkeletonError(f"{where}: {len(named)} names, but annotations of {k} keypoints", hint=_SAY_WHICH)
        return _built_in(_OFFICIAL_MISMATCH[known.name, k])
    if known:
        return known
    if not k:
        raise SkeletonError(f"{where}: no names, and no annotation tells how many there are", hint=_SAY_WHICH)
    edges = _category_edges(category.get("skeleton"), k)
    if not named:
        return Skeleton(f"keypoints_{k}", tuple(f"keypoint_{index}" for index in range(k)), edges)
    name = f"{_spelling(str(category.get('name', ''))) or 'skeleton'}_{k}"
    return Skeleton(f"{name}_custom" if name in names() else name, named, edges, _inferred_pairs(named))


def _category_edges(found: object, k: int) -> tuple[tuple[int, int], ...]:
    pairs = [tuple(edge) for edge in found if isinstance(edge, list | tuple)] if isinstance(found, list | tuple) else []
    pairs = [pair for pair in pairs if len(pair) == 2 and all(type(end) is int for end in pair)]
    base = 0 if any(0 in pair for pair in pairs) else 1
    return tuple((a - base, b - base) for a, b in pairs if 0 <= a - base < k and 0 <= b - base < k)


def _inferred_pairs(keypoint_names: Sequence[str]) -> frozenset[Pair] | None:
    sided = [(*_side(name), name) for name in keypoint_names]
    left, right = ({rest: name for side, rest, name in sided if side == one} for one in ("left", "right"))
    # No sided name at all says nothing: "LF_hoof" has a twin that its name doesn't tell in a way we read.
    if not left or left.keys() != right.keys() or 2 * len(left) != sum(side != "" for side, _, _ in sided):
        return None
    return frozenset((left[rest], right[rest]) for rest in left)


_SIDES = {"l": "left", "left": "left", "r": "right", "right": "right"}
_PARTS = [
    "eye",
    "ear",
    "shoulder",
    "elbow",
    "wrist",
    "hip",
    "knee",
    "ankle",
    "big_toe",
    "small_toe",
    "heel",
    "hand_root",
]
_FINGERS = [f"{f}{i}" for f in ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger") for i in "1234"]
_LIMBS = frozenset(f"{side}_{part}" for side in ("left", "right") for part in (*_PARTS, *_FINGERS)) | {"nose"}
_WHOLE = {part.replace("_", ""): part for part in _PARTS}
_GLUED = re.compile(rf"(left|right|[lr](?!ear$))({'|'.join(_WHOLE)})")  # not "rear": a word of its own
_MIDDLES = {f"mid{part}{s}": f"mid_{part}s" for part in ("hip", "shoulder") for s in ("", "s")}
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def _side(name: str) -> tuple[str, str]:
    """("left", "right" or "", the rest in snake case) of LShoulder, shoulder-left, l_shoulder, "Left shoulder" …"""
    words = [word for word in re.split(r"[\W_]+", _CAMEL.sub("_", name).lower()) if word]
    if len(words) == 1 and (glued := _GLUED.fullmatch(words[0])):
        words = list(glued.groups())
    at = next((i for i, w in enumerate(words) if w in _SIDES and (len(w) > 1 or i in (0, len(words) - 1))), None)
    side = "" if at is None else _SIDES[words.pop(at)]
    return side, _WHOLE.get("".join(words), "_".join(words))


def _spelling(name: str) -> str:
    """One spelling for all the usual ones: "Right Shoulder", RShoulder and r_shoulder are right_shoulder."""
    return "_".join(part for part in _side(name) if part)


def _derived_landmarks(keypoint_names: Sequence[str]) -> tuple[str, ...]:
    """(K,) landmarks that names alone tell: limbs and midpoints; "" for others, and where two names say the same."""
    spelled = [_spelling(name) for name in keypoint_names]
    marks = [_MIDDLES.get(name.replace("_", ""), name if name in _LIMBS else "") for name in spelled]
    counts = Counter(marks)
    return tuple(mark if counts[mark] == 1 else "" for mark in marks)


# MPII's thorax and OpenPose's necks are the middle of the shoulders, MPII's pelvis and BODY_25's MidHip that of the
# hips (openpose#1537; measured on MPII: within 1 px for 99 % of the people).
_PARENTS = {"mid_shoulders": ("left_shoulder", "right_shoulder"), "mid_hips": ("left_hip", "right_hip")}
# Its own inverse: visibility -> rank and back, in the order 0 absent, 1 occluded, 3 unknown, 2 visible. A midpoint of a
# visible and an unknown keypoint is unknown: nobody said that both are visible.
_BY_SURENESS = np.array([0, 1, 3, 2])


class Relation(IntEnum):
    """How a target keypoint gets its value: not at all, a copy, a copy of another protocol's, a midpoint of two."""

    ABSENT = 0
    SAME = 1
    APPROXIMATE = 2
    DERIVED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Remap:
    """Where each keypoint of `target` comes from in `source`: (K_target,) int8 of Relation, (K_target,) intp columns of
    the source: `first` equals `second` for a copy, they are the two parents of a midpoint, -1 where there is none."""

    source: Skeleton
    target: Skeleton
    relation: NDArray[np.int8]
    first: NDArray[np.intp]
    second: NDArray[np.intp]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(K_target,) bool: keypoints with a source. Trainers and evaluators leave out the others."""
        return np.not_equal(self.relation, Relation.ABSENT)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Source keypoints that no target uses."""
        used = {*self.first.tolist(), *self.second.tolist()}
        return tuple(name for column, name in enumerate(self.source.keypoint_names) if column not in used)

    def apply(
        self, xy: Floats, visibility: NDArray[np.integer[Any]], scores: Floats | None = None
    ) -> tuple[Floats, NDArray[np.integer[Any]], Floats | None]:
        """Keypoints of N people in the target's columns.

        xy (N, K, 2) px, visibility (N, K) of 0 to 3, scores (N, K) or None; new arrays of K_target columns come back.
        Copies keep their numbers, also where visibility is 0. A midpoint needs both parents labelled (visibility 1 or
        more), else it is absent; it takes the visibility of the less sure one, in the order 1 occluded, 3 unknown,
        2 visible, and the lower score. Absent: NaN, visibility 0, score NaN. SkeletonError for other shapes or values.
        """
        k, found = len(self.source), [a.shape for a in (xy, visibility, scores) if a is not None]
        if found[0][1:] != (k, 2) or any(shape != found[0][:2] for shape in found[1:]):
            raise SkeletonError(f"arrays of shapes {found}, expected (N, {k}, 2) and (N, {k}) of {self.source.name!r}")
        if visibility.size and not 0 <= visibility.min() <= visibility.max() <= 3:
            raise SkeletonError(f"visibility from {visibility.min()} to {visibility.max()}, expected 0 to 3")
        middle = self.first != self.second
        one, two = np.maximum(self.first, 0), self.second[middle]  # column 0 stands in for no source, and is blanked
        seen, moved = visibility[:, one], xy[:, one].astype(np.result_type(xy, np.float32))
        seen[:, middle] = _BY_SURENESS[np.minimum(_BY_SURENESS[seen[:, middle]], _BY_SURENESS[visibility[:, two]])]
        seen[:, ~self.mask] = 0
        lost = ~self.mask | (middle & (seen == 0))  # (N, K_target)
        moved[:, middle] = (moved[:, middle] + xy[:, two]) / 2
        moved[lost] = np.nan
        kept = None if scores is None else np.where(lost, np.nan, np.minimum(scores[:, one], scores[:, self.second]))
        return moved, seen, kept

    def report(self) -> list[RemapLine]:
        """A line for each target keypoint; the note says where only `approximate` would fill it."""
        allowed = remap(self.source, self.target, approximate=True)
        lines = []
        for column, name in enumerate(self.target.keypoint_names):
            relation = Relation(int(self.relation[column]))
            chosen = self if relation else allowed
            ends = sorted({int(chosen.first[column]), int(chosen.second[column])} - {-1})
            sources = tuple(self.source.keypoint_names[end] for end in ends)
            note = "midpoint" if len(ends) == 2 else ""
            if sources and relation in (Relation.ABSENT, Relation.APPROXIMATE):
                note = f"{' and '.join(sources)} of {self.source.name}: close, but of another annotation protocol"
            if not relation:
                note, sources = f"{note}; --approximate takes it" if sources else "no source", ()
            lines.append((name, relation.name.lower(), sources, note))
        return lines


def remap(source: Skeleton, target: Skeleton, *, approximate: bool = False) -> Remap:
    """How to fill the keypoints of `target` from those of `source`.

    The same landmark is copied. The middle of shoulders or hips is computed where the source has no such keypoint. A
    point that the source has by another protocol (necks above the shoulder line, tops of heads, Halpe's hip) is taken
    only with `approximate`. Keypoints without a landmark, in skeletons of your own, are copied by equal name. Two necks
    are never one: the middle of the shoulders as MPII's upper neck misses PCKh@0.5 for 18 % of the people.
    """
    have = {mark: column for column, mark in enumerate(source.landmarks) if mark}
    free = {n: i for i, (n, mark) in enumerate(zip(source.keypoint_names, source.landmarks, strict=True)) if not mark}
    rows = [
        _origin(mark, have, approximate) if mark else _copy(free.get(name))
        for name, mark in zip(target.keypoint_names, target.landmarks, strict=True)
    ]
    relation, first, second = (list(column) for column in zip(*rows, strict=True))
    return Remap(source, target, np.array(relation, np.int8), np.array(first, np.intp), np.array(second, np.intp))


def _copy(column: int | None, relation: Relation = Relation.SAME) -> tuple[Relation, int, int]:
    return (Relation.ABSENT, -1, -1) if column is None else (relation, column, column)


def _origin(mark: str, have: Mapping[str, int], approximate: bool) -> tuple[Relation, int, int]:
    if mark in have:
        return _copy(have[mark])
    point = mark.partition("/")[0]
    parents = [have[parent] for parent in _PARENTS.get(point, ()) if parent in have]
    if mark == point and len(parents) == 2:
        return Relation.DERIVED, parents[0], parents[1]
    if not approximate:
        return _copy(None)
    near = [column for other, column in have.items() if other.partition("/")[0] == point]
    if not near and len(parents) == 2:
        return Relation.APPROXIMATE, parents[0], parents[1]
    return _copy(min(near, default=None), Relation.APPROXIMATE)
