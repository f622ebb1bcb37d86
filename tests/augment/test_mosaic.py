from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdata.augment.mosaic import Mosaic, mosaic
from kpdata.augment.sample import Sample
from kpdata.errors import SchemaError
from kpdata.skeleton import Skeleton

pytest.importorskip("cv2")

SKELETON = Skeleton("dog_3", ("nose", "left_ear", "right_ear"), flip_pairs=frozenset({("left_ear", "right_ear")}))
STILL = np.eye(3)
FOUR = np.array([[0, 0, 20, 16], [20, 0, 40, 16], [0, 16, 20, 32], [20, 16, 40, 32]])  # tiles of a 40 x 32 picture


def picture(number=0, width=20, height=16, people=1, skeleton=SKELETON, **values) -> Sample:
    """Noise with people whose keypoints are all inside."""
    rng = np.random.default_rng(number)
    xy = rng.uniform(0, [width - 1, height - 1], (people, 3, 2))
    visibility = rng.integers(0, 4, (people, 3))
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    ids = {"image_id": number, "annotation_ids": np.arange(people) + 100 * number}
    return Sample(image, xy, visibility, skeleton, **(ids | values))


def person(xy, visibility=(2, 2, 2), **values) -> Sample:
    """A black picture of 20 x 16 px with one person."""
    image = np.zeros((16, 20, 3), np.uint8)
    return Sample(image, np.array([xy], float), np.array([visibility]), SKELETON, **values)


def alone(sample: Sample, matrix=STILL, **options) -> Sample:
    """The sample in the right lower tile of four, the others without people."""
    samples = [*(picture(n, people=0) for n in (1, 2, 3)), sample]
    offset = np.array([[1, 0, 20], [0, 1, 16], [0, 0, 1]])
    return mosaic(samples, [STILL] * 3 + [offset @ matrix], FOUR, (40, 32), **options)


# ---------------------------------------------------------------------------------------------------------- one picture


def test_pictures_lie_side_by_side_with_their_labels():
    """Every pixel is where it belongs, every keypoint and box moved by its tile's corner, every id in its order."""
    samples = [picture(n, people=n, bbox=np.full((n, 4), 3.0)) for n in range(4)]
    matrices = [np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float) for x, y, _, _ in FOUR]

    after = mosaic(samples, matrices, FOUR, (40, 32))

    for sample, (x0, y0, x1, y1) in zip(samples, FOUR, strict=True):
        np.testing.assert_array_equal(after.image[y0:y1, x0:x1], sample.image)
    expected = [
        xy + np.array([x0, y0]) for sample, (x0, y0, _, _) in zip(samples, FOUR, strict=True) for xy in sample.keypoints
    ]
    np.testing.assert_array_equal(after.keypoints, expected)
    np.testing.assert_array_equal(after.visibility, np.concatenate([sample.visibility for sample in samples]))
    assert after.bbox.tolist() == [[23, 3, 3, 3], *[[3, 19, 3, 3]] * 2, *[[23, 19, 3, 3]] * 3]
    assert after.annotation_ids.tolist() == [100, 200, 201, 300, 301, 302]


def test_where_all_is_from_stands_in_extras():
    """Images, tiles, rows; there is no single picture to go back to, and so no id and no matrix."""
    samples = [
        picture(n, people=n, extras={"n": n, "iscrowd": np.arange(n) == 1, "rows": np.arange(n) + 10 * n})
        for n in range(4)
    ]

    after = mosaic(samples, [STILL] * 4, FOUR, (40, 32))

    notes = after.extras["mosaic"]
    assert notes["image_ids"] == (0, 1, 2, 3) and notes["tiles"].tolist() == FOUR.tolist()
    people = [(tile, row) for tile in range(4) for row in range(tile)]
    kept = list(zip(notes["tile"].tolist(), notes["row"].tolist(), strict=True))
    assert set(kept) <= set(people) and len(kept) == len(after.keypoints)
    assert after.annotation_ids.tolist() == [100 * tile + row for tile, row in kept]
    assert after.extras["iscrowd"].tolist() == [row == 1 for _, row in kept]
    assert after.extras["rows"].tolist() == [10 * tile + row for tile, row in kept]
    assert [extra["n"] for extra in notes["extras"]] == [0, 1, 2, 3]
    assert after.image_id is None and np.isnan(after.matrix).all() and not after.mirrored


@pytest.mark.parametrize(
    ("outside", "expected"),
    [("absent", [2, 0, 0]), ("occluded", [2, 1, 1]), ("keep", [2, 3, 1])],
)
def test_what_becomes_of_keypoints_that_the_tile_cuts(outside, expected):
    """Each policy by hand; the coordinates stay as data."""
    moved = np.array([[1, 0, -8], [0, 1, 0], [0, 0, 1.0]])
    sample = person([[9, 5], [7.4, 5], [2, 5]], [2, 3, 1], bbox=[[1, 1, 17, 9]])

    after = alone(sample, moved, outside=outside)

    assert after.visibility.tolist() == [expected]
    np.testing.assert_allclose(after.keypoints, [[[21, 21], [19.4, 21], [14, 21]]])


def test_the_last_pixel_of_a_tile_is_inside():
    """A keypoint is inside while its own pixel is: -0.5 and 19.49 are, -0.51 and 19.5 are not; absent stays absent."""
    for x, visibility in ((-0.5, 2), (-0.51, 0), (19.49, 2), (19.5, 0)):
        assert alone(person([[x, 5], [3, 3], [99, 3]], [2, 1, 0])).visibility.tolist() == [[visibility, 1, 0]]


def test_a_keypoint_on_the_padding_of_its_own_tile_stays():
    """The tile cuts nothing there: labelled outside its picture it was before, too."""
    small = np.array([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1]])

    after = alone(person([[5, 5], [30, 20], [41, 5]]), small)

    assert after.visibility.tolist() == [[2, 2, 0]]


def test_boxes_areas_masks_and_outlines_are_cut_to_the_tile():
    """By hand: the right half of a rectangle of 12 x 8 is cut off by the tile; the area follows what is left."""
    moved = np.array([[1, 0, 10], [0, 1, 0], [0, 0, 1.0]])
    facts = {"bbox": [[4, 2, 12, 8]], "area": [90.0], "center": [[9, 5]], "scale": [[12, 8]]}
    mask, outline = np.zeros((1, 16, 20), bool), np.array([[4.0, 2], [16, 2], [16, 10], [4, 10]])
    mask[0, 2:10, 4:16] = True
    xy = [[5, 5], [6, 6], [15, 5]]

    plain, masked, outlined = (
        alone(person(xy, **facts, **more), moved) for more in ({}, {"masks": mask}, {"polygons": ((outline,),)})
    )

    for after in (plain, masked, outlined):
        assert after.bbox.tolist() == [[34, 18, 6, 8]] and after.center.tolist() == [[39, 21]]
        assert after.scale.tolist() == [[12, 8]] and after.visibility.tolist() == [[2, 2, 0]]
    assert plain.area.tolist() == [90]
    assert masked.area.tolist() == outlined.area.tolist() == [45]
    expected = np.zeros((1, 32, 40), bool)
    expected[0, 18:26, 34:40] = True
    np.testing.assert_array_equal(masked.masks, expected)
    corners = {tuple(point) for point in outlined.polygons[0][0].tolist()}
    assert corners == {(34, 18), (40, 18), (40, 26), (34, 26)}


def test_who_is_wholly_cut_off_leaves():
    """By the box; without a box by the keypoints; a person of whom nothing is known stays. Ids and rows follow."""
    nan = math.nan
    xy = np.array([[[2, 2]] * 3, [[9, 2]] * 3, [[2, 2]] * 3, [[9, 2]] * 3, [[nan, nan]] * 3, [[2, 2]] * 3])
    boxes = [[1, 1, 4, 4], [8, 1, 4, 4], [nan] * 4, [nan] * 4, [nan] * 4, [9, 2, 0, 0]]
    visibility = np.array([[2, 2, 2]] * 4 + [[0, 0, 0]] + [[2, 2, 2]])
    sample = Sample(
        np.zeros((16, 20, 3), np.uint8), xy, visibility, SKELETON, bbox=boxes, annotation_ids=np.arange(60, 66)
    )

    after = alone(sample, np.array([[1, 0, -8], [0, 1, 0], [0, 0, 1.0]]))

    assert after.annotation_ids.tolist() == [61, 63, 64, 65]
    assert after.extras["mosaic"]["row"].tolist() == [1, 3, 4, 5]


def test_samples_that_contradict_each_other_are_refused():
    """Ids, masks or outlines of some only, several skeletons, nothing at all; samples without people decide nothing."""
    masks = np.zeros((1, 16, 20), bool)
    with pytest.raises(SchemaError, match=r"Sample\.masks: 1 of 2 samples with people have it.*to all samples"):
        mosaic(
            [picture(1, masks=masks), picture(2), picture(3, people=0), picture(4, people=0)],
            [STILL] * 4,
            FOUR,
            (40, 32),
        )
    with pytest.raises(SchemaError, match=r"Sample\.annotation_ids: 0|Sample\.annotation_ids: 1 of 2"):
        mosaic([picture(1), picture(2, annotation_ids=None)], [STILL] * 2, FOUR[:2], (40, 32))
    with pytest.raises(SchemaError, match=r"skeletons \['cat_3', 'dog_3'\], expected one"):
        mosaic([picture(1), picture(2, skeleton=Skeleton("cat_3", ("a", "b", "c")))], [STILL] * 2, FOUR[:2], (40, 32))
    with pytest.raises(SchemaError, match="expected one"):
        mosaic([], [], FOUR[:0], (40, 32))
    mixed = mosaic([picture(1, masks=masks), picture(2, people=0)], [STILL] * 2, FOUR[:2], (40, 32))
    assert mixed.masks.shape == (len(mixed.keypoints), 32, 40)


def test_nobody_anywhere():
    """A mosaic of empty pictures is an empty picture; labels have their shapes."""
    after = mosaic([picture(n, people=0) for n in range(4)], [STILL] * 4, FOUR, (40, 32))

    assert after.keypoints.shape == (0, 3, 2) and after.bbox.shape == (0, 4) and after.annotation_ids is None


# ---------------------------------------------------------------------------------------------------------- transform


@given(
    seed=st.integers(0, 9999),
    layout=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    fit=st.sampled_from(["contain", "cover"]),
    lines=st.floats(0, 0.4),
    zoom=st.floats(0.3, 2.5),
)
@settings(max_examples=40)
def test_labelled_keypoints_lie_in_their_tile_and_where_their_picture_put_them(seed, layout, fit, lines, zoom):
    """Boxes too; ids, tiles and rows tell the same story; tiles fill the mosaic without overlap."""
    sizes = np.random.default_rng(seed).integers(1, 40, (10, 2))
    pool = [picture(n, *size.tolist(), people=n % 3) for n, size in enumerate(sizes)]
    pool = [one.changed(bbox=np.tile([2.0, 2, 9, 7], (len(one.keypoints), 1))) for one in pool]
    transform = Mosaic(pool, (50, 44), layout, lines=lines, fit=fit, zoom=(zoom, zoom))

    after = transform(pool[0], np.random.default_rng(seed))

    notes, origin = after.extras["mosaic"], {one.image_id: one for one in pool}
    assert len(notes["image_ids"]) == len(set(notes["image_ids"])) == layout[0] * layout[1] and 0 in notes["image_ids"]
    painted = np.zeros((44, 50), int)
    for x0, y0, x1, y1 in notes["tiles"]:
        painted[y0:y1, x0:x1] += 1
    assert (painted == 1).all()
    for i, (tile, row) in enumerate(zip(notes["tile"], notes["row"], strict=True)):
        source, (x0, y0, x1, y1) = origin[notes["image_ids"][tile]], notes["tiles"][tile]
        assert after.annotation_ids[i] == source.annotation_ids[row]
        homogeneous = np.c_[source.keypoints[row], np.ones(3)] @ notes["matrices"][tile].T
        np.testing.assert_allclose(after.keypoints[i], homogeneous[:, :2], atol=1e-9)
        pixel = np.floor(after.keypoints[i] + 0.5)
        inside = ((pixel >= (x0, y0)) & (pixel < (x1, y1))).all(-1)
        assert after.visibility[i].tolist() == np.where(inside, source.visibility[row], 0).tolist()
        left, top, width, height = after.bbox[i]
        assert x0 <= left and y0 <= top and left + width <= x1 + 1e-9 and top + height <= y1 + 1e-9


@given(
    fit=st.sampled_from(["contain", "cover"]), zoom=st.floats(1, 1.5), seed=st.integers(0, 99), odd=st.integers(0, 9)
)
@settings(max_examples=25)
def test_keypoints_follow_the_pixels(fit, zoom, seed, odd):
    """A blob drawn in the middle of the pictures has its centroid where its keypoint is, to about 0.02 px."""
    width, height = 120 + odd, 121
    rows, columns = np.mgrid[:height, :width]
    blob = np.rint(250 * np.exp(-((columns - 60.3) ** 2 + (rows - 58.8) ** 2) / (2 * 3.0**2))).astype(np.uint8)
    at = np.array([(blob * columns.astype(float)).sum(), (blob * rows.astype(float)).sum()]) / blob.sum()
    sample = Sample(np.repeat(blob[..., None], 3, axis=2), np.tile(at, (1, 3, 1)), np.full((1, 3), 2), SKELETON)

    after = Mosaic([sample] * 4, (300, 260), fit=fit, zoom=(zoom, zoom), fill=(0, 0, 0), lines=0.1)(
        sample, np.random.default_rng(seed)
    )

    checked = 0
    for xy, tile in zip(after.keypoints[:, 0], after.extras["mosaic"]["tile"], strict=True):
        x0, y0, x1, y1 = after.extras["mosaic"]["tiles"][tile]
        if (xy - (x0, y0) > 26).all() and ((x1, y1) - xy > 26).all():
            weight = after.image[y0:y1, x0:x1, 0].astype(float)
            rows, columns = np.mgrid[y0:y1, x0:x1]
            centroid = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
            factor = after.extras["mosaic"]["matrices"][tile][0, 0]
            rounded = factor / 64 + 0.01  # OpenCV rounds places to 1/32 px of the source, and pixels to whole bytes
            assert np.abs(xy - centroid).max() < rounded
            checked += 1
    assert checked or fit == "cover"


def test_contain_shows_the_whole_picture_and_cover_fills_the_tile():
    """A white picture of 2 : 1 in tiles of 20 x 20 px: half of the tile is white, or all of it."""
    white = [Sample(np.full((10, 20, 3), 255, np.uint8), np.zeros((0, 3, 2)), np.zeros((0, 3)), SKELETON)] * 4

    contain, cover = (
        Mosaic(white, (40, 40), lines=0, fit=fit, fill=(0, 0, 0))(white[0], np.random.default_rng(0)).image
        for fit in ("contain", "cover")
    )

    assert (cover == 255).all()
    assert contain.mean() / 255 == pytest.approx(0.5, abs=0.03)


class Counted(Sequence):
    """A pool that says how often a picture was loaded."""

    def __init__(self, samples):
        self.samples, self.loaded = samples, 0

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.loaded += 1
        return self.samples[index]


def test_a_draw_loads_no_picture_and_is_repeated_exactly():
    """The same generator, the same mosaic, whatever the pixels; three pictures are loaded for four tiles, or four where
    the sample itself came up."""
    pool = Counted([picture(n) for n in range(6)])
    transform, sample = Mosaic(pool, (40, 32)), picture(99)

    one, two = (transform.draw(s, np.random.default_rng(8)) for s in (sample, sample.changed(image=255 - sample.image)))

    assert pool.loaded == 0
    for name in ("members", "edges", "slack", "zoom"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    first, second = transform.apply(sample, one), transform.apply(sample, two)
    assert pool.loaded == 6 and one.place == two.place
    np.testing.assert_array_equal(first.image, second.image)


def test_the_sample_is_there_once_and_anywhere():
    """Its own row of the pool is replaced by another; over many draws it lies in every tile."""
    pool, rng = [picture(n) for n in range(4)], np.random.default_rng(0)
    transform = Mosaic(pool, (40, 32))

    images = [transform(pool[2], rng).extras["mosaic"]["image_ids"] for _ in range(60)]

    assert all(sorted(ids) == [0, 1, 2, 3] for ids in images)
    assert {ids.index(2) for ids in images} == {0, 1, 2, 3}
    with pytest.raises(SchemaError, match="image 7 stands in the pool more than once"):
        Mosaic([picture(7)] * 4, (40, 32))(picture(7), rng)


def test_pictures_of_one_pixel():
    """Blown up, with their keypoint in the middle."""
    dots = [picture(n, 1, 1).changed(keypoints=np.zeros((1, 3, 2)), visibility=np.full((1, 3), 2)) for n in range(4)]

    after = Mosaic(dots, (16, 16), lines=0)(dots[0], np.random.default_rng(0))

    assert after.visibility.tolist() == [[2, 2, 2]] * 4
    assert after.keypoints[:, 0].tolist() == [[3.5, 3.5], [11.5, 3.5], [3.5, 11.5], [11.5, 11.5]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": (0, 2)}, r"layout=\(0, 2\), expected two whole numbers above 0"),
        ({"layout": 2}, "layout=2"),
        ({"layout": (3, 3)}, "a pool of 4 pictures for 9 tiles"),
        ({"size": (40.0, 32)}, "size"),
        ({"size": (15, 32)}, r"size=\(15, 32\), expected at least 8 px for each of 2 x 2 tiles"),
        ({"lines": 0.5}, "lines=0.5, expected a number from 0 to 0.4"),
        ({"fit": "stretch"}, "fit='stretch', expected 'contain' or 'cover'"),
        ({"zoom": (0, 1)}, "zoom"),
        ({"fill": "mean"}, "fill="),
        ({"fill": (1, 2, 300)}, "fill"),
        ({"outside": "gone"}, "covered='gone', expected one of"),
    ],
)
def test_odd_options_are_refused_when_they_are_given(options, message):
    """The message names the option, what was found and what is expected."""
    with pytest.raises(SchemaError, match=message):
        Mosaic([picture(n) for n in range(4)], **{"size": (60, 60), **options})
