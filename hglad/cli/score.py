"""The command that scores a set, of this project or of others: evaluate."""

from pathlib import Path

from hglad.cli.common import check_new, command
from hglad.errors import HgladError


def add_evaluate(commands) -> None:
    """Arguments of `hglad evaluate`."""
    parser = command(
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
    parser.add_argument("--test-precision", help="that of the test (default: float32)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the networks (default: 0)")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="score N random real sets too")
    parser.add_argument("--json", metavar="FILE", help="write rows and provenance there")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    others = parser.add_argument_group("sets of others")
    others.add_argument("--labels", metavar="FILE", help="file of the labels where they lie apart")
    others.add_argument("--experiment", type=int, default=0, help="which set of a DC or DM file (default: 0)")
    others.add_argument("--normalized", action="store_true", help="undo a normalization by the data's own")
    others.add_argument("--mean", help="numbers separated by commas: undo a normalization by these ...")
    others.add_argument("--std", help="... and these")
    others.add_argument("--any-range", action="store_true", help="take images however far from [0, 1]")


def _evaluate(options) -> None:
    import pandas as pd

    from hglad.evaluation.score_file import Scoring, SetFile, score_file, score_table
    from hglad.storage import write_json

    check_new(options.json)
    keys = ("epochs", "lr", "augmentation", "precision", "test_precision")
    changes = tuple((key, value) for key in keys if (value := getattr(options, key)) is not None)
    networks = tuple(name.strip() for name in options.networks.split(","))
    scoring = Scoring(networks, options.protocol, changes, options.repeats, options.seed)
    labels = None if options.labels is None else Path(options.labels)
    file = SetFile(
        Path(options.set), labels, options.experiment, _normalized(options), any_range=options.any_range
    )
    result = score_file(
        file, options.data, scoring, options.root, options.resolution, options.random, options.device, True
    )
    print(score_table(pd.DataFrame(result["rows"])).to_string(index=False))
    if options.json:
        write_json(options.json, result)


def _normalized(options) -> bool | tuple[list[float], list[float]]:
    """How the images were normalized: not, by the data set's own statistics, or by (mean, std)."""
    if (options.mean is None) != (options.std is None):
        raise HgladError("--mean and --std go together: give both, or --normalized for the data set's own")
    if options.mean is None:
        return options.normalized
    try:
        return tuple([float(x) for x in text.split(",")] for text in (options.mean, options.std))
    except ValueError:
        given = f"{options.mean} and {options.std}"
        raise HgladError(f"--mean and --std are {given}: expected numbers such as 0.49,0.48,0.45") from None
