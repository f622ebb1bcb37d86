"""Detection looks at content, never at a name, and says what it saw or what the source is not."""

from __future__ import annotations

import gzip
import json

import pytest

import kpdata
from kpdata import converters
from kpdata.errors import FormatError, UnknownFormat

BOX = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}


@pytest.mark.parametrize(
    ("raw", "format"),
    [
        ({"images": [], "annotations": [], "categories": []}, "coco"),
        ({"images": [], "categories": []}, "coco"),
        ({"images": [{"id": 1, "crowdIndex": 0}], "annotations": []}, "crowdpose"),
        ([BOX], "coco_results"),
        ([{"image_id": 1, "keypoints": [1, 2, 3]}], "coco_results"),
        ([], "coco_results"),
    ],
)
@pytest.mark.parametrize("name", ["x.json", "persons.mat", "noname"])
def test_content_decides(tmp_path, raw, format, name):
    """The same bytes under any name, packed or not, are the same format."""
    data = json.dumps(raw).encode()
    for content in (data, gzip.compress(data), b"\xef\xbb\xbf \n" + data):
        (tmp_path / name).write_bytes(content)
        assert converters.detect(tmp_path / name)[0] == format
        assert list(kpdata.read(tmp_path / name).datasets) == [format]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"bodies": [], "version": 1}, "valid JSON, an object with the keys 'bodies', 'version'"),
        ([1, 2], "valid JSON, a list"), ([{"a": 1}], "valid JSON, a list"), ("text", "valid JSON, a text"),
    ],
)  # fmt: skip
def test_unknown_json_is_described(tmp_path, raw, message):
    """What is there, and which formats --from could name."""
    (tmp_path / "x.json").write_text(json.dumps(raw))
    with pytest.raises(
        UnknownFormat, match=rf"x\.json: no format recognises it: {message}.*--from names the format: kp, "
    ):
        converters.detect(tmp_path / "x.json")


def test_unknown_bytes_are_described(tmp_path):
    """No JSON, no .mat, no .h5: the size is said."""
    (tmp_path / "x.json").write_bytes(b"\x00\x01" * 10)
    with pytest.raises(UnknownFormat, match="20 bytes that are neither JSON nor"):
        converters.detect(tmp_path / "x.json")


def test_missing_source(tmp_path):
    """A name that is not there, with a format and without."""
    for format in (None, "coco"):
        with pytest.raises(FormatError, match="there is no such file or folder"):
            converters.read(tmp_path / "gone.json", format)


def test_real_pitfalls(real_data):
    """A 0-byte download and a file that is no JSON name themselves."""
    with pytest.raises(FormatError, match=r"empty_0byte\.json: is empty \(0 bytes\)"):
        converters.detect(real_data / "pitfalls" / "empty_0byte.json")
    with pytest.raises(FormatError, match=r"poseflow_sample_invalid\.json: not valid JSON: .* at line 164"):
        converters.detect(real_data / "pitfalls" / "poseflow_sample_invalid.json")


def test_unknown_names_and_options(tmp_path):
    """A format that does not exist lists those that do; an option that means nothing for a format is refused."""
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(UnknownFormat, match=r"voc: no such format.*expected one of kp, crowdpose, coco"):
        converters.read(tmp_path / "x.json", "voc")
    with pytest.raises(UnknownFormat, match="coco_results: reading it takes no option --group-by"):
        converters.read(tmp_path / "x.json", "coco_results", group_by="box")
    found = converters.read(tmp_path / "x.json", "coco_results", skeleton=None)
    with pytest.raises(UnknownFormat, match="coco_results: writing it takes no option --layout"):
        converters.write(found, tmp_path / "y.json", "coco_results", layout="flat")
    assert not (tmp_path / "y.json").exists()


def test_files_are_noted(tmp_path):
    """Name, size and SHA-256 of what was read stand in provenance, unless reading is for evaluation."""
    import hashlib

    data = json.dumps([BOX]).encode()
    (tmp_path / "x.json").write_bytes(data)
    (facts,) = converters.read(tmp_path / "x.json").datasets.values()
    assert facts["files"] == [{"name": "x.json", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}]
    (facts,) = converters.read(tmp_path / "x.json", hashed=False).datasets.values()
    assert "files" not in facts
