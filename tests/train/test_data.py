"""Batches are what the presets give, one person at a time, whatever loads them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs kpdata[train]")

from kpdata import schema  # noqa: E402
from kpdata.augment.presets import finetune_small, hrnet, mmpose, occlusion_heavy, simple_baseline, vitpose  # noqa: E402
from kpdata.augment.rng import generator  # noqa: E402
from kpdata.augment.samples import Samples, people  # noqa: E402
from kpdata.augment.trial import usable, with_box  # noqa: E402
from kpdata.errors import TrainError  # noqa: E402
from kpdata.synth import synthesize, write_images  # noqa: E402
from kpdata.train import table  # noqa: E402
from kpdata.train.batch import Batch  # noqa: E402
from kpdata.train.data import Crops, Source, make_loader  # noqa: E402
from kpdata.train.order import Batches  # noqa: E402

SIZE = (48, 64)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight made-up images with their dataset: (dataset, folder)."""
    dataset, folder = synthesize(8, seed=2, size=(160, 120), crowds=0.5), tmp_path_factory.mktemp("photos")
    write_images(dataset, folder)
    return dataset, folder


@pytest.fixture(scope="module")
def crops(photos):
    return Crops([Source(*photos)], photos[0].skeleton, hrnet(SIZE), seed=5)


def column(dataset, name, array):
    """The dataset with another column in its persons table."""
    place = dataset.persons.schema.get_field_index(name)
    return replace(dataset, persons=dataset.persons.set_column(place, schema.PERSONS.field(name), array))


def one_by_one(dataset, folder):
    """Each person as a Sample, by annotation id."""
    found = {}
    for sample in Samples(dataset, folder):
        found |= {int(one.annotation_ids[0]): one for one in people(sample)}
    return found


def same(left: Batch, right: Batch) -> bool:
    """All tensors are equal, NaN too."""
    names = [name for name in Batch.__slots__ if isinstance(getattr(left, name), torch.Tensor)]
    pairs = [(getattr(left, name).numpy(), getattr(right, name).numpy()) for name in names]
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def everybody(crops: Crops) -> Batch:
    """All people of the table, in epoch 0."""
    batch = crops.__getitems__([(0, index) for index in range(len(crops))])
    assert isinstance(batch, Batch)
    return batch


def compare(batch: Batch, number: int, sample) -> None:
    """The person of that number in the batch is this crop."""
    visibility, keypoints = sample.visibility[0], sample.keypoints[0].copy()
    keypoints[visibility == 0] = np.nan
    np.testing.assert_array_equal(batch.images[number].numpy(), sample.image)
    np.testing.assert_array_equal(batch.visibility[number].numpy(), visibility)
    np.testing.assert_allclose(batch.keypoints[number].numpy(), keypoints, atol=1e-4)
    np.testing.assert_allclose(batch.crop[number].numpy(), sample.matrix, atol=1e-9)
    assert bool(batch.mirrored[number]) == sample.mirrored


@pytest.mark.parametrize(
    "preset", [hrnet, simple_baseline, mmpose, vitpose, occlusion_heavy, finetune_small], ids=lambda f: f.__name__
)
def test_batches_are_what_the_preset_gives(photos, preset):
    """Crop, keypoints, visibility and map of everybody equal kpdata.augment's for the same generator."""
    made = preset(SIZE)
    crops, alone = Crops([Source(*photos)], photos[0].skeleton, made, seed=5), one_by_one(*photos)
    halves = 0
    for epoch in range(4):
        batch = crops.__getitems__([(epoch, index) for index in range(len(crops))])
        assert batch.epoch.tolist() == [epoch] * len(crops)
        assert batch.index.tolist() == list(range(len(crops)))
        for number, annotation in enumerate(batch.annotation_ids.tolist()):
            rng = generator(5, epoch, number)
            drawn = made.draw(alone[annotation], rng)
            halves += drawn.crop.half_body != ""
            compare(batch, number, made.apply(alone[annotation], drawn))
    assert halves > 0 or made.crop.half_body is None  # the odd branch was met


def test_validation_is_the_plain_crop_in_the_order_of_the_table(photos):
    """Without augmentation nothing is random, nobody is left out, and people come as their images do."""
    made = hrnet(SIZE)
    crops, alone = Crops([Source(*photos)], photos[0].skeleton, made, augment=False), one_by_one(*photos)
    found = list(make_loader(crops, batch=4))
    assert [len(batch) for batch in found[:-1]] == [4] * (len(found) - 1)
    wanted = schema.values(photos[0].persons["annotation_id"])[usable(photos[0])]
    assert torch.cat([batch.annotation_ids for batch in found]).tolist() == wanted.tolist()
    for batch in found:
        for number, annotation in enumerate(batch.annotation_ids.tolist()):
            compare(batch, number, made.evaluation(alone[annotation]))


def test_the_crop_of_mpii_and_of_people_without_a_box(tmp_path):
    """MPII's centre and scale are the crop; where there is neither box nor centre, the keypoints' extent is."""
    for skeleton in ("mpii_16", "lsp_14"):
        dataset, folder = synthesize(3, seed=4, size=(160, 120), skeleton=skeleton), tmp_path / skeleton
        write_images(dataset, folder)
        made = hrnet(SIZE)
        batch = everybody(Crops([Source(dataset, folder)], dataset.skeleton, made, augment=False))
        alone = one_by_one(dataset, folder)
        assert np.isfinite(next(iter(alone.values())).center).all() == (skeleton == "mpii_16")
        for number, annotation in enumerate(batch.annotation_ids.tolist()):
            compare(batch, number, made.evaluation(with_box(alone[annotation])))


def test_workers_change_no_batch(crops):
    """None or two workers: the same batches, in both epochs, though workers live on."""
    alone, helped = (make_loader(crops, batch=5, workers=workers, seed=1) for workers in (0, 2))
    epochs = [[list(loader) for _ in range(2)] for loader in (alone, helped)]
    for mine, theirs in zip(*epochs, strict=True):
        assert len(mine) == len(theirs) == alone.per_epoch
        assert all(same(a, b) for a, b in zip(mine, theirs, strict=True))
    first, second = epochs[0]
    assert [b.index.tolist() for b in first] != [b.index.tolist() for b in second]
    assert {int(e) for batch in second for e in batch.epoch} == {1}


def test_workers_that_begin_with_nothing(crops):
    """Where processes are not forked (macOS, Windows) they are sent all that they need, and give the same batches, with
    pictures in shared memory."""
    alone, helped = (make_loader(crops, batch=5, workers=workers, seed=1) for workers in (0, 1))
    helped._loader.multiprocessing_context = "spawn"
    found = list(helped)
    assert all(same(a, b) for a, b in zip(alone, found, strict=True))
    assert all(batch.images.is_shared() for batch in found)


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_in_the_middle_of_an_epoch(crops, workers):
    """From (epoch, people used) the rest of the epoch and the next one are what they would have been."""
    whole = make_loader(crops, batch=4, seed=3)
    epochs = [list(whole) for _ in range(3)]
    resumed = make_loader(crops, batch=4, seed=3, workers=workers, position=(1, 8))
    assert len(resumed) == len(epochs[1]) - 2
    for expected in (epochs[1][2:], epochs[2]):
        assert all(same(a, b) for a, b in zip(list(resumed), expected, strict=True))
    whole.position = (0, 4)
    assert same(next(iter(whole)), epochs[0][1])


def test_the_training_draws_no_number_for_the_loader(crops):
    """torch's own random numbers are as if there were no loader: resuming depends on it."""
    torch.manual_seed(0)
    list(make_loader(crops, batch=8, workers=1))
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))


def test_a_picture_is_decoded_once_for_its_people(crops, monkeypatch):
    """An epoch decodes each picture once, and once more for each batch that ends among its people."""
    read, decoded = table.Pictures.read, []
    monkeypatch.setattr(table.Pictures, "read", lambda self, number: decoded.append(number) or read(self, number))
    batches = list(make_loader(crops, batch=6, seed=1, drop_last=False))
    cut = sum(
        int(crops.people.image[a.index[-1]] == crops.people.image[b.index[0]]) for a, b in itertools.pairwise(batches)
    )
    assert len(decoded) <= len(set(decoded)) + cut
    assert len(set(decoded)) == len(crops.pictures) < len(crops)


def test_an_epoch_is_everybody_once_with_people_of_an_image_together(crops):
    """Each epoch is another permutation of the images."""
    order = Batches(crops.people.image, crops.people.source, 4, seed=1)
    first, second = order.order(0), order.order(1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(len(crops)))
    for epoch in (first, second):
        images = crops.people.image[epoch]
        assert 1 + int((np.diff(images) != 0).sum()) == len(set(images.tolist()))
    assert first.tolist() != second.tolist() != list(range(len(crops)))


@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_the_batches_of_one_process(drop_last):
    """Two processes with a batch of 3 see together what one with 6 sees, equally many batches each."""
    image = np.repeat(np.arange(10), 2)
    common = {"seed": 2, "drop_last": drop_last}
    one = list(Batches(image, 0 * image, 6, **common))
    ranks = [list(Batches(image, 0 * image, 3, rank=rank, world=2, **common)) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == len(one) == (3 if drop_last else 4)
    assert [a + b for a, b in zip(*ranks, strict=True)] == one
    plain = [list(Batches(image[:7], 0 * image[:7], 3, shuffle=False, rank=rank, world=2)) for rank in (0, 1)]
    assert sorted(index for rank in plain for batch in rank for _, index in batch) == list(range(7))
    lengths = [len(Batches(image[:7], 0 * image[:7], 3, shuffle=False, rank=rank, world=2)) for rank in (0, 1)]
    assert lengths == [len(rank) for rank in plain]


def test_shares_of_sources():
    """Half a share takes everybody once in two epochs; a double one takes everybody twice an epoch, drawn apart."""
    image, source = np.arange(12), np.repeat([0, 1], 6)
    order = Batches(image, source, 3, shares=(0.5, 2.0))
    epochs = [order.order(epoch) for epoch in range(4)]
    assert order.people == 3 + 12 and {len(epoch) for epoch in epochs} == {15}
    for pair in (epochs[:2], epochs[2:]):
        assert sorted(i for epoch in pair for i in epoch.tolist() if i % 12 < 6) == list(range(6))
    for epoch in epochs:
        assert sorted(i for i in epoch.tolist() if i % 12 >= 6) == [*range(6, 12), *range(18, 24)]


def test_drawn_twice_is_not_drawn_alike(crops):
    """index + N is the same person with other numbers."""
    batch = crops.__getitems__([(0, 2), (0, 2 + len(crops))])
    assert batch.index.tolist() == [2, 2]
    assert not torch.equal(batch.images[0], batch.images[1])


@pytest.mark.parametrize(
    ("position", "words"), [((0, 3), "multiple of the 4 people"), ((-1, 0), "position"), ((0, -4), "position")]
)
def test_positions_that_are_none(crops, position, words):
    """A position within a batch, or before the first one, is refused."""
    with pytest.raises(TrainError, match=words):
        make_loader(crops, batch=4, position=position)


def test_fewer_people_than_a_batch(crops):
    """It says how many there are, and which batch fits."""
    with pytest.raises(TrainError, match=r"fewer than a batch of 500 x 1\. a batch of at most \d+ fits"):
        make_loader(crops, batch=500)


# -------------------------------------------------------------------------------------------------- who is left out


def test_who_is_left_out(photos):
    """Crowds, areas of 0, boxes without extent and people without labels are counted, each once, by reason."""
    dataset, folder = photos
    rows = usable(dataset)
    area, box = schema.values(dataset.persons["area"]).copy(), schema.matrix(dataset.persons["bbox"], 4).copy()
    visibility = dataset.visibility.copy()
    area[rows[0]], box[rows[1], 2:], visibility[rows[2]] = 0, 0, 0
    changed = column(dataset, "area", schema.fixed(area, pa.float64()))
    changed = column(changed, "bbox", schema.rows(box))
    changed = column(changed, "visibility", schema.rows(visibility, kind=pa.int8()))
    found = Crops([Source(changed, folder, name="mine")], dataset.skeleton, hrnet(SIZE))
    assert set(found.people.rows.tolist()) == set(rows[3:].tolist())
    crowds = int(schema.values(dataset.persons["iscrowd"]).sum())
    total = len(dataset)
    assert crowds > 0
    unlabelled = total - len(rows) - crowds + 1
    assert found.left_out == [
        f"mine: {crowds} of {total} rows left out: crowds",
        f"mine: {unlabelled} of {total} rows left out: people without a labelled keypoint",
        f"mine: 1 of {total} rows left out: people with an area of 0",
        f"mine: 1 of {total} rows left out: people whose box has no extent",
    ]


def test_missing_pictures(photos, tmp_path):
    """They are counted and named; refused, or left out where that was said."""
    dataset, folder = photos
    names = sorted({path.name for path in folder.iterdir()})
    for name in names[2:]:
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(TrainError, match=rf"mine: \d pictures are not there: .*{names[0]}.*--missing-images skip"):
        Crops([Source(dataset, tmp_path, name="mine")], dataset.skeleton, hrnet(SIZE))
    found = Crops([Source(dataset, tmp_path, name="mine")], dataset.skeleton, hrnet(SIZE), missing="skip")
    assert any("pictures are not there" in note for note in found.left_out)
    every = Crops([Source(dataset, folder)], dataset.skeleton, hrnet(SIZE))
    gone = {i for i, place in enumerate(every.pictures.places) if place.endswith((names[0], names[1]))}
    stay = [i for i in range(len(every)) if int(every.people.image[i]) not in gone]
    assert 0 < len(stay) < len(every)
    assert found.people.annotation_ids.tolist() == every.people.annotation_ids[stay].tolist()
    assert len(everybody(found)) == len(stay)
    with pytest.raises(TrainError, match="no such folder of images"):
        Crops([Source(dataset, tmp_path / "none")], dataset.skeleton, hrnet(SIZE))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainError, match="nobody to train on"):
        Crops([Source(dataset, tmp_path / "empty")], dataset.skeleton, hrnet(SIZE), missing="skip")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_told_in_a_sentence(photos, tmp_path, workers):
    """Also by a worker: no traceback, and the file's name."""
    dataset, folder = photos
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:500])
    found = Crops([Source(dataset, tmp_path)], dataset.skeleton, hrnet(SIZE))
    with pytest.raises(TrainError, match=r"\.jpg") as caught:
        list(make_loader(found, batch=2, workers=workers))
    assert "Traceback" not in str(caught.value)


def test_pictures_within_the_dataset(photos):
    """Embedded pictures give the same batches as files."""
    dataset, folder = photos
    names = schema.texts(dataset.images["file_name"])
    data = pa.array([(folder / name).read_bytes() for name in names], pa.large_binary())
    columns = {"image_id": dataset.images["image_id"], "data": data}
    held = replace(dataset, blobs=schema.table(schema.BLOBS, len(names), columns))
    files, embedded = (
        Crops([Source(one, where)], dataset.skeleton, hrnet(SIZE)) for one, where in ((dataset, folder), (held, None))
    )
    assert same(everybody(files), everybody(embedded))


def test_a_subset(crops):
    """People are numbered anew, and are the same people."""
    some = crops.subset(np.array([3, 1]))
    assert some.people.annotation_ids.tolist() == crops.people.annotation_ids[[3, 1]].tolist()
    assert len(list(make_loader(some, batch=2))) == 1
    with pytest.raises(TrainError, match="empty"):
        crops.subset(np.zeros(len(crops), bool))


def test_real_photographs(real_data):
    """86 people of COCO's train2017 who can be trained on: counted apart, by the official rules, with a plain loop."""
    import json

    from kpdata import converters

    source = real_data / "coco_mini" / "person_keypoints_train2017.json"
    raw = json.loads(source.read_bytes())
    wanted = [
        a["id"] for a in raw["annotations"]
        if not a["iscrowd"] and a["area"] > 0 and max(a["keypoints"][2::3]) > 0 and min(a["bbox"][2:]) > 0
    ]  # fmt: skip
    dataset = converters.read(source)
    made = hrnet(SIZE)
    found = Crops([Source(dataset, source.parent / "train2017")], dataset.skeleton, made)
    assert sorted(found.people.annotation_ids.tolist()) == sorted(wanted) and len(wanted) == 86
    alone = one_by_one(dataset, source.parent / "train2017")
    batch = found.__getitems__([(0, index) for index in range(0, 86, 6)])
    for number, index in enumerate(range(0, 86, 6)):
        compare(batch, number, made(alone[int(found.people.annotation_ids[index])], generator(0, 0, index)))
