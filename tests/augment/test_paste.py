from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdata import schema, synth
from kpdata.augment.kernels import decode_rle
from kpdata.augment.paste import Cutout, Pasteboard, PasteObject, PastePerson, Pastes, paste
from kpdata.augment.sample import Sample
from kpdata.converters import coco
from kpdata.errors import FormatError, SchemaError, SkeletonError
from kpdata.skeleton import Skeleton

pytest.importorskip("cv2")

SKELETON = Skeleton("dog_3", ("nose", "left_ear", "right_ear"), flip_pairs=frozenset({("left_ear", "right_ear")}))
ONE_SIDED = Skeleton("dog_3", SKELETON.keypoint_names)
STILL = np.eye(3)


def picture(width=40, height=30, people=1, seed=0, skeleton=SKELETON, **values) -> Sample:
    """Noise with people whose three keypoints are visible, one beside the other."""
    rng = np.random.default_rng(seed)
    at = np.arange(3 * people).reshape(people, 3)
    xy = np.stack([3 + 4 * at % (width - 4), 5 + at % 7], axis=-1).astype(float)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return Sample(image, xy, np.full((people, 3), 2), skeleton, **values)


def cutout(seed=1, **changes) -> Cutout:
    """A person of a rectangle of 12 by 8 px at (10, 6) without its top left pixel; all keypoints on it."""
    mask = np.ones((8, 12), bool)
    mask[0, 0] = False
    facts = {
        "image": np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8), "mask": mask, "origin": (10, 6),
        "image_id": 7, "annotation_id": 70, "keypoints": np.array([[12.0, 8], [20, 9], [11, 12]]),
        "visibility": np.array([2, 2, 3], np.int8), "bbox": np.array([10.0, 6, 12, 8]), "area": 95.0,
    }  # fmt: skip
    return Cutout(**(facts | changes))


def move(x=0.0, y=0.0, factor=1.0, mirror=False) -> np.ndarray:
    return np.array([[-factor if mirror else factor, 0, x], [0, factor, y], [0, 0, 1]])


def centroid(grey) -> np.ndarray:
    weight = grey.astype(float)
    return np.array([weight.sum(0) @ np.arange(weight.shape[1]), weight.sum(1) @ np.arange(len(weight))]) / weight.sum()


# ------------------------------------------------------------------------------------------------------------- pasting


def test_a_hard_edge_replaces_exactly_the_pixels_of_the_mask():
    """Pixel by pixel: the cut-out where its mask is, moved by (5, -2), and the old picture everywhere else."""
    sample, person = picture(), cutout()

    after = paste(sample, person, move(5, -2), feather=0)

    for y in range(30):
        for x in range(40):
            column, row = x - 5 - 10, y + 2 - 6
            inside = 0 <= column < 12 and 0 <= row < 8 and person.mask[row, column]
            expected = person.image[row, column] if inside else sample.image[y, x]
            assert (after.image[y, x] == expected).all(), (x, y)


def test_a_soft_edge_changes_the_edge_only():
    """Deep inside it is the cut-out, far outside the old picture, in between as much as the Gaussian says."""
    mask, image = np.ones((20, 20), bool), np.full((20, 20, 3), 200, np.uint8)
    sample = Sample(np.zeros((40, 40, 3), np.uint8), np.zeros((0, 3, 2)), np.zeros((0, 3)), SKELETON)

    after = paste(sample, Cutout(image, mask, (10, 10)), STILL, feather=1.5).image[..., 0]

    assert (after[16:24, 16:24] == 200).all() and not after[:4].any() and not after[:, 36:].any()
    share = [(1 + math.erf((x - 9.5) / (1.5 * math.sqrt(2)))) / 2 for x in range(4, 16)]  # the edge is at 9.5
    np.testing.assert_allclose(after[20, 4:16], 200 * np.array(share), atol=3)


def test_who_stands_behind_is_occluded_and_who_does_not_stays():
    """Also the keypoints of who was pasted before; visibility 1 and 0 stay."""
    sample = picture(people=0).changed(
        keypoints=np.array([[[15.0, 10], [9, 10], [21.4, 13.4]], [[16, 9], [16, 9], [10, 6]]]),
        visibility=np.array([[2, 2, 3], [1, 0, 2]], np.int8),
        **dict.fromkeys(("bbox", "area", "center", "scale")),
    )

    once = paste(sample, cutout(), STILL, labelled=True, feather=0)
    twice = paste(once, cutout(annotation_id=71), move(0, 1), labelled=True, feather=0)

    assert once.visibility.tolist() == [[1, 2, 1], [1, 0, 2], [2, 2, 3]]  # (10, 6) lies on the missing corner
    assert twice.visibility.tolist() == [[1, 2, 1], [1, 0, 2], [1, 1, 1], [2, 2, 3]]
    assert paste(sample, cutout(), STILL, feather=0, covered="absent").visibility.tolist() == [[0, 2, 0], [0, 0, 2]]
    assert paste(sample, cutout(), STILL, feather=0, covered="keep").visibility.tolist() == sample.visibility.tolist()


def test_a_pasted_keypoint_that_is_not_on_its_pixels_is_not_visible():
    """A visible one beside the mask is hidden by the policy, an occluded one stays so; outside nothing changes."""
    xy = np.array([[10.0, 6], [10, 6], [-20, 8]])
    person = cutout(keypoints=xy, visibility=np.array([2, 1, 2], np.int8))

    after = {
        policy: paste(picture(), person, STILL, labelled=True, covered=policy) for policy in ("occluded", "absent")
    }

    assert after["occluded"].visibility[1].tolist() == [1, 1, 2]
    assert after["absent"].visibility[1].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(after["absent"].keypoints[1], xy)


def test_a_mirrored_person_changes_left_and_right():
    """The ears are where the pixels went, and the left ear is now called right; box and area by hand."""
    person = cutout(visibility=np.array([2, 1, 3], np.int8))

    after = paste(picture(80, 60), person, move(60, 0, 2, mirror=True), labelled=True)

    assert after.keypoints[1].tolist() == [[36, 16], [38, 24], [20, 18]]
    assert after.visibility[1].tolist() == [2, 3, 1]
    # The outermost pixels, columns 10 and 21, have their edges at 9.5 and 21.5 of the pixels' scale.
    assert after.bbox[1].tolist() == [60 - 2 * 21.5 + 0.5, 2 * 5.5 + 0.5, 24, 16] and after.area[1] == 4 * 95


@given(
    factor=st.floats(0.7, 2.5), mirror=st.booleans(), x=st.floats(-3, 3), y=st.floats(-3, 3), feather=st.floats(0, 2)
)
@settings(max_examples=25)
def test_keypoints_follow_the_pixels(factor, mirror, x, y, feather):
    """A blob drawn at a keypoint of the cut-out has its centroid where the pasted keypoint is, to about 0.02 px."""
    rows, columns = np.mgrid[:61, :61]
    blob = np.rint(250 * np.exp(-((columns - 31.3) ** 2 + (rows - 28.8) ** 2) / (2 * 3.0**2))).astype(np.uint8)
    at = centroid(blob) + np.array([20, 30])  # rounding to whole bytes moves it a little
    matrix = move(100 + x - factor * at[0] * (-1 if mirror else 1), 100 + y - factor * at[1], factor, mirror)
    image, mask = np.repeat(blob[..., None], 3, axis=2), np.ones((61, 61), bool)
    person = Cutout(image, mask, (20, 30), keypoints=np.tile(at, (3, 1)), visibility=np.full(3, 2, np.int8))
    black = Sample(np.zeros((200, 200, 3), np.uint8), np.zeros((0, 3, 2)), np.zeros((0, 3)), SKELETON)

    after = paste(black, person, matrix, feather=feather, labelled=True)

    rounded = factor / 64 + 0.01  # OpenCV rounds places to 1/32 px of the source, and pixels to whole bytes
    assert np.abs(after.keypoints[0] - centroid(after.image[..., 0])).max() < rounded


def test_ids_masks_and_crowds_get_a_row_more():
    """The cut-out's id and pixels are the last row, its origin is in extras; who stood behind loses the pixels."""
    masks = np.ones((1, 30, 40), bool)
    sample = picture(
        annotation_ids=[5], masks=masks, extras={"iscrowd": np.array([True]), "rows": np.array([4]), "note": 1}
    )

    after = paste(sample, cutout(), move(2, 3), labelled=True, feather=0)
    bare = paste(sample, cutout(image_id=None, annotation_id=None), move(2, 3), labelled=True)

    assert after.annotation_ids.tolist() == [5, 70] and bare.annotation_ids.tolist() == [5, -1]
    assert after.masks[1].sum() == 95 and after.masks[1, 9:17, 12:24].sum() == 95
    np.testing.assert_array_equal(after.masks[0], ~after.masks[1])
    assert after.extras["iscrowd"].tolist() == [True, False] and after.extras["note"] == 1
    assert after.extras["rows"].tolist() == [4, -1]
    note = {"image_id": 7, "annotation_id": 70, "matrix": move(2, 3).tolist(), "row": 1}
    assert json.loads(json.dumps(after.extras["pasted"])) == [note]
    assert paste(after, cutout(), STILL).extras["pasted"][1]["row"] is None


def test_polygons_become_masks_when_a_person_is_added():
    """The new person has pixels and no outline, so all have pixels; without a label and a touch outlines stay."""
    outline = np.array([[30.0, 20], [38, 20], [38, 28]])
    sample = picture(polygons=((outline,),))

    labelled, object_ = (paste(sample, cutout(), STILL, labelled=on, feather=0) for on in (True, False))

    assert labelled.polygons is None and labelled.masks.sum((1, 2)).tolist()[1] == 95
    assert object_.polygons is sample.polygons and object_.masks is None


def test_outside_of_the_picture_nothing_is_pasted():
    """No row, no note, no changed pixel."""
    sample = picture()

    for matrix in (move(500, 0), move(0, -300, 2), move(-21.6, 0)):
        assert paste(sample, cutout(), matrix, labelled=True) is sample
    corner = paste(sample, cutout(), move(-21, 0), labelled=True, feather=0)
    assert np.argwhere((corner.image != sample.image).any(-1))[:, 1].max() == 0 and len(corner.keypoints) == 2


def test_a_picture_of_one_pixel():
    """It is covered whole."""
    sample = Sample(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 3, 2)), np.full((1, 3), 2), SKELETON)

    assert paste(sample, cutout(), move(-15, -9)).visibility.tolist() == [[1, 1, 1]]


# --------------------------------------------------------------------------------------------------------- transforms


def board(count=6, skeleton: Skeleton | None = SKELETON) -> Pasteboard:
    bare = {} if skeleton else {"keypoints": None, "visibility": None}
    return Pasteboard(tuple(cutout(i, image_id=i, annotation_id=10 * i, **bare) for i in range(count)), skeleton)


@given(people=st.integers(0, 2), seed=st.integers(0, 999), labelled=st.booleans())
@settings(max_examples=40)
def test_whatever_changed_its_pixel_is_not_visible(people, seed, labelled):
    """A keypoint of the sample under pasted pixels is occluded; with a hard edge every other pixel is as it was."""
    sample = picture(60, 50, people, seed)
    transform = PastePerson(board(), labelled, count=(0, 3), feather=0)
    rng = np.random.default_rng(seed)

    after = transform.apply(sample, transform.draw(sample, rng))

    at = np.rint(sample.keypoints).astype(int)
    changed = (after.image[at[..., 1], at[..., 0]] != sample.image[at[..., 1], at[..., 0]]).any(-1)
    assert (after.visibility[:people][changed] == 1).all()
    assert set(after.visibility[:people][~changed].tolist()) <= {1, 2}
    assert len(after.keypoints) == people + (len(after.extras.get("pasted", ())) if labelled else 0)


def test_size_and_place_are_relative_to_a_person():
    """The longer side is the drawn share of the person's, the centre at most `reach` boxes away; no crowds."""
    boxes = [[10, 4, 6, 20], [math.nan] * 4, [0, 0, 40, 30]]  # the second: keypoints from (15, 8) to (23, 10)
    sample = picture(people=3, bbox=boxes, extras={"iscrowd": np.array([False, False, True])})
    rng, transform = np.random.default_rng(0), PasteObject(board(), size=(0.5, 0.8), reach=0.25, mirror=0.3)

    drawn = [transform.draw(sample, rng) for _ in range(600)]

    matrices = np.concatenate([d.matrices for d in drawn])
    middle = matrices @ [15.5, 9.5, 1]  # of the mask, at (10, 6) and 12 x 8 px, as a pixel index
    length = matrices[:, 1, 1] * 12
    first = (np.abs(middle[:, 0] - 12.5) <= 1.5) & (np.abs(middle[:, 1] - 13.5) <= 5)
    second = (np.abs(middle[:, 0] - 18.5) <= 2) & (np.abs(middle[:, 1] - 8.5) <= 0.5)
    assert (first | second).all() and 0.4 < first.mean() < 0.6
    assert (length[first] >= 10).all() and (length[first] <= 16).all() and np.ptp(length[first]) > 5
    assert (length[second] >= 4).all() and (length[second] <= 6.4).all()
    assert abs((matrices[:, 0, 0] < 0).mean() - 0.3) < 5 * math.sqrt(0.21 / 600)
    assert {int(row) for d in drawn for row in d.rows} == set(range(6))


def test_without_people_it_lies_anywhere_in_its_own_size():
    """The centre is uniform over the picture."""
    sample, rng = picture(40, 30, 0), np.random.default_rng(0)
    transform = PasteObject(board(), size=(0.5, 2))

    matrices = np.concatenate([transform.draw(sample, rng).matrices for _ in range(500)])

    middle = (matrices @ [15.5, 9.5, 1])[:, :2]
    assert (
        (middle >= -0.5).all()
        and (middle <= [39.5, 29.5]).all()
        and (np.abs(middle.mean(0) - [19.5, 14.5]) < 2.6).all()
    )
    assert 0.5 <= matrices[:, 1, 1].min() < 0.6 and 1.9 < matrices[:, 1, 1].max() <= 2


def test_nobody_meets_himself():
    """Cut-outs of the same picture, of somebody who is there, and twice the same are not drawn."""
    sample = picture(image_id=2, annotation_ids=[40])
    transform = PastePerson(board(), labelled=True, count=(9, 9))

    rows = transform.draw(sample, np.random.default_rng(0)).rows

    assert sorted(rows.tolist()) == [0, 1, 3, 5]
    alone = PastePerson(board(1), labelled=True)
    assert alone(picture(image_id=0), np.random.default_rng(0)).extras == {}


@pytest.mark.parametrize("make", [lambda b: PastePerson(b, True, count=(1, 3)), lambda b: PasteObject(b, count=(1, 3))])
def test_a_draw_is_repeated_exactly_and_pixels_do_not_matter(make):
    """The same generator, the same pastes, also for another picture with the same labels."""
    transform, sample = make(board()), picture(people=2)
    negative = sample.changed(image=255 - sample.image)

    one, two, three = (transform.draw(s, np.random.default_rng(3)) for s in (sample, sample, negative))

    for other in (two, three):
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.matrices, other.matrices)
    np.testing.assert_array_equal(transform.apply(sample, one).image, transform.apply(sample, two).image)


def test_refusals_say_why():
    """Objects as people, twins that are not known, another skeleton, options out of range."""
    with pytest.raises(SchemaError, match=r"PastePerson: the board holds objects.*PasteObject"):
        PastePerson(board(skeleton=None), labelled=False)
    with pytest.raises(SkeletonError, match="left/right twins are not known"):
        PastePerson(board(skeleton=ONE_SIDED), labelled=True)
    PastePerson(board(skeleton=ONE_SIDED), labelled=False)
    other = picture(skeleton=Skeleton("cat_3", ("a", "b", "c")))
    with pytest.raises(SchemaError, match="of skeleton 'dog_3' pasted into a sample of 'cat_3'"):
        PastePerson(board(), labelled=True)(other, np.random.default_rng(0))
    with pytest.raises(SchemaError, match="this cut-out is an object"):
        paste(picture(), board(skeleton=None).cutouts[0], STILL, labelled=True)
    for name, value in {"count": (2, 1), "size": (0, 1), "reach": -1, "mirror": 2, "feather": math.inf}.items():
        with pytest.raises(SchemaError, match=name):
            PasteObject(board(), **{name: value})
    with pytest.raises(SchemaError, match=r"covered='no'"):
        PasteObject(board(), covered="no")


def test_no_paste_changes_nothing():
    """count 0, and a sample without people."""
    sample = picture()
    nothing = Pastes(np.zeros(0, np.int64), np.zeros((0, 3, 3)))

    assert PasteObject(board()).apply(sample, nothing) is sample
    assert PasteObject(board(), count=(0, 0))(sample, np.random.default_rng(0)) is sample


# -------------------------------------------------------------------------------------------------------- pasteboards


def test_the_people_of_samples_who_can_be_cut_out():
    """Not a crowd, not a small mask, nobody without a label, nobody of whom only pieces can be seen."""
    masks = np.zeros((5, 30, 40), bool)
    masks[:, 4:16, 2:34] = True
    masks[2], masks[2, :3, :3] = False, True
    masks[4] = False
    masks[4, 15:, :] = True  # below its keypoints
    sample = picture(people=5, image_id=3, annotation_ids=range(50, 55), masks=masks, bbox=np.ones((5, 4)))
    visibility = sample.visibility.copy()
    visibility[3] = 0
    sample = sample.changed(visibility=visibility, extras={"iscrowd": np.array([0, 1, 0, 0, 0], bool)})

    only = Pasteboard.from_samples([sample, picture()], smallest=5)

    assert [(c.image_id, c.annotation_id, c.origin, c.mask.shape) for c in only.cutouts] == [(3, 50, (2, 4), (12, 32))]
    np.testing.assert_array_equal(only.cutouts[0].image, sample.image[4:16, 2:34])
    np.testing.assert_array_equal(only.cutouts[0].keypoints, sample.keypoints[0])
    assert only.skeleton == SKELETON and only.boxes.tolist() == [[2, 4, 32, 12]]
    with pytest.raises(SchemaError, match="a Pasteboard without cut-outs"):
        Pasteboard.from_samples([picture()])
    with pytest.raises(SchemaError, match="several skeletons: dog_3, cat_3"):
        Pasteboard.from_samples([picture(), picture(skeleton=Skeleton("cat_3", ("a", "b", "c")))])


def test_people_of_a_dataset(tmp_path):
    """Their pixels are those of their masks in their pictures, and the choice depends on the seed only."""
    dataset = synth.synthesize(4, seed=3, people=(2, 3), size=(160, 120))
    synth.write_images(dataset, tmp_path / "images", quality=95)

    every = Pasteboard.from_dataset(dataset, tmp_path / "images", smallest=8, whole=0)
    some = [
        Pasteboard.from_dataset(dataset, tmp_path / "images", limit=3, seed=s, smallest=8, whole=0) for s in (1, 1, 2)
    ]

    ids = schema.values(dataset.persons["annotation_id"])
    codes = schema.texts(dataset.persons["rle"])
    assert len(every) > 5
    for one in every.cutouts:
        row = int(np.flatnonzero(ids == one.annotation_id)[0])
        mask = decode_rle(json.loads(codes[row]))
        (y0, x0), (y1, x1) = np.argwhere(mask).min(0), np.argwhere(mask).max(0) + 1
        assert one.origin == (x0, y0) and (one.mask == mask[y0:y1, x0:x1]).all()
        np.testing.assert_array_equal(one.keypoints, dataset.keypoints[row])
        assert one.image_id == one.annotation_id // 100
    chosen = [[c.annotation_id for c in b.cutouts] for b in some]
    assert chosen[0] == chosen[1] != chosen[2] and len(chosen[0]) == 3
    with pytest.raises(FormatError, match="no such picture"):
        Pasteboard.from_dataset(dataset, tmp_path / "nowhere", smallest=8)


def test_objects_of_a_dataset(tmp_path):
    """Other categories of a COCO file, by polygon or run lengths; crowds and people are left out."""
    from PIL import Image

    square = [[2, 2, 14, 2, 14, 14, 2, 14]]
    runs = {"size": [20, 30], "counts": [100, 60, 440]}
    rows = [
        {"id": 1, "category_id": 1, "segmentation": square, "keypoints": [5, 5, 2], "num_keypoints": 1, "iscrowd": 0},
        {"id": 2, "category_id": 2, "segmentation": square, "iscrowd": 0},
        {"id": 3, "category_id": 2, "segmentation": runs, "iscrowd": 1},
        {"id": 4, "category_id": 2, "segmentation": runs, "iscrowd": 0},
    ]
    raw = {
        "images": [{"id": 9, "width": 30, "height": 20, "file_name": "a.png"}],
        "annotations": [{"image_id": 9, "bbox": [0, 0, 20, 20], "area": 144, **row} for row in rows],
        "categories": [{"id": 1, "name": "dog", "keypoints": ["nose"], "skeleton": []}, {"id": 2, "name": "chair"}],
    }
    Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(tmp_path / "a.png")

    objects = Pasteboard.from_dataset(coco.decode(raw, source="memory"), tmp_path, of="objects", smallest=5)
    people = Pasteboard.from_dataset(coco.decode(raw, source="memory"), tmp_path, smallest=5)

    assert [(c.annotation_id, c.origin, c.mask.shape) for c in objects.cutouts] == [
        (2, (2, 2), (12, 12)),
        (4, (5, 0), (20, 3)),
    ]
    assert objects.skeleton is None and [c.annotation_id for c in people.cutouts] == [1]
    raw["annotations"][3]["segmentation"] = {"size": [10, 60], "counts": [100, 60, 440]}
    with pytest.raises(SchemaError, match="annotation 4: a mask of 60 x 10 px in a picture of 30 x 20 px"):
        Pasteboard.from_dataset(coco.decode(raw, source="memory"), tmp_path, of="objects", smallest=5)
    with pytest.raises(SchemaError, match="of='chairs', expected 'people' or 'objects'"):
        Pasteboard.from_dataset(coco.decode(raw, source="memory"), tmp_path, of="chairs")
