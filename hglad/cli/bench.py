"""The command that times fast implementations: bench."""

from hglad.cli.common import check_new, command


def add_bench(commands) -> None:
    """Arguments of `hglad bench`."""
    parser = command(
        commands, "bench", _bench, "time fast implementations against straightforward ones (in a checkout)"
    )
    parser.set_defaults(keep_memory=False)  # what is measured decides for itself
    parser.add_argument(
        "--suite",
        default="matching",
        help="file of benchmarks/: matching (the default), generator, evaluation, metric",
    )
    parser.add_argument("--json", metavar="FILE", help="write the measurements and their provenance there")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--repeats", type=int, help="timed steps of each implementation (default: 5)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and one repeat: does it run at all")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases with this text in their names")


def _bench(options) -> None:
    from tqdm import tqdm

    from hglad.bench import HEADER, Suite, report, run, table_line
    from hglad.provenance import Stopwatch, device_name
    from hglad.storage import write_json

    check_new(options.json)
    suite, watch = Suite(options.suite, options.device, options.quick), Stopwatch(options.device)
    rows = []
    for row in run(suite, options.repeats, options.only):
        if not rows:
            tqdm.write(f"{device_name(options.device)}\n{HEADER}")
        tqdm.write(table_line(row))
        rows.append(row)
        if options.json:  # after every case: a run that is stopped keeps what it has measured
            write_json(options.json, report(suite, rows, watch))
