"""Commands that make what one reads: notebooks and book."""

from hglad.cli.common import command


def add_notebooks(commands) -> None:
    """Arguments of `hglad notebooks`."""
    parser = command(commands, "notebooks", _notebooks, "execute the notebooks of a profile with papermill")
    parser.add_argument("config", help="profile, such as configs/digits.yaml")
    parser.add_argument("--results", help="folder of the results (default: data/results/<profile>)")
    parser.add_argument("--out", required=True, help="folder for the executed notebooks")


def _notebooks(options) -> None:
    from hglad.book.notebooks import execute_all

    execute_all(options.config, options.results, options.out)


def add_book(commands) -> None:
    """Arguments of `hglad book`."""
    parser = command(commands, "book", _book, "build the book around executed notebooks")
    parser.add_argument("--notebooks", help="folder of the executed notebooks (default: the committed ones)")
    parser.add_argument(
        "--profile", default="digits", help="profile that the notebooks show (default: digits)"
    )
    parser.add_argument("--out", default=".", help="folder that gets _build/html (default: the current one)")


def _book(options) -> None:
    from hglad.book.build import build

    print(f"book: {build(options.profile, options.notebooks, options.out)}")
