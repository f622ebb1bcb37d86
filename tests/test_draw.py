"""Drawing puts colour at keypoints and only there; pictures of every kind load as RGB."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kpdata import draw, schema, skeleton, synth
from kpdata.errors import DestinationExists, FormatError, SchemaError
from kpdata.skeleton import Skeleton

GREY = np.full((120, 160, 3), 128, np.uint8)
LIMB = Skeleton("limb", ("left_elbow", "right_wrist", "nose"), edges=((0, 1),))
XY = np.array([[[30.0, 40.0], [110.0, 90.0], [130.0, 20.0]]])


def changed(before, after):
    return (before != after).any(-1)


# ------------------------------------------------------------------------------------------------------- on a picture


def test_visible_keypoints_have_the_colour_of_their_side():
    """Blue on the left, orange on the right, green in the middle; the input is not touched."""
    image = GREY.copy()
    out = draw.draw(image, XY, np.array([[2, 2, 3]]), LIMB)
    assert (image == GREY).all()
    for (x, y), colour in zip(XY[0].astype(int), (draw.LEFT, draw.RIGHT, draw.MIDDLE), strict=True):
        assert out[y, x] == pytest.approx(colour, abs=3)


def test_nothing_is_drawn_elsewhere():
    """Every changed pixel is near a keypoint, the limb or the box."""
    box = np.array([[20.0, 10.0, 125.0, 95.0]])
    out = draw.draw(GREY, XY, np.array([[2, 2, 2]]), LIMB, boxes=box)
    y, x = np.nonzero(changed(GREY, out))
    near = np.zeros(len(x), bool)
    for px, py in XY[0]:
        near |= np.hypot(x - px, y - py) < 5
    (ax, ay), (bx, by) = XY[0, :2]
    t = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2), 0, 1)
    near |= np.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay)) < 3
    left, top, right, bottom = 19.5, 9.5, 144.5, 104.5
    inside = (x > left - 3) & (x < right + 3) & (y > top - 3) & (y < bottom + 3)
    edge = np.minimum.reduce([abs(x - left), abs(x - right), abs(y - top), abs(y - bottom)])
    near |= inside & (edge < 3)
    assert near.all() and len(x) > 300


def test_occluded_is_a_ring_and_absent_is_nothing():
    """The middle of an occluded keypoint stays as it was; an absent one leaves no trace, nor do its limbs."""
    out = draw.draw(GREY, XY, np.array([[0, 1, 0]]), LIMB)
    marked = changed(GREY, out)
    assert not marked[90, 110] and marked[85:96, 105:116].sum() > 8
    marked[80:101, 100:121] = False
    assert not marked.any()
    nowhere = draw.draw(GREY, np.full((1, 3, 2), np.nan), np.array([[2, 2, 2]]), LIMB)
    assert np.array_equal(nowhere, GREY)


def test_lines_grow_with_the_person():
    """A person four times as large has bolder limbs."""
    big = np.full((800, 1000, 3), 128, np.uint8)

    def across(scale):
        xy = np.array([[[100.0, 200.0], [100.0 + 160 * scale, 200.0], [100.0, 100.0]]])
        out = draw.draw(big, xy, np.array([[2, 2, 2]]), LIMB)
        return changed(big, out)[:, int(100 + 80 * scale)].sum()

    assert across(4) > 1.8 * across(1) > 0


def test_people_beyond_the_edge_are_cut():
    """Coordinates outside, and people wholly outside, are no error."""
    xy = np.array([[[-20.0, 40.0], [60.0, 60.0], [500.0, 500.0]], [[900.0, 900.0]] * 3])
    out = draw.draw(GREY, xy, np.full((2, 3), 2), LIMB, boxes=np.array([[-30.0, 30, 600, 600], [899, 899, 2, 2]]))
    assert out.shape == GREY.shape and changed(GREY, out)[60, 60]


def test_texts_are_written_beside_the_person():
    """Names and labels change pixels that the plain drawing does not."""
    plain = draw.draw(GREY, XY, np.array([[2, 2, 2]]), LIMB)
    assert changed(plain, draw.draw(GREY, XY, np.array([[2, 2, 2]]), LIMB, names=True)).sum() > 50
    assert changed(plain, draw.draw(GREY, XY, np.array([[2, 2, 2]]), LIMB, labels=["0.93"])).sum() > 20


def test_draw_image_draws_its_own_people_only():
    """People of another image stay away; a crowd without keypoints is no error."""
    people = synth.synthesize(3, seed=1, size=(160, 120), crowds=1.0)
    out = draw.draw_image(GREY, people, 2)
    rows = people.image_rows() == 1
    visible = np.rint(people.keypoints[rows][people.visibility[rows] == 2]).astype(int)
    assert changed(GREY, out)[visible[:, 1], visible[:, 0]].all()
    assert np.array_equal(draw.draw_image(GREY, people, 77), GREY)
    bare = draw.draw_image(GREY, people, 2, boxes=False)
    assert changed(GREY, bare).sum() < changed(GREY, out).sum()


def test_wrong_shapes_are_refused():
    """A sentence with the shapes found and expected."""
    with pytest.raises(SchemaError, match=r"expected \(N, 17, 2\)"):
        draw.draw(GREY, XY, np.array([[2, 2, 2]]), skeleton.load("coco_17"))
    with pytest.raises(SchemaError, match=r"\(H, W, 3\) uint8"):
        draw.draw(GREY[..., 0], XY, np.array([[2, 2, 2]]), LIMB)
    with pytest.raises(SchemaError, match="one for each person"):
        draw.draw(GREY, XY, np.array([[2, 2, 2]]), LIMB, labels=["a", "b"])


# --------------------------------------------------------------------------------------------------------------- files


def test_draw_dataset_writes_a_contact_sheet(tmp_path):
    """The first images with people, in a grid that another program can open."""
    people = synth.synthesize(4, seed=1, size=(160, 120))
    synth.write_images(people, tmp_path / "images")
    assert draw.draw_dataset(people, tmp_path / "images", tmp_path / "sheet.png", limit=3, columns=2) == 3
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 + 2 * 368, 8 + 2 * (270 + 22 + 8))
    with pytest.raises(DestinationExists):
        draw.draw_dataset(people, tmp_path / "images", tmp_path / "sheet.png")
    with pytest.raises(FormatError, match=r"\.png, \.jpg"):
        draw.draw_dataset(people, tmp_path / "images", tmp_path / "sheet.gif")
    with pytest.raises(FormatError, match=r"000001\.jpg: there is no such file"):
        draw.draw_dataset(people, tmp_path, tmp_path / "other.png")
    with pytest.raises(SchemaError, match="no image with people"):
        draw.draw_dataset(people.select(persons=np.array([], int)), tmp_path / "images", tmp_path / "other.png")


def test_grid_keeps_pictures_whole():
    """Each picture appears once, in order, unscaled where it fits."""
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    sheet = draw.grid([np.full((20, 30, 3), c, np.uint8) for c in colours], columns=2, cell=60)
    places = [np.argwhere((sheet == c).all(-1)) for c in colours]
    assert [len(p) for p in places] == [600] * 3
    assert places[0][0][1] < places[1][0][1] and places[2][0][0] > places[0][0][0]
    with pytest.raises(SchemaError, match="0 pictures"):
        draw.grid([])


def saved(path, array, mode=None, **options):
    image = Image.fromarray(array)
    image = image if mode is None else image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(path, **options)
    return path


def test_pictures_of_every_kind_load_as_rgb(tmp_path):
    """Grey, palette, alpha, CMYK and 16 bits come out as (H, W, 3) uint8 with the colours that they had."""
    colour = np.zeros((6, 8, 3), np.uint8)
    colour[:, 4:] = (200, 40, 90)
    for name, mode in (("a.png", "P"), ("b.png", "RGBA"), ("c.tif", "CMYK"), ("d.bmp", None)):
        found = draw.load_image(saved(tmp_path / name, colour, mode))
        assert found.shape == (6, 8, 3) and found.dtype == np.uint8
        assert np.abs(found.astype(int) - colour).max() <= 2
    grey = draw.load_image(saved(tmp_path / "e.png", colour[..., 0]))
    assert (grey == colour[..., :1]).all() and grey.shape == (6, 8, 3)
    deep = np.array([[0, 256, 65535]], np.uint16)
    assert draw.load_image(saved(tmp_path / "f.png", deep))[0].tolist() == [[0] * 3, [1] * 3, [255] * 3]


def test_exif_rotation_follows_the_annotation(tmp_path):
    """Stored orientation, unless only the turned picture has the size that the annotation states."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to show
    path = saved(tmp_path / "turned.png", np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3), exif=exif)
    stored = draw.load_image(path)
    assert stored.shape == (6, 8, 3)
    assert np.array_equal(draw.load_image(path, size=(8, 6)), stored)
    assert np.array_equal(draw.load_image(path, size=(6, 8)), np.rot90(stored, -1))
    assert draw.load_image(path, size=(5, 5)).shape == (6, 8, 3)


def test_bad_picture_files_are_named(tmp_path):
    """Missing, damaged and foreign files give a sentence, not a traceback."""
    with pytest.raises(FormatError, match=r"none\.jpg: there is no such file"):
        draw.load_image(tmp_path / "none.jpg")
    with pytest.raises(FormatError, match="not a picture"):
        draw.load_image(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    for name in ("cut.png", "cut.jpg"):
        path = saved(tmp_path / name, noise)
        path.write_bytes(path.read_bytes()[:700])
        with pytest.raises(FormatError, match=rf"{name}: not a picture"):
            draw.load_image(path)
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(FormatError, match=r"text\.jpg: not a picture"):
        draw.load_image(tmp_path / "text.jpg")
    with pytest.raises(FormatError, match="floating-point"):
        draw.load_image(saved(tmp_path / "float.tif", np.ones((3, 3), np.float32)))


def test_real_photographs_load_at_the_annotated_size(real_data):
    """Every photograph that COCO's validation annotation lists here, two grey ones among them."""
    import json

    folder = real_data / "coco_mini"
    images = json.loads((folder / "person_keypoints_val2017.json").read_text())["images"]
    paths = {p.name: p for p in folder.rglob("*.jpg")}
    found = [entry for entry in images if entry["file_name"] in paths]
    assert len(found) > 50
    for entry in found[::8]:
        assert draw.load_image(paths[entry["file_name"]]).shape == (entry["height"], entry["width"], 3)


def test_predictions_show_their_scores():
    """The score is written where asked, and `scores=False` leaves it out."""
    people = synth.synthesize(1, seed=1, people=(1, 1))
    predictions, _ = synth.simulate_predictions(people, missed_people=0, false_positives=0)
    canvas = np.full((480, 640, 3), 128, np.uint8)
    with_scores, without = (draw.draw_image(canvas, predictions, 1, scores=on) for on in (True, False))
    assert changed(with_scores, without).any() and schema.valid(predictions.persons["score"]).all()
