"""Read a picture as the annotator saw it: orientation, depth, channels, and files that end early."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kpdata.augment.kernels import Size
from kpdata.errors import FormatError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
Orientation = Literal["annotation", "exif", "stored"]

_EXIF_ORIENTATION = 0x0112
LARGEST = 89_478_485  # px: above, Pillow warns of decompression bombs


def read_image(
    source: Path | str | bytes,
    size: Size | None = None,
    *,
    orientation: Orientation = "annotation",
    name: str | None = None,
) -> Pixels:
    """(H, W, 3) uint8 RGB of a picture file, or of its bytes (`name` stands for them in messages).

    size: (width, height) in px that the annotation states; FormatError where the picture has another. Cameras store a
    turn as an EXIF tag, and annotation tools either apply it or do not:
    - `annotation`: the orientation whose size equals `size`; FormatError where that does not decide (a half turn or a
      mirror, a square picture, no size given).
    - `exif`: as the tag says; `stored`: as the pixels lie in the file.

    One channel is repeated; 16 bits keep the upper 8; palettes and CMYK are converted; transparent parts lie on white.
    FormatError names the file: missing, not a picture, truncated, 32-bit or floating-point pixels (nobody knows their
    range). JPEG is decoded by simplejpeg where it is installed, else by OpenCV, else by Pillow; all else by Pillow.
    """
    data, label = file_bytes(source, name)
    pixels, tag = _decode(data, label)
    if tag == 1 or orientation == "stored":
        turned = pixels
    elif orientation == "exif":
        turned = _orient(pixels, tag)
    else:
        turned = _orient_as_annotated(pixels, tag, size, label)
    if size is not None and turned.shape[1::-1] != tuple(size):
        raise FormatError(
            label,
            f"the picture is {turned.shape[1]} x {turned.shape[0]} px, its annotation says {size[0]} x {size[1]}",
            hint="keypoints of a picture of another size would be in wrong places",
        )
    return np.ascontiguousarray(turned)


def file_bytes(source: Path | str | bytes, name: str | None) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, name or "picture in memory"
    try:
        return Path(source).read_bytes(), name or str(source)
    except FileNotFoundError as error:
        raise FormatError(source, "no such picture", hint="is this the folder of the images?") from error
    except OSError as error:
        raise FormatError(source, f"cannot be read ({error.strerror})") from error


def _decode(data: bytes, label: str) -> tuple[Pixels, int]:
    """Pixels as they lie in the file, and the EXIF orientation (1: upright) that is still to be applied."""
    facts = jpeg_facts(data)
    if facts is not None and facts.components in (1, 3) and facts.pixels <= LARGEST:
        found = _decode_jpeg(data, label)
        if found is not None and not facts.tagged:
            return found, 1  # Pillow would only look for a tag that is not there
    else:
        found = None
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as picture:
            # Pixels before the tag: Pillow turns TIFFs itself.
            pixels = _pillow_pixels(picture, label) if found is None else found
            return pixels, _tag(picture)
    except FormatError:
        raise
    except Image.DecompressionBombError as error:
        raise FormatError(label, f"too many pixels ({error})") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        what = "is empty" if not data else f"is not a picture that can be read{why}"
        raise FormatError(label, what, hint="is the file whole? a broken download ends early") from error


class Jpeg(NamedTuple):
    """What the segments before a JPEG's pixels say."""

    components: int  # 1: grey, 3: colours, 4: CMYK
    size: Size
    tagged: bool  # there may be an EXIF orientation: APP1 holds EXIF or XMP
    sequential: bool  # rows come one after the other (baseline and extended, Huffman); progressive ones do not
    frame: int  # where the frame header begins

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]


def jpeg_facts(data: bytes) -> Jpeg | None:
    """Read from the markers (ITU-T T.81, B.1.1); None where they are not those of a JPEG of 8 bits."""
    place, tagged = 2, False
    if data[:2] != b"\xff\xd8":
        return None
    while place + 9 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill bytes may stand before any marker
            place += 1
            continue
        tagged |= marker == 0xE1
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            height, width = int.from_bytes(data[place + 5 : place + 7]), int.from_bytes(data[place + 7 : place + 9])
            if data[place + 4] != 8:
                return None
            return Jpeg(data[place + 9], (width, height), tagged, marker in (0xC0, 0xC1), place)
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return None


def _decode_jpeg(data: bytes, label: str) -> Pixels | None:
    """Pixels of a grey or colour JPEG by the fastest decoder there is; None: Pillow decodes, or says what is wrong.

    FormatError where pixels are missing though the file has an end: Pillow would fill in grey, silently.
    """
    try:
        import simplejpeg  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return _decode_with_opencv(data)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        if "end of data segment" in str(error) or "bad Huffman code" in str(error):
            raise FormatError(label, f"its pixels are damaged ({error})", hint="fetch the picture again") from error
        return None  # it refuses recoverable oddities too
    return pixels


def _decode_with_opencv(data: bytes) -> Pixels | None:
    if not data.rstrip(b"\0").endswith(b"\xff\xd9"):  # OpenCV fills what a truncated file lacks with grey, silently
        return None
    try:
        import cv2
    except ImportError:
        return None
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return None if pixels is None else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def _pillow_pixels(picture: Image, label: str) -> Pixels:
    from PIL import Image

    picture.load()
    if picture.mode in ("I", "F"):
        array = np.asarray(picture)
        if picture.mode == "F" or array.min() < 0 or array.max() > 0xFFFF:
            raise FormatError(label, f"{array.dtype} pixels, expected 8 or 16 bits", hint="convert the picture first")
        return _repeated(array.astype(np.uint16))
    if picture.mode.startswith("I;16"):
        return _repeated(np.asarray(picture))
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        shown = picture.convert("RGBA")
        white = Image.new("RGBA", shown.size, "white")
        return np.asarray(Image.alpha_composite(white, shown).convert("RGB"))
    return np.asarray(picture.convert("RGB"))


def _repeated(array: NDArray[Any]) -> Pixels:
    return np.repeat((array >> 8).astype(np.uint8)[..., None], 3, axis=2)


def _tag(picture: Image) -> int:
    try:
        tag = int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # a broken EXIF block: the picture itself is there
        return 1
    return tag if 1 <= tag <= 8 else 1


def _orient(pixels: Pixels, tag: int) -> Pixels:
    """The picture as an EXIF orientation (1 to 8; CIPA DC-008, Orientation) says that it is to be seen."""
    turned = pixels.transpose(1, 0, 2) if tag >= 5 else pixels
    vertical, horizontal = tag in (3, 4, 7, 8), tag in (2, 3, 6, 7)
    return turned[:: -1 if vertical else 1, :: -1 if horizontal else 1]


def _orient_as_annotated(pixels: Pixels, tag: int, size: Size | None, label: str) -> Pixels:
    turned = _orient(pixels, tag)
    stored, shown = pixels.shape[1::-1], turned.shape[1::-1]
    if size is not None and stored != shown and tuple(size) in (stored, shown):
        return pixels if tuple(size) == stored else turned
    why = "without a size nobody knows" if size is None else f"{size[0]} x {size[1]} px does not tell"
    if size is not None and tuple(size) not in (stored, shown):
        return pixels  # of a wrong size either way: the caller says so
    raise FormatError(
        label,
        f"EXIF orientation {tag}, and {why} whether it was annotated as stored or as shown",
        hint="look at one, then say orientation='exif' or orientation='stored'",
    )
