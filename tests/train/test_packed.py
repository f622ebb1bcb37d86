"""Packed crops: the same labels, nearly the same pixels, whole shards or none, and never those of other data."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs kpdata[train]")

from kpdata.augment.compose import Maybe  # noqa: E402
from kpdata.augment.image import recolour, warp  # noqa: E402
from kpdata.augment.occlusion import CoarseDropout  # noqa: E402
from kpdata.augment.presets import finetune_small, hrnet, mmpose, occlusion_heavy  # noqa: E402
from kpdata.augment.transforms import ColorJitter  # noqa: E402
from kpdata.codec import HeatmapCodec  # noqa: E402
from kpdata.errors import FormatError, TrainError, WriteError  # noqa: E402
from kpdata.synth import synthesize, write_images  # noqa: E402
from kpdata.train import packed, table  # noqa: E402
from kpdata.train.data import Crops, Source, make_loader  # noqa: E402
from kpdata.train.packed import Room, build, open_pack  # noqa: E402
from kpdata.train.prepare import prepare  # noqa: E402
from kpdata.train.spec import NetworkSpec  # noqa: E402

SIZE = (48, 64)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight made-up images of 320 x 240 with their dataset: people smaller and larger than a crop."""
    dataset, folder = synthesize(8, seed=6, size=(320, 240), height=(0.2, 0.95)), tmp_path_factory.mktemp("photos")
    write_images(dataset, folder)
    return dataset, folder


@pytest.fixture(scope="module")
def crops(photos):
    return Crops([Source(*photos)], photos[0].skeleton, hrnet(SIZE), seed=2)


@pytest.fixture(scope="module")
def raw(crops, tmp_path_factory):
    return crops.pack_into(tmp_path_factory.mktemp("raw") / "pack", quality=None)


def everybody(crops, epoch=0):
    return crops.__getitems__([(epoch, index) for index in range(len(crops))])


def labels_equal(left, right) -> bool:
    names = ("keypoints", "visibility", "known", "crop", "mirrored", "index", "annotation_ids")
    return all(np.array_equal(getattr(left, n), getattr(right, n), equal_nan=n == "keypoints") for n in names)


@pytest.mark.parametrize("preset", [hrnet, mmpose], ids=lambda f: f.__name__)
def test_raw_crops_hold_all_that_a_training_can_see(photos, preset, tmp_path):
    """Of people who were not made smaller every pixel of every crop is the very one of the picture: six epochs of
    the largest turns, scales and half bodies. Of the others they are close."""
    crops = Crops([Source(*photos)], photos[0].skeleton, preset(SIZE, rotation=80.0, half_body=1.0), seed=2)
    pack = crops.pack_into(tmp_path / "pack", quality=None)
    again, whole = crops.packed(pack), pack.columns["ratio_x"] == 1
    assert whole.any() and not whole.all()
    for epoch in range(6):
        direct, from_pack = everybody(crops, epoch), everybody(again, epoch)
        assert labels_equal(direct, from_pack)
        difference = (direct.images.int() - from_pack.images.int()).abs()
        # OpenCV's warp rounds coordinates to 1/32 px of the array it is given: another origin, another rounding
        assert difference[whole].float().mean() < 0.02 and (difference[whole] > 24).float().mean() < 1e-4
        assert difference.float().mean() < 6


def test_jpeg_crops_are_close(crops, raw, tmp_path):
    """At quality 90 noisy pictures differ from raw ones by less than 4 levels on average; labels not at all."""
    pack = crops.pack_into(tmp_path / "pack")
    one, other = everybody(crops.packed(pack)), everybody(crops.packed(raw))
    assert labels_equal(one, other)
    difference = float((one.images.int() - other.images.int()).abs().float().mean())
    assert 0 < difference < 4
    size = {p: sum(f.stat().st_size for f in p.folder.glob("*.crops")) for p in (pack, raw)}
    assert size[pack] < size[raw] / 4


def test_jpeg_crops_of_photographs(real_data, tmp_path):
    """Of real people, 256 x 192: under 4 levels on average against the photograph itself, keypoints equal."""
    from kpdata import converters

    source = real_data / "coco_mini" / "person_keypoints_val2017.json"
    dataset = converters.read(source)
    crops = Crops([Source(dataset, source.parent / "val2017")], dataset.skeleton, hrnet())
    crops = crops.subset(np.arange(len(crops)) % 3 == 0)
    one, other = everybody(crops), everybody(crops.packed(crops.pack_into(tmp_path / "pack")))
    assert labels_equal(one, other)
    difference = float((one.images.int() - other.images.int()).abs().float().mean())
    assert 0 < difference < 4


def test_no_warp_shrinks_a_packed_crop_by_two(crops, raw):
    """Warps on a device do not average: at the largest scale a pixel of the input is less than 2 of the crop."""
    widest = crops.people.sides[:, 0] / SIZE[0] * 1.35 / raw.columns["ratio_x"]
    assert 1.9 < widest.max() < 2
    assert (raw.columns["ratio_x"] > 1).any()


def test_the_device_gets_crops_and_maps(crops, raw):
    """`matrix` takes the padded crop to the very crop that the CPU makes; the rest of the square is black."""
    on_cpu, later = everybody(crops.packed(raw)), everybody(crops.packed(raw, warp="device"))
    assert labels_equal(on_cpu, later)
    assert later.images.shape[1] == later.images.shape[2] == raw.side
    assert later.colour is None and later.holes is None
    for image, matrix, expected in zip(later.images, later.matrix, on_cpu.images, strict=True):
        found = warp(image.numpy(), matrix.numpy().astype(float), SIZE, antialias=False)
        # float32 maps may take a pixel's weights to the next 1/32
        assert np.abs(found.astype(int) - expected.numpy()).mean() < 0.05
    of = raw.columns
    for row in range(len(crops)):
        assert not later.images[row, int(of["height"][row]) :].any()
        assert not later.images[row, :, int(of["width"][row]) :].any()


def test_static_squares(crops, raw):
    """With `side` every batch has one shape; a side below the largest crop is refused."""
    shapes = {
        tuple(batch.images.shape)
        for batch in make_loader(crops.packed(raw, warp="device", side=raw.side + 3), batch=4, drop_last=True)
    }
    assert shapes == {(4, raw.side + 3, raw.side + 3, 3)}
    with pytest.raises(TrainError, match=f"side 5, expected at least that of the largest packed crop, {raw.side}"):
        crops.packed(raw, warp="device", side=5)


def test_colours_and_holes_for_the_device(photos, raw):
    """Parameters applied afterwards give the CPU's picture and visibility."""
    made = replace(
        hrnet(SIZE),
        after=(Maybe(ColorJitter(0.3, 0.3, 0.3, 10.0), 0.5), Maybe(CoarseDropout((1, 3), fill=(9, 8, 7)), 0.7)),
    )
    crops = Crops([Source(*photos)], photos[0].skeleton, made, seed=2)
    on_cpu, later = everybody(crops.packed(raw)), everybody(crops.packed(raw, warp="device"))
    assert labels_equal(on_cpu, later)
    plain = everybody(Crops([Source(*photos)], photos[0].skeleton, hrnet(SIZE), seed=2).packed(raw))
    assert (plain.visibility != on_cpu.visibility).any()  # holes covered some
    assert later.fill == (9, 8, 7) and later.holes.shape[1:] == (3, 4)
    touched = torch.isfinite(later.holes[:, 0, 0])
    assert touched.any() and not touched.all()
    assert (later.colour == torch.tensor([1.0, 1, 1, 0])).all(1).any() and (later.colour[:, 3] != 0).any()
    for number, expected in enumerate(on_cpu.images.numpy()):
        image = recolour(plain.images[number].numpy(), *later.colour[number].tolist())
        for x, y, w, h in later.holes[number][torch.isfinite(later.holes[number, :, 0])].int().tolist():
            image[y : y + h, x : x + w] = (9, 8, 7)
        assert np.abs(image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("fill", [(9, 8, 7), "mean"])
def test_both_ways_reach_the_network_alike(photos, tmp_path, fill):
    """After `prepare` images differ by the rounding of warps alone, targets and weights not at all."""
    dataset, folder = photos
    made = replace(hrnet((64, 96)), after=(ColorJitter(0.3, 0.3, 0.3, 10.0), CoarseDropout((1, 3), fill=fill)))
    crops = Crops([Source(dataset, folder)], dataset.skeleton, made, seed=2)
    pack = crops.pack_into(tmp_path / "pack", quality=None)
    spec = NetworkSpec("hrnet_tiny", dataset.skeleton, HeatmapCodec((64, 96)), mean=(0.0, 0.0, 0.0), std=(1.0,) * 3)
    cpu, device = (prepare(everybody(crops.packed(pack, warp=way)), spec) for way in ("cpu", "device"))
    assert torch.equal(cpu[1], device[1]) and torch.equal(cpu[2], device[2]) and cpu[2].any()
    difference = (cpu[0] - device[0]).abs() * 255
    assert difference.mean() < 0.6 and (difference > 8).float().mean() < 2e-3


def test_holes_of_the_mean_are_left_to_the_device(photos, tmp_path):
    """`finetune_small` fills its holes with each picture's mean colour: the device does that too."""
    crops = Crops([Source(*photos)], photos[0].skeleton, finetune_small(SIZE))
    batch = everybody(crops.packed(crops.pack_into(tmp_path / "pack"), warp="device"))
    assert batch.fill == "mean" and batch.holes is not None and batch.colour is not None


def noisy(size):
    """Holes full of noise, of which the device has none."""
    return replace(hrnet(size), after=(CoarseDropout((1, 3), fill="noise"),))


@pytest.mark.parametrize(("preset", "step"), [(occlusion_heavy, "KeypointCutout"), (noisy, "CoarseDropout")])
def test_steps_that_the_device_cannot_do(photos, tmp_path, preset, step):
    """They are named; on the CPU the same pack does."""
    crops = Crops([Source(*photos)], photos[0].skeleton, preset(SIZE))
    pack = crops.pack_into(tmp_path / "pack")
    with pytest.raises(TrainError, match=rf"the device cannot do its step {step}.*warp = .cpu"):
        crops.packed(pack, warp="device")
    assert len(everybody(crops.packed(pack))) == len(crops)


def test_workers_read_packs(crops, raw):
    """Two workers give what none gives, and a pack can be pickled without its content."""
    once, twice = (
        [batch.images for batch in make_loader(crops.packed(raw), batch=4, workers=workers)] for workers in (0, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    assert len(pickle.dumps(raw)) < 100_000


# -------------------------------------------------------------------------------------------- building and damage


def test_an_interrupted_build_goes_on(crops, tmp_path, monkeypatch):
    """What was whole stays untouched, the rest is made, and the pack equals one made in one go."""
    folder, read, seen = tmp_path / "pack", table.Pictures.read, []

    def stops(self, number):
        seen.append(number)
        if len(seen) > 4:
            raise KeyboardInterrupt
        return read(self, number)

    def make(where, **more):
        room = Room.of(crops.preset.crop, augment=True)
        return build(where, crops.people, crops.pictures, room, crops._chance.halves, shard=4, **more)

    monkeypatch.setattr(table.Pictures, "read", stops)
    with pytest.raises(KeyboardInterrupt):
        make(folder)
    monkeypatch.setattr(table.Pictures, "read", read)
    stood = {path: path.stat().st_mtime_ns for path in folder.glob("0*")}
    assert 0 < len(stood) < 2 * -(-len(crops) // 4)
    with pytest.raises(FormatError, match=r"missing or not whole.*packing again goes on"):
        open_pack(folder)
    told: list[tuple[int, int]] = []
    pack = make(folder, progress=lambda done, of: told.append((done, of)))
    assert {path: path.stat().st_mtime_ns for path in stood} == stood
    assert told[-1] == (len(crops), len(crops)) and len(told) == -(-len(crops) // 4)
    other = make(tmp_path / "other", workers=2)
    assert pack.digests == other.digests
    pack.check()
    assert torch.equal(everybody(crops.packed(pack)).images, everybody(crops.packed(other)).images)


def test_damage_is_named(crops, tmp_path):
    """A shard cut short, one with other bytes, a broken crop: the file is named, and what to do."""
    pack = crops.pack_into(tmp_path / "pack")
    path = tmp_path / "pack" / "00000.crops"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(FormatError, match=r"00000\.crops: shard 1 of 1 is missing or not whole"):
        open_pack(tmp_path / "pack")
    bad = bytearray(good)
    bad[:100] = bytes(100)
    path.write_bytes(bad)
    again = open_pack(tmp_path / "pack")
    with pytest.raises(FormatError, match=r"00000\.crops: its content is not what was packed"):
        again.check()
    found = make_loader(crops.packed(again), batch=len(crops))
    with pytest.raises(TrainError, match=r"00000\.crops: the crop of annotation \d+ cannot be decoded.*delete"):
        list(found)
    (tmp_path / "pack" / "00000.parquet").unlink()
    crops.pack_into(tmp_path / "pack").check()
    assert path.read_bytes() == good
    assert len(pack) == len(crops)


def test_packs_of_other_data(photos, crops, raw, tmp_path):
    """Other people, other labels, other pictures or too little room: refused, with what differs."""
    dataset, folder = photos
    fewer = crops.subset(np.arange(len(crops) - 1))
    with pytest.raises(TrainError, match=rf"of other data: {len(crops)} people were packed, the training has"):
        fewer.packed(raw)
    with pytest.raises(TrainError, match="holds packed crops of other people or pictures"):
        fewer.pack_into(raw.folder, quality=None)
    wider = Crops([Source(dataset, folder)], dataset.skeleton, mmpose(SIZE))
    with pytest.raises(TrainError, match=r"scale up to 0\.35, the training has 0\.5; shift up to 0, the training has"):
        wider.packed(raw)
    larger = Crops([Source(dataset, folder)], dataset.skeleton, hrnet((64, 96)))
    with pytest.raises(TrainError, match=r"size \(48, 64\), the training has \(64, 96\)"):
        larger.packed(raw)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes() + b"\0")
    moved = Crops([Source(dataset, tmp_path)], dataset.skeleton, hrnet(SIZE))
    with pytest.raises(TrainError, match="and their labels or pictures differ"):
        moved.packed(raw)


def test_less_room_is_enough(photos, crops, raw):
    """A pack for the larger recipe does for the smaller one, and for validation; it is not made anew."""
    dataset, folder = photos
    for made in (hrnet(SIZE, rotation=10, half_body=0.0), hrnet(SIZE)):
        for augment in (True, False):
            smaller = Crops([Source(dataset, folder)], dataset.skeleton, made, augment=augment, seed=2)
            found = smaller.packed(smaller.pack_into(raw.folder, quality=None))
            assert labels_equal(everybody(found), everybody(smaller))


def test_folders_that_are_no_pack(crops, tmp_path):
    """Somebody's folder is left alone; a broken pack.json is named."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(WriteError, match="is no pack of crops; it was not touched"):
        crops.pack_into(tmp_path)
    folder = tmp_path / "pack"
    folder.mkdir()
    for text in ("{", "[]", json.dumps({"kpdata_pack": 99})):
        (folder / "pack.json").write_text(text)
        with pytest.raises(FormatError, match=r"pack\.json: is not that of a pack"):
            open_pack(folder)
    with pytest.raises(TrainError, match="quality 0"):
        crops.pack_into(tmp_path / "new", quality=0)
    with pytest.raises(FormatError, match="no such file"):
        open_pack(tmp_path / "nowhere")


def test_room_for_any_turn():
    """The extent of a turned rectangle, up to each angle, against the largest of many turned corners."""
    sides = np.array([[30.0, 40.0], [100.0, 10.0], [5.0, 5.0]])
    for most in (0.0, 10.0, 45.0, 80.0, 90.0, 200.0):
        angles = np.radians(np.linspace(0, most, 4001))[:, None]
        wide = (sides[:, 0] * abs(np.cos(angles)) + sides[:, 1] * abs(np.sin(angles))).max(axis=0)
        tall = (sides[:, 1] * abs(np.cos(angles)) + sides[:, 0] * abs(np.sin(angles))).max(axis=0)
        np.testing.assert_allclose(packed._turned(sides, most), np.stack([wide, tall], axis=1), rtol=1e-5)
