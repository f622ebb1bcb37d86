"""Any format to `Dataset` and back.

FORMATS is the whole list; each module has `detect`, `read`, `write`, `decode`, `encode`.
"""

from __future__ import annotations

import gc
import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kpdata import files
from kpdata.converters._source import Source
from kpdata.errors import FormatError, UnknownFormat
from kpdata.losses import LossReport

if TYPE_CHECKING:
    from kpdata import dataset as ds

# In the order of detection: what is more particular comes first.
FORMATS = {
    "kp": "kpdata.converters.kp",
    "crowdpose": "kpdata.converters.crowdpose",
    "coco": "kpdata.converters.coco",
    "coco_results": "kpdata.converters.coco_results",
    "mpii": "kpdata.converters.mpii",
    "labelme": "kpdata.converters.labelme",
    "lsp": "kpdata.converters.lsp",
    "yolo": "kpdata.converters.yolo",
}


def module(name: str) -> ModuleType:
    """The module of a format by name. UnknownFormat lists the names."""
    if name not in FORMATS:
        raise UnknownFormat(name, "no such format", hint=f"expected one of {', '.join(FORMATS)}")
    return importlib.import_module(FORMATS[name])


def detect(path: Path | str | Source) -> tuple[str, str]:
    """(format name, what was seen) by content, never by name alone. UnknownFormat says what the source is not."""
    source = Source.of(path)
    if not source.path.exists() and not (source.path.parent / f".{source.path.name}.old").is_dir():
        raise FormatError(source.path, "there is no such file or folder")
    for name in FORMATS:
        seen = module(name).detect(source)
        if seen:
            return name, seen
    raise UnknownFormat(source.path, _unrecognised(source), hint=f"--from names the format: {', '.join(FORMATS)}")


def _unrecognised(source: Source) -> str:
    if source.is_folder:
        return "no format recognises this folder (no .kp tables, no LabelMe JSON, no YOLO labels in it)"
    if source.looks_like_json:
        from kpdata.converters import _json

        raw = source.json
        keys = f" with the keys {', '.join(map(repr, list(raw)[:6]))}" if isinstance(raw, dict) else ""
        found = _json.kind(raw)
        return f"no format recognises it: valid JSON, {'an' if found == 'object' else 'a'} {found}{keys}"
    from kpdata.converters import _matlab

    found = _matlab.describe(source) or f"{len(source.data):,} bytes that are neither JSON nor a .mat or .h5 file"
    return f"no format recognises it: {found}"


@contextmanager
def _no_collector() -> Iterator[None]:
    """Python's cyclic collector off: it would look at millions of new lists again and again, none of them cyclic."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read(path: Path | str | Source, format: str | None = None, *, hashed: bool = True, **options: Any) -> ds.Dataset:
    """Read a dataset. format: a name of FORMATS, else the content decides. options: the format's own (its `read`).

    hashed: note name, size and SHA-256 of the files in provenance (convert does, eval does not).
    """
    source = Source.of(path)
    if format is None:
        format, _ = detect(source)
    elif not source.path.exists():
        raise FormatError(source.path, "there is no such file or folder")
    reader = module(format).read
    given = accepted(reader, options, format, "reading")
    with _no_collector():
        found: ds.Dataset = reader(source, **given)
    if hashed and format != "kp":
        found = _with_files(found, source)
    return found


def write(
    dataset: ds.Dataset,
    path: Path | str,
    /,
    format: str | None = None,
    *,
    allow_lossy: bool = False,
    force: bool = False,
    approximate: bool | None = None,
    **options: Any,
) -> LossReport:
    """Write a dataset; the report says what the format could not hold. format: else what the target's name says.

    A dataset on another skeleton than the format's own is remapped first, and the report counts what that drops.
    approximate: that remap may take close keypoints of another annotation protocol. options: the format's own (its
    `write`). Raises DestinationExists, LossyWrite and WriteError; the target is then as it was.
    """
    target = Path(path)
    format = format or name_of_target(target)
    home = module(format)
    files.refuse_existing(target, force)
    remapped = LossReport(format)
    wanted = getattr(home, "SKELETON", None)
    used = {name for name, _ in dataset.groups() if name is not None} or set(dataset.skeletons)
    # What was read from this format is written back as it is, whatever keypoints its file named.
    own = all(d.get("source_format") == format and not d.get("remapped") for d in dataset.datasets.values())
    if wanted is not None and used - {wanted} and not own:
        from kpdata import remapping

        dataset, remapped = remapping.remap(dataset, wanted, approximate=bool(approximate))
        remapped.format = format
    if format == "mpii" and not options.get("variant"):
        options["variant"] = home.variant_for(dataset, target)
    if remapped and not allow_lossy:
        encoding = inspect.signature(home.encode).parameters  # images to look at, say, matter to writing alone
        trial = home.encode(
            dataset, **{key: value for key, value in options.items() if key in encoding and value is not None}
        )[-1]
        remapped.merge(trial)
        remapped.require(allow_lossy, target)
    given = accepted(home.write, options, format, "writing")
    with _no_collector():
        report: LossReport = home.write(dataset, target, allow_lossy=allow_lossy, force=force, **given)
    report.merge(remapped)
    return report


def name_of_target(target: Path) -> str:
    """The format that a target's name says without doubt: only `.kp` does (a `.json` may be any of five)."""
    if target.suffix == ".kp":
        return "kp"
    raise UnknownFormat(
        target, "its name does not say which format to write", hint=f"--to names it: {', '.join(FORMATS)}"
    )


def accepted(function: Any, options: dict[str, Any], format: str, doing: str) -> dict[str, Any]:
    """The options that were given (not None), each of which `function` must take. FormatError names a stranger."""
    given = {key: value for key, value in options.items() if value is not None}
    parameters = inspect.signature(function).parameters.values()
    known = {parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    for key in given:
        if key not in known:
            raise UnknownFormat(format, f"{doing} it takes no option --{key.replace('_', '-')}")
    return given


def _with_files(found: ds.Dataset, source: Source) -> ds.Dataset:
    """Provenance with the source's fingerprint: the file's, or for a folder its path only (its files are many)."""
    path = source.path
    one = files.fingerprint(path, source.__dict__.get("data")) if path.is_file() else {"name": path.name}
    datasets = {name: {"files": [one], **provenance} for name, provenance in found.datasets.items()}
    return replace(found, datasets=datasets).with_history("read", source=path.name)
