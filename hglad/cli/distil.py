"""Commands around one search: distill, tune and explore."""

from dataclasses import replace
from pathlib import Path

from hglad.cli.common import check_new, command
from hglad.errors import HgladError


def add_distill(commands) -> None:
    """Arguments of `hglad distill`."""
    parser = command(commands, "distill", _distill, "distil one set")
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
    from hglad.experiments.profile_file import read_profile
    from hglad.search.distillation import distill

    if options.out is None and not options.explain:
        raise HgladError("distill needs --out DIR, the folder to write (or --explain, which runs nothing)")
    profile = read_profile(options.config)
    settings = _distillation_settings(profile, options)
    if options.explain:
        return _explain(settings, options.device)
    check_new(options.out)
    experts = options.experts or _experts_of(profile, settings, options.device)
    distilled = distill(
        settings, options.out, options.device, show=True, experts=experts, restart=options.restart
    )
    print(f"{len(distilled.images)} images in {options.out}, distance {distilled.card['distance']:.4g}")


def _distillation_settings(profile, options):
    """Settings of a run: the profile's, then the preset's, then those of --set."""
    from hglad.experiments.definitions import layer_count
    from hglad.experiments.presets import preset, published_schedule
    from hglad.search.distillation import DistillationSettings

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
    from hglad.analysis.report import stage_plan
    from hglad.search.distillation import known_real, planned_stages

    images = settings.ipc * len(known_real(settings.data).train.classes)
    print(stage_plan(planned_stages(settings, device), images).to_string(index=False))


def _experts_of(profile, settings, device: str) -> Path | None:
    """Folder of the experts that a run needs, which are trained first where they are missing."""
    from hglad.experiments.runner import run_all
    from hglad.experiments.store import Store
    from hglad.experiments.tasks import DistillTask

    tasks, store = DistillTask(settings).experts, Store.of_profile(profile.profile)
    run_all(tasks, store, device=device)
    return store.experts_folder(tasks[0].folder_key) if tasks else None


def add_tune(commands) -> None:
    """Arguments of `hglad tune`."""
    parser = command(
        commands, "tune", _tune, "find rates, layer and stages of each search on held-out training images"
    )
    parser.add_argument("config", help="profile, such as configs/digits.yaml")
    parser.add_argument("--objective", help="one objective (default: those of the profile)")
    parser.add_argument("--search", help="one search (default: those of the profile)")
    parser.add_argument("--trials", type=int, default=12, help="settings tried for each search (default: 12)")
    parser.add_argument("--seeds", type=int, default=2, help="distilled sets per trial (default: 2)")
    parser.add_argument(
        "--repeats", type=int, default=0, help="networks trained per set (default: evaluation.repeats)"
    )
    parser.add_argument("--holdout", type=float, default=0.25, help="share held out (default: 0.25)")
    parser.add_argument("--results", help="folder of the trials (default: _build/tuning/<profile>)")
    parser.add_argument(
        "--json", metavar="FILE", help="write trials, choice and provenance there, or add them"
    )
    parser.add_argument("--cores", type=int, help="trials at the same time (default: all processors)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")


def _tune(options) -> None:
    from hglad.experiments.profile_file import read_profile
    from hglad.experiments.store import Store
    from hglad.experiments.tuning import TuningSettings, as_yaml, read_earlier, together, trial_table, tune
    from hglad.storage import write_json

    profile = read_profile(options.config)
    settings = TuningSettings(options.trials, options.seeds, options.repeats, options.holdout)
    check_new(options.json)
    earlier = read_earlier(options.json, profile, settings) if options.json else None
    store = Store(Path(options.results or f"_build/tuning/{profile.profile}"))
    objectives = [options.objective] if options.objective else None
    searches = [options.search] if options.search else None
    result = tune(profile, settings, store, objectives, options.cores, options.device, searches)
    result = together(earlier, result)
    if options.json:
        write_json(options.json, result)
    print(trial_table(result["trials"]).to_string(index=False))
    print(f"\nbest of each, for the profile:\n{as_yaml(result['best'])}")


def add_explore(commands) -> None:
    """Arguments of `hglad explore`."""
    parser = command(commands, "explore", _explore, "write a page to step through a run in a browser")
    parser.add_argument("folder", help="folder of a distilled set with kept iterates (--keep-iterates)")
    parser.add_argument("--rows", metavar="FILE", help="evaluation of its iterates, for a curve of accuracy")
    parser.add_argument("--out", required=True, help="HTML file to write; it needs nothing else")


def _explore(options) -> None:
    from hglad.book.explorer import kept_iterates, write_explorer
    from hglad.data.datasets import DataSettings
    from hglad.evaluation.sets import DistilledSet
    from hglad.search.distillation import load_real
    from hglad.settings import from_dict

    check_new(options.out)
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
