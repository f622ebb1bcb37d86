"""ONNX files: the same maps as torch, the same keypoints as the codec, a contract, and nothing half written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs kpdata[train]")
onnx = pytest.importorskip("onnx", reason="needs kpdata[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs kpdata[export]")
torch.set_num_threads(1)

from kpdata import skeleton  # noqa: E402  (after the skips)
from kpdata.augment import batched  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.errors import DestinationExists, MissingExtra, TrainError  # noqa: E402
from kpdata.train import export as exporting  # noqa: E402
from kpdata.train.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from kpdata.train.export import Decoder, export, read_exported_spec  # noqa: E402
from kpdata.train.models import build  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402
from tests.train import reference  # noqa: E402

SIZE = (64, 96)
SPEC = NetworkSpec("hrnet_tiny", skeleton.load("coco_17"), HeatmapCodec(SIZE), colour="bgr", mean=(0.4, 0.5, 0.6))
CODECS = [
    HeatmapCodec(SIZE),
    HeatmapCodec(SIZE, refine="argmax"),
    HeatmapCodec(SIZE, target="dark", kernel=5),
    HeatmapCodec(SIZE, target="dark", kernel=17),
    HeatmapCodec(SIZE, target="udp"),
    HeatmapCodec(SIZE, target="udp", refine="dark"),
]


def network() -> Any:
    """With weights that make maps of about 1: those of a new network are 0 to 17 digits."""
    net = build("hrnet_tiny", 17)
    net.load_state_dict(reference.weights(net))
    return net


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(network, file, what `export` said) of pixels in, keypoints out."""
    net, path = network(), tmp_path_factory.mktemp("export") / "model.onnx"
    return net, path, export((SPEC, net), path, pixels=True)


def run(path: Path, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"images": images}))


def noisy_maps(codec: HeatmapCodec, rng: np.random.Generator) -> np.ndarray:
    """Maps of keypoints in the middle, at the borders, beyond them and absent, with noise, a tie and an empty map."""
    keypoints = rng.uniform(-6, np.array(SIZE) + 6, (8, 17, 2))
    maps, _ = codec.encode(keypoints, np.full((8, 17), 2))
    maps += rng.normal(0, 0.01, maps.shape).astype(np.float32)
    maps[0, 0], maps[0, 1] = 0, -1
    maps[0, 2] = 0
    maps[0, 2, 5, 5] = maps[0, 2, 5, 9] = 1  # the first of equals counts
    maps[0, 3] = 0.5
    return maps


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_decoding_in_the_graph_is_the_codecs(codec: HeatmapCodec, tmp_path: Path) -> None:
    """On the same maps onnxruntime gives `kpdata.codec`'s keypoints and scores, at borders, on ties and empty maps."""
    maps = noisy_maps(codec, np.random.default_rng(3))
    path = tmp_path / "decoder.onnx"
    with pytest.warns(DeprecationWarning):
        torch.onnx.export(
            Decoder(codec).eval(), (torch.from_numpy(maps[:2]),), path, dynamo=False, opset_version=17,
            input_names=["images"], dynamic_axes={"images": {0: "batch"}},
        )  # fmt: skip
    points, scores = run(path, maps)
    expected, tops = codec.decode(maps.astype(np.float64))
    assert points.shape == (8, 17, 2)
    np.testing.assert_array_equal(scores, tops.astype(np.float32))
    steady = np.abs(expected).max(-1) < 500  # a Hessian close to singular throws a point anywhere
    assert steady.mean() > 0.95
    np.testing.assert_allclose(points[steady], expected[steady], rtol=1e-5, atol=1e-4)
    float32 = codec.decode(maps)[0]
    assert np.median(np.abs(points - float32).max(-1)) < 1e-3


def test_pixels_in_keypoints_out(made: Any) -> None:
    """uint8 RGB pictures, a batch size that the trace never saw: maps as by hand in torch, keypoints as the codec."""
    net, path, _ = made
    pictures = np.random.default_rng(0).integers(0, 256, (5, SIZE[1], SIZE[0], 3), dtype=np.uint8)
    points, scores, maps = run(path, pictures)
    bgr = (pictures[..., ::-1] / 255 - SPEC.mean) / SPEC.std
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(bgr.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(maps, expected, atol=2e-5)
    told, tops = SPEC.codec.decode(maps)
    np.testing.assert_array_equal(points, told.astype(np.float32))
    np.testing.assert_array_equal(scores, tops.astype(np.float32))


def test_planes_in_maps_out_of_a_fixed_batch(tmp_path: Path) -> None:
    """Normalised planes, no decoding, two people a run and no other number."""
    net, path = network(), tmp_path / "model.onnx"
    found = export((SPEC, net), path, decode=False, batch=2, opset=13)
    assert found.contract.outputs == ("heatmaps",)
    assert found.keypoints_differ is None
    assert found.contract.input_shape == (2, 3, 96, 64)
    pictures = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 96, 64, 3), dtype=np.uint8))
    images = batched.normalise(batched.planes(pictures), SPEC.mean, SPEC.std, bgr=True)
    (maps,) = run(path, images.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(maps, net.eval()(images).numpy(), atol=2e-5)
    with pytest.raises(Exception, match="images"):
        run(path, images.numpy()[:1])
    assert onnx.load(path).opset_import[0].version == 13


def test_the_contract_is_in_the_file(made: Any) -> None:
    """Spec, layout, colour and outputs come back equal; a program without kpdata reads plain JSON and a sentence."""
    _, path, found = made
    spec, contract = read_exported_spec(path)
    assert spec == SPEC
    assert contract == found.contract
    assert (contract.layout, contract.input_shape, contract.batch) == ("pixels", (None, 96, 64, 3), None)
    assert contract.decoding == "quarter"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert "kpdata.spec" in session.get_modelmeta().custom_metadata_map
    assert [one.name for one in session.get_outputs()] == ["keypoints", "scores", "heatmaps"]
    assert "uint8 RGB (B, 96, 64, 3)" in onnx.load(path).doc_string
    assert found.maps_differ < 1e-5
    assert found.bytes == path.stat().st_size


def test_from_a_checkpoint(tmp_path: Path) -> None:
    """A file is enough: its weights, its spec, and a note about what was loaded."""
    net = network()
    save_checkpoint(tmp_path / "best.pt", Checkpoint(SPEC, dict(net.state_dict())))
    found = export(tmp_path / "best.pt", tmp_path / "model.onnx", decode=False, pixels=True)
    assert "loaded" in found.notes[0]
    assert read_exported_spec(found.path)[0] == SPEC


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that change between the trace and the check stand for a wrong export: refused, the old file stays."""
    net, path = network(), tmp_path / "model.onnx"
    path.write_bytes(b"old")
    honest = exporting._traced

    def altered(graph: Any, contract: Any) -> bytes:
        data = honest(graph, contract)
        with torch.no_grad():
            graph.net.final_layer.bias.add_(0.01)
        return data

    monkeypatch.setattr(exporting, "_traced", altered)
    with pytest.raises(TrainError, match=r"differ by 0\.01.*nothing was written"):
        export((SPEC, net), path, decode=False, force=True)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_wrong_decoding_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that moves nothing is found by the check of keypoints."""
    zero = lambda self, flat, x, y, valid: torch.cat([x, y], 2).double() * 0  # noqa: E731
    monkeypatch.setattr(Decoder, "_quarter", zero)
    with pytest.raises(TrainError, match=r"differs by 1 px from kpdata's"):
        export((SPEC, network()), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An existing file, options out of range, a codec of another stride, files that are not ours, missing packages."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not ONNX")
    with pytest.raises(DestinationExists):
        export((SPEC, network()), path)
    with pytest.raises(TrainError, match="no ONNX file"):
        read_exported_spec(path)
    with pytest.raises(TrainError, match=r"cannot be read \(No such file"):
        read_exported_spec(tmp_path / "none.onnx")
    with pytest.raises(TrainError, match="opset 12, expected 13 to 20"):
        export((SPEC, network()), path, opset=12, force=True)
    with pytest.raises(TrainError, match="batch 0"):
        export((SPEC, network()), path, batch=0, force=True)
    with pytest.raises(TrainError, match="maps of 16 x 24 cells, the codec's have 8 x 12"):
        export((SPEC.changed(codec=HeatmapCodec(SIZE, stride=8)), network()), path, force=True)
    foreign = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(TrainError, match="without the contract"):
        read_exported_spec(tmp_path / "foreign.onnx")
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"kpdata\[export\]"):
        export((SPEC, network()), path, force=True)
    assert path.read_bytes() == b"not ONNX"
