"""The documentation says what the program does: options, examples and code blocks are checked against it."""

from __future__ import annotations

import json
import re
import shlex
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
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # the app is a group
CLI = ROOT / "docs" / "cli.md"
EVALUATION = ROOT / "docs" / "evaluation.md"
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


def test_the_examples_of_the_command_line_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bash blocks of docs/cli.md run, and no command is without one."""
    assert {words[0] for words in command_lines(CLI)} == set(COMMANDS)
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


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page, one after the other, beside a folder `people.kp`."""
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
