"""The `hglad` command: arguments in, one call of the library, one line per error.

A command imports what it needs of the library inside itself: help and completion do not wait for PyTorch.
"""

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from glob import glob
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from hglad import __version__
from hglad.errors import HgladError, one_line_warnings
from hglad.paths import PROJECT

SOME_FAILED = 3
FORMS = Literal["text", "markdown", "latex", "csv"]

app = typer.Typer(
    help="Dataset distillation through a generator's layers.", rich_markup_mode=None,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["--help", "-h"]},
)  # fmt: skip
data_app = typer.Typer(help="List the data sets or check one.")
prior_app = typer.Typer(help="Train, import or sample a generator.")
results_app = typer.Typer(help="Print tables of results, export their rows, leave images out.")
for group, name in ((data_app, "data"), (prior_app, "prior"), (results_app, "results")):
    app.add_typer(group, name=name)


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 on success, 1 for bad input or a run that cannot go on, 2 for a wrong command line, 3 when some jobs
        of a run failed and the others are done, 130 when interrupted.
    """
    words = sys.argv[1:] if arguments is None else arguments
    with suppress(ValueError):  # on another thread than the main one
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        with one_line_warnings():
            status = app([word for word in words if word != "--debug"], "hglad", standalone_mode=False) or 0
            sys.stdout.flush()  # here, where a reader that has left is not an error
        if status == 130:
            print("hglad: interrupted; the same command goes on from the last saved state", file=sys.stderr)
        return status
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        return 1
    except typer.TyperException as error:
        where = context.command_path if (context := getattr(error, "ctx", None)) else "hglad"
        line = " ".join(error.format_message().replace("Value error, ", "").split()).removesuffix(".")
        print(f"{where}: {line} (see {where} --help)", file=sys.stderr)
        return 2
    except Exception as error:
        if "--debug" in words:
            raise
        line = " ".join(str(error).split())
        if not isinstance(error, HgladError):
            line = f"unexpected {type(error).__name__}{line and ': '}{line[:300]}"
            line += "; run again with --debug for the traceback, and report it"
        print(f"hglad: {line}", file=sys.stderr)
        return 1


# What completes an argument in the shell


def profiles(incomplete: str) -> list[str]:
    """Profiles of the project when the shell is in its folder, and any other YAML file."""
    return sorted({*glob("configs/*.yaml"), *glob(f"{incomplete}*.yaml"), *glob(f"{incomplete}*/")})


def priors() -> list[str]:
    """Generators of the project, trained ones and recipes."""
    files = (PROJECT / "data" / "priors").glob("*.*")
    return sorted({path.stem for path in files if path.suffix in (".safetensors", ".yaml")})


def registered(room: str) -> Callable[[str], list[str]]:
    """Names in the registry of a package, read from its source, since nobody waits for PyTorch at a key."""

    def names(incomplete: str) -> list[str]:
        files = [Path(find_spec(entry.module).origin) for entry in entry_points(group="hglad")]
        files += Path(__file__).with_name(room).glob("*.py")
        register = re.compile(rf'@(?:{room.upper()}\.register|register_{room[:-1]})\("([\w-]+)"\)')
        found = sorted({name for file in files for name in register.findall(file.read_text())})
        before = incomplete[: incomplete.rfind(",") + 1]  # where several are given with commas between
        return [before + name for name in found]

    return names


def _device(context: typer.Context, name: str) -> str:
    """Refuse a device that is not there before anything is computed."""
    if name != "cpu" and not context.resilient_parsing:  # as completion does
        from hglad.runtime import check_device

        check_device(name)
    return name


def _new(context: typer.Context, path: Path | None) -> Path | None:
    """Find out before the run that its result can be written."""
    if path is not None and not path.exists() and not context.resilient_parsing:
        from hglad.storage import write_whole

        with write_whole(path) as draft:
            draft.touch()
        path.unlink()
    return path


def _version(wanted: bool) -> None:
    if wanted:
        print(f"hglad {__version__}")
        raise typer.Exit


def argument(text: str, complete: Callable | None = None) -> typer.models.ArgumentInfo:
    return typer.Argument(help=text, autocompletion=complete)


def option(text: str, *names: str, complete: Callable | None = None, **more) -> typer.models.OptionInfo:
    return typer.Option(*names, help=text, autocompletion=complete, **more)


def flag(name: str, text: str, **more) -> typer.models.OptionInfo:
    return typer.Option(f"--{name}", help=text, **more)


Config = Annotated[Path, argument("Profile, such as configs/digits.yaml.", profiles)]
Results = Annotated[Path | None, option("Folder of the results (default: data/results/<profile>).")]
Cores = Annotated[int | None, option("Processors to use (default: all).", min=1)]
Device = Annotated[str, option("cpu or cuda.", callback=_device)]
DataName = Annotated[str, option("Data set (hglad data list).", "--data", metavar="NAME")]
Root = Annotated[Path | None, option("Folder of the images where the data set needs one.")]
Resolution = Annotated[int | None, option("Height and width in pixels (default: the data set's own).")]
Seed = Annotated[int, option("Seed of every draw.")]
JsonFile = Annotated[Path | None, option("Write it there with its provenance.", "--json", callback=_new)]
Named = Annotated[str, argument("Profile's .yaml file (the runs it plans), or folder of results.", profiles)]
Generator = Annotated[str, argument("Generator in data/priors, or a path.", priors)]


@app.callback()
def _common(
    version: Annotated[bool, flag("version", "Print it.", callback=_version, is_eager=True)] = False,
    debug: Annotated[bool, flag("debug", "Show the traceback of an error; also behind a command.")] = False,
) -> None:
    from hglad.runtime import keep_freed_memory

    keep_freed_memory()


# Runs of a profile


@app.command()
def run(
    config: Config,
    results: Results = None,
    only: Annotated[str | None, option("One experiment, such as glad_baseline.", metavar="NAME")] = None,
    notebooks: Annotated[Path | None, option("Execute the notebooks, too, into this folder.")] = None,
    book: Annotated[Path | None, option("And build the book, into DIR/_build/html.", metavar="DIR")] = None,
    dry_run: Annotated[bool, flag("dry-run", "Print the jobs and how long they would take.")] = False,
    quiet: Annotated[bool, flag("quiet", "Print nothing but what went wrong.")] = False,
    cores: Cores = None,
    device: Annotated[str, option("cpu or cuda.")] = "cpu",
    gpus: Annotated[int | None, option("GPUs to use with --device cuda (default: all).", min=1)] = None,
    cluster: Annotated[Path | None, option("Snakemake profile, such as configs/cluster/slurm.")] = None,
    threads: Annotated[int | None, option("Processors of a job (default: cores by jobs).", min=1)] = None,
    job_seconds: Annotated[float | None, option("Length of a job to aim at.", min=0.001)] = None,
    snakemake: Annotated[str, option("Further options of Snakemake.")] = "",
) -> int:
    """Compute what is missing of a profile's runs."""
    from hglad.experiments.workflow import Batch

    if book and not notebooks:
        raise HgladError("--book needs --notebooks DIR, the folder of the executed notebooks that it shows")
    if device != "cpu" and not cluster:  # whose other machines have it
        import torch

        from hglad.runtime import check_device

        check_device(device)
        gpus = gpus or (1 if ":" in device else torch.cuda.device_count())
    batch = Batch(
        config, results, only, device, cores or len(os.sched_getaffinity(0)), gpus or 0, threads, cluster,
        job_seconds, tuple(shlex.split(snakemake)), dry_run, quiet,
    )  # fmt: skip
    complete = batch.run()
    if complete and notebooks:
        from hglad.book.notebooks import execute_all
        from hglad.experiments.checks import read_profile

        execute_all(config, results, notebooks, only)
        if book:
            from hglad.book.build import build

            print(f"book: {build(read_profile(config).profile, notebooks, book)}")
    return 0 if complete or dry_run else SOME_FAILED


@app.command(hidden=True)
def job(folder: Path, name: str) -> None:
    """Compute one job of a plan; Snakemake calls this."""
    from hglad.experiments.workflow import work

    work(folder, name)


@app.command()
def check(config: Config) -> None:
    """See whether a profile fits, and how much it computes."""
    from hglad.experiments.checks import check_profile, read_profile, summary

    profile = read_profile(config)
    check_profile(profile)
    print(f"{config} fits: {summary(profile)}")


@app.command()
def experts(
    config: Config,
    count: Annotated[int | None, option("Experts (default: the profile's).", min=1)] = None,
    results: Results = None,
    cores: Cores = None,
    device: Device = "cpu",
) -> None:
    """Train expert trajectories for trajectory matching."""
    from hglad.experiments.checks import read_profile
    from hglad.experiments.runner import run_all
    from hglad.experiments.store import Store
    from hglad.experiments.tasks import expert_tasks
    from hglad.settings import ExpertSettings

    profile = read_profile(config)
    own = [each.experts for each in profile.objectives.values() if each.experts]
    settings = own[0] if own else ExpertSettings()
    settings = settings.changed(count=count or settings.count)
    store = Store.of_profile(profile.profile, results)
    tasks = expert_tasks(profile.data, profile.surrogate.network, settings)
    run_all(tasks, store, cores, device)
    print(f"{len(tasks)} experts in {store.experts_folder(tasks[0].folder_key)}")


# One search

Objective = Annotated[str, option("Matching objective.", complete=registered("objectives"))]
OneObjective = Annotated[
    str | None, option("One objective (default: all).", complete=registered("objectives"))
]
Search = Annotated[str, option("pixels, single or hierarchical.")]
Prior = Annotated[str | None, option("Generator (default: the profile's).", complete=priors)]
Ipc = Annotated[int, option("Images per class.")]
Preset = Annotated[str | None, option("paper, or released: what the authors' code does.")]
Assignments = Annotated[list[str], option("search.steps=50, ...; several times.", "--set")]


@app.command()
def distill(
    config: Config,
    out: Annotated[Path, option("Folder to write.", callback=_new)],
    objective: Objective = "dm",
    search: Search = "hierarchical",
    prior: Prior = None,
    ipc: Ipc = 1,
    seed: Seed = 0,
    experts: Annotated[Path | None, option("Expert trajectories for mtt (default: the profile's).")] = None,
    preset: Preset = None,
    assignments: Assignments = [],  # noqa: B006
    keep_iterates: Annotated[bool, flag("keep-iterates", "Keep the images of measured iterates.")] = False,
    restart: Annotated[bool, flag("restart", "Begin anew, whatever state is there.")] = False,
    device: Device = "cpu",
) -> None:
    """Distill one set."""
    from hglad.experiments.runner import run_all
    from hglad.experiments.store import Store
    from hglad.experiments.tasks import DistillTask
    from hglad.search.distillation import distill as run_search

    profile, settings = _resolved(
        config, objective, search, prior, ipc, seed, preset, assignments, keep_iterates
    )
    if experts is None and (tasks := DistillTask(settings).experts):  # trained first where they are missing
        store = Store.of_profile(profile.profile)
        run_all(tasks, store, device=device)
        experts = store.experts_folder(tasks[0].folder_key)
    made = run_search(settings, out, device, show=True, experts=experts, restart=restart)
    print(f"{len(made.images)} images in {out}, distance {made.card['distance']:.4g}")


@app.command()
def explain(
    config: Config,
    objective: Objective = "dm",
    search: Search = "hierarchical",
    prior: Prior = None,
    ipc: Ipc = 1,
    seed: Seed = 0,
    preset: Preset = None,
    assignments: Assignments = [],  # noqa: B006
    stages: Annotated[bool, flag("stages", "Print the stages alone.")] = False,
    device: Device = "cpu",
) -> None:
    """Print the settings of a run, where each comes from, its stages and their cost, without running it."""
    import pandas as pd

    from hglad.analysis.tables import stage_table
    from hglad.experiments.checks import explain as explain_settings
    from hglad.search.distillation import known_real, planned_stages

    _, settings = _resolved(config, objective, search, prior, ipc, seed, preset, assignments)
    images = ipc * len(known_real(settings.data).train.classes)
    if not stages:
        changes = _changes(config, objective, prior, ipc, preset, assignments)
        rows = explain_settings(config, changes, objective=objective, search=search, ipc=ipc)
        print(pd.DataFrame(rows, columns=["key", "value", "from"]).to_string(index=False), end="\n\n")
    print(stage_table(planned_stages(settings, device), images))


def _resolved(config, objective, search, prior, ipc, seed, preset, assignments, keep_iterates=False) -> tuple:
    """Profile, and settings of one of its runs: the profile's, then the preset's, then those of --set."""
    from hglad.experiments.checks import of_runs, read_profile
    from hglad.search.distillation import DistillationSettings

    changes = _changes(config, objective, prior, ipc, preset, assignments)
    own = of_runs(changes)
    profile = read_profile(config, {key: value for key, value in changes.items() if key not in own})
    return profile, DistillationSettings.of(profile, objective, search, ipc, seed, own, keep_iterates)


def _changes(config, objective, prior, ipc, preset, assignments) -> dict:
    """Changes to a profile, by dotted key: those of a preset, then those of --set."""
    import yaml

    from hglad.experiments import plans
    from hglad.experiments.checks import read_profile

    changes = {} if prior is None else {"prior": prior}
    if preset is not None:
        name = read_profile(config, changes).prior
        if name is None:
            raise HgladError(f"preset '{preset}' needs a generator: name one with --prior")
        changes |= plans.preset(preset, objective, len(plans.layers_of(name)), ipc)
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or "." not in key:
            raise HgladError(f"--set {assignment!r}: expected KEY=VALUE, such as search.steps=100")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            text = f"--set {assignment!r}: cannot read the value; expected YAML, such as [1, 3]"
            raise HgladError(text) from None
    return changes


@app.command()
def tune(
    config: Config,
    objective: OneObjective = None,
    search: Annotated[str | None, option("One search (default: those of the profile).")] = None,
    trials: Annotated[int, option("Settings tried for each search.")] = 12,
    seeds: Annotated[int, option("Distilled sets per trial.")] = 2,
    repeats: Annotated[int, option("Networks trained per set (0: evaluation.repeats).")] = 0,
    holdout: Annotated[float, option("Share of the training images held out.")] = 0.25,
    results: Annotated[Path | None, option("Folder (default: _build/tuning/<profile>).")] = None,
    json_file: JsonFile = None,
    cores: Cores = None,
    device: Device = "cpu",
) -> None:
    """Find rates, layer and stages of each search on held-out training images."""
    from hglad.experiments import tuning
    from hglad.experiments.checks import read_profile
    from hglad.experiments.store import Store
    from hglad.storage import write_json

    profile = read_profile(config)
    settings = tuning.TuningSettings(trials=trials, seeds=seeds, repeats=repeats, holdout=holdout)
    earlier = tuning.read_earlier(json_file, profile, settings) if json_file else None
    store = Store(results or Path("_build", "tuning", profile.profile))
    objectives, searches = ([name] if name else None for name in (objective, search))
    result = tuning.tune(profile, settings, store, objectives, cores, device, searches)
    result = tuning.together(earlier, result)
    if json_file:
        write_json(json_file, result)
    print(tuning.trial_table(result["trials"]).to_string(index=False))
    print(f"\nbest of each, for the profile:\n{tuning.as_yaml(result['best'])}")


@app.command()
def explore(
    folder: Annotated[Path, argument("Distilled set with kept iterates (--keep-iterates).")],
    out: Annotated[Path, option("HTML file to write; it needs nothing else.", callback=_new)],
    rows: Annotated[Path | None, option("Evaluation of its iterates, for a curve of accuracy.")] = None,
) -> None:
    """Write a page to step through a run in a browser."""
    from hglad.book.explorer import write_explorer

    write_explorer(folder, out, rows)


# Sets and results

Networks = Annotated[
    str,
    option("Names with commas between; torchvision:NAME, timm:NAME, too.", complete=registered("networks")),
]


@app.command()
def evaluate(
    distilled: Annotated[Path, argument("Folder of a set, or one of others: .pt .safetensors .npz, images.")],
    data: DataName,
    root: Root = None,
    resolution: Resolution = None,
    networks: Networks = "convnet",
    repeats: Annotated[int, option("Networks of each architecture.")] = 5,
    protocol: Annotated[str, option("glad, dm or dc: training as in its paper.")] = "glad",
    epochs: Annotated[int | None, option("Epochs (default: the protocol's).")] = None,
    lr: Annotated[float | None, option("Learning rate (default: the protocol's).")] = None,
    augmentation: Annotated[str | None, option("Strategies joined by _, or ''.")] = None,
    precision: Annotated[str | None, option("float32 or bfloat16 (default: the protocol's).")] = None,
    test_precision: Annotated[str | None, option("That of the test (default: float32).")] = None,
    seed: Seed = 0,
    random: Annotated[int, option("Score as many random real sets, too.", metavar="N")] = 0,
    json_file: JsonFile = None,
    device: Device = "cpu",
    labels: Annotated[Path | None, option("File of the labels where they lie apart.")] = None,
    experiment: Annotated[int, option("Which set of a DC or DM file.")] = 0,
    normalized: Annotated[bool, flag("normalized", "Undo a normalization by the data's own.")] = False,
    mean: Annotated[str | None, option("Undo a normalization by such numbers as 0.49,0.48,0.45")] = None,
    std: Annotated[str | None, option("and such.")] = None,
    any_range: Annotated[bool, flag("any-range", "Take images however far from [0, 1].")] = False,
) -> None:
    """Train networks on a distilled set, ours or of others, and test them on real images."""
    import pandas as pd

    from hglad.evaluation.evaluate import evaluate_file, score_table
    from hglad.storage import write_json

    given = {
        "epochs": epochs, "lr": lr, "augmentation": augmentation, "precision": precision,
        "test_precision": test_precision,
    }  # fmt: skip
    changes = {key: value for key, value in given.items() if value is not None}
    if (mean is None) != (std is None):
        raise HgladError("--mean and --std go together: give both, or --normalized for the data set's own")
    if mean is not None:
        try:
            normalized = tuple([float(number) for number in text.split(",")] for text in (mean, std))
        except ValueError:
            found = f"--mean and --std are {mean} and {std}"
            raise HgladError(f"{found}: expected numbers such as 0.49,0.48,0.45") from None
    result = evaluate_file(
        distilled, data, [name.strip() for name in networks.split(",")], protocol, changes, repeats, seed,
        random, root, resolution, device, show=True,
        labels=labels, experiment=experiment, normalized=normalized, any_range=any_range,
    )  # fmt: skip
    print(score_table(pd.DataFrame(result["rows"])).to_string(index=False))
    if json_file:
        write_json(json_file, result)


@app.command()
def export(
    folder: Annotated[Path, argument("Folder of a distilled set.")],
    form: Annotated[Literal["imagefolder", "parquet", "pt"], option("pt is PyTorch's.", "--format")],
    out: Annotated[Path, option("Folder to write; it must not be there yet.")],
    scores: Annotated[Path | None, option("Scores of it, written by hglad evaluate --json.")] = None,
    license: Annotated[str | None, option("License of your own data, such as CC-BY-4.0.")] = None,
    data: Annotated[str | None, option("Data set it stands for (default: as its card says).")] = None,
    root: Annotated[Path | None, option("Folder of the real images, for the names of the classes.")] = None,
) -> None:
    """Write a distilled set for other tools, with a data-set card."""
    from hglad.evaluation.export import export_set

    count = export_set(folder, form, out, data, root, license, scores)
    print(f"{count} images in {out}; README.md is its card: read it before you pass it on")


@app.command()
def compare(
    recomputed: Annotated[Path, argument("Folder of the new results.")],
    committed: Annotated[Path, argument("Folder of the results to compare with.")],
) -> None:
    """Hold recomputed results against committed ones."""
    from hglad.analysis.cells import compare as compare_rows
    from hglad.analysis.cells import verdict
    from hglad.experiments.store import Store

    table = compare_rows(Store(recomputed).rows(), Store(committed).rows())
    print(table.to_string(index=False))
    print(verdict(table))


@app.command()
def provenance(
    path: Annotated[Path, argument("Set, other result, folder of results, executed notebook or page.")],
    as_json: Annotated[bool, flag("json", "Print it as JSON.")] = False,
) -> None:
    """Print where a result comes from."""
    import yaml

    from hglad.provenance import trace

    found = trace(path)
    text = yaml.safe_dump(found, sort_keys=False, default_flow_style=None, width=100)
    print(json.dumps(found, indent=1) if as_json else text, end="\n" if as_json else "")


@app.command()
def notebooks(
    config: Config,
    out: Annotated[Path, option("Folder for the executed notebooks.")],
    results: Results = None,
) -> None:
    """Execute the notebooks of a profile with papermill."""
    from hglad.book.notebooks import execute_all

    execute_all(config, results, out)


@app.command()
def book(
    notebooks: Annotated[Path | None, option("Folder of notebooks (default: the committed).")] = None,
    profile: Annotated[str, option("Profile that the notebooks show.")] = "digits",
    out: Annotated[Path, option("Folder that gets _build/html.")] = Path("."),
) -> None:
    """Build the book around executed notebooks."""
    from hglad.book.build import build

    print(f"book: {build(profile, notebooks, out)}")


@results_app.command("table")
def results_table(
    name: Named,
    rows: Annotated[str, option("Column that leads the rows.")] = "method",
    columns: Annotated[str, option("Column of the columns: network or ipc.")] = "network",
    objective: OneObjective = None,
    ipc: Annotated[int | None, option("One number of images per class.")] = None,
    interval: Annotated[str, option("t or bootstrap over seeds, or networks: of one set.")] = "t",
    relative: Annotated[bool, flag("relative", "Add gain over random, share of the full set.")] = False,
    published: Annotated[bool, flag("published", "Add published numbers (csv: these alone).")] = False,
    form: Annotated[FORMS | None, option("csv: numbers, not cells (default: text).", "--format")] = None,
    out: Annotated[Path | None, option("Write it there: .txt, .md, .tex or .csv.", callback=_new)] = None,
    results: Results = None,
) -> None:
    """Print a table of results with intervals."""
    from hglad.analysis.tables import chosen_format, results_text, write_text

    form = chosen_format(form, out)
    layout = {"rows": rows, "columns": columns, "relative": relative}
    text = results_text(*_named_results(name, results), form, objective, ipc, interval, published, **layout)
    if out:
        write_text(out, text)
    else:
        print(text, end="")


@results_app.command("export")
def results_export(
    name: Named, out: Annotated[Path, option("File to write: .parquet or .csv.")], results: Results = None
) -> None:
    """Write the rows with their provenance to a file."""
    from hglad.analysis.cells import check_suffix, export_rows, write_rows

    check_suffix(out)
    frame = export_rows(*_named_results(name, results))
    write_rows(frame, out)
    print(f"{len(frame)} rows of {frame['key'].nunique()} evaluations in {out}")


@results_app.command("slim")
def results_slim(
    config: Config,
    dry_run: Annotated[bool, flag("dry-run", "Only say how much it would be.")] = False,
    results: Results = None,
) -> None:
    """Delete the images of sets that no page shows."""
    from hglad.experiments.checks import read_profile
    from hglad.experiments.plans import drop_images
    from hglad.experiments.store import Store

    profile = read_profile(config)
    store = Store.of_profile(profile.profile, results)
    if not store.root.is_dir():
        raise HgladError(f"no results in {store.root}: expected some from hglad run {config}")
    folders, size = drop_images(profile, store, remove=not dry_run)
    did = "would leave out" if dry_run else "left out"
    print(f"{did} the images of {len(folders)} sets in {store.root}, {size:.1f} MiB")


def _named_results(name: str, results: Path | None) -> tuple:
    """Store of a profile or a folder, and marks by key of what a profile's file plans; none for all of it."""
    from hglad.experiments.checks import read_profile
    from hglad.experiments.plans import plan
    from hglad.experiments.store import Store
    from hglad.experiments.tasks import EvaluateTask, marks_by_key

    if not name.endswith((".yaml", ".yml")):
        return Store.named(name, results), None
    profile = read_profile(name)
    store = Store.of_profile(profile.profile, results)
    evaluations = [task for task in plan(profile) if isinstance(task, EvaluateTask) and task.done(store)]
    return store, marks_by_key(evaluations)


# Generators and data sets


@prior_app.command("train")
def prior_train(
    config: Annotated[Path, argument("Recipe, such as configs/priors/digits-16.yaml.")],
    out: Annotated[Path, option("File to write (.safetensors, with a .json card).", callback=_new)],
    device: Device = "cpu",
) -> None:
    """Train a generator on a data set; a stopped run goes on."""
    from hglad.priors.training.train import PriorSettings, train_prior

    card = train_prior(PriorSettings.from_yaml(config), out, device)
    print(json.dumps(card["quality"], indent=1))


@prior_app.command("import")
def prior_import(
    out: Annotated[Path, option("File to write (.safetensors, with a .json card).", callback=_new)],
    file: Annotated[Path | None, argument("Network pickle (.pkl).")] = None,
    name: Annotated[str | None, option("Released network to download, such as imagenet128.")] = None,
    key: Annotated[str, option("Network in the file.")] = "G_ema",
    cache: Annotated[Path | None, option("Folder of the download (default: that of --out).")] = None,
) -> None:
    """Turn a StyleGAN-XL network pickle into safetensors; nothing in it is run."""
    from hglad.priors.nvidia import import_prior

    card = import_prior(out, file, name, key, cache)
    print(f"{card['source']['class']} of {card['source']['file']} in {out}")


@prior_app.command("sample")
def prior_sample(
    name: Generator,
    out: Annotated[Path, option("PNG file to write.")],
    classes: Annotated[str | None, option("Numbers separated by commas (default: the first ten).")] = None,
    per_class: Annotated[int, option("Samples of each class.", min=1)] = 10,
    truncation: Annotated[float, option("0 to 1 (1: none).")] = 1.0,
    seed: Seed = 0,
) -> None:
    """Write a grid of samples as PNG."""
    from hglad.evaluation.sets import save_grid
    from hglad.priors import load_prior
    from hglad.priors.training.quality import draw_samples

    numbers = [] if classes is None else classes.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise HgladError(f"classes is {classes!r}: expected numbers such as 0,217,482")
    prior = load_prior(name).set_truncation(truncation)
    chosen = [int(number) for number in numbers] or range(min(10, max(1, prior.settings.c_dim)))
    images, _ = draw_samples(prior, per_class * len(chosen), seed, chosen)
    save_grid(images, per_class, out)


@prior_app.command("describe")
def prior_describe(name: Generator) -> None:
    """List the layers of a generator."""
    from hglad.priors import load_prior

    print(load_prior(name).describe().to_string())


@data_app.command("list")
def data_list() -> None:
    """Names of the data sets."""
    from hglad.data import datasets

    for name, description in datasets.available():
        print(f"{name:20} {description}")


@data_app.command("check")
def data_check(
    name: Annotated[str, argument("Name of the data set, or a folder of images.")],
    root: Root = None,
    resolution: Resolution = None,
    record: Annotated[bool, flag("record", "Keep this, to read results without the images.")] = False,
    download: Annotated[bool, flag("download", "Fetch it where torchvision can.")] = False,
) -> None:
    """Load a data set and describe it."""
    from hglad.data import datasets

    data = datasets.load_data(name, root, resolution, download=download)
    if record:
        settings = datasets.DataSettings(name=name, root=root and str(root), resolution=resolution)
        datasets.write_record(data, datasets.record_file(settings))
    print(json.dumps(datasets.describe(data), indent=1))
