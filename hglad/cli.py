"""The `hglad` command: arguments in, one call of the library, one line per error."""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hglad import __version__
from hglad.errors import HgladError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 on success, 1 for bad input or a run that cannot go on, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        with _terminated_as_interrupted():
            _check_device(getattr(options, "device", "cpu"))
            if options.function is not _bench:  # what is measured there decides for itself
                _keep_freed_memory()
            options.function(options)
    except HgladError as error:
        if options.debug:
            raise
        print(f"hglad: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hglad: interrupted; the same command goes on from the last saved state", file=sys.stderr)
        return 130
    return 0


def _keep_freed_memory() -> None:
    from hglad.memory import keep_freed_memory

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
    parser = argparse.ArgumentParser(
        prog="hglad", description="Dataset distillation through a generator's layers."
    )
    parser.add_argument("--version", action="version", version=f"hglad {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_run,
        _add_experts,
        _add_distill,
        _add_tune,
        _add_explore,
        _add_evaluate,
        _add_notebooks,
        _add_book,
        _add_compare,
        _add_results,
        _add_prior,
        _add_data,
        _add_bench,
    ):
        add(commands)
    return parser


def _check_device(name: str) -> None:
    """Refuse a device that is not there before anything is computed."""
    if name == "cpu":
        return
    import torch

    if not name.startswith("cuda"):
        raise HgladError(f"unknown device '{name}': expected cpu or cuda")
    if not torch.cuda.is_available():
        raise HgladError(f"device '{name}' is not there: PyTorch finds no GPU, use cpu")


def _check_new(path: str | None) -> None:
    """Find out before the run that its result can be written."""
    from hglad.storage import publish

    if path is not None and not Path(path).exists():
        with publish(path) as draft:
            draft.touch()
        Path(path).unlink()


def _command(commands, name: str, function, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(function=function)
    return parser


def _add_run(commands) -> None:
    parser = _command(commands, "run", _run, "compute what is missing of a profile's runs")
    parser.add_argument("config", help="profile, such as configs/digits.yaml")
    parser.add_argument("--results", help="folder of the results (default: data/results/<profile>)")
    parser.add_argument("--only", metavar="NAME", help="one experiment: " + ", ".join(EXPERIMENT_NAMES))
    parser.add_argument("--cores", type=int, help="runs at the same time (default: all processors)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")


EXPERIMENT_NAMES = (
    "matching_objectives",
    "glad_baseline",
    "hierarchical_search",
    "metric_ablation",
    "cross_architecture",
    "paper_vs_code",
    "baselines",
)


def _run(options) -> None:
    from hglad.experiments import plan
    from hglad.profile import read_profile
    from hglad.results import Store
    from hglad.runner import run_all

    profile = read_profile(options.config)
    store = Store.of_profile(profile.profile, options.results)
    run_all(plan(profile, options.only), store, options.cores, options.device)


def _add_experts(commands) -> None:
    parser = _command(commands, "experts", _experts, "train expert trajectories for trajectory matching")
    parser.add_argument("config", help="profile, such as configs/digits.yaml")
    parser.add_argument("--count", type=int, help="experts (default: the profile's)")
    parser.add_argument("--results", help="folder of the results (default: data/results/<profile>)")
    parser.add_argument("--cores", type=int, help="experts at the same time (default: all processors)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")


def _experts(options) -> None:
    from dataclasses import replace

    from hglad.experts import ExpertSettings
    from hglad.profile import read_profile
    from hglad.results import Store
    from hglad.runner import run_all
    from hglad.tasks import expert_tasks

    profile = read_profile(options.config)
    settings = profile.objective("mtt").experts or ExpertSettings()
    settings = replace(settings, count=settings.count if options.count is None else options.count)
    store = Store.of_profile(profile.profile, options.results)
    tasks = expert_tasks(profile.data, profile.surrogate.network, settings)
    run_all(tasks, store, options.cores, options.device)
    print(f"{len(tasks)} experts in {store.experts_folder(tasks[0].folder_key)}")


def _add_distill(commands) -> None:
    parser = _command(commands, "distill", _distill, "distil one set")
    parser.add_argument("config", help="profile, such as configs/digits.yaml")
    parser.add_argument("--objective", default="dm", help="matching objective (default: dm)")
    parser.add_argument(
        "--search", default="hierarchical", help="pixels, single or hierarchical (the default)"
    )
    parser.add_argument("--prior", help="generator (default: the profile's)")
    parser.add_argument("--ipc", type=int, default=1, help="images per class (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    parser.add_argument(
        "--experts", metavar="DIR", help="expert trajectories for mtt (default: the profile's)"
    )
    parser.add_argument(
        "--preset", help="paper, or released: what the authors' code does (default: as the profile says)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="search.steps=50, ..."
    )
    parser.add_argument("--keep-iterates", action="store_true", help="keep the images of measured iterates")
    parser.add_argument("--explain", action="store_true", help="print the stages and their cost, run nothing")
    parser.add_argument("--restart", action="store_true", help="begin anew, whatever state is there")
    parser.add_argument("--out", help="folder to write")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")


def _distill(options) -> None:
    from hglad.distillation import distill
    from hglad.profile import read_profile

    if options.out is None and not options.explain:
        raise HgladError("distill needs --out DIR, the folder to write (or --explain, which runs nothing)")
    profile = read_profile(options.config)
    settings = _distillation_settings(profile, options)
    if options.explain:
        return _explain(settings, options.device)
    _check_new(options.out)
    experts = options.experts or _experts_of(profile, settings, options.device)
    distilled = distill(
        settings, options.out, options.device, show=True, experts=experts, restart=options.restart
    )
    print(f"{len(distilled.images)} images in {options.out}, distance {distilled.card['distance']:.4g}")


def _distillation_settings(profile, options):
    """Settings of a run: the profile's, then the preset's, then those of --set."""
    from dataclasses import replace

    from hglad.distillation import DistillationSettings
    from hglad.experiments import layer_count
    from hglad.presets import preset, published_schedule

    profile = replace(profile, prior=options.prior or profile.prior)
    changes = {"search": {}, "metric": {}}
    if options.preset is not None:
        if profile.prior is None:
            raise HgladError(f"preset '{options.preset}' needs a generator: name one with --prior")
        points = layer_count(profile)
        changes = preset(options.preset, points, options.ipc)
        changes["search"] |= published_schedule(options.preset, options.objective, points, options.ipc)
    for assignment in options.set:
        group, key, value = _assignment(assignment)
        changes[group][key] = value
    keep = {"keep_iterates": options.keep_iterates}
    return DistillationSettings.of(
        profile, options.objective, options.search, options.ipc, options.seed, **changes, **keep
    )


def _assignment(text: str) -> tuple[str, str, object]:
    """Group, key and value of `search.steps=50`; values are read as YAML."""
    import yaml

    name, equals, value = text.partition("=")
    group, dot, key = name.partition(".")
    if not equals or not dot or group not in ("search", "metric"):
        raise HgladError(f"--set {text!r}: expected search.KEY=VALUE or metric.KEY=VALUE")
    try:
        return group, key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise HgladError(f"--set {text!r}: cannot read the value; expected YAML, such as [1, 3]") from None


def _explain(settings, device: str) -> None:
    from hglad.distillation import load_real, planned_stages
    from hglad.report import stage_plan

    images = settings.ipc * len(load_real(settings.data).train.classes)
    print(stage_plan(planned_stages(settings, device), images).to_string(index=False))


def _add_tune(commands) -> None:
    parser = _command(
        commands, "tune", _tune, "find rates, layer and stages of each search on held-out training images"
    )
    parser.add_argument("config", help="profile, such as configs/digits.yaml")
    parser.add_argument("--objective", help="one objective (default: those of the profile)")
    parser.add_argument("--trials", type=int, default=12, help="settings tried for each search (default: 12)")
    parser.add_argument("--seeds", type=int, default=2, help="distilled sets per trial (default: 2)")
    parser.add_argument("--holdout", type=float, default=0.25, help="share held out (default: 0.25)")
    parser.add_argument("--results", help="folder of the trials (default: _build/tuning/<profile>)")
    parser.add_argument("--json", metavar="FILE", help="write trials, choice and provenance there")
    parser.add_argument("--cores", type=int, help="trials at the same time (default: all processors)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")


def _tune(options) -> None:
    from hglad.profile import read_profile
    from hglad.results import Store
    from hglad.storage import write_json
    from hglad.tuning import TuningSettings, as_yaml, trial_table, tune

    profile = read_profile(options.config)
    settings = TuningSettings(options.trials, options.seeds, options.holdout)
    _check_new(options.json)
    store = Store(Path(options.results or f"_build/tuning/{profile.profile}"))
    objectives = [options.objective] if options.objective else None
    result = tune(profile, settings, store, objectives, options.cores, options.device)
    if options.json:
        write_json(options.json, result)
    print(trial_table(result["trials"]).to_string(index=False))
    print(f"\nbest of each, for the profile:\n{as_yaml(result['best'])}")


def _add_explore(commands) -> None:
    parser = _command(commands, "explore", _explore, "write a page to step through a run in a browser")
    parser.add_argument("folder", help="folder of a distilled set with kept iterates (--keep-iterates)")
    parser.add_argument("--rows", metavar="FILE", help="evaluation of its iterates, for a curve of accuracy")
    parser.add_argument("--out", required=True, help="HTML file to write; it needs nothing else")


def _explore(options) -> None:
    from hglad.data import DataSettings
    from hglad.distillation import load_real
    from hglad.distilled import DistilledSet
    from hglad.explorer import kept_iterates, write_explorer
    from hglad.settings import from_dict

    _check_new(options.out)
    distilled = DistilledSet.load(options.folder)
    kept_iterates(distilled)  # a set without them may have no settings either
    data = load_real(from_dict(DataSettings, distilled.card["settings"]["data"]))
    write_explorer(options.folder, options.out, data, _iterate_rows(options.rows))


def _iterate_rows(file: str | None):
    """Rows of an evaluation, as results/<profile>/evaluations holds them."""
    import pandas as pd

    from hglad.storage import read_json

    content = read_json(file) if file else {"rows": None}
    rows = content.get("rows") if isinstance(content, dict) else None
    columns = {"seed", "accuracy"}
    if file and not (isinstance(rows, list) and rows and all(columns <= row.keys() for row in rows)):
        raise HgladError(f"{file} has no rows with seed and accuracy: expected a file of evaluations/")
    return pd.DataFrame(rows) if rows else None


def _experts_of(profile, settings, device: str) -> Path | None:
    """Folder of the experts that a run needs, which are trained first where they are missing."""
    from hglad.results import Store
    from hglad.runner import run_all
    from hglad.tasks import DistillTask

    tasks, store = DistillTask(settings).experts, Store.of_profile(profile.profile)
    run_all(tasks, store, device=device)
    return store.experts_folder(tasks[0].folder_key) if tasks else None


def _add_evaluate(commands) -> None:
    parser = _command(
        commands, "evaluate", _evaluate, "train networks on a distilled set, test them on real images"
    )
    parser.add_argument("set", help="folder of a set, or one of others: .pt .safetensors .npz, image folder")
    parser.add_argument("--data", required=True, metavar="NAME", help="data set (hglad data list)")
    parser.add_argument("--root", help="folder of the images where the data set needs one")
    parser.add_argument("--resolution", type=int, help="pixels (default: the set's, or the data set's own)")
    parser.add_argument(
        "--networks",
        default="convnet",
        help="names, separated by commas; torchvision:NAME and timm:NAME too (default: convnet)",
    )
    parser.add_argument("--repeats", type=int, default=5, help="networks of each architecture (default: 5)")
    parser.add_argument("--protocol", default="glad", help="glad (the default), dm or dc: its paper's")
    parser.add_argument("--epochs", type=int, help="epochs (default: the protocol's)")
    parser.add_argument("--lr", type=float, help="learning rate (default: the protocol's)")
    parser.add_argument("--augmentation", help="strategies joined by _, or '' (default: the protocol's)")
    parser.add_argument("--precision", help="float32 or bfloat16 (default: the protocol's, float32)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the networks (default: 0)")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="score N random real sets too")
    parser.add_argument("--json", metavar="FILE", help="write rows and provenance there")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    others = parser.add_argument_group("sets of others")
    others.add_argument("--labels", metavar="FILE", help="file of the labels where they lie apart")
    others.add_argument("--experiment", type=int, default=0, help="which set of a DC or DM file (default: 0)")
    others.add_argument("--normalised", action="store_true", help="undo a normalisation by the data's own")
    others.add_argument("--mean", help="numbers separated by commas: undo a normalisation by these ...")
    others.add_argument("--std", help="... and these")
    others.add_argument("--any-range", action="store_true", help="take images however far from [0, 1]")


def _evaluate(options) -> None:
    import pandas as pd

    from hglad.scoring import Scoring, SetFile, score_file, score_table
    from hglad.storage import write_json

    _check_new(options.json)
    keys = ("epochs", "lr", "augmentation", "precision")
    changes = tuple((key, value) for key in keys if (value := getattr(options, key)) is not None)
    networks = tuple(name.strip() for name in options.networks.split(","))
    scoring = Scoring(networks, options.protocol, changes, options.repeats, options.seed)
    labels = None if options.labels is None else Path(options.labels)
    file = SetFile(
        Path(options.set), labels, options.experiment, _normalised(options), any_range=options.any_range
    )
    result = score_file(
        file, options.data, scoring, options.root, options.resolution, options.random, options.device, True
    )
    print(score_table(pd.DataFrame(result["rows"])).to_string(index=False))
    if options.json:
        write_json(options.json, result)


def _normalised(options) -> bool | tuple[list[float], list[float]]:
    """How the images were normalised: not, by the data set's own statistics, or by (mean, std)."""
    if (options.mean is None) != (options.std is None):
        raise HgladError("--mean and --std go together: give both, or --normalised for the data set's own")
    if options.mean is None:
        return options.normalised
    try:
        return tuple([float(x) for x in text.split(",")] for text in (options.mean, options.std))
    except ValueError:
        given = f"{options.mean} and {options.std}"
        raise HgladError(f"--mean and --std are {given}: expected numbers such as 0.49,0.48,0.45") from None


def _add_notebooks(commands) -> None:
    parser = _command(commands, "notebooks", _notebooks, "execute the notebooks of a profile with papermill")
    parser.add_argument("config", help="profile, such as configs/digits.yaml")
    parser.add_argument("--results", help="folder of the results (default: data/results/<profile>)")
    parser.add_argument("--out", required=True, help="folder for the executed notebooks")


def _notebooks(options) -> None:
    from hglad.notebooks import execute_all

    execute_all(options.config, options.results, options.out)


def _add_book(commands) -> None:
    parser = _command(commands, "book", _book, "build the book around executed notebooks")
    parser.add_argument("--notebooks", help="folder of the executed notebooks (default: the committed ones)")
    parser.add_argument(
        "--profile", default="digits", help="profile that the notebooks show (default: digits)"
    )
    parser.add_argument("--out", default=".", help="folder that gets _build/html (default: the current one)")


def _book(options) -> None:
    from hglad.book import build

    print(f"book: {build(options.profile, options.notebooks, options.out)}")


def _add_compare(commands) -> None:
    parser = _command(commands, "compare", _compare, "hold recomputed results against committed ones")
    parser.add_argument("recomputed", help="folder of the new results")
    parser.add_argument("committed", help="folder of the results to compare with")


def _compare(options) -> None:
    from hglad.results import Store, compare, verdict

    table = compare(Store(Path(options.recomputed)).rows(), Store(Path(options.committed)).rows())
    print(table.to_string(index=False))
    print(verdict(table))


def _add_results(commands) -> None:
    parser = commands.add_parser("results", help="print tables of results or export their rows")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    table = _command(actions, "table", _results_table, "print a table of results with intervals")
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
    export = _command(actions, "export", _results_export, "write the rows with their provenance to a file")
    export.add_argument("--out", metavar="FILE", required=True, help="file to write: .parquet or .csv")
    for action in (table, export):
        action.add_argument("name", help="profile (its .yaml file: the runs it plans), or folder of results")
        action.add_argument("--results", help="folder of the results (default: data/results/<profile>)")


def _results_table(options) -> None:
    from hglad.published import beside_published, images_of
    from hglad.rendering import chosen_format, render, write_text
    from hglad.tables import INTERVALS, cells, notes_of, published_table, result_table, select

    form = chosen_format(options.format, options.out)
    _check_new(options.out)
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
    from hglad.export import check_suffix, export_rows, write_rows

    check_suffix(options.out)
    store, keys = _named_results(options)
    frame = export_rows(store, keys)
    write_rows(frame, options.out)
    print(f"{len(frame)} rows of {frame['key'].nunique()} evaluations in {options.out}")


def _named_results(options) -> tuple:
    """Store of a profile or a folder, and the keys that a profile's file plans; none for all of them."""
    from hglad.results import Store

    if not options.name.endswith((".yaml", ".yml")):
        return Store.named(options.name, options.results), None
    from hglad.experiments import plan
    from hglad.profile import read_profile

    profile = read_profile(options.name)
    store = Store.of_profile(profile.profile, options.results)
    return store, [task.key for task in plan(profile) if store.evaluation_file(task.key).is_file()]


def _add_prior(commands) -> None:
    parser = commands.add_parser("prior", help="train, import or sample a generator")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    train = _command(actions, "train", _prior_train, "train a generator on a data set; a stopped run goes on")
    train.add_argument("config", help="settings, such as configs/priors/digits-16.yaml")
    train.add_argument("--out", required=True, help="file to write (.safetensors, with a .json card)")
    train.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    released = _command(
        actions,
        "import",
        _prior_import,
        "turn a StyleGAN-XL network pickle into safetensors; nothing in it is run",
    )
    released.add_argument("file", nargs="?", help="network pickle (.pkl)")
    released.add_argument("--name", help="released network to download instead, such as imagenet128")
    released.add_argument("--out", required=True, help="file to write (.safetensors, with a .json card)")
    released.add_argument("--key", default="G_ema", help="network in the file (default: G_ema)")
    released.add_argument("--cache", metavar="DIR", help="folder of the download (default: that of --out)")
    sample = _command(actions, "sample", _prior_sample, "write a grid of samples as PNG")
    sample.add_argument("name", help="generator in data/priors, or a path")
    sample.add_argument("--out", required=True, help="PNG file to write")
    sample.add_argument("--classes", help="numbers separated by commas (default: the first ten)")
    sample.add_argument("--per-class", type=int, default=10, help="samples of each class (default: 10)")
    sample.add_argument("--truncation", type=float, default=1.0, help="0 to 1 (default: 1, none)")
    sample.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    describe = _command(actions, "describe", _prior_describe, "list the layers of a generator")
    describe.add_argument("name", help="generator in data/priors, or a path")


def _prior_train(options) -> None:
    from hglad.priors.train import read_prior_settings, train_prior

    card = train_prior(read_prior_settings(options.config), options.out, options.device)
    print(json.dumps(card["quality"], indent=1))


def _prior_import(options) -> None:
    from hglad.priors.nvidia import import_pickle, import_released

    if (options.file is None) == (options.name is None):
        raise HgladError("prior import needs a FILE or --name NAME, and not both: hglad prior import --help")
    _check_new(options.out)
    if options.file is not None:
        card = import_pickle(options.file, options.out, options.key)
    else:
        card = import_released(options.name, options.out, options.key, options.cache)
    print(f"{card['source']['class']} of {card['source']['file']} in {options.out}")


def _prior_sample(options) -> None:
    from hglad.distilled import save_grid
    from hglad.priors import load_prior
    from hglad.priors.train import draw_samples

    prior = load_prior(options.name).set_truncation(options.truncation)
    classes = _classes(options.classes) or range(min(10, max(1, prior.settings.c_dim)))
    images, _ = draw_samples(prior, options.per_class * len(classes), options.seed, classes)
    save_grid(images, options.per_class, options.out)


def _classes(text: str | None) -> list[int]:
    numbers = [] if text is None else text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise HgladError(f"classes is {text!r}: expected numbers such as 0,217,482")
    return [int(number) for number in numbers]


def _prior_describe(options) -> None:
    from hglad.priors import load_prior

    print(load_prior(options.name).describe().to_string())


def _add_data(commands) -> None:
    parser = commands.add_parser("data", help="list the data sets or check one")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _command(actions, "list", _data_list, "names of the data sets")
    check = _command(actions, "check", _data_check, "load a data set and describe it")
    check.add_argument("name", help="name of the data set, or a folder of images")
    check.add_argument("--root", help="folder of the images where the data set needs one")
    check.add_argument("--resolution", type=int, help="height and width in pixels")
    check.add_argument("--download", action="store_true", help="fetch it where torchvision can")


def _data_list(options) -> None:
    from hglad.data import available

    for name, description in available():
        print(f"{name:20} {description}")


def _data_check(options) -> None:
    from hglad.data import describe, load_data

    data = load_data(options.name, options.root, options.resolution, download=options.download)
    print(json.dumps(describe(data), indent=1))


def _add_bench(commands) -> None:
    parser = _command(
        commands, "bench", _bench, "time fast implementations against straightforward ones (in a checkout)"
    )
    parser.add_argument(
        "--suite",
        default="matching",
        help="file of benchmarks/: matching (the default), generator, evaluation",
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

    _check_new(options.json)
    suite, watch = Suite(options.suite, options.device, options.quick), Stopwatch(options.device)
    rows = []
    for row in run(suite, options.repeats, options.only):
        if not rows:
            tqdm.write(f"{device_name(options.device)}\n{HEADER}")
        tqdm.write(table_line(row))
        rows.append(row)
        if options.json:  # after every case: a run that is stopped keeps what it has measured
            write_json(options.json, report(suite, rows, watch))
