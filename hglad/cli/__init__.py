"""The `hglad` command: arguments in, one call of the library, one line per error.

The commands are in modules by topic, two functions each: `add_<command>` tells the parser its arguments,
`_<command>` runs it and imports what it needs of the library by itself: help does not wait for PyTorch.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hglad import __version__
from hglad.cli.arguments import Parser
from hglad.cli.bench import add_bench
from hglad.cli.common import DEBUG, command
from hglad.cli.data import add_data
from hglad.cli.distil import add_distill, add_explore, add_tune
from hglad.cli.pages import add_book, add_notebooks
from hglad.cli.prior import add_prior
from hglad.cli.results import add_compare, add_results
from hglad.cli.run import add_check, add_experts, add_job, add_run
from hglad.cli.score import add_evaluate
from hglad.cli.share import add_export, add_provenance, add_report
from hglad.errors import HgladError, one_line_warnings


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 on success, 1 for bad input or a run that cannot go on, 3 when some jobs of a run failed and the
        others are done, 130 when interrupted. A wrong command line ends the process with 2.
    """
    options = _parser().parse_args(arguments)
    try:
        with _terminated_as_interrupted(), one_line_warnings():
            if not getattr(options, "cluster", None):  # whose other machines have it
                _check_device(getattr(options, "device", "cpu"))
            if getattr(options, "keep_memory", True):
                _keep_freed_memory()
            status = options.function(options) or 0
            sys.stdout.flush()  # here, where a reader that has left is not an error
    except HgladError as error:
        if options.debug:
            raise
        print(f"hglad: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hglad: interrupted; the same command goes on from the last saved state", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        return 1
    except Exception as error:
        if options.debug:
            raise
        print(f"hglad: {_unexpected(error)}", file=sys.stderr)
        return 1
    return status


def _unexpected(error: Exception) -> str:
    """One line about an error that no part of the program expected."""
    text = " ".join(str(error).split())[:300]
    what = f"unexpected {type(error).__name__}: {text}" if text else f"unexpected {type(error).__name__}"
    return f"{what}; run again with --debug for the traceback, and report it"


def _keep_freed_memory() -> None:
    from hglad.runtime import keep_freed_memory

    keep_freed_memory()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: the processes that compute for this one end with it."""
    if threading.current_thread() is not threading.main_thread():  # only this one may set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="hglad", description="Dataset distillation through a generator's layers.")
    parser.add_argument("--version", action="version", version=f"hglad {__version__}")
    parser.add_argument("--debug", action="store_true", help=DEBUG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_run,
        add_job,
        add_check,
        add_experts,
        add_distill,
        add_tune,
        add_explore,
        add_evaluate,
        add_notebooks,
        add_book,
        add_compare,
        add_results,
        add_provenance,
        add_prior,
        add_data,
        add_bench,
        add_export,
        add_report,
        _add_completion,
    ):
        add(commands)
    return parser


def _check_device(name: str) -> None:
    """Refuse a device that is not there before anything is computed."""
    if name != "cpu":  # which needs no import of PyTorch
        from hglad.runtime import check_device

        check_device(name)


def _add_completion(commands) -> None:
    parser = command(commands, "completion", _completion, "print a script that completes commands")
    parser.add_argument(
        "shell", choices=("bash", "zsh", "tcsh"), help='bash: eval "$(hglad completion bash)"'
    )


def _completion(options) -> None:
    from hglad.cli.completion import completion_script

    print(completion_script(_parser(), options.shell))
