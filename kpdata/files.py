"""Files and folders replaced as a whole: a crash, a full disk or Ctrl-C leaves the old content or the new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kpdata.errors import DestinationExists, FormatError, WriteError

_BY_SLICES = 1 << 24  # bytes from which a file is read by slices
_ONE_BY_ONE = 32  # files that are flushed to the disk each on its own


def read_bytes(path: Path) -> bytes:
    """The file's content, unpacked where it is gzip (by its first two bytes, whatever its name)."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    return _unpacked(path, raw) if raw[:2] == b"\x1f\x8b" else raw


def _unpacked(path: Path, raw: bytes) -> bytes:
    import gzip  # half of what this module would import, for few files
    import zlib

    try:
        return gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(path, f"a damaged gzip file ({error})", hint="unpack or download it again") from error


class Bytes:
    """A file's content by slices, read when they are asked for: a big file never lies in memory as a whole."""

    def __init__(self, path: Path) -> None:
        self._handle = path.open("rb")
        self._size = os.fstat(self._handle.fileno()).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice) -> bytes:
        start, stop, _ = place.indices(self._size)
        parts, end = [], stop
        while start < end:  # the system may give less than it is asked for
            part = os.pread(self._handle.fileno(), end - start, start)
            if not part:
                break  # somebody cut the file while it was read: its JSON will not be whole
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def into(self, buffer: memoryview, start: int) -> memoryview:
        """Fill the buffer from this position on; as much of it as the file had."""
        done = 0
        while done < len(buffer) and (more := os.preadv(self._handle.fileno(), [buffer[done:]], start + done)):
            done += more
        return buffer[:done]


def sliced(path: Path) -> Bytes | None:
    """The file for reading by slices; None where that gains nothing (small files) or cannot be (gzip)."""
    try:
        if path.is_file() and path.stat().st_size >= _BY_SLICES and hasattr(os, "preadv"):
            found = Bytes(path)
            return None if found[:2] == b"\x1f\x8b" else found
    except OSError:  # reading it whole says what is wrong
        pass
    return None


def unreadable(path: Path, error: OSError) -> FormatError:
    """The sentence for a file that the system does not let us read."""
    if isinstance(error, FileNotFoundError):
        return FormatError(path, "there is no such file or folder")
    return FormatError(path, f"cannot be read ({error.strerror or error})")


def fingerprint(path: Path, data: bytes | None = None) -> dict[str, str | int]:
    """Name, size in bytes and SHA-256 of a file, for provenance. data: what `read_bytes` gave, if at hand."""
    import hashlib

    size = path.stat().st_size
    if data is not None and len(data) == size and path.suffix != ".gz":
        return {"name": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": size}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "sha256": digest, "bytes": size}


def refuse_existing(target: Path, force: bool) -> None:
    """DestinationExists unless `force` was said or nothing is there."""
    if not force and _there(target):
        raise DestinationExists(target)


def _there(path: Path) -> bool:
    try:
        return path.exists() or path.is_symlink()
    except OSError:  # a name that no file can have: writing it will say so
        return False


@contextmanager
def replacing(target: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary path beside `target` to write one file to; it takes the target's place when the block succeeds.

    Raises DestinationExists before anything is written, or WriteError where the disk refuses: `target` is as it was.
    """
    refuse_existing(target, force)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with _sentences(target):
        if target.is_dir():
            raise WriteError(f"{target}: is a folder, expected a file to write")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """As `replacing`, for a folder: the old one is renamed aside, the new one in, then the old one is deleted.

    `recover` mends a crash between the two renames.
    """
    import shutil

    target = target.absolute()  # "." has no name
    fresh, aside = target.with_name(f".{target.name}.{os.getpid()}.tmp"), _aside(target)
    with _sentences(target):
        recover(target)  # what a crash left aside is the only copy, or (where the new one got there) out of date
        refuse_existing(target, force)
        shutil.rmtree(aside, ignore_errors=True)
        if _there(target) and (target.is_symlink() or not target.is_dir()):
            raise WriteError(f"{target}: is a file or a link, expected a folder to replace")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            yield fresh
            _sync_all([file for file in fresh.rglob("*") if file.is_file()])
            if target.exists():
                shutil.rmtree(aside, ignore_errors=True)
                target.replace(aside)
            fresh.replace(target)
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            recover(target)


def recover(target: Path) -> None:
    """Put a folder back that a crash left renamed aside by `replacing_folder`."""
    aside = _aside(target.absolute())
    if aside.is_dir() and not target.exists():
        aside.replace(target)


def write_bytes(target: Path, data: bytes, *, force: bool = False) -> None:
    """Write one file atomically; gzip where its name ends in `.gz`."""
    with replacing(target, force=force) as temporary:
        temporary.write_bytes(_packed(data) if target.suffix == ".gz" else data)


def _packed(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, 6, mtime=0)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _sync_all(written: list[Path]) -> None:
    if len(written) > _ONE_BY_ONE:
        os.sync()  # one flush of everything is quicker than thousands of small ones
        return
    for file in written:
        _sync(file)


@contextmanager
def _sentences(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(f"{target}: cannot be written ({reason}); it is as it was before") from error
