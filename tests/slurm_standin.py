"""A stand-in for SLURM's commands on one machine: a job becomes a process, its state a file.

Takes what Snakemake's executor sends: `sbatch --parsable ... --wrap=COMMAND`, `srun OPTIONS COMMAND`,
`sacct`, `squeue`, `scancel`, `scontrol show config`, `sinfo`. The variable STANDIN_FOLDER names its folder
(those that begin with SLURM_ are taken from a job); every call of `sbatch` is kept there, one JSON file a
job, for the tests to look at.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "squeue", "scancel", "scontrol", "sinfo", "sacctmgr", "sshare")
SHORT = {
    "-t": "runtime",
    "-p": "partition",
    "-A": "account",
    "-D": "chdir",
    "-C": "constraint",
    "-J": "job-name",
}
WITH_VALUE = {"-n", "-A", "-p", "-t", "-J"}  # options of srun whose value is a word of its own


def install(folder: Path) -> Path:
    """Put the commands into `folder`/bin; to be put first on the PATH."""
    binaries = folder / "bin"
    binaries.mkdir(parents=True)
    for command in COMMANDS:
        script = binaries / command
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {command} "$@"\n')
        script.chmod(0o755)
    return binaries


def submitted(folder: Path) -> list[dict]:
    """What has been submitted: the options of `sbatch` as a mapping, in order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("job-*.json"))]


def sbatch(arguments: list[str], folder: Path) -> None:
    given, words = {}, iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            given[name[2:]] = value if equals or name in ("--parsable", "--requeue") else next(words)
        else:
            given[SHORT[name]] = next(words)
    number = 1 + len(list(folder.glob("job-*.json")))
    (folder / f"job-{number:04}.json").write_text(json.dumps(given))
    state = folder / f"state-{number}"
    state.write_text("RUNNING")
    script = f"{given['wrap']}\nif [ $? = 0 ]; then echo COMPLETED; else echo FAILED; fi > {state}"
    with open(given["output"].replace("%j", str(number)), "wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", script], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | {"SLURM_JOB_ID": str(number), "SLURM_JOBID": str(number)},
        )  # fmt: skip
    (folder / f"pid-{number}").write_text(str(process.pid))
    print(number)


def srun(arguments: list[str], folder: Path) -> None:
    while arguments and arguments[0].startswith("-"):
        arguments = arguments[2 if arguments[0] in WITH_VALUE else 1 :]
    os.execvp(arguments[0], arguments)


def sacct(arguments: list[str], folder: Path) -> None:
    for path in sorted(folder.glob("state-*")):
        print(f"{path.name.removeprefix('state-')}|{path.read_text().strip()}")


def scancel(arguments: list[str], folder: Path) -> None:
    for number in arguments:
        if (folder / f"pid-{number}").is_file():
            with suppress(ProcessLookupError):
                os.killpg(int((folder / f"pid-{number}").read_text()), signal.SIGTERM)
            (folder / f"state-{number}").write_text("CANCELLED")


if __name__ == "__main__":
    known = {"sbatch": sbatch, "srun": srun, "sacct": sacct, "squeue": sacct, "scancel": scancel}
    if sys.argv[1] in known:
        known[sys.argv[1]](sys.argv[2:], Path(os.environ["STANDIN_FOLDER"]))
    elif sys.argv[1] == "scontrol":
        print("MinJobAge               = 300 sec")
