"""The grammar of the command line: what is wrong in one line, with the nearest name."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from hglad.settings import suggestion


class Parser(argparse.ArgumentParser):
    """Parser of a command; a wrong command line ends with one line and exit code 2.

    Its commands are parsers of this kind too, so that an unknown option is named beside those of its command.
    """

    def error(self, message: str) -> NoReturn:
        """Print one line and end with exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse, but what is not known ends the command."""
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(self._unknown(rest[0]))
        return namespace, rest

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument '{word}': expected no more"
        name = word.partition("=")[0]
        known = [option for option in self._option_string_actions if option.startswith("--")]
        return f"unknown option '{name}': {suggestion(name, known)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Called by argparse with every value; has one choice among names say which is near."""
        if action.choices is None or value in action.choices:
            return
        kind = "/".join(action.option_strings) or (action.metavar or action.dest).lower()
        raise argparse.ArgumentError(None, f"unknown {kind} '{value}': {suggestion(value, action.choices)}")
