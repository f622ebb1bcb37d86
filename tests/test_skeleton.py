from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpdata.errors import SchemaError, SkeletonError
from kpdata.skeleton import Relation, Skeleton, from_category, load, match, names, remap

ALL = names()
PAIRS = [(a, b) for a in ALL for b in ALL]


# Written by hand from the tables of each data set (not from kpdata's files): the two families of necks, tops of heads,
# and points that are nobody else's.
def points(text: str) -> set[tuple[str, str]]:
    """{(skeleton, keypoint)} of "skeleton.keypoint skeleton.keypoint"."""
    return {(one.partition(".")[0], one.partition(".")[2]) for one in text.split()}


MID_SHOULDERS = points("mpii_16.thorax openpose_body_25.neck openpose_coco_18.neck")
UPPER_NECK = points("mpii_16.upper_neck lsp_14.neck crowdpose_14.neck aic_14.neck halpe_26.neck halpe_136.neck")
UPPER_NECK |= points("posetrack17_15.head_bottom posetrack18_17.head_bottom openpose_mpi_15.neck")
HEAD_TOP = points("mpii_16.head_top lsp_14.head_top crowdpose_14.top_head aic_14.head_top halpe_26.head halpe_136.head")
HEAD_TOP |= points("posetrack17_15.head_top posetrack18_17.head_top openpose_mpi_15.head")
MID_HIPS = points("mpii_16.pelvis openpose_body_25.mid_hip halpe_26.hip halpe_136.hip")
OWN = points("jhmdb_15.neck jhmdb_15.head jhmdb_15.belly ochuman_19.neck ochuman_19.head openpose_mpi_15.chest")
FAMILIES = (MID_SHOULDERS, UPPER_NECK, HEAD_TOP, MID_HIPS, *({one} for one in OWN))

COCO_NAMES = [
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
]


def sources(source: str, target: str, *, approximate: bool = False) -> list[int]:
    """First source column of each target keypoint, -1 for none; 'first != second' must not occur."""
    made = remap(load(source), load(target), approximate=approximate)
    assert (made.first == made.second).all()
    return made.first.tolist()


def family(skeleton: str, keypoint: str) -> int | None:
    return next((i for i, members in enumerate(FAMILIES) if (skeleton, keypoint) in members), None)


# ---- the built-in skeletons


def test_there_are_sixteen_and_each_name_ends_in_its_count():
    """The number of keypoints is part of each name: `match` looks only at those."""
    assert len(ALL) == 16
    assert all(name == load(name).name and name.endswith(f"_{len(load(name))}") for name in ALL)


@pytest.mark.parametrize("name", ALL)
def test_a_flip_swaps_left_and_right_names_and_nothing_else(name):
    """Applied twice a flip is nothing; left_x and right_x change places; the middle stays. Faces: see the next test."""
    skeleton = load(name)
    order = skeleton.flip_index()
    assert order[order].tolist() == list(range(len(skeleton)))
    swapped = {"left": "right", "right": "left"}
    for keypoint, twin in zip(skeleton.keypoint_names, order, strict=True):
        if not keypoint.startswith("face-"):
            side, _, rest = keypoint.partition("_")
            assert skeleton.keypoint_names[twin] == (f"{swapped[side]}_{rest}" if side in swapped else keypoint)


@pytest.mark.parametrize("name", ["coco_wholebody_133", "halpe_136"])
def test_a_flip_mirrors_the_68_points_of_a_face(name):
    """300-W: jaw 0-16, brows 17-26, nose bridge 27-30 (middle), nostrils 31-35, eyes 36-47, lips 48-67."""
    mirrored = [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1)]
    mirrored += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    mirrored += [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
    skeleton = load(name)
    first = skeleton.keypoint_names.index("face-0")
    assert (skeleton.flip_index()[first : first + 68] - first).tolist() == mirrored


@pytest.mark.parametrize("name", ALL)
def test_edges_stay_in_the_columns_and_join_two_keypoints(name):
    """No edge is a dot; only OCHuman's native files come without edges."""
    edges = load(name).edges
    assert all(a != b and 0 <= a < len(load(name)) and 0 <= b < len(load(name)) for a, b in edges)
    assert bool(edges) == (name != "ochuman_19")


def test_coco_edges_are_those_of_the_official_file():
    """The category of person_keypoints_val2017.json, 1-based there."""
    official = [(16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9)]
    official += [(8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)]
    assert load("coco_17").edges == tuple((a - 1, b - 1) for a, b in official)


def test_every_middle_keypoint_belongs_to_one_hand_made_family():
    """Necks, heads and hips of all skeletons are in this file's table: a new one must be judged."""
    middle = {
        (name, keypoint)
        for name in ALL
        for keypoint in load(name).keypoint_names
        if not keypoint.startswith(("left_", "right_", "face-")) and keypoint != "nose"
    }
    assert middle == set().union(*FAMILIES)


# ---- sigmas: the bits of the official evaluators


def test_coco_sigmas_are_those_of_pycocotools_bit_for_bit():
    """.26 / 10.0 and .026 differ in the last bit for 5 of the 17."""
    from pycocotools.cocoeval import Params

    official = Params(iouType="keypoints").kpt_oks_sigmas
    assert np.array(load("coco_17").sigmas).tobytes() == official.tobytes()
    assert sum(a != round(b, 3) for a, b in zip(official, load("coco_17").sigmas, strict=True)) == 5


def test_crowdpose_sigmas_are_those_of_its_evaluator_bit_for_bit():
    """crowdposetools/cocoeval.py: np.array([...]) / 10.0."""
    official = np.array([0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89, 0.79, 0.79]) / 10.0
    assert np.array(load("crowdpose_14").sigmas).tobytes() == official.tobytes()


def test_halpe_sigmas_are_those_of_its_evaluator_bit_for_bit():
    """halpecocotools/cocoeval.py: COCO's, .8 three times, .89 six times, .15 to the end, / 10.0."""
    body = [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
    official = np.array([*body, *[0.8] * 3, *[0.89] * 6, *[0.15] * 110]) / 10.0
    assert np.array(load("halpe_136").sigmas).tobytes() == official.tobytes()
    assert load("halpe_26").sigmas == load("halpe_136").sigmas[:26]


def test_wholebody_sigmas_are_written_divided_as_in_its_evaluator():
    """myeval_wholebody.py writes .026, not .26 / 10; here in thousandths: body, feet, face, then each hand."""
    thousandths = (
        "26 25 25 35 35 79 79 72 72 62 62 107 107 87 87 89 89 68 66 66 92 94 94 42 43 44 43 40 35 31 25 20 23 29"
    )
    thousandths += (
        " 32 37 38 43 41 45 13 12 11 11 12 12 11 11 13 15 9 7 7 7 12 9 8 16 10 17 11 9 11 9 7 13 8 11 12 10 34 8"
    )
    thousandths += " 8 9 8 8 7 10 8 9 9 9 7 7 8 11 8 8 8 10 8"
    hand = " 29 22 35 37 47 26 25 24 35 18 24 22 26 17 21 21 32 20 19 22 31"
    written = (thousandths + hand + hand).split()
    assert load("coco_wholebody_133").sigmas == tuple(float(f"{int(one):04}e-3") for one in written)


def test_aic_sigmas_are_half_the_delta_of_its_evaluator():
    """keypoint_eval.py: delta = 2 * np.array([0.01388152, …]); variance (2 sigma)^2 = delta^2."""
    delta = [0.01388152, 0.01515228, 0.01057665, 0.01417709, 0.01497891, 0.01402144, 0.03909642, 0.03686941]
    delta = 2 * np.array([*delta, 0.01981803, 0.03843971, 0.03412318, 0.02415081, 0.01291456, 0.01236173])
    assert (2 * np.array(load("aic_14").sigmas)).tobytes() == delta.tobytes()


def test_only_skeletons_with_an_official_oks_have_sigmas_and_say_from_where():
    """Official or absent: MPII, LSP, PoseTrack, JHMDB, OpenPose, OCHuman's 19 and Human-Art's 21 have none."""
    told = {name for name in ALL if load(name).sigmas is not None}
    assert told == {"coco_17", "coco_wholebody_133", "crowdpose_14", "halpe_26", "halpe_136", "aic_14"}
    assert all((load(name).sigma_source is not None) == (name in told) for name in ALL)


# ---- remap: the built-in skeletons


def test_coco_to_mpii():
    """Limbs are copied, thorax and pelvis are midpoints, upper neck and top of the head have no source."""
    made = remap(load("coco_17"), load("mpii_16"), approximate=True)
    assert made.first.tolist() == [16, 14, 12, 11, 13, 15, 11, 5, -1, -1, 10, 8, 6, 5, 7, 9]
    assert made.second.tolist() == [16, 14, 12, 11, 13, 15, 12, 6, -1, -1, 10, 8, 6, 5, 7, 9]
    assert made.relation.tolist() == [1, 1, 1, 1, 1, 1, 3, 3, 0, 0, 1, 1, 1, 1, 1, 1]
    assert made.mask.tolist() == [True] * 8 + [False] * 2 + [True] * 6
    assert made.dropped == ("nose", "left_eye", "right_eye", "left_ear", "right_ear")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("mpii_16", [-1] * 5 + [13, 12, 14, 11, 15, 10, 3, 2, 4, 1, 5, 0]),
        ("crowdpose_14", [-1] * 5 + [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("lsp_14", [-1] * 5 + [9, 8, 10, 7, 11, 6, 3, 2, 4, 1, 5, 0]),
        ("aic_14", [-1] * 5 + [3, 0, 4, 1, 5, 2, 9, 6, 10, 7, 11, 8]),
        # openpose cocoJsonSaver.cpp
        ("openpose_body_25", [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11]),
        ("openpose_coco_18", [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]),
        ("coco_wholebody_133", list(range(17))),
        ("halpe_136", list(range(17))),
        ("humanart_21", list(range(17))),
    ],
)
def test_to_coco(source, expected):
    """The index lists that the data sets' own tools use; nothing changes with approximate."""
    assert sources(source, "coco_17") == expected
    assert sources(source, "coco_17", approximate=True) == expected


def test_wholebody_and_halpe():
    """Feet change order (mmpose body8-halpe26: 17..22 -> 20,22,24,21,23,25); face and hands keep theirs."""
    found = sources("coco_wholebody_133", "halpe_136")[20:]
    assert found == [17, 20, 18, 21, 19, 22, *range(23, 91), *range(91, 133)]
    back = sources("halpe_136", "coco_wholebody_133")
    assert back == [*range(17), 20, 22, 24, 21, 23, 25, *range(26, 136)]


def test_face_and_hands_of_halpe_and_wholebody_lie_on_each_other(real_data):
    """Both data sets labelled the same photographs: by index they are nearer than the mean of all pairs, each part."""

    def people(name):
        raw = json.loads((real_data / "coco_mmpose4" / name).read_text())["annotations"]
        parts = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
        flat = [[number for part in parts for number in one.get(part, [])] for one in raw]
        return [(one["image_id"], np.reshape(xyv, (-1, 3))) for one, xyv in zip(raw, flat, strict=True)]

    columns = sources("halpe_136", "coco_wholebody_133")
    compared = 0
    for image, ours in people("test_coco_wholebody.json"):
        for other, theirs in people("test_halpe.json"):
            a, b = ours, theirs[columns]
            body = (a[:17, 2] > 0) & (b[:17, 2] > 0)
            if image != other or body.sum() < 5 or np.abs(a[:17] - b[:17])[body, :2].mean() > 10:
                continue  # another person
            for part in (slice(23, 91), slice(91, 112), slice(112, 133)):
                both = (a[part, 2] > 0) & (b[part, 2] > 0)
                if both.sum() >= 10:
                    distance = np.linalg.norm(a[part][both, None, :2] - b[part][None, both, :2], axis=-1)
                    assert distance.diagonal().mean() < 0.7 * distance.mean()
                    compared += 1
    assert compared >= 8


@pytest.mark.parametrize("approximate", [False, True])
def test_no_two_families_are_ever_equated(approximate):
    """All 16 x 16 pairs: a neck above the shoulder line is never the middle of the shoulders, nor any head its top."""
    for source, target in PAIRS:
        made = remap(load(source), load(target), approximate=approximate)
        for column, keypoint in enumerate(made.target.keypoint_names):
            used = {made.source.keypoint_names[i] for i in (made.first[column], made.second[column]) if i >= 0}
            if (wanted := family(target, keypoint)) is None:
                assert used <= {keypoint}  # limbs and face: by the same name or not at all
            elif len(used) == 2:
                part = {0: "shoulder", 3: "hip"}[wanted]  # places in FAMILIES
                assert used == {f"left_{part}", f"right_{part}"}
            else:
                assert {family(source, one) for one in used} <= {wanted}


def test_another_protocol_is_taken_only_when_approximate():
    """Tops of heads and necks above the shoulder line: every ordered pair of two data sets; PoseTrack's two are one."""
    for members in (UPPER_NECK, HEAD_TOP):
        for source, one in members:
            for target, other in members:
                made = remap(load(source), load(target))
                column = made.target.keypoint_names.index(other)
                same = source[:5] == target[:5]  # halpe, posetrack: one protocol, two skeletons
                assert made.relation[column] == (Relation.SAME if same else Relation.ABSENT)
                loose = remap(load(source), load(target), approximate=True)
                assert loose.relation[column] == (Relation.SAME if same else Relation.APPROXIMATE)
                assert loose.source.keypoint_names[loose.first[column]] == one


def test_mpii_thorax_and_openpose_neck_are_one_point():
    """Both are the middle of the shoulders: copied, not computed again; and neither fills the upper neck."""
    made = remap(load("mpii_16"), load("openpose_body_25"))
    assert (made.relation[1], made.first[1], made.second[1]) == (Relation.SAME, 7, 7)
    assert (made.relation[8], made.first[8]) == (Relation.SAME, 6)
    back = remap(load("openpose_coco_18"), load("mpii_16"), approximate=True)
    assert (back.relation[7], back.first[7]) == (Relation.SAME, 1)
    assert back.relation[8] == Relation.ABSENT


def test_the_hip_of_halpe_is_a_label_of_its_own():
    """Filled from two hips only when approximate; MPII's pelvis is computed from Halpe's two hips, not copied."""
    strict, loose = (remap(load("coco_17"), load("halpe_26"), approximate=a) for a in (False, True))
    assert strict.relation[19] == Relation.ABSENT
    assert (loose.relation[19], loose.first[19], loose.second[19]) == (Relation.APPROXIMATE, 11, 12)
    made = remap(load("halpe_26"), load("mpii_16"), approximate=True)
    assert (made.relation[6], made.first[6], made.second[6]) == (Relation.DERIVED, 11, 12)


def test_report_names_the_refused_and_the_flag():
    """A keypoint that only --approximate would fill says so; one that nothing can fill does not."""
    lines = {line[0]: line for line in remap(load("crowdpose_14"), load("mpii_16")).report()}
    assert lines["left_knee"] == ("left_knee", "same", ("left_knee",), "")
    assert lines["thorax"] == ("thorax", "derived", ("left_shoulder", "right_shoulder"), "midpoint")
    _, relation, used, note = lines["head_top"]
    assert (relation, used) == ("absent", ())
    assert "top_head of crowdpose_14" in note and "--approximate" in note
    loose = {line[0]: line for line in remap(load("crowdpose_14"), load("mpii_16"), approximate=True).report()}
    assert loose["head_top"][1:3] == ("approximate", ("top_head",)) and "protocol" in loose["head_top"][3]
    assert remap(load("mpii_16"), load("coco_17")).report()[0] == ("nose", "absent", (), "no source")


# ---- remap: applying it

BODY = Skeleton("two_shoulders_3", ("left_shoulder", "right_shoulder", "tail"))
TARGET = Skeleton("target_4", ("mid_shoulder", "tail", "LShoulder", "right_hip"))


def naive(made, xy, visibility, scores):
    """One keypoint at a time, by the rules as a person would write them."""
    order = [0, 1, 3, 2]  # from least to most sure
    shape = (len(xy), len(made.target))
    out = np.full((*shape, 2), np.nan), np.zeros(shape, np.int8), np.full(shape, np.nan)
    for person in range(len(xy)):
        for column, (a, b) in enumerate(zip(made.first, made.second, strict=True)):
            if a < 0:
                continue
            seen = [visibility[person, a], visibility[person, b]]
            if a != b and 0 in seen:
                continue
            out[0][person, column] = xy[person, a] if a == b else (xy[person, a] + xy[person, b]) / 2
            out[1][person, column] = min(seen, key=order.index)
            out[2][person, column] = min(scores[person, a], scores[person, b])
    return out


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_apply_equals_a_naive_loop(seed, people):
    """Copies, midpoints and absent keypoints of any visibility, no people included."""
    rng = np.random.default_rng(seed)
    made = remap(BODY, TARGET)
    xy, scores = rng.normal(size=(people, 3, 2)) * 1e3, rng.random((people, 3))
    visibility = rng.integers(0, 4, (people, 3)).astype(np.int8)
    got, expected = made.apply(xy, visibility, scores), naive(made, xy, visibility, scores)
    for mine, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert got[1].dtype == np.int8


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [(2, 2, 2), (2, 1, 1), (3, 2, 3), (2, 3, 3), (3, 1, 1), (3, 3, 3), (0, 2, 0), (3, 0, 0), (0, 0, 0)],
)
def test_a_midpoint_is_as_sure_as_its_less_sure_parent(left, right, expected):
    """0 absent < 1 occluded < 3 unknown < 2 visible; never averaged with an absent parent."""
    xy, visibility, scores = remap(BODY, TARGET).apply(
        np.array([[[0.0, 4.0], [2.0, 8.0], [5.0, 5.0]]]),
        np.array([[left, right, 2]], np.int8),
        np.array([[0.9, 0.4, 1.0]]),
    )
    assert visibility[0, 0] == expected
    np.testing.assert_array_equal(xy[0, 0], [1.0, 6.0] if expected else [np.nan, np.nan])
    np.testing.assert_array_equal(scores[0, 0], 0.4 if expected else np.nan)


def test_copies_keep_their_numbers_where_nothing_is_labelled():
    """The source's coordinates survive visibility 0, and arrays of float32 stay so."""
    xy = np.array([[[1.5, 2.5], [0, 0], [7, 8]]], np.float32)
    moved, visibility, scores = remap(BODY, TARGET).apply(xy, np.zeros((1, 3), np.int8), None)
    np.testing.assert_array_equal(moved[0], [[np.nan, np.nan], [7, 8], [1.5, 2.5], [np.nan, np.nan]])
    assert moved.dtype == np.float32 and scores is None and not visibility.any()


@pytest.mark.parametrize(
    ("xy", "visibility", "message"),
    [
        (np.zeros((1, 4, 2)), np.zeros((1, 4), int), r"\(1, 4, 2\).*expected \(N, 3, 2\)"),
        (np.zeros((3, 2)), np.zeros(3, int), r"expected \(N, 3, 2\)"),
        (np.zeros((2, 3, 2)), np.zeros((1, 3), int), r"\(1, 3\).*expected \(N, 3, 2\)"),
        (np.zeros((1, 3, 2)), np.full((1, 3), -1), "visibility from -1 to -1, expected 0 to 3"),
    ],
)
def test_apply_refuses_arrays_that_do_not_fit(xy, visibility, message):
    """Shapes and values are named, found and expected."""
    with pytest.raises(SkeletonError, match=message):
        remap(BODY, TARGET).apply(xy, visibility)


NAMES = st.sampled_from(
    ["nose", "neck", "head", "tail", "left_eye", "right_eye", "LHip", "r_hip", "paw-left", "Thorax"]
)


@given(
    st.one_of(
        st.sampled_from(ALL).map(load), st.lists(NAMES, min_size=1, unique=True).map(lambda k: Skeleton("s", tuple(k)))
    )
)
def test_a_remap_to_itself_is_the_identity(skeleton):
    """Whatever the names: each keypoint is copied from its own column, and the numbers are untouched."""
    made = remap(skeleton, skeleton)
    assert made.first.tolist() == made.second.tolist() == list(range(len(skeleton)))
    assert set(made.relation.tolist()) == {Relation.SAME} and made.dropped == ()
    xy = np.arange(4.0 * len(skeleton)).reshape(2, -1, 2)
    moved, visibility, _ = made.apply(xy, np.full((2, len(skeleton)), 3, np.int8))
    np.testing.assert_array_equal(moved, xy)
    assert (visibility == 3).all()


# ---- names that people use


SPELLINGS = "left_shoulder,Left Shoulder,left-shoulder,LShoulder,lShoulder,leftShoulder,l_shoulder,L.Shoulder"
SPELLINGS += ",shoulder_l,shoulder left,ShoulderLeft,LEFT_SHOULDER,lshoulder,leftshoulder"


@pytest.mark.parametrize("spelling", SPELLINGS.split(","))
def test_limbs_are_known_in_any_usual_spelling(spelling):
    """A skeleton of one's own meets the built-in ones by its limbs."""
    made = remap(load("coco_17"), Skeleton("own", (spelling,)))
    assert made.first.tolist() == [5]


@pytest.mark.parametrize(
    "name",
    ["neck", "Neck", "head", "thorax", "pelvis", "head_top", "upper_neck", "chest", "hip", "hand", "left_toe", "rear"],
)
def test_a_name_that_data_sets_use_for_different_points_meets_no_built_in_one(name):
    """Not even with approximate: nobody knows which neck this one is."""
    own = Skeleton("own", (name,))
    assert not any(remap(load(built_in), own, approximate=True).mask.any() for built_in in ALL)
    assert not any(remap(own, load(built_in), approximate=True).mask.any() for built_in in ALL)


def test_own_skeletons_meet_by_equal_names_and_by_declared_landmarks():
    """Two guides that both say tail; and a neck that is said to be MPII's."""
    assert remap(Skeleton("a", ("neck", "tail")), Skeleton("b", ("tail", "neck"))).first.tolist() == [1, 0]
    declared = Skeleton("a", ("neck",), landmarks=("upper_neck/mpii",))
    assert remap(declared, load("mpii_16")).relation[8] == Relation.SAME
    assert remap(declared, Skeleton("b", ("neck",))).first.tolist() == [-1]


def test_match_knows_the_spellings_of_real_files():
    """AIC's COCO version, MHP's hyphens, OpenPose's camel case, CrowdPose's head; order and number count."""
    aic = "Right Shoulder,Right Elbow,Right Wrist,Left Shoulder,Left Elbow,Left Wrist,Right Hip,Right Knee,Right Ankle"
    aic += ",Left Hip,Left Knee,Left Ankle,Head top,Neck"
    mhp = "Right-ankle,Right-knee,Right-hip,Left-hip,Left-knee,Left-ankle,Pelvis,Thorax,Upper-neck,Head-top,Right-wrist"
    mhp += ",Right-elbow,Right-shoulder,Left-shoulder,Left-elbow,Left-wrist"
    body_25 = (
        "Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist MidHip RHip RKnee RAnkle LHip LKnee LAnkle REye"
    )
    body_25 += " LEye REar LEar LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel"
    crowdpose = [*COCO_NAMES[5:], "head", "neck"]
    assert match(aic.split(",")) is load("aic_14")
    assert match(mhp.split(",")) is match(mhp.replace("Thorax", "throax").split(",")) is load("mpii_16")
    assert match(body_25.split()) is load("openpose_body_25")
    assert match(crowdpose) is load("crowdpose_14")
    assert match(COCO_NAMES) is load("coco_17")
    assert match(COCO_NAMES[::-1]) is None and match(COCO_NAMES[1:]) is None and match([]) is None


@pytest.mark.parametrize("name", ALL)
def test_every_built_in_matches_its_own_names_alone(name):
    """No two built-in skeletons answer to the same names."""
    assert match(load(name).keypoint_names) is load(name)


# ---- COCO categories


def category(names, edges=(), name="person"):
    return {"id": 1, "name": name, "keypoints": list(names), "skeleton": [list(edge) for edge in edges]}


def test_categories_of_official_files(real_data):
    """The skeleton of each real file, by its names and the numbers of its annotations."""
    expected = {
        "coco_mini/person_keypoints_val2017.json": "coco_17",
        "crowdpose/example_crowdpose_val.json": "crowdpose_14",
        "coco_mmpose4/test_halpe.json": "halpe_136",
        "other/humanart/test_humanart.json": "coco_17",
        "other/aic/test_aic.json": "aic_14",
        "other/jhmdb/test_jhmdb_sub1.json": "jhmdb_15",
        "other/posetrack18/test_posetrack18_val.json": "posetrack18_17",
        "other/ochuman/test_ochuman.json": "coco_17",
    }
    for file, name in expected.items():
        raw = json.loads((real_data / file).read_text())
        k = len(raw["annotations"][0]["keypoints"]) // 3
        assert from_category(raw["categories"][0], num_keypoints=k) is load(name), file


def test_a_built_in_skeleton_keeps_its_own_edges():
    """CrowdPose's category carries COCO's edges, which reach beyond its 14 keypoints."""
    found = from_category(category([*COCO_NAMES[5:], "head", "neck"], [(16, 14), (17, 15), (2, 3)]))
    assert found.edges == load("crowdpose_14").edges


@pytest.mark.parametrize(
    ("count", "name"),
    [(17, "coco_17"), (21, "humanart_21"), (26, "halpe_26"), (133, "coco_wholebody_133"), (136, "halpe_136")],
)
def test_a_category_without_names_goes_by_its_count(count, name):
    """Halpe's files leave the names empty."""
    assert from_category(category([]), num_keypoints=count) is load(name)


def test_a_category_without_names_and_of_another_count_stays_anonymous():
    """14 are CrowdPose, LSP or AIC: nobody guesses. Its flips are unknown, so they are refused."""
    found = from_category(category([], [(1, 2)]), num_keypoints=14)
    assert (found.name, len(found)) == ("keypoints_14", 14)
    assert (found.keypoint_names[0], found.keypoint_names[-1]) == ("keypoint_0", "keypoint_13")
    assert found.edges == ((0, 1),)
    with pytest.raises(SkeletonError, match=r"keypoints_14.*twins are not known"):
        found.flip_index()
    with pytest.raises(SkeletonError, match=r"category 'person': keypoints: no names.*--skeleton"):
        from_category(category([]))


def test_official_files_whose_names_and_numbers_differ():
    """WholeBody lists 17 names for 133 keypoints, Human-Art 21 for 17; any other mismatch is an error."""
    assert from_category(category(COCO_NAMES), num_keypoints=133) is load("coco_wholebody_133")
    assert from_category(category(load("humanart_21").keypoint_names), num_keypoints=17) is load("coco_17")
    with pytest.raises(SkeletonError, match="17 names, but annotations of 18 keypoints"):
        from_category(category(COCO_NAMES), num_keypoints=18)


def test_edges_of_a_category_are_one_based_unless_a_zero_occurs():
    """COCO counts from 1, a few files from 0; what leaves the keypoints is left out."""
    names = ("angle_30", "angle_60", "angle_90")
    assert from_category(category(names, [(0, 1), (0, 2), (1, 2)], "triangle")).edges == ((0, 1), (0, 2), (1, 2))
    assert from_category(category(names, [(1, 2), (2, 3), (3, 4)])).edges == ((0, 1), (1, 2))
    odd = {"name": "x", "keypoints": list(names), "skeleton": [[1, 2], [1], "12", [1.5, 2], [-1, 2], None]}
    assert from_category(odd).edges == ((0, 1),)
    assert from_category({"name": "x", "keypoints": list(names), "skeleton": None}).edges == ()


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("nose", "left_paw", "right_paw"), {("left_paw", "right_paw")}),
        (("R-ear", "L-ear", "earTip_l", "earTip_r"), {("L-ear", "R-ear"), ("earTip_l", "earTip_r")}),
        (("front_left_paw", "front_right_paw"), {("front_left_paw", "front_right_paw")}),
        (("nose", "left_paw", "right_paw", "left_ear"), None),  # one twin is missing: not known
        (("LF_hoof", "RF_hoof"), None),  # no side that we read: not known, rather than none
        (("left_eye", "LEye", "right_eye"), None),
    ],
)
def test_twins_are_inferred_only_where_every_sided_name_has_one(names, pairs):
    """A wrong flip is worse than none."""
    found = from_category(category(names, name="My Tiger"))
    assert found.flip_pairs == (None if pairs is None else frozenset(pairs))
    assert found.name == f"my_tiger_{len(names)}"


def test_a_custom_skeleton_never_takes_a_built_in_name():
    """A category "coco" of 17 other keypoints is not coco_17."""
    found = from_category(category([f"point_{i}" for i in range(17)], name="coco"))
    assert found.name == "coco_17_custom"
    assert found.sigmas is None


@pytest.mark.parametrize("keypoints", [["nose", 3], "nose", {"nose": 1}, ["a", "a"], ["a", ""]])
def test_a_category_of_bad_names_is_refused(keypoints):
    """Text, each once."""
    with pytest.raises(SkeletonError):
        from_category({"name": "x", "keypoints": keypoints})


# ---- validation at birth, documents and files


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"keypoint_names": ()}, "at least one keypoint"),
        ({"keypoint_names": ("a", "a")}, r"keypoint names hold \['a'\] more than once"),
        ({"flip_pairs": frozenset({("a", "z")})}, r"flip_pairs name unknown keypoints \['z'\]"),
        ({"flip_pairs": frozenset({("a", "a")})}, r"flip_pairs hold \['a'\] more than once"),
        ({"flip_pairs": frozenset({("a", "b"), ("b", "c")})}, r"flip_pairs hold \['b'\] more than once"),
        ({"edges": ((0, 3),)}, r"edges \[\(0, 3\)\] leave its columns 0 to 2"),
        ({"edges": ((-1, 0),)}, "leave its columns"),
        ({"sigmas": (0.1, 0.2)}, "2 sigmas, expected 3"),
        ({"sigmas": ()}, "0 sigmas, expected 3"),
        ({"sigmas": (0.1, 0.0, 0.2)}, r"sigmas \[0.0\], expected finite numbers above 0"),
        ({"sigmas": (0.1, float("nan"), 0.2)}, "finite numbers above 0"),
        ({"sigma_source": "a paper"}, "sigma_source 'a paper' without sigmas"),
        ({"landmarks": ("nose",)}, "1 landmarks, expected 3"),
        ({"landmarks": ("nose", "nose", "")}, r"landmarks hold \['nose'\] more than once"),
        ({"aliases": (("z", "y"),)}, r"aliases name unknown keypoints \['z'\]"),
        ({"aliases": (("a", "b"),)}, r"aliases hold \['b'\] more than once"),
    ],
)
def test_a_skeleton_that_contradicts_itself_is_never_made(facts, message):
    """SkeletonError is a SchemaError, and names the skeleton and the fault."""
    with pytest.raises(SchemaError, match=f"skeleton 'mine': .*{message}"):
        Skeleton(**{"name": "mine", "keypoint_names": ("a", "b", "c")} | facts)


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_lost_in_the_metadata_document(name):
    """to_json, through text, and back: equal, sigmas to the last bit."""
    document = json.loads(json.dumps(load(name).to_json()))
    back = Skeleton.from_json(document)
    assert back == load(name) and hash(back) == hash(load(name))
    assert back.to_json() == document


TEXT = st.text(min_size=1, max_size=4)


@st.composite
def skeletons(draw):
    names = tuple(draw(st.lists(TEXT, min_size=1, max_size=6, unique=True)))
    shuffled, k = draw(st.permutations(names)), len(names)
    pairs = draw(
        st.none() | st.integers(0, k // 2).map(lambda n: frozenset(zip(shuffled[:n], shuffled[k - n :], strict=True)))
    )
    column = st.integers(0, k - 1)
    sigmas = draw(st.none() | st.lists(st.floats(1e-300, 1e300), min_size=k, max_size=k).map(tuple))
    marks = draw(st.sampled_from([(), ("",) * k, tuple(f"own_{i}" for i in range(k))]))
    spare = [alias for alias in draw(st.lists(TEXT, max_size=4, unique=True)) if alias not in names]
    return Skeleton(
        name=draw(TEXT),
        keypoint_names=names,
        edges=tuple(draw(st.lists(st.tuples(column, column), max_size=4))),
        flip_pairs=pairs,
        sigmas=sigmas,
        sigma_source=draw(st.none() | TEXT) if sigmas else None,
        source=draw(st.none() | TEXT),
        landmarks=marks,
        aliases=tuple((draw(st.sampled_from(names)), alias) for alias in spare),
    )


@given(skeletons())
def test_nothing_is_lost_of_any_skeleton(skeleton):
    """Unknown twins stay unknown, declared none stays none, every bit of every sigma, every alias and landmark."""
    back = Skeleton.from_json(json.loads(json.dumps(skeleton.to_json())))
    assert back == skeleton and back.to_json() == skeleton.to_json()


def documented() -> str:
    """The example of the module's docstring."""
    import kpdata.skeleton

    lines = kpdata.skeleton.__doc__.splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("    "))


def test_the_documented_file_loads(tmp_path):
    """What the docstring shows is a skeleton, as TOML and as JSON."""
    import tomllib

    path = tmp_path / "horse.toml"
    path.write_text(documented())
    horse = load(path)
    assert (horse.name, len(horse), horse.edges) == ("horse_5", 5, ((0, 1), (3, 4)))
    assert horse.flip_index().tolist() == [0, 2, 1, 3, 4]
    assert horse.sigmas == (0.26 / 10, 0.25 / 10, 0.25 / 10, 0.79 / 10, 0.89 / 10)
    assert horse.landmarks == ("nose", "left_eye", "right_eye", "horse_withers", "")
    assert horse.aliases == (("tail_base", "tailbase"),)
    other = tmp_path / "horse.json"
    other.write_text(json.dumps(tomllib.loads(documented())))
    assert load(str(other)) == horse


GOOD = 'name = "s_2"\nkeypoints = ["a", "b"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not a TOML file"),
        ('keypoints = ["a"]', "the key 'name' is missing"),
        ('name = "s"', "the key 'keypoints' is missing"),
        ('name = "s"\nkeypoints = "abc"', "keypoints is 'abc', expected a list of text"),
        ('name = "s"\nkeypoints = ["a", 3]', r"keypoints\[1\] is 3, expected text"),
        ('name = 3\nkeypoints = ["a"]', "name is 3, expected text"),
        (GOOD + 'flip_pair = [["a", "b"]]', "unknown key 'flip_pair'. did you mean flip_pairs"),
        (GOOD + 'flip_pairs = ["ab"]', "flip_pairs holds 'ab', expected pairs"),
        (
            GOOD + 'flip_pairs = [["a", "c"]]',
            r"flip_pairs holds \['a', 'c'\], expected pairs of two of the keypoints \['a', 'b'\]",
        ),
        (GOOD + "flip_pairs = 1", "flip_pairs is 1, expected a list of pairs"),
        (GOOD + 'flip_pairs = [["a", "a"]]', r"flip_pairs hold \['a'\] more than once"),
        (GOOD + "edges = [[1, 2]]", "columns 0 to 1"),
        (GOOD + "edges = [[0, true]]", "edges holds"),
        (GOOD + "[sigmas]\nvalues = [0.1]", "1 sigmas, expected 2"),
        (GOOD + '[sigmas]\nvalues = [0.1, "x"]', "sigmas.values.*expected numbers above 0"),
        (GOOD + "[sigmas]\nvalues = [0.1, 0.2]\ndivisor = 0", "divisor 0, expected numbers above 0"),
        (GOOD + "[sigmas]\ndivisor = 10.0", "'sigmas.values' is missing"),
        (GOOD + "sigmas = [0.1, 0.2]", "sigmas is .*expected a table"),
        (GOOD + '[landmarks]\nc = "nose"', r"landmarks or aliases of unknown keypoints \['c'\]"),
        (GOOD + '[aliases]\na = "x"', "a is 'x', expected a list of text"),
        (GOOD.replace("s_2", "coco_17"), "the name 'coco_17' is a built-in skeleton's"),
    ],
)
def test_a_bad_file_is_refused_with_file_key_found_and_expected(tmp_path, text, message):
    """No traceback of tomllib or of ours: a SkeletonError that starts with the file's name."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SkeletonError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_are_not_there_or_not_text(tmp_path):
    """Missing, binary, JSON that is a list: one sentence each."""
    with pytest.raises(SkeletonError, match=r"gone.toml: .*No such file"):
        load(tmp_path / "gone.toml")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(SkeletonError, match=r"a.json: holds \[1\], expected a table of keys"):
        load(tmp_path / "a.json")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SkeletonError, match=r"b.toml: not a TOML file"):
        load(tmp_path / "b.toml")


def test_an_unknown_name_suggests_the_closest():
    """A typo costs one look."""
    with pytest.raises(SkeletonError, match=r"no skeleton is named 'coco17'.*did you mean.*coco_17"):
        load("coco17")
    assert load(Path("coco_17")) is load("coco_17")
