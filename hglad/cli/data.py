"""Commands of data sets: data list and check."""

import json

from hglad.cli.common import command


def add_data(commands) -> None:
    """Arguments of `hglad data`."""
    parser = commands.add_parser("data", help="list the data sets or check one")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    command(actions, "list", _data_list, "names of the data sets")
    check = command(actions, "check", _data_check, "load a data set and describe it")
    check.add_argument("name", help="name of the data set, or a folder of images")
    check.add_argument("--root", help="folder of the images where the data set needs one")
    check.add_argument("--resolution", type=int, help="height and width in pixels")
    check.add_argument(
        "--record",
        action="store_true",
        help="keep this in data/described, to read results by",
    )
    check.add_argument("--download", action="store_true", help="fetch it where torchvision can")


def _data_list(options) -> None:
    from hglad.data.datasets import available

    for name, description in available():
        print(f"{name:20} {description}")


def _data_check(options) -> None:
    from hglad.data.datasets import DataSettings, describe, load_data

    data = load_data(options.name, options.root, options.resolution, download=options.download)
    if options.record:
        from hglad.data.described import record, record_file

        record(data, record_file(DataSettings(options.name, options.root, options.resolution)))
    print(json.dumps(describe(data), indent=1))
