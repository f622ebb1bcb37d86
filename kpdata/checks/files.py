"""What an image file says of itself: is it there, does it decode, its size, its EXIF orientation."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_ORIENTATION = 0x0112  # EXIF tag: 1 upright, 2 to 4 mirrored or upside down, 5 to 8 with width and height swapped


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file. found: it is there. problem: why it does not decode, else "".

    width, height: of the stored pixels, 0 where not readable. orientation: EXIF, 1 (upright) where it says nothing.
    """

    path: Path
    found: bool = True
    problem: str = ""
    width: int = 0
    height: int = 0
    orientation: int = 1


def probe(path: Path) -> Picture:
    """What a file says. It is decoded whole, so that a truncated one is found; a JPEG at an eighth of its size."""
    from PIL import Image

    if not path.is_file():
        return Picture(path, found=False)
    try:
        with Image.open(path) as image:
            width, height = image.size
            stated = image.getexif().get(_ORIENTATION, 1)
            image.draft("L", (1, 1))
            image.load()
    except Exception as error:  # decoders of damaged files raise what they like: OSError, SyntaxError, struct.error, …
        return Picture(path, problem=" ".join(str(error).split()) or type(error).__name__)
    return Picture(path, width=width, height=height, orientation=stated if stated in range(1, 9) else 1)


def probe_all(paths: Sequence[Path | None]) -> list[Picture | None]:
    """A Picture for each path, None for None. In threads: decoding releases the interpreter's lock."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: None if path is None else probe(path), paths))
