"""Commands that pass results on: export and report, and provenance, where they come from."""

import json

from hglad.cli.common import check_new, command

EXPORT_FORMATS = ("imagefolder", "parquet", "pt")


def add_provenance(commands) -> None:
    """Arguments of `hglad provenance`."""
    parser = command(commands, "provenance", _provenance, "print where a result comes from")
    parser.add_argument(
        "path",
        help="set, file of results, generator, folder of results, executed notebook or page of the book",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _provenance(options) -> None:
    from hglad.book.trace import trace
    from hglad.book.trace_text import as_text

    found = trace(options.path)
    print(json.dumps(found, indent=1) if options.json else as_text(found))


def add_export(commands) -> None:
    """Arguments of `hglad export`."""
    parser = command(
        commands,
        "export",
        _export,
        "write a distilled set for other tools, with a data-set card",
    )
    parser.add_argument("folder", help="folder of a distilled set")
    parser.add_argument(
        "--format", required=True, choices=EXPORT_FORMATS, help="imagefolder (PNG), parquet or pt (PyTorch)"
    )
    parser.add_argument("--out", required=True, help="folder to write; it must not be there yet")
    parser.add_argument("--scores", metavar="FILE", help="scores of it, written by hglad evaluate --json")
    parser.add_argument("--licence", metavar="TEXT", help="licence of your own data, such as CC-BY-4.0")
    parser.add_argument("--data", metavar="NAME", help="data set it stands for (default: as its card says)")
    parser.add_argument("--root", help="folder of the real images, for the names of the classes")


def _export(options) -> None:
    from hglad.evaluation.export import Request, export_set

    request = Request(options.format, options.data, options.root, options.licence, options.scores)
    count = export_set(options.folder, request, options.out)
    print(f"{count} images in {options.out}; README.md is its card: read it before you pass it on")


def add_report(commands) -> None:
    """Arguments of `hglad report`."""
    parser = command(
        commands,
        "report",
        _report,
        "bundle the tables, figures and rows of a profile in one zip file",
    )
    parser.add_argument("name", help="profile (name or .yaml file), or folder of results (no figures)")
    parser.add_argument("--results", help="folder of the results (default: data/results/<profile>)")
    parser.add_argument("--out", required=True, metavar="FILE", help="zip file to write")


def _report(options) -> None:
    from hglad.book.bundle import write_bundle

    check_new(options.out)
    print(write_bundle(options.name, options.results, options.out))
