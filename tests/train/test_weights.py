"""Weights of others: their names, their heads, their damaged files. The files are made here, as those trainers do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the trainer needs kpdata[train]")
torch.set_num_threads(1)

from torch import Tensor, nn  # noqa: E402  (after the skip)

from kpdata import skeleton  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.errors import TrainError  # noqa: E402
from kpdata.skeleton import Skeleton  # noqa: E402
from kpdata.train import known_files, weights  # noqa: E402
from kpdata.train.known_files import KNOWN_FILES  # noqa: E402
from kpdata.train.models import MODELS, build  # noqa: E402
from kpdata.train.weights import Source, load_weights, read_file, read_weights  # noqa: E402

COCO, CROWDPOSE = skeleton.load("coco_17"), skeleton.load("crowdpose_14")


@pytest.fixture(scope="module")
def tiny() -> dict[str, Tensor]:
    """State dict of a tiny HRNet with 17 keypoints, all of its values different from those of a new net."""
    torch.manual_seed(1)
    return {
        n: torch.randn(t.shape) if t.is_floating_point() else t for n, t in build("hrnet_tiny", 17).state_dict().items()
    }


def shapes(model: str, keypoints: int = 17) -> dict[str, Tensor]:
    """A state dict of full shapes whose tensors share one number: small on disk."""
    with torch.device("meta"):
        net = build(model, keypoints)
    return {n: torch.zeros((), dtype=t.dtype).expand(t.shape) for n, t in net.state_dict().items()}


def mmpose_1(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {("head." if n.startswith(("final_layer", "deconv")) else "backbone.") + n: t for n, t in state.items()}


def mmpose_0(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.replace("head.", "keypoint_head."): t for n, t in mmpose_1(state).items()}


def timm(state: dict[str, Tensor], classifier: str = "classifier") -> dict[str, Tensor]:
    body = {n: t for n, t in state.items() if not n.startswith("final_layer")}
    extra = ["stage4.2.fuse_layers.1.0.0.0.weight", "incre_modules.0.0.conv1.weight", "downsamp_modules.0.0.weight"]
    extra += ["final_layer.0.weight", "final_layer.1.running_var", f"{classifier}.weight", f"{classifier}.bias"]
    return {**body, **{name: torch.ones(3) for name in extra}}


def saved(path: Path, document: object, **options: bool) -> Path:
    torch.save(document, path, **options)
    return path


def loaded(path: Path, *, skeleton: Skeleton = COCO, **options: bool) -> tuple[dict[str, Tensor], weights.Report]:
    net = build("hrnet_tiny", len(skeleton))
    report = load_weights(net, read_weights(path), model="hrnet_tiny", skeleton=skeleton, **options)
    return net.state_dict(), report


WHOLE = {
    "official": lambda s: s,
    "official checkpoint.pth": lambda s: {"state_dict": {f"module.{n}": t for n, t in s.items()}, "epoch": 3},
    "official best": lambda s: {"best_state_dict": s, "epoch": 3, "perf": 0.7},
    "mmpose 0.x": lambda s: {"state_dict": mmpose_0(s), "meta": {"mmpose_version": "0.8.0"}},
    "mmpose 1.x": lambda s: {"state_dict": mmpose_1(s), "meta": {"epoch": 210}},
    "mmpose, one layer in a sequence": lambda s: {
        "state_dict": {n.replace("final_layer.", "final_layer.0."): t for n, t in mmpose_0(s).items()}
    },
    "compiled": lambda s: {f"_orig_mod.{n}": t for n, t in s.items()},
}


@pytest.mark.parametrize(
    ("kind", "zipped"), [*((kind, True) for kind in WHOLE), ("official", False), ("mmpose 0.x", False)]
)
def test_every_layout_is_read_whole(kind: str, zipped: bool, tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """Nothing is lost: from each trainer's layout, in torch's new and old file, every tensor arrives."""
    path = saved(tmp_path / "theirs.pth", WHOLE[kind](tiny), _use_new_zipfile_serialization=zipped)

    state, report = loaded(path, whole=True)

    assert all(torch.equal(state[name], tensor) for name, tensor in tiny.items())
    assert (report.loaded, report.total, report.new) == (len(tiny), len(tiny), ())


@pytest.mark.parametrize("classifier", ["classifier", "head", "fc"])
def test_imagenet_weights_fill_the_body(classifier: str, tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """ImageNet files of timm, the official pose code and torchvision: all but the head, which starts anew."""
    path = saved(tmp_path / "imagenet.pth", timm(tiny, classifier))

    source = read_weights(path)
    state, report = loaded(path)

    assert (source.origin, source.num_keypoints, source.colour) == ("imagenet", None, "rgb")
    assert all(torch.equal(state[n], t) for n, t in tiny.items() if not n.startswith("final_layer"))
    assert (report.loaded, report.total, len(report.new)) == (len(tiny) - 2, len(tiny), 17)
    assert str(report).endswith("the head starts anew")


def test_imagenet_hrnet_is_all_but_the_head(tmp_path: Path) -> None:
    """W32 from timm: 1752 of 1754 tensors, the number that the key lists give."""
    path = saved(tmp_path / "hrnet.pth", timm(shapes("hrnet_w32")))

    with torch.device("meta"):  # counts alone are looked at
        net = build("hrnet_w32", 17)
    report = load_weights(net, read_weights(path), model="hrnet_w32", skeleton=COCO)

    assert str(report).startswith("loaded 1752 of 1754 tensors")


def test_safetensors_are_read(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """timm's hub gives safetensors: a JSON header and bytes."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tiny.items():
        raw = tensor.numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)

    state, _ = loaded(path, whole=True)

    assert all(torch.equal(state[name], tensor) for name, tensor in tiny.items())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrainError, match="cut or damaged"):
        read_weights(path)


def test_batch_counters_may_be_missing(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """Old files lack `num_batches_tracked`: forgiven, also where everything is needed."""
    path = saved(tmp_path / "old.pth", {n: t for n, t in tiny.items() if "num_batches" not in n})

    state, report = loaded(path, whole=True)

    assert torch.equal(state["bn1.weight"], tiny["bn1.weight"])
    assert report.missing and all(name.endswith("num_batches_tracked") for name in report.missing)
    assert "missing" not in str(report)


def test_another_missing_tensor_is_named(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """One running mean less: named in the report of a start, refused where the network is to be used."""
    path = saved(tmp_path / "less.pth", {n: t for n, t in tiny.items() if n != "bn2.running_mean"})

    _, report = loaded(path)

    assert "missing: bn2.running_mean" in str(report)
    with pytest.raises(TrainError, match=r"missing: bn2\.running_mean"):
        loaded(path, whole=True)


def test_a_wrong_prefix_is_guessed(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """Names that begin with something unexpected: refused, nothing is loaded, and the message says the prefix."""
    path = saved(tmp_path / "lightning.ckpt", {"state_dict": {f"model.encoder.{n}": t for n, t in tiny.items()}})
    net = build("hrnet_tiny", 17)
    before = {n: t.clone() for n, t in net.state_dict().items()}

    with pytest.raises(TrainError, match=r"only 0 of .* fit; missing: .*begin with 'model\.encoder\.': save"):
        load_weights(net, read_weights(path), model="hrnet_tiny", skeleton=COCO)

    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_half_a_network_is_refused(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """Below the threshold a start is refused, naming what is missing; with a lower threshold it is taken."""
    path = saved(tmp_path / "half.pth", {n: t for n, t in tiny.items() if not n.startswith("stage4")})
    net, source = build("hrnet_tiny", 17), read_weights(path)

    with pytest.raises(TrainError, match=r"missing: stage4\.0\.branches"):
        load_weights(net, source, model="hrnet_tiny", skeleton=COCO)

    assert load_weights(net, source, model="hrnet_tiny", skeleton=COCO, threshold=0.3).loaded > 100


def test_weights_of_another_model_are_told(tmp_path: Path) -> None:
    """W48's weights for W32: the message says what they are of, and what to say."""
    path = saved(tmp_path / "theirs.pth", shapes("hrnet_w48"))

    with torch.device("meta"):
        net = build("hrnet_w32", 17)

    with pytest.raises(TrainError, match=r"its weights are of hrnet_w48.*--model hrnet_w48"):
        load_weights(net, read_weights(path), model="hrnet_w32", skeleton=COCO)


def test_a_larger_network_is_not_used_as_ours(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """All of ours and more layers: a start, but no network to predict with, because the file's one does more."""
    more = mmpose_1(tiny) | {"head.conv_layers.0.weight": torch.ones(3)}
    path = saved(tmp_path / "more.pth", {"state_dict": more})

    assert loaded(path)[1].unexpected == ("conv_layers.0.weight",)
    with pytest.raises(TrainError, match=r"other layers too: conv_layers\.0\.weight"):
        loaded(path, whole=True)


def test_columns_that_nobody_names_start_anew(tmp_path: Path) -> None:
    """14 unnamed keypoints for a skeleton of 14: LSP's order taken for CrowdPose's would teach a wrong start."""
    path = saved(tmp_path / "mine.pth", build("hrnet_tiny", 14).state_dict())

    _, report = loaded(path, skeleton=CROWDPOSE)

    assert report.new == CROWDPOSE.keypoint_names


@settings(max_examples=60)
@given(st.booleans(), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_any_damage_is_a_sentence(zipped: bool, place: float, bit: int) -> None:
    """A flipped bit anywhere, in torch's new and old files: weights, or a TrainError, never a traceback."""
    with tempfile.TemporaryDirectory() as folder:
        path = saved(Path(folder) / "w.pth", {"a": torch.ones(9)}, _use_new_zipfile_serialization=zipped)
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] ^= 1 << bit
        path.write_bytes(data)
        with contextlib.suppress(TrainError):
            assert isinstance(read_weights(path), Source)


def test_a_head_of_several_layers_is_left_out(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """mmpose's heads with convolutions before the last are not ours: the last one alone would be nonsense."""
    state = {n.replace("final_layer.", "final_layer.3."): t for n, t in mmpose_0(tiny).items()}
    state["keypoint_head.final_layer.0.weight"] = torch.ones(16, 16, 3, 3)
    path = saved(tmp_path / "deep.pth", {"state_dict": state})

    _, report = loaded(path)

    assert len(report.new) == 17
    assert "2 layers with weights" in str(report)


def test_the_head_follows_the_names(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """From COCO to CrowdPose: a column for the same point is copied, head top and neck start anew and are named."""
    path = saved(tmp_path / "pose_hrnet.pth", tiny)
    torch.manual_seed(2)
    fresh = build("hrnet_tiny", 14).state_dict()["final_layer.weight"]
    torch.manual_seed(2)

    state, report = loaded(path, skeleton=CROWDPOSE)

    for column, name in enumerate(CROWDPOSE.keypoint_names):
        if name in COCO.keypoint_names:
            there = COCO.keypoint_names.index(name)
            assert torch.equal(state["final_layer.weight"][column], tiny["final_layer.weight"][there])
            assert state["final_layer.bias"][column] == tiny["final_layer.bias"][there]
        else:
            assert torch.equal(state["final_layer.weight"][column], fresh[column])
    assert len(report.copied) == 12
    assert "new are top_head, neck" in str(report)
    with pytest.raises(TrainError, match="a head of 17 keypoints, expected the 14 of 'crowdpose_14'"):
        loaded(path, skeleton=CROWDPOSE, whole=True)


def test_close_points_are_a_start_and_are_told(tmp_path: Path) -> None:
    """MPII's head top starts CrowdPose's: another protocol's point, told as such."""
    mpii = skeleton.load("mpii_16")
    net = nn.ModuleDict({"final_layer": nn.Conv2d(4, 14, 1)})
    given = {"final_layer.weight": torch.randn(16, 4, 1, 1), "final_layer.bias": torch.randn(16)}
    source = Source(tmp_path, given, "official", None, mpii, HeatmapCodec(), "rgb", "test")

    report = load_weights(net, source, model="head", skeleton=CROWDPOSE)

    assert "top_head" in report.close
    there, here = mpii.keypoint_names.index("head_top"), CROWDPOSE.keypoint_names.index("top_head")
    assert torch.equal(net["final_layer"].weight[here], given["final_layer.weight"][there])


@settings(max_examples=30)
@given(st.permutations(COCO.keypoint_names), st.integers(1, 17))
def test_any_order_of_keypoints_is_followed(names: list[str], count: int) -> None:
    """For any choice and order of keypoints, each column of the head is the one of that name."""
    ours = Skeleton("chosen", tuple(names[:count]))
    net = nn.ModuleDict({"final_layer": nn.Conv2d(2, count, 1)})
    given = {"final_layer.weight": torch.arange(34.0).reshape(17, 2, 1, 1), "final_layer.bias": torch.arange(17.0)}
    source = Source(Path("x"), given, "official", None, COCO, HeatmapCodec(), "rgb", "test")

    load_weights(net, source, model="head", skeleton=ours)

    assert net["final_layer"].bias.tolist() == [COCO.keypoint_names.index(name) for name in ours.keypoint_names]


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_the_weights_are_not_made(zipped: bool, tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """mmengine's objects and NumPy's arrays in `meta`: the weights are read, none of those classes is needed or run."""
    parts = [types.ModuleType(n) for n in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")]
    buffer = type("HistoryBuffer", (), {"__module__": parts[2].__name__, "__reduce__": lambda self: (type(self), ())})
    parts[2].HistoryBuffer = buffer
    touch = type("Touch", (), {"__reduce__": lambda self: (np.save, (str(tmp_path / "touched.npy"), np.zeros(1)))})
    sys.modules.update({part.__name__: part for part in parts})
    meta = {"sigmas": np.ones(17), "mean": np.float64(2), "history": [buffer()], "run": touch()}
    path = saved(
        tmp_path / "epoch_210.pth", {"meta": meta, "state_dict": mmpose_1(tiny)}, _use_new_zipfile_serialization=zipped
    )
    for part in parts:
        del sys.modules[part.__name__]

    state, _ = loaded(path, whole=True)

    assert torch.equal(state["conv1.weight"], tiny["conv1.weight"])
    assert not (tmp_path / "touched.npy").exists()
    assert isinstance(read_file(path)["meta"]["sigmas"], weights.Inert)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_is_refused(zipped: bool, tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """A pickle that would run a command: refused, naming what it asks for, and nothing was run."""
    marker = tmp_path / "ran"
    evil = type("Evil", (), {"__reduce__": lambda self: (os.system, (f"touch {marker}",))})
    path = saved(tmp_path / "w.pth", {"state_dict": tiny, "x": evil()}, _use_new_zipfile_serialization=zipped)

    with pytest.raises(TrainError, match=r"would run \w+\.system, .*save the state dict alone"):
        read_weights(path)

    assert not marker.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    """`torch.save(net)` needs its classes: refused with the way to save what is needed."""
    path = saved(tmp_path / "net.pt", nn.Linear(2, 2))

    with pytest.raises(TrainError, match=r"save the state dict alone: torch\.save"):
        read_weights(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_cut_file_is_told(zipped: bool, part: float, tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """A download that stopped: one sentence, whatever is left of it."""
    path = saved(tmp_path / "cut.pth", tiny, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])

    with pytest.raises(TrainError, match="not a file of weights, or cut or damaged"):
        read_weights(path)


@pytest.mark.parametrize("content", [b"<html>Not found</html>", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(99)])
def test_other_files_are_told(content: bytes, tmp_path: Path) -> None:
    """An error page, a bare pickle, a broken zip: no traceback."""
    path = tmp_path / "page.pth"
    path.write_bytes(content)

    with pytest.raises(TrainError, match=r"cut or damaged|holds no weights"):
        read_weights(path)


def test_files_without_weights_are_told(tmp_path: Path) -> None:
    """Numbers but no tensors, no file at all, a folder: each says what was found."""
    with pytest.raises(TrainError, match=r"holds no weights \(keys epoch, lr\)"):
        read_weights(saved(tmp_path / "a.pth", {"epoch": 3, "lr": 0.1}))
    with pytest.raises(TrainError, match="No such file"):
        read_weights(tmp_path / "b.pth")
    with pytest.raises(TrainError, match="directory"):
        read_weights(tmp_path)


def test_the_table_is_sound() -> None:
    """Each known file has a model and skeleton of ours, another name than the rest, and a size as its name says."""
    assert len({row.name for row in KNOWN_FILES}) == len(KNOWN_FILES)
    hashes = [row.sha256[:8] for row in KNOWN_FILES if row.sha256]
    assert len(set(hashes)) == len(hashes)
    for row in KNOWN_FILES:
        assert row.model in MODELS
        assert all(digit in "0123456789abcdef" for digit in row.sha256)
        assert (row.skeleton is None) == (row.codec is None) == (row.origin == "imagenet")
        if row.codec is not None:
            assert "{1}x{0}".format(*row.codec.input_size) in row.name
            assert len(skeleton.load(row.skeleton)) > 0
        if row.origin == "mmpose":
            for target in ("dark", "udp"):
                assert (target in row.name) == (row.codec.target == target)


def test_the_same_keys_have_two_colour_orders() -> None:
    """Simple Baseline of the official zoo was trained on BGR, mmpose's on RGB: HRNet issue 15."""
    colours = {row.colour for row in KNOWN_FILES if row.model == "pose_resnet_50" and row.origin == "official"}
    assert colours == {"bgr"}
    assert {row.colour for row in KNOWN_FILES if row.origin == "mmpose"} == {"rgb"}


def test_names_tell_how_to_use_a_file(tmp_path: Path) -> None:
    """By name: UDP targets, RGB and the size of an mmpose file; BGR of an official one; a hash that differs is told."""
    mmpose = tmp_path / "td-hm_hrnet-w32_udp-8xb64-210e_coco-384x288-9a3f7c85_20220914.pth"
    source = read_weights(saved(mmpose, {"state_dict": mmpose_1(shapes("hrnet_w32"))}))
    assert (source.codec, source.colour) == (HeatmapCodec((288, 384), sigma=3.0, target="udp"), "rgb")
    assert (source.model, source.skeleton, source.licence) == ("hrnet_w32", COCO, "Apache-2.0")
    assert "was published with 9a3f7c85: damaged, or saved anew" in source.notes[0]

    official = read_weights(saved(tmp_path / "pose_resnet_50_256x192.pth.tar", shapes("pose_resnet_50")))
    assert (official.colour, official.codec.target, official.notes) == ("bgr", "gaussian", ())
    assert official.evidence == "pose_resnet_50_256x192.pth.tar by its name"


def test_bytes_count_more_than_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known file under another name is known by its sha256."""
    path = saved(tmp_path / "my_renamed_weights.pth", shapes("pose_resnet_50"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    row = known_files.KnownFile(
        "pub.pth", digest[:8], "mmpose", "pose_resnet_50", "coco_17", HeatmapCodec(), "rgb", "X"
    )
    monkeypatch.setattr(known_files, "KNOWN_FILES", (*KNOWN_FILES, row))

    source = read_weights(path)

    assert (source.evidence, source.colour, source.notes) == (f"pub.pth by its sha256 {digest[:8]}", "rgb", ())


def test_a_name_on_another_network_tells_nothing(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    """A file with a known name whose shapes are another network's is judged by its structure."""
    source = read_weights(saved(tmp_path / "pose_hrnet_w32_256x192.pth", tiny))

    assert source.model == "hrnet_tiny"
    assert "its name tells nothing" in source.notes[0]


def test_unknown_files_say_what_was_guessed(tmp_path: Path) -> None:
    """Without a name or hash: BGR for bare Simple Baselines, RGB for mmpose's, and the guesses are listed."""
    bare = read_weights(saved(tmp_path / "mine.pth", shapes("pose_resnet_50")))
    assert bare.colour == "bgr"
    assert "guessed, because the file does not say: skeleton coco_17; input 192x256 px" in bare.notes[0]
    assert "colour order bgr" in bare.notes[0]

    theirs = read_weights(saved(tmp_path / "theirs.pth", {"state_dict": mmpose_1(shapes("pose_resnet_50", 14))}))
    assert (theirs.colour, theirs.skeleton) == ("rgb", None)  # 14 keypoints: CrowdPose's, LSP's or AIC's
    assert "colour" not in theirs.notes[0]


CFG = """
codec = dict(
    heatmap_size=(72, 96), input_size=(288, 384), sigma=3, type='{kind}', {more})
data_root = 'data/coco/'
custom = compute(x)
"""


@pytest.mark.parametrize(
    ("kind", "more", "target"),
    [("MSRAHeatmap", "", "gaussian"), ("MSRAHeatmap", "unbiased=True", "dark"), ("UDPHeatmap", "", "udp"),
     ("SimCCLabel", "", None), ("UDPHeatmap", "heatmap_type='combined'", None), ("MSRAHeatmap", "((", None)],
)  # fmt: skip
def test_mmpose_config_tells_the_codec(kind: str, more: str, target: str | None, tmp_path: Path) -> None:
    """A checkpoint of one's own mmpose training carries its config and its keypoints' names: both are read, not run."""
    names = dict(enumerate(CROWDPOSE.keypoint_names))
    meta = {"cfg": CFG.format(kind=kind, more=more), "dataset_meta": {"dataset_name": "x", "keypoint_id2name": names}}
    document = {"meta": meta, "state_dict": mmpose_1(shapes("pose_resnet_50", 14))}

    source = read_weights(saved(tmp_path / "epoch_210.pth", document))

    assert source.skeleton == CROWDPOSE
    expected = HeatmapCodec((288, 384), sigma=3.0, target=target) if target else HeatmapCodec()
    assert source.codec == expected
    assert (source.notes == ()) == (target is not None)
