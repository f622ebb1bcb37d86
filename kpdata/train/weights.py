"""Weights from elsewhere: files opened without running their code, names brought to ours, what fits copied in.

    source = read_weights("td-hm_hrnet-w32_udp-8xb64-210e_coco-256x192-73ede547_20220914.pth")
    source.codec.target, source.colour                                  # 'udp', 'rgb': from the table of known files
    print(load_weights(net, source, model="hrnet_w32", skeleton=skeleton))          # loaded 1754 of 1754 tensors …

| file | names | become ours by |
| --- | --- | --- |
| kpdata's checkpoint | ours | nothing |
| official pose zoo; `checkpoint.pth` | `conv1.weight`; under `state_dict`, after `module.` | taking that off |
| mmpose 0.x, 1.x | under `state_dict`: `backbone.`, `keypoint_head.` or `head.` | taking them off |
| ImageNet: timm, torchvision, official HRNet | ours and a classifier's | leaving the classifier's |
"""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpdata.codec import HeatmapCodec
from kpdata.errors import TrainError
from kpdata.skeleton import Relation, Skeleton, load, remap
from kpdata.train.known_files import KnownFile, Origin, by_count, identify, mmpose_codec, mmpose_skeleton
from kpdata.train.spec import IMAGENET_MEAN, IMAGENET_STD, Colour, NetworkSpec

MARK, VERSION = "kpdata_checkpoint", 1
"""Key of kpdata's checkpoints, and its value: the version of their layout."""
HEAD = "final_layer."
_COUNTER = "num_batches_tracked"  # the only tensors that may be missing: old files lack them, and nothing reads them
_CLASSIFIER = re.compile(
    r"(incre_modules|downsamp_modules|classifier|head|fc|final_layer\.[01]|stage4\.2\.fuse_layers\.[123])\."
)
_META = frozenset({"numpy", "mmcv", "mmengine", "mmpose", "mmdet", "yacs", "argparse", "addict", "pathlib", "datetime"})
"""Packages whose objects lie beside the weights in published files. They are not made: an inert one stands for each."""
_SAFETENSORS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """Weights under our names, and how the network that they come from wants to be used.

    tensors: ours by name, CPU. model: that they are of, None where they are of none of ours. skeleton: of the head's
    columns; None: no head, or nobody says. codec, colour, padding, mean, std: as in `NetworkSpec`. evidence: why these
    are believed. notes: what was guessed, and other warnings. licence: of who published the file, where known.
    """

    path: Path
    tensors: dict[str, Tensor]
    origin: Origin
    model: str | None
    skeleton: Skeleton | None
    codec: HeatmapCodec
    colour: Colour
    evidence: str
    notes: tuple[str, ...] = ()
    licence: str | None = None
    padding: float = 1.25
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def num_keypoints(self) -> int | None:
        """Columns of the head; None where the weights have no head for keypoints."""
        head = self.tensors.get(f"{HEAD}weight")
        return None if head is None else len(head)


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the weights of a file. `str()` is the line for the user, with the notes.

    loaded of total: tensors of the network, each counted once; a head of which any column was copied counts. missing:
    tensors of the network that the file lacks. mismatched: those it has in another shape, with both. unexpected:
    tensors of the file that the network lacks. copied, new: keypoints whose columns of the head came from the file, or
    start anew; close: those of `copied` that are another annotation protocol's point.
    """

    loaded: int
    total: int
    evidence: str
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    close: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"loaded {self.loaded} of {self.total} tensors ({self.evidence})"]
        if self.new and self.copied:
            parts.append(f"head: {len(self.copied)} keypoints copied, new are {_some(self.new)}")
        elif self.new:
            parts.append("the head starts anew")
        if self.close:
            parts.append(f"close points of another protocol stand for {_some(self.close)}")
        lost = [name for name in self.missing if not name.endswith(_COUNTER) and not name.startswith(HEAD)]
        if lost:
            parts.append(f"missing: {_some(lost)}")
        if self.mismatched:
            parts.append(f"of another shape: {_some(self.mismatched)}")
        return "; ".join([*parts, *self.notes])


def read_weights(path: str | Path) -> Source:
    """The weights of a file, and what its bytes, its name, or else its structure tell about them.

    Raises TrainError where the file is missing, cut, damaged, holds no weights, or would run code when opened.
    """
    path = Path(path)
    document = read_file(path)
    if isinstance(document, Mapping) and MARK in document:
        return _ours(path, document)
    tensors = _state_dict(path, document)
    tensors, origin, notes = official_names(tensors)
    known, evidence, warnings = identify(path)
    model = model_of(tensors)
    if known is not None and model != known.model:
        notes, known = (*notes, f"named as {known.model}, but of another shape: its name tells nothing"), None
    if known is not None:
        return _published(path, tensors, known, evidence, (*notes, *warnings))
    return _by_structure(path, document, tensors, origin, model, notes)


def _ours(path: Path, document: Mapping[str, Any]) -> Source:
    check_sums(path)
    spec = parse_document(document, path)
    weights = document.get("weights")
    if not isinstance(weights, Mapping):
        raise TrainError(f"{path}: a checkpoint of kpdata without weights")
    return Source(
        path, dict(weights), "kpdata", spec.model, spec.skeleton, spec.codec, spec.colour, "a checkpoint of kpdata",
        padding=spec.padding, mean=spec.mean, std=spec.std,
    )  # fmt: skip


def parse_document(document: Mapping[str, Any], path: str | Path) -> NetworkSpec:
    """The spec in the content of a checkpoint of kpdata; TrainError where it is of a newer kpdata, or damaged."""
    version = document[MARK]
    if version != VERSION:
        raise TrainError(f"{path}: a checkpoint of layout {version}, expected {VERSION}", hint="upgrade kpdata")
    if not isinstance(document.get("spec"), Mapping):
        raise TrainError(f"{path}: a checkpoint of kpdata without a spec")
    return NetworkSpec.from_json(document["spec"], where=str(path))


def _published(
    path: Path, tensors: dict[str, Tensor], known: KnownFile, evidence: str, notes: tuple[str, ...]
) -> Source:
    skeleton = load(known.skeleton) if known.skeleton else None
    codec, colour = known.codec or HeatmapCodec(), known.colour
    return Source(
        path, tensors, known.origin, known.model, skeleton, codec, colour, evidence, notes, known.licence
    )  # fmt: skip


def _by_structure(
    path: Path,
    document: Any,
    tensors: dict[str, Tensor],
    origin: Origin,
    model: str | None,
    notes: tuple[str, ...],
) -> Source:
    """A file that nobody published under this name: names and shapes say whose it may be; the rest is guessed."""
    evidence = f"{origin} file by its names and shapes"
    head = tensors.get(f"{HEAD}weight")
    if head is None:
        return Source(path, tensors, origin, model, None, HeatmapCodec(), "rgb", evidence, notes)
    told = (mmpose_skeleton(document), mmpose_codec(document)) if origin == "mmpose" else (None, None)
    guess, size = by_count(len(head))
    skeleton, codec = told[0] or guess, told[1] or HeatmapCodec(size)
    if skeleton is not None and len(skeleton) != len(head):
        skeleton = None
    guesses = [] if told[0] is not None or skeleton is None else [f"skeleton {skeleton.name}"]
    if told[1] is None:
        guesses.append(f"input {size[0]}x{size[1]} px, target {codec.target}")
    colour: Colour = "bgr" if origin == "official" and (model or "").startswith("pose_resnet") else "rgb"
    if origin != "mmpose":  # all of mmpose's configs feed RGB
        guesses.append(f"colour order {colour}")
    if guesses:
        notes = (*notes, f"guessed, because the file does not say: {'; '.join(guesses)}")
    return Source(path, tensors, origin, model, skeleton, codec, colour, evidence, notes)


def _state_dict(path: Path, document: Any) -> dict[str, Tensor]:
    """The tensors of a file, from under the key where trainers put them, without the prefixes of wrapped networks."""
    found = document
    for key in ("state_dict", "best_state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    pairs = found.items() if isinstance(found, Mapping) else ()
    tensors = {key: value for key, value in pairs if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        what = f"keys {_some([str(key) for key in found])}" if isinstance(found, Mapping) else type(found).__name__
        raise TrainError(f"{path}: holds no weights ({what}), expected a state dict: names and tensors")
    while prefix := next((p for p in ("module.", "_orig_mod.") if all(key.startswith(p) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def official_names(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Origin, tuple[str, ...]]:
    """Tensors under our names, where such names come from, and notes; a classifier of ImageNet is left out."""
    if any(name.startswith("backbone.") for name in tensors):
        names = {name: re.sub(r"^(backbone|keypoint_head|head)\.", "", name) for name in tensors}
        out, notes = _mmpose_head({names[name]: tensor for name, tensor in tensors.items()})
        return out, "mmpose", notes
    kept = {name: tensor for name, tensor in tensors.items() if not _CLASSIFIER.match(name)}
    if len(kept) == len(tensors):
        return tensors, "official", ()
    return kept, "imagenet", ()


def _mmpose_head(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """mmpose's last layer may be a sequence: of one convolution it is ours, of more our networks have no such head."""
    steps = sorted({name.split(".")[1] for name in tensors if re.match(r"final_layer\.\d+\.", name)}, key=int)
    if not steps:
        return tensors, ()
    if len(steps) == 1:
        return {name.replace(f"{HEAD}{steps[0]}.", HEAD): tensor for name, tensor in tensors.items()}, ()
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEAD)}
    return kept, (f"its head has {len(steps)} layers with weights, ours one convolution: left out",)


def model_of(tensors: Mapping[str, Tensor]) -> str | None:
    """The one of our networks whose shapes these are, by its landmarks; None: none of them."""
    fine, stem = tensors.get("stage4.0.branches.0.0.conv1.weight"), tensors.get("conv1.weight")
    if fine is not None and stem is not None:
        widths = {(32, 64): "hrnet_w32", (48, 64): "hrnet_w48", (16, 32): "hrnet_tiny"}
        return widths.get((len(fine), len(stem)))
    depths = {"layer3.35.conv3.weight": "152", "layer3.22.conv3.weight": "101", "layer3.5.conv3.weight": "50"}
    return next((f"pose_resnet_{depth}" for name, depth in depths.items() if name in tensors), None)


@torch.no_grad()
def load_weights(
    net: nn.Module, source: Source, *, model: str, skeleton: Skeleton, whole: bool = False, threshold: float = 0.95
) -> Report:
    """Copies the weights that fit into a network of ours with the keypoints of `skeleton`; the rest stays as it is.

    The head's columns go by what keypoints are, as in `kpdata.skeleton.remap`: the same points, and close ones of other
    protocols, which are a good start; midpoints start anew. With `whole` (to predict, not to train) everything has to
    be there, and the skeletons' names equal. model: the network's name, for messages.

    Raises TrainError, and leaves the network as it was, where less than `threshold` of the body (all but the head, its
    transposed convolutions and batch counters) fits, naming what is missing and why that may be; with `whole`, where
    anything but a counter is missing, or there is more than the network has.
    """
    own, given = net.state_dict(), source.tensors
    body = [name for name in own if not name.startswith(HEAD)]
    fits = [name for name in body if name in given and given[name].shape == own[name].shape]
    report = Report(
        loaded=len(fits),
        total=len(own),
        evidence=source.evidence,
        missing=tuple(name for name in own if name not in given),
        mismatched=tuple(
            f"{name} {_shape(given[name])}, expected {_shape(own[name])}"
            for name in body
            if name in given and given[name].shape != own[name].shape
        ),
        unexpected=tuple(name for name in given if name not in own),
        notes=source.notes,
    )
    needed = {name for name in body if not name.endswith(_COUNTER)}
    if not whole:
        needed -= {name for name in body if name.startswith("deconv_layers.")}
    if len(needed.intersection(fits)) < (1.0 if whole else threshold) * len(needed):
        raise _refusal(source, report, model, needed, fits)
    if whole and report.unexpected:
        raise TrainError(
            f"{source.path}: is no {model}, it has tensors of other layers too: {_some(report.unexpected)}",
            hint="train from it (--init), or use it where it was made",
        )
    columns, close = _columns(source, skeleton, own[f"{HEAD}weight"], whole)
    for name in fits:
        own[name].copy_(given[name])
    return _copy_head(own, given, columns, close, skeleton, report)


def _columns(source: Source, skeleton: Skeleton, head: Tensor, whole: bool) -> tuple[np.ndarray[Any, Any], list[str]]:
    """(K,) the file's column for each of ours, -1 for none; and the names of those that are only close.

    Columns that nobody names start anew: 14 may be CrowdPose's, LSP's or AIC's.
    """
    none = np.full(len(skeleton), -1)
    found = source.tensors.get(f"{HEAD}weight")
    fits = found is not None and found.shape[1:] == head.shape[1:] and f"{HEAD}bias" in source.tensors
    same = source.skeleton is not None and source.skeleton.keypoint_names == skeleton.keypoint_names
    if fits and same and found is not None and len(found) == len(skeleton):
        return np.arange(len(skeleton)), []
    if whole:
        where = "no such head" if found is None or not fits else f"a head of {len(found)} keypoints"
        raise TrainError(f"{source.path}: {where}, expected the {len(skeleton)} of {skeleton.name!r}, in its order")
    if not fits or source.skeleton is None or found is None or len(found) != len(source.skeleton):
        return none, []
    mapping = remap(source.skeleton, skeleton, approximate=True)
    copies = (mapping.first == mapping.second) & mapping.mask
    close = copies & np.equal(mapping.relation, Relation.APPROXIMATE)
    return np.where(copies, mapping.first, -1), [n for n, c in zip(skeleton.keypoint_names, close, strict=True) if c]


def _copy_head(
    own: dict[str, Tensor],
    given: dict[str, Tensor],
    columns: np.ndarray[Any, Any],
    close: list[str],
    skeleton: Skeleton,
    report: Report,
) -> Report:
    to = torch.from_numpy(np.flatnonzero(columns >= 0))
    here = torch.from_numpy(columns[columns >= 0])
    heads = [name for name in own if name.startswith(HEAD)]
    if len(to):
        for name in heads:
            own[name][to] = given[name][here].to(own[name])
    names = np.array(skeleton.keypoint_names, object)
    return replace(
        report,
        loaded=report.loaded + (len(heads) if len(to) else 0),
        copied=tuple(names[columns >= 0].tolist()),
        new=tuple(names[columns < 0].tolist()),
        close=tuple(close),
    )


def _refusal(source: Source, report: Report, model: str, needed: set[str], fits: list[str]) -> TrainError:
    """Why too little fits: another network, a prefix that nobody expected, or parts that are not there."""
    lost = sorted(needed.difference(fits, (text.split(" ")[0] for text in report.mismatched)))
    text = f"{source.path}: only {len(needed.intersection(fits))} of {len(needed)} tensors of {model} fit"
    if source.model is not None and source.model != model:
        return TrainError(f"{text}: its weights are of {source.model}", hint=f"--model {source.model}")
    if lost:
        text += f"; missing: {_some(lost)}"
    if report.mismatched:
        text += f"; of another shape: {_some(report.mismatched)}"
    if hint := prefix_hint(source.tensors):
        return TrainError(text, hint=hint)
    hint = f"it holds {_some(report.unexpected)}" if report.unexpected else ""
    return TrainError(text, hint=hint)


def prefix_hint(tensors: Mapping[str, Tensor]) -> str:
    """What to do about names of ours behind a prefix that we do not expect; "": there is none."""
    anchor = "layer1.0.conv1.weight"  # all of our networks have it
    prefixes = [name.removesuffix(anchor) for name in tensors if name.endswith(anchor)]
    return f"its names begin with {prefixes[0]!r}: save them anew without that" if any(prefixes) else ""


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape)


def _some(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


class Inert(dict[Any, Any]):
    """Stands for an object of a class that is not loaded: takes all that a pickle does to it, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return dict.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        pass


def read_file(path: str | Path) -> Any:
    """What a file of weights holds, on the CPU: torch's zip or older pickle, or safetensors. No code of it is run.

    Objects of numpy, mmengine and the like, which stand beside the weights in published files, become `Inert`.
    Raises TrainError where the file cannot be read, is cut or damaged, or holds other objects.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        strangers = _strangers(path)
        with torch.serialization.safe_globals([(Inert, name) for name in strangers]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            raise TrainError(
                f"{path}: not weights alone: opening it would run {asked[1]}, which kpdata does not",
                hint="where it was made, save the state dict alone: torch.save(net.state_dict(), FILE)",
            ) from error
        raise _damaged(path, error) from error
    except OSError as error:
        raise TrainError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, AssertionError,
            MemoryError, zipfile.BadZipFile) as error:  # fmt: skip
        raise _damaged(path, error) from error


def check_sums(path: Path) -> None:
    """TrainError where a byte of a zip of ours has changed: torch alone reads a flipped bit as another weight."""
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from error
    if wrong:
        raise _damaged(path, ValueError(f"the checksum of {wrong} is wrong"))


def _damaged(path: Path, error: Exception) -> TrainError:
    reason = str(error).split("\n")[0].strip()[:120] or type(error).__name__
    return TrainError(f"{path}: not a file of weights, or cut or damaged ({reason})", hint="copy or download it again")


def _strangers(path: Path) -> list[str]:
    """Full names of the classes and functions of `_META` that a file's pickles ask for; nothing is unpickled."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            file.seek(0)
            return [name for _ in range(4) for name in _asked(file)]  # magic, protocol, system, and the document
    with zipfile.ZipFile(path) as archive:
        inside = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if inside is None:
            raise zipfile.BadZipFile("a zip, but not one of torch's")
        with archive.open(inside) as file:
            return _asked(file)


def _asked(file: Any) -> list[str]:
    found = {str(arg) for opcode, arg, _ in pickletools.genops(file) if opcode.name == "GLOBAL"}
    return sorted(name.replace(" ", ".") for name in found if re.split(r"[ .]", name)[0] in _META)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Length of the header (8 bytes, little-endian), a JSON header, bytes (huggingface/safetensors, README: Format)."""
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    out = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            data = memoryview(raw)[start + first : start + last]
            dtype = _SAFETENSORS[entry["dtype"]]
            flat = torch.frombuffer(data, dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)
            out[name] = flat.reshape(entry["shape"])
    return out
