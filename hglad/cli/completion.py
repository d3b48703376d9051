"""Completion in the shell: what may follow each word of a command, as a script of bash, zsh or tcsh."""

import argparse
from collections.abc import Iterable, Iterator

import shtab

from hglad.cli.names import NAMES


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Script that completes the commands of a parser; to be evaluated or sourced by that shell.

    Args:
        parser: commands and their arguments; what completes each is added to them.
        shell: bash, zsh or tcsh.
    """
    for words, action in _arguments(parser, ()):
        completer = COMPLETERS.get((*words, action.dest)) or COMPLETERS.get(action.dest)
        if completer is not None and action.choices is None:
            action.complete = completer
    return shtab.complete(parser, shell)


def _arguments(
    parser: argparse.ArgumentParser, words: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], argparse.Action]]:
    """Arguments that take a value, of a parser and of its commands, each with the words of its command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from _arguments(command, (*words, name))
        elif action.nargs != 0:
            yield words, action


def _one_of(what: str, names: Iterable[str]) -> dict:
    """One of some names."""
    words, function = " ".join(names), f"_hglad_{what}"
    preamble = {"bash": f'{function}() {{ compgen -W "{words}" -- "$1"; }}'}
    return {"bash": function, "preamble": preamble, "zsh": f"({words})", "tcsh": f"({words})"}


def _some_of(what: str, names: Iterable[str]) -> dict:
    """Some names joined by commas; tcsh completes the first."""
    words, function = " ".join(names), f"_hglad_{what}"
    after_the_last_comma = (
        f'{function}() {{ local head=""; [[ $1 == *,* ]] && head="${{1%,*}},"; '
        f'compgen -P "$head" -W "{words}" -- "${{1##*,}}"; }}'
    )
    bash = {"bash": function, "preamble": {"bash": after_the_last_comma}}
    return bash | {"zsh": f"_values -s , {what} {words}", "tcsh": f"({words})"}


def _profiles() -> dict:
    """Profiles of the project when the shell is in its folder, and any other file of YAML."""
    files = shtab.glob("*.yaml", "*.yml")
    listed = 'compgen -W "$(compgen -G "configs/*.yaml")" -- "$1"'
    function = f'_hglad_profiles() {{ {listed}; {files["bash"]} "$1"; }}'
    bash = {"bash": "_hglad_profiles", "preamble": {"bash": f"{files['preamble']['bash']}\n{function}"}}
    return files | bash


PROFILE, FILE, FOLDER = _profiles(), shtab.FILE, shtab.DIRECTORY
ONE = {what: _one_of(what, names) for what, names in NAMES.items() if what != "networks"}
COMPLETERS: dict = {
    **ONE,
    **dict.fromkeys(("out", "json", "labels", "scores", "file"), FILE),
    **dict.fromkeys(("folder", "results", "root", "experts", "cache", "cluster", "notebooks"), FOLDER),
    **dict.fromkeys(("recomputed", "committed"), FOLDER),
    "config": PROFILE,
    "networks": _some_of("networks", NAMES["networks"]),
    "prior": FILE,
    ("evaluate", "set"): FILE,
    ("explore", "rows"): FILE,
    ("provenance", "path"): FILE,
    ("data", "check", "name"): ONE["data"],
    ("prior", "describe", "name"): FILE,
    ("prior", "sample", "name"): FILE,
    ("prior", "train", "config"): shtab.glob("*.yaml", "*.yml"),
    ("report", "name"): PROFILE,
    ("results", "export", "name"): PROFILE,
    ("results", "table", "name"): PROFILE,
    ("run", "only"): ONE["experiments"],
}
"""What completes an argument, by its name or by the words of its command and its name."""
