"""What a network sees and says: all that its weights alone do not tell. Needs no torch.

A checkpoint carries it, the loader and the predictor obey it, an export repeats it: with the same weights, another
colour order, crop or decoding costs whole points of AP (an RGB network fed BGR: 72.4 to 65.3, HRNet issue 15).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from kpdata.augment.kernels import Convention
from kpdata.codec import HeatmapCodec
from kpdata.errors import KpdataError, TrainError
from kpdata.skeleton import Skeleton

Colour = Literal["rgb", "bgr"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Of channels in 0 to 1, in the order that the network is fed: also the official BGR networks use it as it stands."""
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A network and the way it is used. Frozen; checked when it is made (TrainError).

    model: a name of `models.MODELS`. skeleton: its keypoints name the columns of the output. codec: size of the input,
    targets and decoding, and what an occluded or absent label is worth. colour: order of the input's channels.
    padding: of a person's box. mean, std: of the channels in 0 to 1, in the order of `colour`.
    """

    model: str
    skeleton: Skeleton
    codec: HeatmapCodec = field(default_factory=HeatmapCodec)
    colour: Colour = "rgb"
    padding: float = 1.25
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.colour not in get_args(Colour):
            raise TrainError(f"colour order {self.colour!r}, expected rgb or bgr")
        if not self.padding > 0:
            raise TrainError(f"padding {self.padding!r}, expected a factor above 0, such as 1.25")
        if any(side % 32 for side in self.codec.input_size):
            raise TrainError(f"input size {self.codec.input_size}, expected sides that 32 divides, such as 192 x 256")

    @property
    def input_size(self) -> tuple[int, int]:
        """(width, height) of the crops in px."""
        return self.codec.input_size

    @property
    def convention(self) -> Convention:
        """How crops are cut: UDP's targets belong with UDP's crops, all others with the official ones."""
        return "udp" if self.codec.target == "udp" else "official"

    @property
    def flip_shift(self) -> bool:
        """Whether the flip test moves the mirrored maps by one cell: all but UDP need it (HRNet issue 22)."""
        return self.codec.target != "udp"

    def changed(self, **values: Any) -> NetworkSpec:
        """The spec with other values in some fields."""
        return replace(self, **values)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives an equal spec."""
        return {
            "model": self.model, "skeleton": self.skeleton.to_json(), "codec": asdict(self.codec),
            "colour": self.colour, "padding": self.padding, "mean": list(self.mean), "std": list(self.std),
        }  # fmt: skip

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, where: str = "network spec") -> NetworkSpec:
        """The spec of a document. TrainError says where and what does not fit."""
        try:
            codec = {**document["codec"], "input_size": tuple(document["codec"]["input_size"])}
            return cls(
                document["model"], Skeleton.from_json(document["skeleton"], where=where), HeatmapCodec(**codec),
                document["colour"], float(document["padding"]),
                tuple(document["mean"]), tuple(document["std"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, KpdataError) as problem:
            raise TrainError(f"{where}: not a network spec of kpdata ({problem!r})") from problem
