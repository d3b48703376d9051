"""Commands about results: compare, and results table, export and slim."""

from pathlib import Path

from hglad.cli.common import check_new, command
from hglad.errors import HgladError


def add_compare(commands) -> None:
    """Arguments of `hglad compare`."""
    parser = command(commands, "compare", _compare, "hold recomputed results against committed ones")
    parser.add_argument("recomputed", help="folder of the new results")
    parser.add_argument("committed", help="folder of the results to compare with")


def _compare(options) -> None:
    from hglad.experiments.store import Store, compare, verdict

    table = compare(Store(Path(options.recomputed)).rows(), Store(Path(options.committed)).rows())
    print(table.to_string(index=False))
    print(verdict(table))


def add_results(commands) -> None:
    """Arguments of `hglad results`."""
    parser = commands.add_parser("results", help="print tables of results, export rows, slim a folder")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    table = command(actions, "table", _results_table, "print a table of results with intervals")
    table.add_argument("--rows", default="method", help="column that leads the rows (default: method)")
    table.add_argument("--columns", default="network", help="column of the columns: network (default) or ipc")
    table.add_argument("--objective", help="one matching objective, and the baselines (default: all)")
    table.add_argument("--ipc", type=int, help="one number of images per class (default: all)")
    table.add_argument(
        "--interval", default="t", help="t (the default) or bootstrap over seeds, or networks: of one set"
    )
    table.add_argument("--relative", action="store_true", help="add gain over random, share of the full set")
    table.add_argument("--published", action="store_true", help="add published numbers (csv: these alone)")
    table.add_argument("--format", help="text (the default), markdown, latex or csv (numbers, not cells)")
    table.add_argument("--out", metavar="FILE", help="write it there: .txt, .md, .tex or .csv")
    export = command(actions, "export", _results_export, "write the rows with their provenance to a file")
    export.add_argument("--out", metavar="FILE", required=True, help="file to write: .parquet or .csv")
    slim = command(actions, "slim", _results_slim, "delete the images of sets that no page shows")
    slim.add_argument("config", help="profile, such as configs/cifar10.yaml")
    slim.add_argument("--dry-run", action="store_true", help="only say how much it would be")
    for action in (table, export):
        action.add_argument("name", help="profile (its .yaml file: the runs it plans), or folder of results")
    for action in (table, export, slim):
        action.add_argument("--results", help="folder of the results (default: data/results/<profile>)")


def _results_table(options) -> None:
    from hglad.analysis.published import beside_published, images_of
    from hglad.analysis.rendering import chosen_format, render, write_text
    from hglad.analysis.tables import INTERVALS, cells, notes_of, published_table, result_table, select

    form = chosen_format(options.format, options.out)
    check_new(options.out)
    store, keys = _named_results(options)
    rows = select(store.rows(keys), options.objective, options.ipc)
    numbers = cells(rows, options.interval)
    table = result_table(numbers, options.rows, options.columns, options.relative)
    tables = [table.noted(notes_of(store, rows))]
    if options.published:
        images = images_of(store, list(rows["key"].unique()))
        numbers = beside_published(rows, store, images, *INTERVALS[options.interval])
        if numbers.empty and form == "csv":
            raise HgladError(f"nothing is on record as published for {images.dataset}: leave out --published")
        tables.append(published_table(numbers))
    text = numbers.to_csv(index=False) if form == "csv" else render(tables, form)
    if options.out:
        return write_text(options.out, text)
    print(text, end="")


def _results_export(options) -> None:
    from hglad.analysis.rows import check_suffix, export_rows, write_rows

    check_suffix(options.out)
    store, keys = _named_results(options)
    frame = export_rows(store, keys)
    write_rows(frame, options.out)
    print(f"{len(frame)} rows of {frame['key'].nunique()} evaluations in {options.out}")


def _results_slim(options) -> None:
    from hglad.evaluation.sets import leave_images_out
    from hglad.experiments.profile_file import read_profile
    from hglad.experiments.slim import mebibytes, unneeded_images
    from hglad.experiments.store import Store

    profile = read_profile(options.config)
    store = Store.of_profile(profile.profile, options.results)
    if not store.root.is_dir():
        raise HgladError(f"no results in {store.root}: expected some from hglad run {options.config}")
    folders = unneeded_images(profile, store)
    size, did = mebibytes(folders), "would leave out" if options.dry_run else "left out"
    for folder in [] if options.dry_run else folders:
        leave_images_out(folder)
    print(f"{did} the images of {len(folders)} sets in {store.root}, {size:.1f} MiB")


def _named_results(options) -> tuple:
    """Store of a profile or a folder, and marks by key of what a profile's file plans; none for all of it."""
    from hglad.experiments.store import Store

    if not options.name.endswith((".yaml", ".yml")):
        return Store.named(options.name, options.results), None
    from hglad.experiments.definitions import plan
    from hglad.experiments.evaluation_task import EvaluateTask, marks_by_key
    from hglad.experiments.profile_file import read_profile

    profile = read_profile(options.name)
    store = Store.of_profile(profile.profile, options.results)
    evaluations = [task for task in plan(profile) if isinstance(task, EvaluateTask) and task.done(store)]
    return store, marks_by_key(evaluations)
