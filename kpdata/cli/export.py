"""`kpdata export`: a trained network as an ONNX file."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpdata.cli import console, options
from kpdata.errors import MissingExtra

if TYPE_CHECKING:
    from kpdata.train.export import Exported

Checkpoint = Annotated[
    Path, typer.Argument(metavar="CKPT", help="Checkpoint, or a published weight file.", show_default=False)
]
Target = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="File to write.", show_default=False)]
Decode = Annotated[
    bool, typer.Option("--decode/--no-decode", help="Keypoints in px of the crop inside, beside the heatmaps.")
]
Pixels = Annotated[
    bool,
    typer.Option("--pixels/--planes", help="Input: uint8 RGB (B, H, W, 3), or normalised float32 (B, 3, H, W)."),
]
Batch = Annotated[str, typer.Option("--batch", metavar="N|dynamic", help="People a run: a fixed number, or any.")]
Opset = Annotated[int, typer.Option("--opset", metavar="N", help="Version of ONNX's operators, 13 to 20.")]
Skeleton = Annotated[
    str | None,
    typer.Option("--skeleton", metavar="S", help="Names of the keypoints, where the weights have none."),
]


def export(
    checkpoint: Checkpoint,
    target: Target,
    decode: Decode = True,
    pixels: Pixels = False,
    batch: Batch = "dynamic",
    opset: Opset = 17,
    skeleton: Skeleton = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Write a network as ONNX: fixed input size, any batch, decoding inside, and what to feed it in the metadata.

    The file is run under onnxruntime beside torch first, and written only where both say the same.

    Example: kpdata export run/best.pt model.onnx --pixels
    """
    if batch != "dynamic" and not (batch.isascii() and batch.isdecimal() and int(batch) > 0):
        raise typer.BadParameter(f"--batch {batch}, expected a whole number above 0, or dynamic")
    if find_spec("torch") is None:
        raise MissingExtra("torch", "train", "exporting")
    from kpdata.skeleton import load
    from kpdata.train.export import export as write

    with console.working(f"exporting {checkpoint}"):
        made = write(
            checkpoint, target, decode=decode, pixels=pixels, batch=None if batch == "dynamic" else int(batch),
            opset=opset, skeleton=load(skeleton) if skeleton else None, force=force,
        )  # fmt: skip
    if as_json:
        console.print_json({**asdict(made), "path": str(made.path)})
        return
    for note in made.notes:
        console.warn(note)
    _print(made)
    console.status("Wrote", f"{made.path}: {made.bytes / 1e6:.1f} MB")


def _print(made: Exported) -> None:
    contract = made.contract
    shape = ", ".join("B" if side is None else str(side) for side in contract.input_shape)
    kind = "uint8 RGB" if contract.layout == "pixels" else f"float32 {contract.colour.upper()}, normalised"
    rows = [
        ("input", f"{contract.input} ({shape}) {kind}"),
        ("outputs", ", ".join(contract.outputs)),
        ("decoding inside", contract.decoding or "none"),
        ("opset", str(contract.opset)),
        ("maps differ from torch by", f"{made.maps_differ:.2g} (largest value {made.largest:.2g})"),
    ]
    if made.keypoints_differ is not None:
        rows.append(("keypoints differ from kpdata's by", f"{made.keypoints_differ:.2g} px"))
    console.table(("what", "value"), rows, title="Export")
