"""Commands of generators: prior train, import, sample and describe."""

import json

from hglad.cli.common import check_new, command
from hglad.errors import HgladError


def add_prior(commands) -> None:
    """Arguments of `hglad prior`."""
    parser = commands.add_parser("prior", help="train, import or sample a generator")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    train = command(actions, "train", _prior_train, "train a generator on a data set; a stopped run goes on")
    train.add_argument("config", help="settings, such as configs/priors/digits-16.yaml")
    train.add_argument("--out", required=True, help="file to write (.safetensors, with a .json card)")
    train.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    released = command(
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
    sample = command(actions, "sample", _prior_sample, "write a grid of samples as PNG")
    sample.add_argument("name", help="generator in data/priors, or a path")
    sample.add_argument("--out", required=True, help="PNG file to write")
    sample.add_argument("--classes", help="numbers separated by commas (default: the first ten)")
    sample.add_argument("--per-class", type=int, default=10, help="samples of each class (default: 10)")
    sample.add_argument("--truncation", type=float, default=1.0, help="0 to 1 (default: 1, none)")
    sample.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    describe = command(actions, "describe", _prior_describe, "list the layers of a generator")
    describe.add_argument("name", help="generator in data/priors, or a path")


def _prior_train(options) -> None:
    from hglad.priors.training.train import read_prior_settings, train_prior

    card = train_prior(read_prior_settings(options.config), options.out, options.device)
    print(json.dumps(card["quality"], indent=1))


def _prior_import(options) -> None:
    from hglad.priors.nvidia import import_pickle, import_released

    if (options.file is None) == (options.name is None):
        raise HgladError("prior import needs a FILE or --name NAME, and not both: hglad prior import --help")
    check_new(options.out)
    if options.file is not None:
        card = import_pickle(options.file, options.out, options.key)
    else:
        card = import_released(options.name, options.out, options.key, options.cache)
    print(f"{card['source']['class']} of {card['source']['file']} in {options.out}")


def _prior_sample(options) -> None:
    from hglad.evaluation.sets import save_grid
    from hglad.priors import load_prior
    from hglad.priors.training.quality import draw_samples

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
