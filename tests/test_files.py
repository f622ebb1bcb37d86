"""Files and folders replaced as a whole: whatever stops a write, the old content or the new is there, nothing else."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kpdata import files
from kpdata.errors import DestinationExists, FormatError, KpdataError, WriteError


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(entry.name for entry in folder.iterdir())


def fill(folder: Path, text: str) -> Path:
    """A folder of two files, one of them deeper."""
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text(text)
    (folder / "deep" / "b.txt").write_text(text)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*")) if file.is_file()}


def whole(text: str) -> dict[str, str]:
    return {"a.txt": text, "deep/b.txt": text}


# --------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", ["a.json.gz", "a.json", "ä 日本.gz", "a"])
def test_gzip_is_known_by_its_content(tmp_path, name):
    """A packed file is unpacked whatever it is called, and a plain one called `.gz` is read as it is."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"[1, 2]"))
    assert files.read_bytes(path) == b"[1, 2]"
    path.write_bytes(b"[1, 2]")
    assert files.read_bytes(path) == b"[1, 2]"


def test_gzip_of_several_members(tmp_path):
    """`cat a.gz b.gz` is a gzip file of both contents."""
    path = tmp_path / "both.gz"
    path.write_bytes(gzip.compress(b"[1,") + gzip.compress(b" 2]"))
    assert files.read_bytes(path) == b"[1, 2]"


def test_empty_file(tmp_path):
    """A file of 0 bytes is read as such: its reader says what is wrong with it."""
    path = tmp_path / "empty"
    path.touch()
    assert files.read_bytes(path) == b""


def test_damaged_gzip_is_a_sentence(tmp_path):
    """Cut anywhere or with any byte flipped, a gzip file gives its content or a FormatError that names the file."""
    text = b"".join(b"[%d, %d]" % (i * i, 7919 * i % 101) for i in range(40))
    packed = gzip.compress(text, mtime=0)
    damaged = [packed[:end] for end in range(2, len(packed))]
    rng = np.random.default_rng(0)
    for position in range(2, len(packed)):
        flipped = bytearray(packed)
        flipped[position] ^= int(rng.integers(1, 256))
        damaged.append(bytes(flipped))
    path, refused = tmp_path / "damaged.json.gz", 0
    for data in damaged:
        path.write_bytes(data)
        try:
            assert files.read_bytes(path) == text
        except FormatError as error:
            refused += 1
            assert str(path) in str(error)
            assert "damaged gzip" in str(error)
    assert refused > 0.9 * len(damaged)


def test_missing_file_is_a_sentence(tmp_path):
    """Reading a file that is not there names it and says so."""
    with pytest.raises(FormatError, match=r"nothing\.json: there is no such file or folder"):
        files.read_bytes(tmp_path / "nothing.json")


def test_folder_where_a_file_is_expected(tmp_path):
    """A folder is no file: the system's reason is told."""
    with pytest.raises(FormatError, match=r"cannot be read \(Is a directory\)"):
        files.read_bytes(tmp_path)


def test_unreadable_file_is_a_sentence(tmp_path, monkeypatch):
    """A file without permission is told with the system's reason (simulated: who runs a test may be root)."""

    def denied(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(FormatError, match=r"a\.json: cannot be read \(Permission denied\)"):
        files.read_bytes(tmp_path / "a.json")


def test_fingerprint(tmp_path):
    """Name, size and SHA-256, the digest that everyone else computes."""
    path = tmp_path / "a b.json"
    data = bytes(range(256)) * 5000
    path.write_bytes(data)
    assert files.fingerprint(path) == {
        "name": "a b.json", "sha256": hashlib.sha256(data).hexdigest(), "bytes": 1_280_000
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------- writing one file


def test_write_bytes(tmp_path):
    """The bytes arrive, in missing folders too, and no temporary file stays."""
    target = tmp_path / "new" / "deeper" / "ä.json"
    files.write_bytes(target, b"[1]")
    assert target.read_bytes() == b"[1]"
    assert names(target.parent) == ["ä.json"]


def test_write_bytes_packs_by_name(tmp_path):
    """`.gz` is packed, and the same content gives the same bytes at any time of day."""
    target = tmp_path / "a.json.gz"
    files.write_bytes(target, b"[1]")
    packed = target.read_bytes()
    assert gzip.decompress(packed) == b"[1]"
    assert packed[4:8] == bytes(4)  # the header's time of day (RFC 1952)


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_existing_target_is_refused(tmp_path, kind):
    """Without force nothing that is there is touched, not even a link that leads nowhere; the hint says how."""
    target = occupied(tmp_path, kind)
    before = names(tmp_path)
    for write in (files.replacing, files.replacing_folder):
        with pytest.raises(DestinationExists, match="--force"), write(target):
            pytest.fail("the block must not run")
    assert names(tmp_path) == before


def occupied(folder: Path, kind: str) -> Path:
    target = folder / "target"
    if kind == "file":
        target.write_text("old")
    elif kind == "folder":
        fill(target, "old")
    elif kind == "link":
        target.symlink_to(fill(folder / "elsewhere", "old"), target_is_directory=True)
    else:
        target.symlink_to(folder / "nowhere")
    return target


def test_forced_file(tmp_path):
    """With force the new file stands in the old one's place."""
    target = occupied(tmp_path, "file")
    files.write_bytes(target, b"new", force=True)
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["target"]


def test_forced_file_over_a_folder(tmp_path):
    """A folder is never replaced by a file, forced or not."""
    target = occupied(tmp_path, "folder")
    with pytest.raises(WriteError, match="is a folder, expected a file"):
        files.write_bytes(target, b"new", force=True)
    assert content(target) == whole("old")


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("existing", [True, False])
def test_disk_refuses_while_writing_a_file(tmp_path, reason, existing):
    """A full disk half-way: the system's reason is told, the old file is whole and no temporary one stays."""
    target = tmp_path / "a.json"
    if existing:
        target.write_text("old")
    with (
        pytest.raises(WriteError, match=rf"a\.json: cannot be written \({os.strerror(reason)}\)"),
        files.replacing(target, force=True) as temporary,
    ):
        temporary.write_text("ne")
        raise OSError(reason, os.strerror(reason))
    assert names(tmp_path) == (["a.json"] if existing else [])
    assert not existing or target.read_text() == "old"


def test_disk_refuses_at_the_flush(tmp_path, monkeypatch):
    """Network disks report "full" when the data is flushed, which must come before the old file is replaced."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(WriteError, match="No space left on device"):
        files.write_bytes(target, b"new", force=True)
    assert (names(tmp_path), target.read_text()) == (["a.json"], "old")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, ValueError])
def test_stopped_while_writing(tmp_path, stop):
    """Ctrl-C or a bug half-way: it goes on as it is, the old content is whole and no temporary file stays."""
    file, folder = tmp_path / "a.json", fill(tmp_path / "x.kp", "old")
    file.write_text("old")
    with pytest.raises(stop), files.replacing(file, force=True) as temporary:
        temporary.write_text("ne")
        raise stop
    with pytest.raises(stop), files.replacing_folder(folder, force=True) as temporary:
        (temporary / "a.txt").write_text("ne")
        raise stop
    assert names(tmp_path) == ["a.json", "x.kp"]
    assert (file.read_text(), content(folder)) == ("old", whole("old"))


@pytest.mark.parametrize("write", [files.replacing, files.replacing_folder])
@pytest.mark.parametrize("name", ["file/x.kp", "n" * 300], ids=["below a file", "a name too long"])
def test_impossible_target_is_a_sentence(tmp_path, write, name):
    """A target that the system cannot make is a KpdataError, whichever call notices."""
    (tmp_path / "file").write_text("old")
    with pytest.raises(KpdataError), write(tmp_path / name) as temporary:
        temporary.mkdir(exist_ok=True)
    assert names(tmp_path) == ["file"]


def test_read_only_folder_is_a_sentence(tmp_path, monkeypatch):
    """A folder that cannot be written to is told with the system's reason."""

    def denied(self: Path, *args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(WriteError, match="Permission denied"), files.replacing_folder(tmp_path / "x.kp"):
        pytest.fail("the block must not run")


# ---------------------------------------------------------------------------------------------------- writing a folder


@pytest.mark.parametrize("existing", [False, True])
def test_replaced_folder(tmp_path, existing):
    """The new folder stands in the place, nothing of the old one in it or beside it."""
    target = tmp_path / "x.kp"
    if existing:
        (fill(target, "old") / "other.txt").write_text("old")
    with files.replacing_folder(target, force=True) as fresh:
        fill(fresh, "new")
        assert target.exists() == existing
    assert content(target) == whole("new")
    assert names(tmp_path) == ["x.kp"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_forced_folder_over_something_else(tmp_path, kind):
    """What stood there is gone, or it is refused: no hidden copy stays beside, a link's folder is not emptied."""
    target = occupied(tmp_path, kind)
    try:
        with files.replacing_folder(target, force=True) as fresh:
            fill(fresh, "new")
        assert content(target) == whole("new")
    except WriteError:
        assert target.exists()
    assert names(tmp_path) == (["elsewhere", "target"] if kind == "link" else ["target"])
    if kind == "link":
        assert content(tmp_path / "elsewhere") == whole("old") or target.is_symlink()


def test_recover(tmp_path):
    """After a crash between the two renames the old folder comes back; where the target stands, it is left alone."""
    target = tmp_path / "x.kp"
    fill(tmp_path / ".x.kp.old", "old")
    files.recover(target)
    assert content(target) == whole("old")
    assert names(tmp_path) == ["x.kp"]

    fill(tmp_path / ".x.kp.old", "older")
    files.recover(target)
    assert content(target) == whole("old")
    files.recover(tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_failed_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    """Where the second rename is refused, the old folder is renamed back at once."""
    target, rename = fill(tmp_path / "x.kp", "old"), os.replace

    def once(old: Path, new: Path) -> None:
        if Path(old).name.endswith(".tmp"):
            raise OSError(errno.EACCES, "Permission denied")
        rename(old, new)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(WriteError, match="Permission denied"), files.replacing_folder(target, force=True) as fresh:
        fill(fresh, "new")
    assert content(target) == whole("old")
    assert names(tmp_path) == ["x.kp"]


_DYING = """
import os, shutil, sys
from pathlib import Path
from kpdata import files

left = int(sys.argv[2])

def dying(call):
    def wrapped(*args, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)  # as kill -9: no `finally` runs
        return call(*args, **options)
    return wrapped

for home, name in ((os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rmdir"), (os, "mkdir")):
    setattr(home, name, dying(getattr(home, name)))
target = Path(sys.argv[1])
with files.replacing_folder(target, force=True) as fresh:
    (fresh / "a.txt").write_text("new")
    (fresh / "deep").mkdir()
    (fresh / "deep" / "b.txt").write_text("new")
"""


def test_killed_at_any_step(tmp_path):
    """Killed before any call to the system, the folder is after `recover` the old one whole, or the new one whole."""
    seen = []
    for step in range(30):
        target = fill(tmp_path / str(step) / "x.kp", "old")
        code = subprocess.run([sys.executable, "-c", _DYING, str(target), str(step)], check=False).returncode
        assert code in (0, 9)
        files.recover(target)
        seen.append(content(target))
        assert seen[-1] in (whole("old"), whole("new"))
        if code == 0:
            break
        with files.replacing_folder(target, force=True) as fresh:  # and the next write is not in the way of the last
            fill(fresh, "newer")
        assert content(target) == whole("newer")
        assert not (target.parent / ".x.kp.old").exists()
    assert code == 0, "never ended by itself"
    assert whole("old") in seen[:-1]
    assert whole("new") in seen[:-1]
