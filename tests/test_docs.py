"""The documentation says what the program does: options, examples and code blocks are checked against it."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from kpdata.cli.main import app
from kpdata.cli.synth import TARGETS
from kpdata.converters import FORMATS
from kpdata.eval.comparison import PEOPLE
from kpdata.eval.failures import FAILURES, MATCHES
from kpdata.eval.suspects import SCHEMA

ROOT = Path(__file__).resolve().parents[1]
GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = {name: GROUP.get_command(None, name) for name in GROUP.list_commands(None)}
CLI = ROOT / "docs" / "cli.md"
EVALUATION = ROOT / "docs" / "evaluation.md"
TRAIN = ROOT / "docs" / "train.md"
BROWSE = ROOT / "docs" / "browse.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def command_lines(page: Path) -> list[list[str]]:
    """The words of every line of a bash block that calls kpdata, comments and continued lines taken care of."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("kpdata ")]


def section(command: str) -> str:
    """The part of docs/cli.md under `## kpdata COMMAND`."""
    found = re.search(rf"^## kpdata {command}\n(.*?)(?=^## |\Z)", CLI.read_text(encoding="utf-8"), re.M | re.S)
    return found[1] if found else ""


def rows(command: str) -> list[str]:
    """The table rows that a command's arguments and options should have."""
    out = []
    for option in COMMANDS[command].params:
        if option.name == "help":
            continue
        names = "/".join([*option.opts, *option.secondary_opts]) if option.opts[0].startswith("-") else ""
        flag = getattr(option, "is_flag", False)
        value = "" if flag else option.metavar
        default = "" if option.default in (None, False, True) or option.required else f" Default: {option.default}."
        name = " ".join(part for part in (names, value) if part).replace("|", "\\|")
        out.append(f"| `{name}` | {option.help}{default} |")
    return out


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_is_documented(command: str) -> None:
    """docs/cli.md has a section for the command whose table is that of its help, row by row."""
    documented = [line for line in section(command).splitlines() if line.startswith("| `")]
    assert documented == rows(command), "\n".join(rows(command))


def test_no_other_command_is_documented() -> None:
    """Sections stand for commands that exist, in the order of the help."""
    assert re.findall(r"^## kpdata (.+)$", CLI.read_text(encoding="utf-8"), re.M) == list(COMMANDS)


def test_the_formats_in_the_help_are_all() -> None:
    """The help of convert and synth lists the formats that there are."""
    told = re.search(r"Formats: ([\w, ]+);", " ".join(COMMANDS["convert"].help.split()))
    assert told
    assert sorted(told[1].split(", ")) == sorted(FORMATS)
    assert set(TARGETS) < set(FORMATS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_examples_of_the_help_are_commands(command: str) -> None:
    """The example at the end of a help text names options that the command has."""
    words = shlex.split(COMMANDS[command].epilog.removeprefix("Example: "))
    assert words[:2] == ["kpdata", command]
    assert_known(words[1:])


def assert_known(words: list[str]) -> None:
    command = COMMANDS.get(words[0])
    assert command or words[0].startswith("-"), words
    known = (
        {name for p in command.params for name in (*p.opts, *p.secondary_opts)} if command else {"--help", "--version"}
    )
    strangers = [word for word in words[1:] if re.match(r"--?[a-zA-Z]", word) and word not in known | {"-h", "--help"}]
    assert not strangers, f"kpdata {words[0]} has no {strangers}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_exist(page: Path) -> None:
    """Every `kpdata …` line of a bash block names a command and options that there are."""
    for words in command_lines(page):
        assert_known(words)


def printed(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the commands of a page's bash blocks print, one after the other in an empty folder: each exits 0."""
    monkeypatch.chdir(folder)
    output = ""
    for words in command_lines(page):
        done = CliRunner().invoke(app, words, prog_name="kpdata")
        assert done.exit_code == 0, f"{shlex.join(words)}\n{done.output}"
        output += done.output
    return output


def test_every_command_has_an_example() -> None:
    """No command of docs/cli.md is without a line in a bash block."""
    assert {words[0] for words in command_lines(CLI)} == set(COMMANDS)


@pytest.fixture
def one_thread() -> None:
    """Small networks are slower in many threads, and the machine has other tests to run."""
    torch = pytest.importorskip("torch", reason="the examples train a network: kpdata[train]")
    torch.set_num_threads(1)


def test_the_examples_of_the_command_line_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """The bash blocks of docs/cli.md run, one after the other."""
    pytest.importorskip("cv2", reason="the examples augment: kpdata[augment]")
    pytest.importorskip("onnxruntime", reason="the examples export a network: kpdata[export]")
    printed(CLI, tmp_path, monkeypatch)


def test_the_evaluator_prints_what_the_pages_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text blocks of docs/evaluation.md and the README are lines that the commands of the former print."""
    lines = printed(EVALUATION, tmp_path, monkeypatch).splitlines()
    shown = "".join(blocks(EVALUATION, "text") + blocks(ROOT / "README.md", "text")).splitlines()
    assert len(shown) > 10
    assert [line for line in shown if line not in lines and line.strip() not in ("", "…")] == []


@pytest.mark.parametrize(
    ("name", "table"), [("matches", MATCHES), ("failures", FAILURES), ("suspects", SCHEMA), ("people", PEOPLE)]
)
def test_columns_of_the_tables_are_documented(name: str, table: Any) -> None:
    """Names, order and types of the Parquet files' columns are those of the program."""
    page = EVALUATION.read_text(encoding="utf-8").replace("\\", "")
    body = re.search(rf"^\| column of {name} .*?\n\|[- |]+\n(.*?)\n\n", page, re.M | re.S)
    assert body
    rows = [line.split("|")[1:3] for line in body[1].splitlines()]
    documented = [(column.strip(" `"), kind.strip()) for column, kind in rows]
    assert documented == [(field.name, str(field.type).replace("item: ", "")) for field in table]


NAMED = {"stats", "sigmas", "skeletons", "intervals"}  # objects whose keys are names of numbers or skeletons


def keys(value: Any, own: bool = True) -> set[str]:
    """All keys of the JSON objects in a value; `own`: also those of the outermost."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if not isinstance(value, dict):
        return set()
    inside = (keys(inner, key not in NAMED) for key, inner in value.items() if key != "rows")
    return (set(value) if own else set()).union(*inside)


@pytest.mark.parametrize(
    "command",
    [
        "eval made/predictions.json --json --why --bootstrap 2 --slice size",
        "eval made/predictions.json --json --metric pck",
        "compare made/predictions.json worse/predictions.json --bootstrap 2 --json",
    ],
)
def test_keys_of_the_json_are_documented(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of `--json` without its place in docs/evaluation.md."""
    monkeypatch.chdir(tmp_path)
    for folder in ("made --jitter 0", "worse --jitter 0.3"):
        CliRunner().invoke(app, shlex.split(f"synth {folder} -n 8 --size 160x120 --seed 7 --no-pictures"))
    result = json.loads(CliRunner().invoke(app, shlex.split(command)).stdout)
    found = keys(result) - set(result["stats"])  # a column of `per_keypoint` bears the name of its number
    page = EVALUATION.read_text(encoding="utf-8")
    told = set(re.findall(r"`([^`\n]+)`", page.split("## The JSON")[1].split("## Speed")[0]))
    told |= {f"{kind}{name}{end}" for kind in ("", "cumulative_") for name in told for end in ("", "_gain")}
    assert {"stats", "notes", "files"} <= found
    assert found - told == set()


def documented(page: Path, header: str) -> dict[str, list[str]]:
    """The rows of the table whose first header cell this is: the name in the first cell, and the other cells."""
    text = page.read_text(encoding="utf-8").replace("\\|", "/")
    body = re.search(rf"^\| {header} \|.*?\n\|[- :|]+\n(.*?)(?:\n\n|\Z)", text, re.M | re.S)
    assert body, f"{page.name} has no table {header!r}"
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in body[1].splitlines()]
    return {cells[0].strip("`"): cells[1:] for cells in rows}


def shown_default(field: dataclasses.Field[Any]) -> str:
    """The default of a training's value as docs/train.md writes it."""
    if field.default is dataclasses.MISSING:
        return "" if field.default_factory is dataclasses.MISSING else str(field.default_factory())
    if field.default in (None, ()):
        return "–"
    if isinstance(field.default, tuple):
        return f"[{', '.join(f'{number:.4g}' for number in field.default)}]"
    return str(field.default).lower()


@pytest.mark.parametrize(("name", "header"), [("Config", "value"), ("SourceConfig", "value of a source")])
def test_every_value_of_a_training_is_documented(name: str, header: str) -> None:
    """Names, order and defaults in docs/train.md are those of the program."""
    from kpdata.train import config

    told = {key: cells[0] for key, cells in documented(TRAIN, header).items()}
    fields = dataclasses.fields(getattr(config, name))
    assert list(told.items()) == [(field.name, shown_default(field)) for field in fields]


@pytest.mark.parametrize(
    ("module", "name"), [("loop", "Result"), ("trial", "DryRun"), ("trial", "Overfit"), ("export", "Exported")]
)
def test_keys_of_the_json_of_training_are_documented(module: str, name: str) -> None:
    """No key of what `kpdata train` and `export` print with `--json` without its place in docs/train.md."""
    pytest.importorskip("torch", reason="needs kpdata[train]")
    import importlib

    fields = dataclasses.fields(getattr(importlib.import_module(f"kpdata.train.{module}"), name))
    page = TRAIN.read_text(encoding="utf-8").split("## For programs")[1].split("## In Python")[0]
    assert {field.name for field in fields} - set(re.findall(r"`(\w+)`", page)) == set()


def test_examples_of_a_training_file_are_read(tmp_path: Path) -> None:
    """Every TOML block of docs/train.md is a training."""
    from kpdata.train.config import from_toml, resolve

    examples = blocks(TRAIN, "toml")
    assert examples
    for text in examples:
        (tmp_path / "train.toml").write_text(text, encoding="utf-8")
        assert len(resolve(from_toml(tmp_path / "train.toml")).data) > 1


def test_the_known_weight_files_are_documented() -> None:
    """docs/train.md counts the published files by publisher, keypoints, networks, input, targets, colours, licence."""
    from kpdata.train.known_files import KNOWN_FILES

    publishers = {"official zoo": "official", "mmpose 0.x, 1.x": "mmpose"}
    text = TRAIN.read_text(encoding="utf-8").split("| from | keypoints |")[1].split("\n\n")[0]
    told = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    for publisher, keypoints, models, sizes, targets, colour, licence, count in told:
        mine = [
            known
            for known in KNOWN_FILES
            if known.origin == publishers.get(publisher, "imagenet")
            and (known.skeleton or "none") == keypoints.strip("`")
            and (known.model in models.replace("`", "").split(", "))
            and (known.colour, known.licence) == (colour, licence)
        ]
        codecs = [known.codec for known in mine if known.codec]
        assert len(mine) == int(count)
        assert {f"{w}×{h}" for w, h in (codec.input_size for codec in codecs)} == set(sizes.split(", ")) - {"–"}
        assert {codec.target for codec in codecs} == set(targets.split(", ")) - {"–"}
    assert sum(int(cells[-1]) for cells in told) == len(KNOWN_FILES)


@pytest.mark.parametrize(
    ("page", "header", "home", "name"),
    [
        (TRAIN, "column of the ledger", "kpdata.train.ledger", "_COLUMNS"),
        (BROWSE, "column of changes", "kpdata.browse.applying", "CHANGES"),
    ],
    ids=["ledger", "changes"],
)
def test_columns_of_trainings_and_reviews_are_documented(page: Path, header: str, home: str, name: str) -> None:
    """Names, order and types of the Parquet files' columns are those of the program."""
    import importlib

    found = getattr(importlib.import_module(home), name)
    columns = found.items() if isinstance(found, dict) else [(field.name, field.type) for field in found]
    told = {key: cells[0].replace("&lt;", "<").replace("&gt;", ">") for key, cells in documented(page, header).items()}
    assert list(told.items()) == [(key, str(kind).replace("item: ", "")) for key, kind in columns]


def test_the_form_of_a_review_is_that_of_the_program() -> None:
    """The JSON block of docs/browse.md is read as a review that says all that a review can say."""
    from kpdata.browse.review import decode

    review = decode(json.loads(blocks(BROWSE, "json")[0]))
    assert len(review) == 1
    assert all(None not in table.to_pylist()[0].values() for table in (review.people, review.points))


def test_the_views_are_documented() -> None:
    """Every view that the program can make is in the table of docs/browse.md, and no other."""
    source = (ROOT / "kpdata" / "browse" / "views.py").read_text(encoding="utf-8")
    made = set(re.findall(r"_view\(\s*\"([a-z ]+)\"", source)) | {"everybody", "missed NAME"}
    made |= set(re.findall(r"^        \(\"([a-z]+)\", \"[a-z]+\",", source, re.M))
    told = {name for row in documented(BROWSE, "view") for name in re.split(r"`, `", row)}
    assert told == made


def test_the_examples_of_browsing_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bash blocks of docs/browse.md run one after the other, but for those that open FiftyOne; the reviewer's part
    is done in between: a `review.json` for the page's data, and a point moved in LabelMe's file."""
    monkeypatch.chdir(tmp_path)
    written = {"--html", "--draw", "--to-labelme", "--review", "--labelme"}
    done = []
    for words in command_lines(BROWSE):
        if words[0] == "browse" and not written & set(words):
            continue
        if "--review" in words:
            review(tmp_path / "failures.html", tmp_path / "people" / "coco.json")
        if "--labelme" in words:
            move_a_point(tmp_path / "fix")
        ran = CliRunner().invoke(app, words, prog_name="kpdata")
        assert ran.exit_code == 0, f"{shlex.join(words)}\n{ran.output}"
        done += [option for option in words if option in written]
    assert set(done) == written
    for name in ("corrected.kp", "fixed.kp"):
        changes = json.loads(CliRunner().invoke(app, ["info", name, "--json"]).stdout)
        assert changes
        assert len(table_of(tmp_path / f"{name}.changes.parquet")) == 1


def review(page: Path, labels: Path) -> None:
    """A review of what the page shows: the first person's nose is put elsewhere."""
    key = re.search(r'"key":"([0-9a-f]{32})"', page.read_text(encoding="utf-8"))
    assert key
    first = json.loads(labels.read_text())["annotations"][0]
    told = {"annotation_id": first["id"], "image_id": first["image_id"], "keypoints": {"nose": {"x": 1.0, "y": 2.0}}}
    Path("review.json").write_text(json.dumps({"kpdata_review": 1, "key": key[1], "people": [told]}))


def move_a_point(folder: Path) -> None:
    """What somebody does in LabelMe."""
    file = min(path for path in folder.glob("*.json") if path.name != "review.json")
    document = json.loads(file.read_text(encoding="utf-8"))
    point = next(shape for shape in document["shapes"] if shape["shape_type"] == "point")
    point["points"][0][0] += 3.0
    file.write_text(json.dumps(document), encoding="utf-8")


def table_of(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    return rows


@pytest.mark.parametrize(
    "command",
    [
        "browse made/predictions.json --html page.html --json",
        "browse made/predictions.json --pull new.kp --review review.json --json",
        "doctor --json",
    ],
)
def test_keys_of_the_json_of_browsing_are_documented(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key of `--json` without its place in docs/browse.md."""
    monkeypatch.chdir(tmp_path)
    for before in ("synth made -n 8 --size 160x120 --no-pictures", "browse made/predictions.json --html p.html"):
        assert CliRunner().invoke(app, shlex.split(before)).exit_code == 0
    review(tmp_path / "p.html", tmp_path / "made" / "coco.json")
    found = json.loads(CliRunner().invoke(app, shlex.split(command)).stdout)
    told = set(re.findall(r"`(\w+)`", BROWSE.read_text(encoding="utf-8").split("## For programs")[1]))
    assert len(found) > 1
    assert set(found) - told == set()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page, one after the other, beside a folder `people.kp`."""
    if page == TRAIN:
        if not (find_spec("torch") and find_spec("cv2")):
            pytest.skip("docs/train.md needs kpdata[train]")
        one = pytest.importorskip("torch")
        one.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(
        app, ["synth", "made", "-n", "4", "--size", "160x120", "--formats", "kp", "--no-pictures"]
    )
    assert made.exit_code == 0
    (tmp_path / "made" / "people.kp").rename(tmp_path / "people.kp")
    space: dict[str, Any] = {"__name__": "documentation"}
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), space)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page is a file or folder of the repository."""
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_headings(page: Path) -> None:
    """What stands after # in a relative link is a heading of that page, spelt as GitHub spells it."""
    links = re.findall(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for target, anchor in links:
        text = (page.parent / target if target else page).read_text(encoding="utf-8")
        titles = [re.sub(r"[^\w\- ]", "", line.lower()) for line in re.findall(r"^#+ (.+)$", text, re.M)]
        assert anchor in [title.replace(" ", "-") for title in titles]
