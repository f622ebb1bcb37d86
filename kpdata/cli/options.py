"""Options that several commands share, and the `--select` language."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpdata.errors import SchemaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kpdata.dataset import Dataset

Source = Annotated[
    Path,
    typer.Argument(metavar="SRC", help="Annotation file or folder; its content says which format.", show_default=False),
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="FORMAT", help="Format of the source, where its content should not decide."),
]
To = Annotated[
    str | None,
    typer.Option("--to", metavar="FORMAT", help="Format to write; only a DST that ends in .kp says it by itself."),
]
SkeletonName = Annotated[
    str | None,
    typer.Option(
        "--skeleton", metavar="S", help="Skeleton to write: a name (coco_17, mpii_16, …), a TOML or JSON file."
    ),
]
OwnSkeleton = Annotated[
    str | None,
    typer.Option("--skeleton", metavar="S", help="Skeleton of a source that names none: a name, a TOML or JSON file."),
]
Approximate = Annotated[
    bool,
    typer.Option("--approximate", help="Take close keypoints of another annotation protocol in a remap."),
]
Images = Annotated[
    Path | None, typer.Option("--images", metavar="DIR", help="Folder of the photographs.", show_default=False)
]
AllowLossy = Annotated[bool, typer.Option("--allow-lossy", help="Write what the format can hold, and report the rest.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]

_CONDITION = re.compile(r"\s*([\w.]+)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*$")


def selected(dataset: Dataset, conditions: list[str]) -> Dataset:
    """The people and images that meet every condition `column operator value`, e.g. `num_keypoints>=5`, `split=val`.

    A column of people selects people and keeps all images; a column of images alone, or `image.COLUMN`, selects images
    with their people. Nulls meet no condition. SchemaError names an unknown column or a value of another type.
    """
    for text in conditions:
        found = _CONDITION.match(text)
        if not found:
            raise SchemaError(
                f"--select {text!r} is no condition", hint="COLUMN OPERATOR VALUE, e.g. 'num_keypoints>=5'"
            )
        column, operator, value = found.groups()
        of_people = column in dataset.persons.schema.names
        table = dataset.persons if of_people else dataset.images
        name = column.removeprefix("image.")
        if name not in table.schema.names:
            known = sorted({*dataset.persons.schema.names, *dataset.images.schema.names})
            raise SchemaError(f"--select {text!r}: no column {column!r}", hint=f"expected one of {', '.join(known)}")
        mask = _mask(table[name], operator, value, text)
        chosen: dict[str, Any] = {"persons": mask} if of_people else {"images": mask}
        dataset = dataset.select(**chosen, condition=text)
    return dataset


def _mask(column: Any, operator: str, value: str, text: str) -> NDArray[np.bool_]:
    import operator as op

    import numpy as np
    import pyarrow as pa

    from kpdata import schema

    compare = {"<": op.lt, "<=": op.le, ">": op.gt, ">=": op.ge, "=": op.eq, "==": op.eq, "!=": op.ne}[operator]
    if pa.types.is_list(column.type):
        raise SchemaError(f"--select {text!r}: a list cannot be compared with a value")
    if column.type == pa.string():
        data: Any = np.array([item or "" for item in schema.texts(column)], object)
        wanted: Any = value.strip("'\"")
    else:
        data, wanted = schema.values(column), _number(value, text)
    return np.asarray(compare(data, wanted), bool) & schema.valid(column)


def _number(value: str, text: str) -> float:
    """An integer stays one: ids above 2^53 are no floats."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return int(value) if re.fullmatch(r"[-+]?\d+", value) else float(value)
    except ValueError as error:
        raise SchemaError(f"--select {text!r}: {value!r} is not a number") from error
