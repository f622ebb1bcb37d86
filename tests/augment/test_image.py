"""Pictures: read right or refused by name, warped once, without moving."""

from __future__ import annotations

import base64
import builtins
import io
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from kpdata import converters, schema, synthesize
from kpdata.augment import image as im
from kpdata.augment import kernels
from kpdata.errors import FormatError, MissingExtra, SchemaError
from kpdata.synth import write_images

RNG = np.random.default_rng(0)
# Smooth, so that JPEG keeps it within a few grey levels; nothing in it is symmetric.
SMOOTH = cv2.resize(RNG.integers(0, 255, (5, 7, 3), np.uint8), (56, 40), interpolation=cv2.INTER_CUBIC)


def save(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hide optional packages from imports."""

    def hide(*names: str) -> None:
        real = builtins.__import__

        def importing(name: str, *args: Any, **kwargs: Any) -> Any:
            if name in names:
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", importing)

    return hide


@pytest.mark.parametrize("hidden", [(), ("simplejpeg",), ("simplejpeg", "cv2")])
def test_every_decoder_gives_the_same_picture(tmp_path: Path, only: Any, hidden: tuple[str, ...]) -> None:
    """simplejpeg, OpenCV and Pillow: red stays red, nothing is turned."""
    file = save(tmp_path / "a.jpg", Image.fromarray(SMOOTH), quality=97, subsampling=0)
    only(*hidden)
    found = im.read_image(file, (56, 40))
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.abs(found.astype(int) - SMOOTH).max() <= 8


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "I;16", "CMYK"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    """One channel, palette, alpha, 16 bits and CMYK show what they show in Pillow."""
    grey = SMOOTH.mean(axis=2).astype(np.uint8)
    if mode == "I;16":
        file = save(tmp_path / "a.png", Image.fromarray(grey.astype(np.uint16) * 257))
        expected = np.repeat(grey[..., None], 3, axis=2)
    else:
        picture = Image.fromarray(SMOOTH).convert(mode)
        file = save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), picture)
        expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(im.read_image(file), expected)


def test_grey_and_cmyk_jpeg(tmp_path: Path) -> None:
    """The two kinds of JPEG that decoders disagree about."""
    grey = save(tmp_path / "grey.jpg", Image.fromarray(SMOOTH).convert("L"), quality=97)
    found = im.read_image(grey).astype(int)
    assert np.abs(found - np.asarray(Image.open(grey).convert("RGB"))).max() <= 1
    cmyk = save(tmp_path / "cmyk.jpg", Image.fromarray(SMOOTH).convert("CMYK"), quality=97)
    assert np.abs(im.read_image(cmyk).astype(int) - SMOOTH).max() <= 12


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    """What annotators saw, not the colour that hides under a transparent pixel."""
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, :3] = (10, 20, 30, 255)
    found = im.read_image(save(tmp_path / "a.png", Image.fromarray(pixels)))
    assert found[0, 0].tolist() == [10, 20, 30]
    assert found[0, 5].tolist() == [255, 255, 255]


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("format", ["jpg", "png", "tif"])
def test_exif_orientation(tmp_path: Path, tag: int, format: str) -> None:
    """All eight orientations as Pillow's exif_transpose shows them; the annotation's size decides where it can."""
    exif = Image.Exif()
    exif[0x0112] = tag
    file = save(tmp_path / f"a.{format}", Image.fromarray(SMOOTH), exif=exif)
    with Image.open(file) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    shown = im.read_image(file, orientation="exif")
    assert np.abs(shown.astype(int) - expected).max() <= 2
    if tag >= 5 and format != "tif":  # Pillow has turned the TIFF before anybody can ask
        assert im.read_image(file, (56, 40)).shape == (40, 56, 3)
        np.testing.assert_array_equal(im.read_image(file, (40, 56)), shown)
        np.testing.assert_array_equal(im.read_image(file, (56, 40)), im.read_image(file, orientation="stored"))
    elif tag > 1 and format != "tif":
        with pytest.raises(FormatError, match=rf"a\.{format}: EXIF orientation {tag}, and 56 x 40 px does not tell"):
            im.read_image(file, (56, 40))


def test_exif_without_a_size_does_not_decide(tmp_path: Path) -> None:
    """Nobody guesses."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = save(tmp_path / "a.jpg", Image.fromarray(SMOOTH), exif=exif)
    with pytest.raises(
        FormatError, match=r"a\.jpg: EXIF orientation 6, and without a size nobody knows .*orientation='exif'"
    ):
        im.read_image(file)


def test_another_size_than_annotated(tmp_path: Path) -> None:
    """Keypoints of a picture of another size would lie in wrong places."""
    file = save(tmp_path / "a.png", Image.fromarray(SMOOTH))
    with pytest.raises(FormatError, match=r"a\.png: the picture is 56 x 40 px, its annotation says 57 x 40"):
        im.read_image(file, (57, 40))


@pytest.mark.parametrize("hidden", [(), ("simplejpeg",), ("simplejpeg", "cv2")])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_truncated_files_are_named(tmp_path: Path, only: Any, hidden: tuple[str, ...], name: str) -> None:
    """No decoder fills the rest with grey in silence."""
    file = save(tmp_path / name, Image.fromarray(RNG.integers(0, 255, (60, 60, 3), np.uint8)))
    file.write_bytes(file.read_bytes()[:-400])
    only(*hidden)
    with pytest.raises(FormatError, match=rf"{name}: is not a picture that can be read .*truncated"):
        im.read_image(file)


def test_files_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    """Missing, a folder, empty, text, and pixels whose range nobody knows."""
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.write_bytes(b"")
    text.write_text("hello")
    floats = save(tmp_path / "floats.tif", Image.fromarray(np.ones((3, 3), np.float32)))
    for file, words in (
        (tmp_path / "no.jpg", "no such picture"), (tmp_path, "cannot be read"), (empty, "is empty"),
        (text, "is not a picture"), (floats, "float32 pixels, expected 8 or 16 bits"),
    ):  # fmt: skip
        with pytest.raises(FormatError, match=f"{file.name}: {words}"):
            im.read_image(file)


def test_bytes_carry_a_name() -> None:
    """A picture in memory is named in messages."""
    stream = io.BytesIO()
    Image.fromarray(SMOOTH).save(stream, "png")
    np.testing.assert_array_equal(im.read_image(stream.getvalue()), SMOOTH)
    with pytest.raises(FormatError, match="shard 3, key 7: is not a picture"):
        im.read_image(b"no", name="shard 3, key 7")


# --------------------------------------------------------------------------------------------------------------- warp


@given(st.integers(0, 7), st.integers(1, 9), st.integers(1, 9))
def test_flips_and_turns_copy_pixels(element: int, width: int, height: int) -> None:
    """Exactly what NumPy does; OpenCV is not asked."""
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    expected = np.rot90(picture[:, ::-1] if element >= 4 else picture, element % 4)
    found = im.warp(picture, *kernels.d4((width, height), element))
    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous


def test_a_move_by_whole_pixels_is_exact() -> None:
    """A crop is a copy, and what lies beyond the picture is the border."""
    found = im.warp(SMOOTH, kernels.translate(-10, 5), (30, 20), (1, 2, 3))
    np.testing.assert_array_equal(found[5:], SMOOTH[:15, 10:40])
    assert (found[:5] == (1, 2, 3)).all()


@pytest.mark.parametrize("border", ["replicate", "reflect"])
@pytest.mark.parametrize("factor", [0.9, 0.21])
def test_borders_show_the_picture(border: Any, factor: float) -> None:
    """A constant picture stays constant under any map, also with the averaging before it."""
    flat = np.full((50, 70, 3), 93, np.uint8)
    found = im.warp(flat, kernels.rotate(30) @ kernels.scale(factor) @ kernels.translate(5, 9), (40, 40), border)
    assert (found == 93).all()


def test_the_averaging_can_be_switched_off() -> None:
    """antialias=False is the official recipes' plain warpAffine."""
    m = kernels.rotate(10) @ kernels.scale(0.3)
    picture = RNG.integers(0, 255, (200, 220, 3), np.uint8)
    expected = cv2.warpAffine(picture, m[:2], (60, 50), flags=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(im.warp(picture, m, (60, 50), antialias=False), expected)
    mild = kernels.rotate(10) @ kernels.scale(0.6)
    np.testing.assert_array_equal(
        im.warp(picture, mild, (60, 50)), cv2.warpAffine(picture, mild[:2], (60, 50), flags=cv2.INTER_LINEAR)
    )


@pytest.mark.parametrize("shrink", [2.0, 2.6, 3.9, 6.0])
def test_shrinking_averages(shrink: float) -> None:
    """Noise comes out nearer to the mean of 8 x 8 places a pixel than bilinear weights alone bring it."""
    picture = RNG.integers(0, 255, (500, 500, 3), np.uint8)
    m = kernels.translate(30, 30) @ kernels.rotate(15) @ kernels.scale(1 / shrink) @ kernels.translate(-250, -250)
    dense = kernels.translate(-0.5, -0.5) @ kernels.scale(8) @ kernels.translate(0.5, 0.5) @ m
    truth = cv2.warpAffine(picture, dense[:2], (480, 480)).reshape(60, 8, 60, 8, 3).mean(axis=(1, 3))
    ours, plain = (im.warp(picture, m, (60, 60), antialias=on).astype(float) - truth for on in (True, False))
    assert np.sqrt(np.square(ours).mean()) < 0.75 * np.sqrt(np.square(plain).mean())


def test_pictures_beyond_opencvs_limit() -> None:
    """A panorama wider than 32,766 px is warped too: the part that is seen."""
    picture = np.zeros((4, 40_000, 3), np.uint8)
    picture[:, 35_000:] = 200
    found = im.warp(picture, kernels.translate(-34_990.5, 0), (20, 4))
    assert found[0, :9].max() == 0
    assert found[0, 11:].min() == 200


def test_warps_that_cannot_be_are_refused() -> None:
    """In words."""
    with pytest.raises(SchemaError, match="has no inverse"):
        im.warp(SMOOTH, np.diag([1.0, 0, 1]), (5, 5))
    with pytest.raises(SchemaError, match="expected uint8"):
        im.warp(SMOOTH.astype(float), np.eye(3), (5, 5))  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="not empty"):
        im.warp(SMOOTH, np.eye(3), (0, 5))


def test_without_opencv_one_line_says_what_to_install(only: Any) -> None:
    """Flips still work: they copy."""
    only("cv2")
    with pytest.raises(
        MissingExtra, match=r"warping pictures needs opencv-python-headless. pip install 'kpdata\[augment\]'"
    ):
        im.warp(SMOOTH, kernels.rotate(3), (5, 5))
    assert im.warp(SMOOTH, kernels.flip_horizontal((56, 40)), (56, 40)).shape == SMOOTH.shape


# ------------------------------------------------------------------------------------------------------------- colours


def test_colours_by_hand() -> None:
    """Brightness scales, contrast scales about the mean grey, no saturation is the grey of BT.601."""
    picture = np.array([[[200, 100, 50], [20, 40, 60]]], np.uint8)
    assert im.recolour(picture, brightness=1.5).tolist() == [[[255, 150, 75], [30, 60, 90]]]
    grey = 0.299 * 110 + 0.587 * 70 + 0.114 * 55
    expected = np.rint(np.clip(grey + 0.5 * (picture - grey), 0, 255))
    assert np.abs(im.recolour(picture, contrast=0.5) - expected).max() <= 1
    luma = np.rint(picture @ [0.299, 0.587, 0.114])
    assert np.abs(im.recolour(picture, saturation=0) - luma[..., None]).max() <= 1
    np.testing.assert_array_equal(im.recolour(picture), picture)


@given(st.floats(-180, 180), st.floats(0, 2))
def test_hue_and_saturation_leave_grey_alone(hue: float, saturation: float) -> None:
    """Grey has no colour to turn; and both paths, table and matrix, agree on brightness."""
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.abs(im.recolour(grey, saturation=saturation, hue=hue).astype(int) - grey).max() <= 1
    both = [im.recolour(grey, 0.8, 1.1, s) for s in (1.0, 1.0 + 1e-9)]
    assert np.abs(both[0].astype(int) - both[1]).max() <= 1


# ------------------------------------------------------------------------------------------------------------- samples


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A small synthetic dataset and its pictures."""
    dataset, folder = synthesize(6, seed=3), tmp_path_factory.mktemp("pictures")
    write_images(dataset, folder, force=True)
    return dataset, folder


def test_all_people_of_an_image_are_one_sample(people: tuple[Any, Path]) -> None:
    """Each person's row stands in the sample of its image, in the dataset's order, and the picture has its size."""
    dataset, folder = people
    for row, found in enumerate(im.samples(dataset, folder)):
        rows = np.flatnonzero(dataset.image_rows() == row)
        np.testing.assert_array_equal(found.keypoints, dataset.keypoints[rows])
        np.testing.assert_array_equal(found.visibility, dataset.visibility[rows])
        np.testing.assert_array_equal(found.extras["rows"], rows)
        assert found.annotation_ids.tolist() == schema.values(dataset.persons["annotation_id"])[rows].tolist()
        assert found.size == (dataset.images["width"][row].as_py(), dataset.images["height"][row].as_py())
    assert row == dataset.images.num_rows - 1


def test_samples_can_be_indexed_and_sent(people: tuple[Any, Path]) -> None:
    """Rows in the order asked for; a copy in a worker gives the same."""
    dataset, folder = people
    some = im.Samples(dataset, folder, [4, 1])
    assert [s.image_id for s in some] == [some[0].image_id, some[-1].image_id] == [s.image_id for s in some[:]]
    assert some[0].image_id == dataset.images["image_id"][4].as_py()
    assert len(some) == 2
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(some))[1].image, some[1].image)
    assert im.sample(dataset, 4, folder).image_id == some[0].image_id
    with pytest.raises(IndexError):
        some[2]
    with pytest.raises(SchemaError, match="expected positions in a table of 6 images"):
        im.Samples(dataset, folder, [6])


def test_masks_are_pycocotools(people: tuple[Any, Path]) -> None:
    """Masks of a synthetic person are what pycocotools decodes, and their pixels are the annotated area."""
    dataset, folder = people
    found = next(im.samples(dataset, folder, masks=True, polygons=True))
    assert found.masks is not None
    for mask, row, area in zip(found.masks, found.extras["rows"], found.area, strict=True):
        rle = dataset.persons["rle"][int(row)].as_py()
        if rle:
            np.testing.assert_array_equal(mask, kernels.decode_rle(json.loads(rle)))
            assert mask.sum() == area


def test_people_of_a_sample(people: tuple[Any, Path]) -> None:
    """One sample a person, with its own row of everything; none for an empty image."""
    dataset, folder = people
    whole = max(im.samples(dataset, folder, masks=True), key=lambda s: len(s.keypoints))
    single = im.people(whole)
    assert len(single) == len(whole.keypoints) > 1
    for i, one in enumerate(single):
        np.testing.assert_array_equal(one.keypoints, whole.keypoints[[i]])
        np.testing.assert_array_equal(one.masks, whole.masks[[i]])
        assert one.extras["rows"].tolist() == [whole.extras["rows"][i]]
        assert one.image is whole.image
    nobody = whole.changed(
        keypoints=whole.keypoints[:0], visibility=whole.visibility[:0], bbox=None, area=None, center=None, scale=None,
        masks=None, annotation_ids=None,
    )  # fmt: skip
    assert im.people(nobody) == []


def test_a_missing_picture_is_named(people: tuple[Any, Path], tmp_path: Path) -> None:
    """With its whole path."""
    dataset, _ = people
    with pytest.raises(FormatError, match=r"\.jpg: no such picture"):
        im.Samples(dataset, tmp_path)[0]


def test_embedded_pictures(people: tuple[Any, Path]) -> None:
    """Without a folder the picture comes from the dataset itself, Base64 as LabelMe keeps it."""
    dataset, _ = people
    with pytest.raises(FormatError, match=r"no picture is embedded in the dataset. name the folder"):
        im.Samples(dataset, None)[0]
    width, height = (dataset.images[side][0].as_py() for side in ("width", "height"))
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    blobs = pa.Table.from_pydict(
        {
            "image_id": [dataset.images["image_id"][0].as_py()], "name": ["imageData"],
            "data": [base64.b64encode(stream.getvalue())],
        },
        schema=schema.BLOBS,
    )  # fmt: skip
    np.testing.assert_array_equal(im.Samples(replace(dataset, blobs=blobs), None)[0].image, pixels)


def test_real_photographs(real_data: Path) -> None:
    """All 79 photographs of coco_mini, two of them grey, at the size that the annotations say."""
    dataset = converters.read(real_data / "coco_mini" / "person_keypoints_val2017.json")
    pictures = im.Samples(dataset, real_data / "coco_mini" / "val2017")
    assert len(pictures) == 79
    assert sum(len(found.keypoints) for found in pictures) == len(dataset)


def test_mpii_crops_come_along(real_data: Path) -> None:
    """center and scale are MPII's crop as HRNet frames it: 15 px * scale lower, 250 px * scale wide."""
    dataset = converters.read(real_data / "mpii" / "test_mpii.json")
    raw = json.loads((real_data / "mpii" / "test_mpii.json").read_text())
    found = im.Samples(dataset, real_data / "mpii")
    assert found._columns["scale"][0].tolist() == [raw[0]["scale"] * 250] * 2
    expected = np.array(raw[0]["center"]) - 1 + [0, 15 * raw[0]["scale"]]
    np.testing.assert_allclose(found._columns["center"][0], expected)


def test_importing_is_light() -> None:
    """OpenCV, Pillow and decoders are imported by the functions that need them."""
    script = "import sys, kpdata.augment.crops, kpdata.augment.transforms; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"cv2", "PIL", "simplejpeg", "albumentations", "torch", "pandas", "pycocotools"} & set(loaded)


def test_pixels_that_are_missing_before_the_end(tmp_path: Path) -> None:
    """A JPEG that lacks a piece but has its end marker is refused, not filled with grey."""
    pytest.importorskip("simplejpeg")
    whole = save(
        tmp_path / "a.jpg", Image.fromarray(RNG.integers(0, 255, (60, 80, 3), np.uint8)), quality=90
    ).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    with pytest.raises(FormatError, match=r"cut\.jpg: its pixels are damaged .* fetch the picture again"):
        im.read_image(tmp_path / "cut.jpg")


def test_no_object_addresses_in_messages(tmp_path: Path) -> None:
    """A file that is no picture is named, and nothing else."""
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(FormatError, match=r"a\.jpg: is not a picture that can be read\. is the file whole") as told:
        im.read_image(tmp_path / "a.jpg")
    assert "0x" not in str(told.value)


def test_pillow_is_asked_only_where_there_is_a_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain JPEG is decoded without it; one with EXIF is turned as before, also behind fill bytes and a comment."""
    pytest.importorskip("simplejpeg")
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = save(tmp_path / "a.jpg", Image.fromarray(SMOOTH))
    tagged = save(tmp_path / "b.jpg", Image.fromarray(SMOOTH), exif=exif).read_bytes()
    tagged = tagged[:2] + b"\xff\xfe\x00\x04hi\xff\xff\xff" + tagged[3:]
    assert im.read_image(tagged, orientation="exif").shape == (SMOOTH.shape[1], SMOOTH.shape[0], 3)
    monkeypatch.setattr(Image, "open", None)
    assert im.read_image(plain).shape == SMOOTH.shape
