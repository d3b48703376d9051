"""A stand-in for SLURM's commands on one machine: a job becomes a process, its state a file.

Takes what Snakemake's executor sends: `sbatch --parsable ... --wrap=COMMAND`, `srun OPTIONS COMMAND`,
`sacct`, `squeue`, `scancel`, `scontrol show config`, `sinfo`. The variable SLURM_STANDIN names its folder;
every call of `sbatch` is kept there, one JSON file a job, for the tests to look at.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "squeue", "scancel", "scontrol", "sinfo", "sacctmgr", "sshare")
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
    """What has been submitted: the arguments of `sbatch` as a mapping, in order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("job-*.json"))]


def sbatch(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for option in (
        "--job-name",
        "--output",
        "--export",
        "--comment",
        "--wrap",
        "--mem",
        "--ntasks",
        "--gpus",
    ):
        parser.add_argument(option)
    for option, name in (
        ("-t", "runtime"),
        ("-p", "partition"),
        ("-A", "account"),
        ("-D", "chdir"),
        ("-C", "constraint"),
    ):
        parser.add_argument(option, dest=name)
    for option in ("--cpus-per-task", "--nodes", "--ntasks-per-gpu", "--gres", "--qos", "--chdir"):
        parser.add_argument(option)
    parser.add_argument("--parsable", action="store_true")
    parser.add_argument("--requeue", action="store_true")
    given = vars(parser.parse_args(arguments))
    folder = _folder()
    number = 1 + len(list(folder.glob("job-*.json")))
    output = given["output"].replace("%j", str(number))
    (folder / f"job-{number:04}.json").write_text(json.dumps(given))
    (folder / f"state-{number}").write_text("RUNNING")
    script = (
        f"{given['wrap']}\nif [ $? = 0 ]; then echo COMPLETED; else echo FAILED; fi > {folder}/state-{number}"
    )
    with open(output, "wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", script], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | {"SLURM_JOB_ID": str(number), "SLURM_JOBID": str(number)},
        )  # fmt: skip
    (folder / f"pid-{number}").write_text(str(process.pid))
    print(number)


def srun(arguments: list[str]) -> None:
    while arguments and arguments[0].startswith("-"):
        arguments = arguments[2 if arguments[0] in WITH_VALUE else 1 :]
    os.execvp(arguments[0], arguments)


def states(arguments: list[str]) -> None:
    for path in sorted(_folder().glob("state-*")):
        print(f"{path.name.removeprefix('state-')}|{path.read_text().strip()}")


def scancel(arguments: list[str]) -> None:
    for number in arguments:
        pid = _folder() / f"pid-{number}"
        if number.isdecimal() and pid.is_file():
            try:
                os.killpg(int(pid.read_text()), signal.SIGTERM)
            except ProcessLookupError:
                continue
            (_folder() / f"state-{number}").write_text("CANCELLED")


def _folder() -> Path:
    return Path(os.environ["SLURM_STANDIN"])


def main(command: str, arguments: list[str]) -> None:
    if command == "scontrol":
        print("MinJobAge               = 300 sec")
    elif command in ("sacct", "squeue"):
        states(arguments)
    elif command in ("sbatch", "srun", "scancel"):
        globals()[command](arguments)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
