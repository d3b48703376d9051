"""Wrong command lines: one line with the nearest name and exit code 2."""

import pytest

from hglad.cli import main


@pytest.mark.parametrize(("line", "message"), [
    ("evalute", "hglad: unknown command 'evalute': did you mean 'evaluate'? (see hglad --help)"),
    ("xyz", "hglad: unknown command 'xyz': expected one of "),
    ("", "hglad: the following arguments are required: COMMAND (see hglad --help)"),
    ("results tabel", "hglad results: unknown action 'tabel': did you mean 'table'? (see hglad results "),
    (
        "evaluate x --data digits --netwroks convnet",
        "hglad evaluate: unknown option '--netwroks': did you mean '--networks'? (see hglad evaluate --help)",
    ),
    ("data check a --rot=b", "hglad data check: unknown option '--rot': did you mean '--root'?"),
    ("--debgu data list", "hglad: unknown option '--debgu': did you mean '--debug'?"),
    ("data check a b", "hglad data check: unexpected argument 'b': expected no more (see hglad "),
    ("export x --format part --out y", "hglad export: unknown --format 'part': did you mean 'parquet'?"),
    ("completion fish", "hglad completion: unknown shell 'fish': expected one of bash, tcsh, zsh"),
    ("distill", "hglad distill: the following arguments are required: config"),
    ("distill c.yaml --ipc two", "hglad distill: argument --ipc: invalid int value: 'two'"),
])  # fmt: skip
def test_one_line_and_exit_code_2(capsys, line, message):
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
