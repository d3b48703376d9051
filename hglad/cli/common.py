"""What the commands share: a parser of each, and the check that a result can be written."""

import argparse
from pathlib import Path

DEBUG = "show the traceback of an error"


def command(commands, name: str, function, text: str) -> argparse.ArgumentParser:
    """Add a command or an action, with `--debug`; its arguments are then added to the parser returned.

    Args:
        commands: what `add_subparsers` returned.
        name: what one types.
        function: called with the parsed options; returns an exit code, None for 0.
        text: one line of help.
    """
    parser = commands.add_parser(name, help=text, description=text)
    # suppressed: without the option the one before the command stays
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG)
    parser.set_defaults(function=function)
    return parser


def check_new(path: str | None) -> None:
    """Find out before the run that its result can be written."""
    from hglad.storage import publish

    if path is not None and not Path(path).exists():
        with publish(path) as draft:
            draft.touch()
        Path(path).unlink()
