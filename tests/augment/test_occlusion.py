from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kpdata.augment.occlusion import (
    CoarseDropout,
    GridMask,
    HideAndSeek,
    KeypointCutout,
    Spots,
    boxes_of_masks,
    covered_keypoints,
    hide,
    occlude,
    person_scale,
    rasterise,
)
from kpdata.augment.sample import Sample
from kpdata.errors import SchemaError
from kpdata.skeleton import Skeleton

SKELETON = Skeleton("dog_3", ("nose", "left_ear", "right_ear"), flip_pairs=frozenset({("left_ear", "right_ear")}))
COORDINATE = st.one_of(st.floats(-6, 30), st.just(math.nan), st.sampled_from([-0.5, 0.5, 3.5, 1e300]))
TRANSFORMS = [
    CoarseDropout(count=(2, 5), width=(0.1, 0.6), height=(0.1, 0.6)),
    CoarseDropout(width=(1, 40), height=(3, 4), unit="px", fill="noise"),
    HideAndSeek(sides=(1, 3, 8)),
    GridMask(period=(3, 9), angle=(-180, 180)),
    GridMask(period=(2, 30), ratio=0.9, fill=(1, 2, 3)),
    KeypointCutout(p=0.7, radius=(0, 1.5), jitter=1.0),
    KeypointCutout(p=1.0, shape="square", fill="noise"),
]
NAMES = [f"{type(t).__name__}-{i}" for i, t in enumerate(TRANSFORMS)]


@st.composite
def samples(draw, fewest=0):
    height, width, count = draw(st.integers(1, 14)), draw(st.integers(1, 14)), draw(st.integers(fewest, 3))
    kind = draw(st.sampled_from(["masks", "polygons", "neither"]))
    masks = draw(arrays.arrays(np.bool_, (count, height, width))) if kind == "masks" else None
    outline = st.lists(st.tuples(st.floats(-3, 25), st.floats(-3, 25)), min_size=2, max_size=5)
    polygons = tuple(tuple(np.array(p) for p in draw(st.lists(outline, max_size=2))) for _ in range(count))
    return Sample(
        image=np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8),
        keypoints=draw(arrays.arrays(np.float64, (count, 3, 2), elements=COORDINATE)),
        visibility=draw(arrays.arrays(np.int8, (count, 3), elements=st.integers(0, 3))),
        skeleton=SKELETON,
        bbox=draw(arrays.arrays(np.float64, (count, 4), elements=st.floats(0, 20))),
        area=draw(arrays.arrays(np.float64, (count,), elements=st.one_of(st.floats(0, 300), st.just(math.nan)))),
        masks=masks,
        polygons=polygons if kind == "polygons" else None,
    )


def picture(width: int, height: int, xy, visibility, **values) -> Sample:
    image = np.arange(width * height * 3).reshape(height, width, 3).astype(np.uint8)
    return Sample(image, np.array(xy, float).reshape(-1, 3, 2), np.array(visibility).reshape(-1, 3), SKELETON, **values)


def is_covered(x: float, y: float, cover) -> bool:
    """The pixel whose square [c - 0.5, c + 0.5) holds the point is hidden: one pixel after the other."""
    return any(
        cover[row, column] and column - 0.5 <= x < column + 0.5 and row - 0.5 <= y < row + 0.5
        for row in range(cover.shape[0])
        for column in range(cover.shape[1])
    )


# ---------------------------------------------------------------------------------------------------------- kernels


@given(samples(), st.data())
def test_covered_keypoints_agrees_with_a_loop_over_pixels(sample, data):
    """A keypoint is covered where its own pixel is; outside the picture and without a coordinate it is not."""
    cover = data.draw(arrays.arrays(np.bool_, sample.image.shape[:2]))

    expected = [[is_covered(x, y, cover) for x, y in person] for person in sample.keypoints.tolist()]

    assert covered_keypoints(sample.keypoints, cover).tolist() == expected


@pytest.mark.parametrize(
    ("covered", "table"),
    [("occluded", [0, 1, 1, 1]), ("absent", [0, 0, 0, 0]), ("keep", [0, 1, 2, 3])],
)
def test_each_policy_says_what_becomes_of_each_visibility(covered, table):
    """0 stays 0; "occluded" makes 2 and 3 to 1; "absent" makes all 0; "keep" changes nothing."""
    before, under = np.array([[0, 1, 2, 3, 0, 1, 2, 3]], np.int8), np.array([[True] * 4 + [False] * 4])

    after = hide(before, under, covered)

    assert after.tolist() == [[*table, 0, 1, 2, 3]] and after.dtype == np.int8


def test_coordinates_boxes_and_areas_stay():
    """What stands in front changes neither where a keypoint is nor how large the person is."""
    sample = picture(8, 8, [[1, 1], [6, 6], [math.nan, 3]], [2, 2, 0], bbox=[[0, 0, 8, 8]], area=[40.0])
    cover = np.zeros((8, 8), bool)
    cover[:4, :4] = True

    after = occlude(sample, cover, sample.image)

    assert after.visibility.tolist() == [[1, 2, 0]]
    np.testing.assert_array_equal(after.keypoints, sample.keypoints)
    assert after.bbox.tolist() == [[0, 0, 8, 8]] and after.area.tolist() == [40]


def test_masks_lose_the_covered_pixels_and_modal_measures_the_rest():
    """Only a person of whom pixels were covered gets box and area of the rest; one wholly covered has none."""
    masks = np.zeros((3, 6, 6), bool)
    masks[0, 1:5, 1:4], masks[1, 5, 5], masks[2, 1:3, 1:3] = True, True, True
    people = {"bbox": [[0, 0, 6, 6], [4.5, 4.5, 2, 2], [1, 1, 2, 2]], "area": [20.0, 3.0, 4.0], "masks": masks}
    sample = picture(6, 6, np.full((3, 3, 2), math.nan), np.zeros((3, 3)), **people)
    cover = np.zeros((6, 6), bool)
    cover[:3] = True

    amodal, modal = (occlude(sample, cover, sample.image, modal=m) for m in (False, True))

    assert np.argwhere(modal.masks[0]).tolist() == [[y, x] for y in (3, 4) for x in (1, 2, 3)]
    np.testing.assert_array_equal(amodal.masks, modal.masks)
    assert amodal.area.tolist() == [20, 3, 4] and amodal.bbox.tolist() == people["bbox"]
    assert modal.area.tolist() == [6, 3, 0]
    np.testing.assert_array_equal(modal.bbox, [[1, 3, 3, 2], [4.5, 4.5, 2, 2], [math.nan] * 4])


def test_modal_without_masks_is_refused():
    """Without masks and polygons nobody knows what is left of a person; without people nothing is asked."""
    cover = np.ones((4, 4), bool)
    lone, empty = picture(4, 4, [[1, 1]] * 3, [2] * 3), picture(4, 4, [], [])

    with pytest.raises(SchemaError, match=r"modal=True: no masks and no polygons .*leave modal=False"):
        occlude(lone, cover, lone.image, modal=True)
    assert occlude(empty, cover, empty.image, modal=True).visibility.shape == (0, 3)


def test_polygons_become_masks_only_where_they_are_touched():
    """A polygon cannot have a hole: pycocotools' pixels of it, less the cover, stand in for it."""
    from pycocotools import mask as coco

    outline = np.array([[1, 1], [7, 1], [7, 6.5], [1, 7]])
    sample = picture(9, 9, [[2, 2]] * 3, [2] * 3, polygons=((outline, outline[:2]),))
    hit, miss = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    hit[2:4, 2:4], miss[8] = True, True
    whole = coco.decode(coco.merge(coco.frPyObjects([outline.ravel().tolist()], 9, 9))).astype(bool)

    touched, missed = (occlude(sample, cover, sample.image) for cover in (hit, miss))

    assert touched.polygons is None
    np.testing.assert_array_equal(touched.masks, [whole & ~hit])
    assert missed.polygons is sample.polygons and missed.masks is None


def test_rasterise_joins_the_polygons_of_a_person():
    """Two polygons are one mask, a person without a polygon has an empty one, and the order of people stays."""
    from pycocotools import mask as coco

    squares = [np.array([[x, 1], [x + 2, 1], [x + 2, 3], [x, 3.0]]) for x in (0, 4, 7)]
    both = coco.decode(coco.merge(coco.frPyObjects([s.ravel().tolist() for s in squares[:2]], 5, 10)))

    masks = rasterise([squares[:2], [], squares[2:]], (10, 5))

    np.testing.assert_array_equal(masks[0], both)
    assert not masks[1].any() and np.argwhere(masks[2]).tolist() == [[y, x] for y in (1, 2) for x in (7, 8)]
    with pytest.raises(SchemaError, match="polygons of person 1: a coordinate is not a finite number"):
        rasterise([[], [np.full((3, 2), math.nan)]], (10, 5))


@given(arrays.arrays(np.bool_, st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 6))))
def test_boxes_of_masks_agrees_with_pycocotools(masks):
    """The edges are continuous: a mask of one pixel has a box of 1 by 1; an empty one has none."""
    from pycocotools import mask as coco

    boxes = boxes_of_masks(masks)

    for mask, box in zip(masks, boxes, strict=True):
        expected = coco.toBbox(coco.encode(np.asfortranarray(mask, np.uint8))) if mask.any() else [math.nan] * 4
        np.testing.assert_array_equal(box, expected)


def test_a_person_is_as_large_as_area_box_or_keypoints_say():
    """The first of them that is above 0, and its root; one keypoint alone is no size."""
    xy = [[[0, 0], [4, 9], [2, 2]]] * 3 + [[[3, 3], [5, 5], [5, 5]]]
    visibility, nan = [[2, 2, 2]] * 3 + [[2, 0, 0]], math.nan
    boxes = [[0, 0, 5, 5], [0, 0, 5, 5], [nan] * 4, [0, 0, 0, 0]]
    sample = picture(9, 9, xy, visibility, bbox=boxes, area=[16, nan, 0, nan])

    np.testing.assert_array_equal(person_scale(sample), [4, 5, 6, nan])


# ------------------------------------------------------------------------------------------------------------- covers


@pytest.mark.parametrize("transform", TRANSFORMS, ids=NAMES)
@given(sample=samples(), seed=st.integers(0, 999))
def test_nothing_covered_stays_visible(transform, sample, seed):
    """Under the default policy; what is not covered keeps pixels and labels, and absent keypoints stay absent."""
    drawn = transform.draw(sample, np.random.default_rng(seed))
    cover, after = transform.cover(sample, drawn), transform.apply(sample, drawn)

    under = covered_keypoints(sample.keypoints, cover)
    assert cover.shape == sample.image.shape[:2]
    assert (after.visibility[under] <= 1).all()
    np.testing.assert_array_equal(after.visibility == 0, sample.visibility == 0)
    np.testing.assert_array_equal(after.visibility[~under], sample.visibility[~under])
    np.testing.assert_array_equal(after.image[~cover], sample.image[~cover])
    np.testing.assert_array_equal(after.keypoints, sample.keypoints)
    assert after.masks is None or not (after.masks & cover).any()


@pytest.mark.parametrize("transform", TRANSFORMS, ids=NAMES)
@settings(max_examples=10)
@given(sample=samples())
def test_the_same_generator_gives_the_same_sample(transform, sample):
    """In whatever worker it is made, and the noise too."""
    one, two = (transform(sample, np.random.default_rng(5)) for _ in range(2))

    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.visibility, two.visibility)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=NAMES)
def test_pixels_decide_no_random_number(transform):
    """Another picture with the same labels gets the same cover, and leaves the generator in the same state."""
    first = picture(20, 16, [[2, 3], [15, 9], [8, 8]], [2, 1, 3], bbox=[[1, 1, 16, 12]])
    second = first.changed(image=255 - first.image)
    rngs = np.random.default_rng(3), np.random.default_rng(3)

    covers = [transform.cover(s, transform.draw(s, rng)) for s, rng in zip((first, second), rngs, strict=True)]

    np.testing.assert_array_equal(*covers)
    assert rngs[0].random() == rngs[1].random()


@pytest.mark.parametrize("transform", TRANSFORMS, ids=NAMES)
def test_a_picture_of_one_pixel(transform):
    """Too small for everything, and still a picture."""
    sample = picture(1, 1, [[0, 0], [math.nan, 0], [5, 5]], [2, 0, 2])
    rng = np.random.default_rng(0)

    for _ in range(20):
        after = transform(sample, rng)
        assert after.image.shape == (1, 1, 3) and after.visibility[0, 1:].tolist() == [0, 2]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_rectangles_are_of_the_drawn_count_and_lie_within_the_picture(width, height, seed):
    """The cover is their union, pixel by pixel; sides are at least a pixel, at most what was asked for."""
    transform = CoarseDropout(count=(0, 4), width=(0.1, 0.5), height=(0.5, 1.0))
    sample = picture(width, height, [], [])
    drawn = transform.draw(sample, np.random.default_rng(seed))

    expected = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in drawn.edges:
        for y in range(y0, y1):
            for x in range(x0, x1):
                expected[y, x] = True

    np.testing.assert_array_equal(transform.cover(sample, drawn), expected)
    assert len(drawn.edges) <= 4
    sides = drawn.edges[:, 2:] - drawn.edges[:, :2]
    assert (drawn.edges >= 0).all() and (drawn.edges[:, 2:] <= (width, height)).all() and (sides >= 1).all()
    assert (sides[:, 0] <= max(1, width * 0.5 + 0.5)).all() and (sides[:, 1] >= np.floor(height * 0.5)).all()


def test_rectangles_reach_every_place_and_count():
    """Over 2,000 draws every count of 1 to 3 comes up, and a one-pixel rectangle lands on each of 12 pixels alike."""
    transform = CoarseDropout(count=(1, 3), width=(1, 1), height=(1, 1), unit="px")
    sample, rng = picture(4, 3, [], []), np.random.default_rng(0)

    edges = [transform.draw(sample, rng).edges for _ in range(2000)]

    counts = np.bincount([len(e) for e in edges], minlength=4)
    assert counts[0] == 0 and (np.abs(counts[1:] - 2000 / 3) < 5 * math.sqrt(2000 / 3)).all()
    every = np.concatenate(edges)
    landed = np.bincount(every[:, 1] * 4 + every[:, 0], minlength=12)
    assert (np.abs(landed - len(every) / 12) < 5 * math.sqrt(len(every) / 12)).all()


def test_hidden_cells_are_a_grid_from_the_top_left_corner():
    """Every pixel is hidden as its cell is, cut cells at the right and lower edge too; half of the cells are hidden."""
    transform = HideAndSeek(sides=(4,), p=0.5)
    sample, rng = picture(18, 11, [], []), np.random.default_rng(1)
    drawn = transform.draw(sample, rng)

    expected = [[bool(drawn.hidden[y // 4, x // 4]) for x in range(18)] for y in range(11)]

    assert drawn.hidden.shape == (3, 5) and transform.cover(sample, drawn).tolist() == expected
    shares = [transform.draw(sample, rng).hidden.mean() for _ in range(400)]
    assert abs(np.mean(shares) - 0.5) < 5 * 0.5 / math.sqrt(400 * 15)


def test_side_0_hides_nothing():
    """As in the official list of sides."""
    transform = HideAndSeek(sides=(0,), p=1.0)
    sample = picture(18, 11, [], [])

    assert not transform.cover(sample, transform.draw(sample, np.random.default_rng(0))).any()


@pytest.mark.parametrize("angle", [0.0, 30.0, -75.0])
def test_a_grid_is_squares_turned_about_the_middle(angle):
    """Each pixel centre is turned back by hand; pixels within 0.001 px of a square's edge may fall either way."""
    transform = GridMask(period=(7, 7), ratio=0.6, angle=(angle, angle))
    sample = picture(25, 18, [], [])
    drawn = transform.draw(sample, np.random.default_rng(4))
    cover = transform.cover(sample, drawn)

    checked = 0
    for y in range(18):
        for x in range(25):
            turned = complex(x - 12, y - 8.5) * complex(math.cos(math.radians(angle)), -math.sin(math.radians(angle)))
            places = (turned.real - drawn.offset[0]) % 7, (turned.imag - drawn.offset[1]) % 7
            if all(min(abs(p - e) for e in (0, 4.2, 7)) > 0.001 for p in places):
                assert cover[y, x] == all(p < 4.2 for p in places), (x, y)
                checked += 1
    assert checked > 400


@pytest.mark.parametrize(("ratio", "share"), [(0.0, 0.0), (0.5, 0.25), (1.0, 1.0)])
def test_a_grid_hides_the_square_of_its_ratio(ratio, share):
    """Nothing for 0, everything for 1, at any angle."""
    transform = GridMask(period=(8, 16), ratio=ratio, angle=(0, 90))
    sample, rng = picture(300, 300, [], []), np.random.default_rng(0)

    covers = [transform.cover(sample, transform.draw(sample, rng)).mean() for _ in range(10)]

    assert np.mean(covers) == (share if share in (0, 1) else pytest.approx(share, abs=0.02))


@pytest.mark.parametrize("shape", ["disc", "square"])
@given(
    spots=st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 20), st.floats(0, 12)), max_size=4),
    width=st.integers(1, 20),
    height=st.integers(1, 15),
)
def test_spots_cover_the_pixels_within_their_radius(shape, spots, width, height):
    """Pixel by pixel, and the pixel of the centre always; pixels on the very rim may fall either way."""
    transform = KeypointCutout(shape=shape)
    drawn = Spots(np.array([s[:2] for s in spots]).reshape(-1, 2), np.array([s[2] for s in spots]), 0)
    cover = transform.cover(picture(width, height, [], []), drawn)

    for y in range(height):
        for x in range(width):
            far = [math.hypot(x - a, y - b) if shape == "disc" else max(abs(x - a), abs(y - b)) for a, b, _ in spots]
            within = any(d <= r for d, (_, _, r) in zip(far, spots, strict=True))
            home = any(math.floor(a + 0.5) == x and math.floor(b + 0.5) == y for a, b, _ in spots)
            if all(abs(d - r) > 1e-6 for d, (_, _, r) in zip(far, spots, strict=True)):
                assert cover[y, x] == (within or home), (x, y)


def test_cutouts_hit_labelled_keypoints_inside_the_picture_only():
    """Not absent ones, not those outside, not people without a size; radii are shares of the person's size."""
    xy = [[[5, 5], [30, 5], [9, 9]], [[3, 3], [3, 3], [3, 3]]]
    sample = picture(20, 20, xy, [[2, 2, 0], [2, 0, 0]], area=[100, math.nan])
    transform = KeypointCutout(p=1.0, radius=(0.1, 0.3))

    drawn = transform.draw(sample, np.random.default_rng(0))

    assert drawn.centers.tolist() == [[5, 5]]
    assert len(drawn.radii) == 1 and 1 <= drawn.radii[0] <= 3
    assert transform.apply(sample, drawn).visibility[0].tolist() == [1, 2, 0]


@given(samples(fewest=1), st.integers(0, 99))
def test_a_hit_keypoint_is_hidden_wherever_the_jitter_puts_the_middle(sample, seed):
    """At most a radius away, the keypoint itself is still under the patch (its pixel, where the patch is large)."""
    xy = np.abs(np.nan_to_num(sample.keypoints)) % (np.array(sample.size) - 0.01)
    sample = sample.changed(keypoints=np.floor(xy), area=np.full(len(xy), 50.0))
    drawn = KeypointCutout(p=1.0, radius=(0.3, 0.5), jitter=0.9).draw(sample, np.random.default_rng(seed))

    hit = sample.keypoints[sample.visibility > 0]

    assert (np.hypot(*(drawn.centers - hit).T) <= 0.9 * drawn.radii).all()
    after = KeypointCutout().apply(sample, drawn)
    assert (after.visibility <= 1).all()


def test_cutouts_of_named_keypoints():
    """Others are never hit; a name that the skeleton lacks is refused with those that it has."""
    sample = picture(20, 20, [[5, 5], [12, 5], [9, 14]], [2, 2, 2], area=[100])

    drawn = KeypointCutout(p=1.0, keypoints=("right_ear",)).draw(sample, np.random.default_rng(0))

    assert drawn.centers.tolist() == [[9, 14]]
    with pytest.raises(SchemaError, match=r"\['tail'\]: skeleton 'dog_3' has \['nose', 'left_ear', 'right_ear'\]"):
        KeypointCutout(keypoints=("tail", "nose")).draw(sample, np.random.default_rng(0))


@pytest.mark.parametrize(("fill", "expected"), [((9, 8, 7), [9, 8, 7]), ("mean", [30, 40, 50])], ids=["colour", "mean"])
def test_fills(fill, expected):
    """A colour as it is given; the mean of each channel over the whole picture."""
    image = np.zeros((2, 2, 3), np.uint8)
    image[0], image[1] = (20, 40, 40), (40, 40, 60)
    sample = Sample(image, np.zeros((0, 3, 2)), np.zeros((0, 3)), SKELETON)

    after = HideAndSeek(sides=(1,), p=1.0, fill=fill)(sample, np.random.default_rng(0))

    assert (after.image == expected).all() and (sample.image == image).all()


def test_noise_is_new_for_each_sample_and_uniform():
    """Two draws differ, and every byte from 0 to 255 comes up about as often as any other."""
    sample = Sample(np.zeros((128, 128, 3), np.uint8), np.zeros((0, 3, 2)), np.zeros((0, 3)), SKELETON)
    transform, rng = HideAndSeek(sides=(1,), p=1.0, fill="noise"), np.random.default_rng(0)

    one, two = transform(sample, rng).image, transform(sample, rng).image

    assert (one != two).mean() > 0.99
    counts = np.bincount(one.ravel(), minlength=256)
    assert ((counts - one.size / 256) ** 2 / (one.size / 256)).sum() < 350  # chi squared, 255 degrees: 99.99 % below


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CoarseDropout(count=(3, 1)), r"count=\(3, 1\), expected \(least, most\), whole numbers from 0 on"),
        (lambda: CoarseDropout(count=(1.5, 2)), "count"),
        (lambda: CoarseDropout(width=(0.1, 1.5)), r"width=\(0.1, 1.5\).* from 0 to 1"),
        (lambda: CoarseDropout(height=(0, math.inf), unit="px"), "height"),
        (lambda: CoarseDropout(height=(math.nan, 1)), "height"),
        (lambda: CoarseDropout(unit="%"), "unit='%', expected 'share' or 'px'"),
        (lambda: CoarseDropout(covered="visible"), "covered='visible', expected one of 'occluded', 'absent', 'keep'"),
        (lambda: CoarseDropout(fill="blue"), "fill='blue', expected 'mean', 'noise' or a colour"),
        (lambda: CoarseDropout(fill=(0, 0, 256)), "fill"),
        (lambda: CoarseDropout(fill=(0, 0)), "fill"),
        (lambda: HideAndSeek(sides=()), "sides"),
        (lambda: HideAndSeek(sides=(16, -1)), "sides"),
        (lambda: HideAndSeek(p=1.2), "p=1.2, expected a number from 0 to 1"),
        (lambda: GridMask(period=(0, 5)), "period"),
        (lambda: GridMask(ratio=-0.1), "ratio"),
        (lambda: GridMask(angle=(0, 500)), "angle"),
        (lambda: KeypointCutout(shape="star"), "shape='star', expected 'disc' or 'square'"),
        (lambda: KeypointCutout(radius=(-1, 1)), "radius"),
        (lambda: KeypointCutout(jitter=2), "jitter"),
    ],
)
def test_odd_options_are_refused_when_they_are_given(make, message):
    """The message names the option, what was found and what is expected."""
    with pytest.raises(SchemaError, match=message):
        make()
