"""Read a picture as the annotator saw it: orientation, depth, channels, and files that end early."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kpdata.augment.kernels import Size
from kpdata.errors import FormatError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
Orientation = Literal["annotation", "exif", "stored"]

_EXIF_ORIENTATION = 0x0112


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
    data, label = _bytes(source, name)
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


def _bytes(source: Path | str | bytes, name: str | None) -> tuple[bytes, str]:
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
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            fast = picture.format == "JPEG" and picture.mode in ("L", "RGB")
            pixels = _decode_jpeg(data) if fast else None
            if pixels is None:
                pixels = _pillow_pixels(picture, label)  # before the tag is asked for: Pillow turns TIFFs itself
            return pixels, _tag(picture)
    except FormatError:
        raise
    except Image.DecompressionBombError as error:
        raise FormatError(label, f"too many pixels ({error})") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        what = "is empty" if not data else f"is not a picture that can be read ({error})"
        raise FormatError(label, what, hint="is the file whole? a broken download ends early") from error


def _decode_jpeg(data: bytes) -> Pixels | None:
    """Pixels of a grey or colour JPEG by the fastest decoder there is; None: Pillow decodes, or says what is wrong."""
    try:
        import simplejpeg  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return _decode_with_opencv(data)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # it refuses recoverable oddities too
        return None
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
    why = "no size is known" if size is None else f"{size[0]} x {size[1]} px does not tell"
    if size is not None and tuple(size) not in (stored, shown):
        return pixels  # of a wrong size either way: the caller says so
    raise FormatError(
        label,
        f"EXIF orientation {tag}, and {why} whether it was annotated as stored or as shown",
        hint="look at one, then say orientation='exif' or orientation='stored'",
    )
