"""`kpdata`: the app, its exit codes, and the one place where errors become sentences.

Exit codes: 0 done; 1 a KpdataError, or findings of kind error; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from kpdata import __version__
from kpdata.cli import console
from kpdata.errors import KpdataError

# Command: its module and function. Only the command that runs is imported, so that it starts at once.
COMMANDS = {
    "convert": "convert.convert",
    "info": "info.info",
    "validate": "validate.validate",
    "merge": "merge.merge",
    "split": "split.split",
    "eval": "evaluate.evaluate",
    "compare": "compare.compare",
    "sigmas": "sigmas.sigmas",
    "synth": "synth.synth",
    "augment": "augment.augment",
    "train": "train.train",
    "predict": "predict.predict",
    "export": "export.export",
    "browse": "browse.browse",
    "doctor": "doctor.doctor",
    "demo": "demo.demo",
}


class Commands(typer.core.TyperGroup):
    """The commands, each imported when it is asked for, with every error told in a sentence: no traceback reaches the
    user."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or None: then all are loaded, for typer to say which was meant."""
        for name in [cmd_name] if cmd_name in COMMANDS else COMMANDS:
            if name not in self.commands:
                self.commands[name] = _command(name)
        return self.commands.get(cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what goes wrong becomes a line on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except KpdataError as problem:
            console.error(problem)
            raise typer.Exit(1) from problem
        except KeyboardInterrupt as stop:
            console.warn("interrupted: what was there before is as it was")
            raise typer.Exit(130) from stop
        except Exception as problem:
            # Usage errors and exits are typer's own, before 0.26 click's; a closed pipe (`| head`) is nobody's mistake.
            if isinstance(problem, BrokenPipeError) or type(problem).__module__.startswith(("typer", "click")):
                raise
            if os.environ.get("KPDATA_DEBUG"):
                raise
            console.error(_unexpected(problem))
            raise typer.Exit(1) from problem


def _unexpected(problem: Exception) -> KpdataError:
    """The sentence for what no command foresaw."""
    where = "".join(f"{note}: " for note in getattr(problem, "__notes__", ()))
    if isinstance(problem, MemoryError):
        return KpdataError(f"{where}not enough memory for this input", hint="split it, or use a bigger machine")
    if isinstance(problem, OSError):
        named = f"{problem.filename}: " if problem.filename else where
        return KpdataError(f"{named}{problem.strerror or problem}")
    return KpdataError(
        f"{where}kpdata itself failed ({type(problem).__name__}: {problem})",
        hint="please report it with the output of the same command under KPDATA_DEBUG=1",
    )


app = typer.Typer(
    cls=Commands,
    help="Human-pose keypoint data: convert, check, augment, train, evaluate and browse.",
    epilog="Example: kpdata convert person_keypoints_val2017.json val.kp",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"kpdata {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Human-pose keypoint data: convert, check, augment, train, evaluate and browse."""


def _command(name: str) -> Any:
    """A command whose docstring is its help; the example comes last, after the options."""
    module, _, function = COMMANDS[name].partition(".")
    command = getattr(importlib.import_module(f"kpdata.cli.{module}"), function)
    text, _, example = inspect.cleandoc(command.__doc__ or "").partition("Example: ")
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name, help=text, epilog=f"Example: {example}")(command)
    return typer.main.get_command(alone)


def main() -> None:
    """The app on this process's arguments, ended by SystemExit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the process: what is said is said to nobody
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    console.prepare()
    app(prog_name="kpdata")


if __name__ == "__main__":
    main()
