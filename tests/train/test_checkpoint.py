"""Checkpoints: nothing is lost, nothing is run, nothing is half written, and what differs is said."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs kpdata[train]")
torch.set_num_threads(1)

from torch import Tensor  # noqa: E402  (after the skip)

from kpdata import skeleton  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.errors import TrainError, WriteError  # noqa: E402
from kpdata.skeleton import Skeleton  # noqa: E402
from kpdata.train.checkpoint import (  # noqa: E402
    Checkpoint,
    differences,
    load_checkpoint,
    open_network,
    require_same,
    save_checkpoint,
)
from kpdata.train.models import build  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402

HORSE = Skeleton("horse_3", ("nose", "left_eye", "right_eye"), flip_pairs=frozenset({("left_eye", "right_eye")}))
SPEC = NetworkSpec(
    "hrnet_tiny", HORSE, HeatmapCodec((64, 96), sigma=1.5, target="udp", occluded="ignore"), colour="bgr", padding=1.1,
    mean=(0.1, 0.2, 0.3),
)  # fmt: skip


def equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@pytest.fixture
def checkpoint() -> Checkpoint:
    net = build("hrnet_tiny", 3)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net(torch.rand(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "step": 7, "nested": [(1, None), b"x"]}
    return Checkpoint(SPEC, dict(net.state_dict()), {"AP": 0.5, "history": [0.1, float("nan")]}, {"lr": 1e-3}, state)


def test_nothing_is_lost(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Spec, weights, metrics, config, optimiser and generators come back equal, bit for bit."""
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    back = load_checkpoint(tmp_path / "last.pt")

    assert back.spec == SPEC
    assert equal(back.weights, checkpoint.weights)
    assert equal(back.state, checkpoint.state)
    assert back.config == checkpoint.config
    assert (back.metrics["AP"], np.isnan(back.metrics["history"][1])) == (0.5, True)


def test_it_opens_without_running_code(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """torch's own `weights_only` takes the file: no class of ours or of others is in it."""
    save_checkpoint(tmp_path / "last.pt", checkpoint)

    assert torch.load(tmp_path / "last.pt", weights_only=True)["kpdata_checkpoint"] == 1


def test_plain_data_are_made_plain(tmp_path: Path) -> None:
    """NumPy's numbers and arrays, paths and ordered dicts become plain ones; a view does not bring all its base."""
    base = torch.arange(100_000.0)
    given = {"ap": np.float32(0.5), "hits": np.arange(3), "out": Path("runs"), "o": OrderedDict(a=np.bool_(True))}
    save_checkpoint(tmp_path / "a.pt", Checkpoint(SPEC, {"w": base[:2]}, given))

    back = load_checkpoint(tmp_path / "a.pt")

    assert equal(back.metrics, {"ap": 0.5, "hits": torch.arange(3), "out": "runs", "o": {"a": True}})
    assert torch.equal(back.weights["w"], base[:2])
    assert (tmp_path / "a.pt").stat().st_size < 20_000


@pytest.mark.parametrize("value", [object(), {1, 2}, lambda: 0, np.array(["a"]), HORSE])
def test_what_cannot_come_back_is_refused(value: object, tmp_path: Path) -> None:
    """Another object is refused when it is saved, by its place, not when it is loaded; the old file stays."""
    save_checkpoint(tmp_path / "a.pt", Checkpoint(SPEC, {}, {"n": 1}))

    with pytest.raises(TrainError, match=r"state\.sampler\[1\] is a \w+, expected tensors and plain data"):
        save_checkpoint(tmp_path / "a.pt", Checkpoint(SPEC, {}, state={"sampler": [0, value]}))

    assert load_checkpoint(tmp_path / "a.pt").metrics == {"n": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_a_broken_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's writer fails half-way: WriteError, and the checkpoint from before is still whole."""
    save_checkpoint(tmp_path / "a.pt", Checkpoint(SPEC, {}, {"n": 1}))

    def full(document: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WriteError, match="it is as it was before"):
        save_checkpoint(tmp_path / "a.pt", Checkpoint(SPEC, {}, {"n": 2}))

    assert load_checkpoint(tmp_path / "a.pt").metrics == {"n": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_cut_checkpoint_is_told(part: float, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A file cut in half: one sentence that says so, from loading and from opening."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])

    with pytest.raises(TrainError, match=r"last.pt: .*cut or damaged"):
        load_checkpoint(path)
    with pytest.raises(TrainError, match=r"last.pt: .*cut or damaged"):
        open_network(path)


def test_a_flipped_bit_is_told(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """One wrong bit among the weights: found by its checksum, where torch alone would load another number."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(TrainError, match=r"last\.pt: .*damaged .the checksum"):
        open_network(path)


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    """A foreign state dict, a newer layout, one with a part missing: each is said."""
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(TrainError, match=r"no checkpoint of kpdata.*--init"):
        load_checkpoint(tmp_path / "w.pth")
    torch.save({"kpdata_checkpoint": 1}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(TrainError, match="cut or damaged"):
        load_checkpoint(tmp_path / "old.pt")
    torch.save({"kpdata_checkpoint": 99}, tmp_path / "new.pt")
    with pytest.raises(TrainError, match=r"layout 99, expected 1.*upgrade kpdata"):
        load_checkpoint(tmp_path / "new.pt")
    torch.save({"kpdata_checkpoint": 1, "spec": SPEC.to_json()}, tmp_path / "part.pt")
    with pytest.raises(TrainError, match="without 'weights'"):
        load_checkpoint(tmp_path / "part.pt")
    torch.save({"kpdata_checkpoint": 1, "spec": {"model": 3}}, tmp_path / "spec.pt")
    with pytest.raises(TrainError, match="not a network spec"):
        load_checkpoint(tmp_path / "spec.pt")


def test_what_differs_is_said() -> None:
    """Resuming with another network: model, size, target, colours and keypoints are named, equal facts are not."""
    other = NetworkSpec("hrnet_w32", skeleton.load("coco_17"), HeatmapCodec((64, 96), sigma=1.5), padding=1.1)

    with pytest.raises(TrainError, match="a checkpoint of another network") as error:
        require_same("last.pt", SPEC, other)

    text = error.value.message
    for words in ("model hrnet_tiny, not hrnet_w32", "target udp, not gaussian", "colour order bgr, not rgb"):
        assert words in text
    assert "only here left_ear" in text
    assert "padding" not in text and "input size" not in text
    require_same("last.pt", SPEC, NetworkSpec.from_json(SPEC.to_json()))


def test_another_order_of_keypoints_is_a_difference() -> None:
    """The same names in another order are another network."""
    turned = Skeleton("horse_3", ("left_eye", "nose", "right_eye"), flip_pairs=HORSE.flip_pairs)

    assert differences(SPEC, SPEC.changed(skeleton=turned)) == ["the same keypoints in another order"]


def test_a_checkpoint_opens_as_it_was(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """From the file alone: the same spec, and a network in evaluation mode that gives the same maps."""
    save_checkpoint(tmp_path / "best.pt", checkpoint)
    expected = build("hrnet_tiny", 3)
    expected.load_state_dict(checkpoint.weights)
    images = torch.rand(1, 3, 64, 64)

    spec, net, report = open_network(tmp_path / "best.pt")

    assert spec == SPEC
    assert not net.training
    assert report.loaded == report.total
    with torch.no_grad():
        assert torch.equal(net(images), expected.eval()(images))


def test_published_files_open_too(tmp_path: Path) -> None:
    """A foreign file with 17 keypoints opens with what is known; what the caller says counts more."""
    torch.save(build("hrnet_tiny", 17).state_dict(), tmp_path / "theirs.pth")

    spec, _, report = open_network(tmp_path / "theirs.pth")
    assert (spec.model, spec.skeleton.name, spec.colour) == ("hrnet_tiny", "coco_17", "rgb")
    assert "guessed" in report.notes[0]

    mine = skeleton.load("posetrack18_17")
    codec = HeatmapCodec((96, 96), target="dark")
    spec, _, _ = open_network(tmp_path / "theirs.pth", skeleton=mine, codec=codec, colour="bgr")
    assert (spec.skeleton, spec.codec, spec.colour) == (mine, codec, "bgr")


def test_networks_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    """No head, unnamed keypoints, a skeleton of another number, another model, strange weights: a sentence each."""
    state = build("hrnet_tiny", 14).state_dict()
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(TrainError, match=r"14 keypoints have no names.*--skeleton"):
        open_network(tmp_path / "w.pth")
    with pytest.raises(TrainError, match="14 keypoints, but 'coco_17' has 17"):
        open_network(tmp_path / "w.pth", skeleton=skeleton.load("coco_17"))
    with pytest.raises(TrainError, match="its weights are of hrnet_tiny"):
        open_network(tmp_path / "w.pth", model="pose_resnet_50", skeleton=skeleton.load("lsp_14"))
    torch.save({n: t for n, t in state.items() if "final" not in n}, tmp_path / "body.pth")
    with pytest.raises(TrainError, match="without a head for keypoints"):
        open_network(tmp_path / "body.pth")
    torch.save({f"net.{n}": t for n, t in state.items()}, tmp_path / "net.pth")
    with pytest.raises(TrainError, match=r"of no network that kpdata has. its names begin with 'net\.'"):
        open_network(tmp_path / "net.pth")
    torch.save({"a": torch.ones(3)}, tmp_path / "a.pth")
    with pytest.raises(TrainError, match="of no network that kpdata has"):
        open_network(tmp_path / "a.pth")
