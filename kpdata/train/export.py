"""A network as an ONNX file: fixed input size, decoding inside where it is wanted, and its contract in the metadata.

    exported = export("best.pt", "model.onnx")                  # images in, keypoints in px of the crop out
    spec, contract = read_exported_spec("model.onnx")           # what to feed it, and how its crops were cut

Before the file takes its place it is run under onnxruntime beside torch, on random pictures: it must give the same
maps, and decoding inside the graph the same keypoints as `kpdata.codec` of these maps.

The graph comes from torch's tracer: a pose network has no branch that depends on a value, so that a trace is all of it.
torch's newer exporter (`dynamo=True`) makes the same graph of an HRNet-W32 in 18 times the time (290 s against 16 s).
"""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kpdata import files
from kpdata.augment import batched
from kpdata.codec import HeatmapCodec, blurred
from kpdata.errors import MissingExtra, TrainError
from kpdata.skeleton import Skeleton
from kpdata.train.checkpoint import open_network
from kpdata.train.spec import NetworkSpec

Floats = NDArray[np.float64]
Layout = Literal["planes", "pixels"]
Rows = list[tuple[Tensor, ...]]

OPSETS = range(13, 21)
"""Versions of ONNX's operators that torch's tracer writes and these graphs can be said in."""
BOUND = 1e-4
"""How far maps may differ from torch's, as a share of the largest map value (or of 1), and keypoints in px."""
KEY_SPEC, KEY_CONTRACT, KEY_VERSION = "kpdata.spec", "kpdata.contract", "kpdata.version"
VERSION = "1"
_DERIVED = {"dark": 2, "udp_dark": 1}  # cells about the maximum that the Newton step looks at


@dataclass(frozen=True, slots=True)
class Contract:
    """How an exported network is fed, and what it gives.

    layout: `planes`, float32 (B, 3, H, W), the channels in the order `colour`, (pixel / 255 - mean) / std of the spec;
    or `pixels`, uint8 RGB (B, H, W, 3) as decoded, all else is inside. batch: the fixed B; None: any.
    outputs: `heatmaps` (B, K, h, w) float32 always; with decoding `keypoints` (B, K, 2) float32, px of the crop, and
    `scores` (B, K) float32, the maxima. decoding: the refinement inside, None: heatmaps alone. opset: of ONNX.
    """

    layout: Layout
    input_shape: tuple[int | None, ...]
    colour: str
    batch: int | None
    outputs: tuple[str, ...]
    decoding: str | None
    opset: int
    input: str = "images"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written. maps_differ: the largest difference of a map value between onnxruntime and torch, and `largest`
    the largest map value of that trial; keypoints_differ: px, from `kpdata.codec` on the same maps; None: no decoding.
    """

    path: Path
    bytes: int
    contract: Contract
    maps_differ: float
    largest: float
    keypoints_differ: float | None
    notes: tuple[str, ...]


def export(
    checkpoint: str | Path | tuple[NetworkSpec, nn.Module],
    path: str | Path,
    *,
    decode: bool = True,
    pixels: bool = False,
    batch: int | None = None,
    opset: int = 17,
    skeleton: Skeleton | None = None,
    force: bool = False,
) -> Exported:
    """Writes a network as ONNX, checked against torch before it takes its place at `path`.

    checkpoint: a file (`checkpoint.open_network`; skeleton: as there), or a spec with its network, which is set to
    `eval()`. decode: keypoints inside the graph, by the spec's refinement; that of DARK and UDP is in float64, as in
    `kpdata.codec`, which onnxruntime has, but not every other engine. pixels: `Contract.layout`. batch: None: any size.

    Raises TrainError for a file that is no network, an opset out of OPSETS, maps that are not of the codec's size, and
    a graph that differs from torch by more than BOUND; MissingExtra; DestinationExists without `force`; WriteError.
    """
    _expect_packages()
    path = Path(path)
    files.refuse_existing(path, force)
    if opset not in OPSETS:
        raise TrainError(f"opset {opset}, expected {OPSETS[0]} to {OPSETS[-1]}", hint="17 is what most engines know")
    if batch is not None and batch < 1:
        raise TrainError(f"batch {batch}, expected at least 1", hint="leave it out for batches of any size")
    notes: tuple[str, ...] = ()
    if isinstance(checkpoint, tuple):
        spec, net = checkpoint
    else:
        spec, net, report = open_network(checkpoint, skeleton=skeleton)
        notes = (str(report),)
    graph = Exportable(net.cpu(), spec, decode=decode, pixels=pixels).eval()
    contract = _contract(spec, decode, pixels, batch, opset)
    data = _with_metadata(_traced(graph, contract), spec, contract)
    found = _checked(data, graph, spec, contract)
    with files.replacing(path, force=force) as temporary:
        temporary.write_bytes(data)
    return Exported(path, len(data), contract, *found, notes)


def read_exported_spec(path: str | Path) -> tuple[NetworkSpec, Contract]:
    """What an exported file says about itself. TrainError where it is no ONNX file, or not one of kpdata's."""
    _expect_packages()
    import onnx

    path = Path(path)
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as problem:
        raise TrainError(f"{path}: cannot be read ({problem.strerror or problem})") from problem
    except Exception as problem:  # protobuf's own, which is not importable by a stable name
        raise TrainError(f"{path}: no ONNX file, or a damaged one") from problem
    told = {entry.key: entry.value for entry in model.metadata_props}
    if KEY_SPEC not in told or KEY_CONTRACT not in told:
        raise TrainError(f"{path}: an ONNX file without the contract that `kpdata export` writes")
    try:
        document = json.loads(told[KEY_CONTRACT])
        for name in ("input_shape", "outputs"):
            document[name] = tuple(document[name])
        return NetworkSpec.from_json(json.loads(told[KEY_SPEC]), where=str(path)), Contract(**document)
    except (TypeError, ValueError, KeyError) as problem:
        raise TrainError(f"{path}: its contract cannot be read ({problem!r})") from problem


# ---------------------------------------------------------------------------------------------------------- the graph


class Exportable(nn.Module):
    """The network with what goes around it: images as its contract says -> maps, or (keypoints, scores, maps)."""

    def __init__(self, net: nn.Module, spec: NetworkSpec, *, decode: bool, pixels: bool) -> None:
        super().__init__()
        self.net, self.spec, self.pixels = net, spec, pixels
        self.decoder = Decoder(spec.codec) if decode else None

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        if self.pixels:
            planes = batched.planes(images)
            images = batched.normalise(planes, self.spec.mean, self.spec.std, bgr=self.spec.colour == "bgr")
        maps: Tensor = self.net(images)
        return maps if self.decoder is None else (*self.decoder(maps), maps)


class Decoder(nn.Module):
    """`HeatmapCodec.decode` in operators that ONNX has: maps (B, K, h, w) -> keypoints (B, K, 2) px, scores (B, K).

    Equal to the codec on the same maps; on float32 maps that DARK or UDP refine, to the codec on these maps as float64,
    for the blur here is float64 too. TrainError where the maps are not of the codec's size.
    """

    cell: Tensor
    across: Tensor
    down: Tensor

    def __init__(self, codec: HeatmapCodec) -> None:
        super().__init__()
        self.codec, self.size = codec, codec.heatmap_size
        self.register_buffer("cell", torch.from_numpy(codec.cell), persistent=False)
        if codec.refinement in _DERIVED:
            for name, cells in zip(("across", "down"), self.size, strict=True):
                self.register_buffer(name, torch.from_numpy(_blur_matrix(cells, codec.blur)), persistent=False)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        width, refinement = self.size[0], self.codec.refinement
        if (int(maps.shape[3]), int(maps.shape[2])) != self.size:
            raise TrainError(
                f"maps of {maps.shape[3]} x {maps.shape[2]} cells, the codec's have {width} x {self.size[1]}",
                hint="stride and input size of the network and of its codec must agree",
            )
        flat = maps.flatten(2)
        best = flat.argmax(2, keepdim=True)  # (B, K, 1), the first of equals
        scores = flat.gather(2, best)
        valid = scores > 0
        best = torch.where(valid, best, torch.zeros_like(best))
        y = torch.div(best, width, rounding_mode="floor")
        x = best - y * width
        cells = torch.cat([x, y], 2).double()
        if refinement == "quarter":
            cells = cells + self._quarter(flat, x, y, valid)
        elif refinement in _DERIVED:
            cells = cells + self._newton(maps, x, y, valid)
        return (cells * self.cell).float(), scores[..., 0]

    def _quarter(self, flat: Tensor, x: Tensor, y: Tensor, valid: Tensor) -> Tensor:
        """(B, K, 2): `codec.quarter`'s step."""
        (width, height), p = self.size, _window(flat, x, y, self.size, 1)
        inside = valid & (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
        step = torch.stack([p[1][2] - p[1][0], p[2][1] - p[0][1]], 2)
        return torch.where(inside, step.sign().double() * 0.25, torch.zeros_like(step).double())

    def _newton(self, maps: Tensor, x: Tensor, y: Tensor, valid: Tensor) -> Tensor:
        """(B, K, 2): the Newton step of `codec.dark` or `codec.udp_dark`."""
        maps = maps.double()
        soft = torch.matmul(torch.matmul(self.down, maps), self.across.mT)
        flat, old = soft.flatten(2), maps.flatten(2).amax(2, keepdim=True)
        new = flat.amax(2, keepdim=True)
        flat = flat * torch.where(new > 0, old / torch.where(new > 0, new, torch.ones_like(new)), torch.ones_like(new))
        inside, (width, height) = valid, self.size
        reach = _DERIVED[self.codec.refinement]
        low, high = (1e-10, None) if reach == 2 else (1e-3, 50.0)
        p = [tuple(v.clamp(low, high).log() for v in row) for row in _window(flat, x, y, self.size, reach)]
        if self.codec.refinement == "dark":
            inside = inside & (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
            derived = _derivatives_dark(p)
        else:
            derived = _derivatives_udp(p)
        step = _step(*derived)
        return torch.where(inside, step, torch.zeros_like(step))


def _window(flat: Tensor, x: Tensor, y: Tensor, size: tuple[int, int], reach: int) -> Rows:
    """Rows of (B, K) values about x, y (B, K, 1) of maps (B, K, h * w); beyond the border, the border's."""
    width, height = size
    steps, side = torch.arange(-reach, reach + 1), 2 * reach + 1
    rows = (y + steps).clamp(0, height - 1)  # (B, K, side)
    columns = (x + steps).clamp(0, width - 1)
    places = (rows[..., :, None] * width + columns[..., None, :]).flatten(2)
    values = flat.gather(2, places).unbind(2)  # no reshaping: a trace would take the batch's size for a constant
    return [values[start : start + side] for start in range(0, side * side, side)]


def _derivatives_dark(window: Rows) -> tuple[Tensor, ...]:
    """dx, dy, dxx, dxy, dyy of 5 x 5 logarithms, second ones two cells apart: `codec.dark`."""
    a, b, c, d, e = window
    dx, dy = (c[3] - c[1]) / 2, (d[2] - b[2]) / 2
    dxx, dyy = (c[4] - 2 * c[2] + c[0]) / 4, (e[2] - 2 * c[2] + a[2]) / 4
    dxy = (d[3] - b[3] - d[1] + b[1]) / 4
    return dx, dy, dxx, dxy, dyy


def _derivatives_udp(window: Rows) -> tuple[Tensor, ...]:
    """The same of 3 x 3, one cell apart: `codec.udp_dark`."""
    a, b, c = window
    tiny = float(np.finfo(np.float32).eps)
    dx, dy = (b[2] - b[0]) / 2, (c[1] - a[1]) / 2
    dxx, dyy = b[2] - 2 * b[1] + b[0] + tiny, c[1] - 2 * b[1] + a[1] + tiny
    dxy = (c[2] + a[0] + 2 * b[1] - (b[2] + c[1] + b[0] + a[1])) / 2
    return dx, dy, dxx, dxy, dyy


def _step(dx: Tensor, dy: Tensor, dxx: Tensor, dxy: Tensor, dyy: Tensor) -> Tensor:
    """(B, K, 2) step of Newton; 0 where the Hessian is singular."""
    determinant = dxx * dyy - dxy * dxy
    singular = determinant == 0
    safe = torch.where(singular, torch.ones_like(determinant), determinant)
    step = torch.stack([(dxy * dy - dyy * dx) / safe, (dxy * dx - dxx * dy) / safe], 2)
    return torch.where(singular[..., None], torch.zeros_like(step), step)


def _blur_matrix(cells: int, kernel: int) -> Floats:
    """(cells, cells): the codec's blur along one axis, times a factor that the rescaling to the old maximum takes out.

    Column i is what the codec makes of a map of one column with a 1 in row i.
    """
    ones = np.eye(cells)[:, None, :, None]  # (cells, 1, cells, 1)
    matrix: Floats = np.ascontiguousarray(blurred(ones, kernel)[:, 0, :, 0].T)
    return matrix


# ----------------------------------------------------------------------------------------------------------- the file


def _expect_packages() -> None:
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtra(package, "export", "an ONNX file")


def _contract(spec: NetworkSpec, decode: bool, pixels: bool, batch: int | None, opset: int) -> Contract:
    width, height = spec.input_size
    shape = (batch, height, width, 3) if pixels else (batch, 3, height, width)
    outputs = ("keypoints", "scores", "heatmaps") if decode else ("heatmaps",)
    return Contract(
        "pixels" if pixels else "planes", shape, "rgb" if pixels else spec.colour, batch, outputs,
        spec.codec.refinement if decode else None, opset,
    )  # fmt: skip


def _example(contract: Contract, count: int, seed: int = 0) -> Tensor:
    """Random inputs of the contract: whole pixels, or planes that are about as large as normalised ones."""
    rng = np.random.default_rng(seed)
    shape = (count, *contract.input_shape[1:])
    assert all(side is not None for side in shape)
    if contract.layout == "pixels":
        return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))  # type: ignore[arg-type]
    return torch.from_numpy(rng.uniform(-2, 2.5, shape).astype(np.float32))  # type: ignore[arg-type]


def _traced(graph: Exportable, contract: Contract) -> bytes:
    """The graph as torch's tracer writes it."""
    out = io.BytesIO()
    free = None if contract.batch else {name: {0: "batch"} for name in (contract.input, *contract.outputs)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer: sizes are constants, which is what is wanted
        torch.onnx.export(
            graph, (_example(contract, contract.batch or 2),), cast(Any, out), dynamo=False,
            opset_version=contract.opset, input_names=[contract.input], output_names=list(contract.outputs),
            dynamic_axes=free,
        )  # fmt: skip
    return out.getvalue()


def _with_metadata(data: bytes, spec: NetworkSpec, contract: Contract) -> bytes:
    """The file with its contract, in JSON for programs and in words for people."""
    import onnx

    from kpdata import __version__

    model = onnx.load_model_from_string(data)
    model.producer_name, model.producer_version, model.doc_string = "kpdata", __version__, _words(spec, contract)
    told = {
        KEY_VERSION: VERSION, KEY_SPEC: json.dumps(spec.to_json()), KEY_CONTRACT: json.dumps(asdict(contract)),
    }  # fmt: skip
    onnx.helper.set_model_props(model, told)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _words(spec: NetworkSpec, contract: Contract) -> str:
    width, height = spec.input_size
    if contract.layout == "pixels":
        fed = f"uint8 RGB (B, {height}, {width}, 3)"
    else:
        fed = (
            f"float32 (B, 3, {height}, {width}), channels {'R, G, B' if spec.colour == 'rgb' else 'B, G, R'}, "
            f"(pixel / 255 - mean) / std with mean {list(spec.mean)} and std {list(spec.std)}"
        )
    given = f"keypoints in px of the crop by {contract.decoding}, scores, heatmaps" if contract.decoding else "heatmaps"
    return (
        f"{spec.model}, {len(spec.skeleton)} keypoints of {spec.skeleton.name}. Input: {fed}, a person's box with "
        f"padding {spec.padding:g}, cut by the {spec.convention} convention. Output: {given}."
    )


# ---------------------------------------------------------------------------------------------------------- the check


def _checked(
    data: bytes, graph: Exportable, spec: NetworkSpec, contract: Contract
) -> tuple[float, float, float | None]:
    """Largest difference of the maps from torch's, the largest map value, largest difference of keypoints in px."""
    session = _session(data)
    maps_differ, largest, points_differ = 0.0, 0.0, 0.0
    for count in (contract.batch,) if contract.batch else (1, 3):  # traced with 2: no batch's size may be a constant
        images = _example(contract, count, seed=count)
        found = dict(zip(contract.outputs, session.run(None, {contract.input: images.numpy()}), strict=True))
        with torch.no_grad():
            told = graph(images)
        maps = (told if isinstance(told, Tensor) else told[-1]).numpy()
        if found["heatmaps"].shape != maps.shape:
            raise TrainError(f"onnxruntime gives maps of shape {found['heatmaps'].shape}, torch {maps.shape}")
        maps_differ = max(maps_differ, float(np.abs(found["heatmaps"] - maps).max()))
        largest = max(largest, float(np.abs(maps).max()))
        if contract.decoding:
            points_differ = max(points_differ, _points_differ(found, spec))
    if not maps_differ <= BOUND * max(largest, 1.0):  # NaN is no agreement
        raise TrainError(
            f"onnxruntime and torch differ by {maps_differ:.3g} in maps of up to {largest:.3g}; nothing was written",
            hint="another --opset, or another version of onnxruntime",
        )
    if not points_differ <= BOUND * max(spec.input_size):
        raise TrainError(
            f"decoding inside the graph differs by {points_differ:.3g} px from kpdata's; nothing was written",
            hint="--no-decode gives the maps",
        )
    return maps_differ, largest, points_differ if contract.decoding else None


def _points_differ(found: dict[str, Any], spec: NetworkSpec) -> float:
    """px, of keypoints from the codec's on the same maps. Steps off the picture, of maps that are noise, do not count:
    a Hessian close to singular makes them, and any number is as good."""
    points, _ = spec.codec.decode(found["heatmaps"].astype(np.float64))
    inside = ((points >= 0) & (points < spec.input_size)).all(-1)
    differ = np.abs(found["keypoints"] - points).max(-1)
    return float(differ[inside].max(initial=0.0))


def _session(data: bytes) -> Any:
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # its exceptions have no common class of their own
        raise TrainError(f"onnxruntime refuses the graph ({str(problem).splitlines()[0]})") from problem
