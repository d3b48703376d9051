# The jobs of a plan that `hglad run` has written, for one machine or for a cluster.
#
# A job computes tasks whose results are kept under their fingerprints and published whole or not at all; which ones
# are missing is decided before the plan is written. What Snakemake takes for the output of a job is a note that
# it is done, in the folder of the run: Snakemake deletes the output of a job that fails, and a failing job must not
# take finished results with it.
import json
import shlex
from pathlib import Path

if "plan" not in config:
    raise WorkflowError("there is no plan: start this workflow with hglad run CONFIG")

PLAN = json.loads(Path(config["plan"], "plan.json").read_text())
JOBS = PLAN["jobs"]


def done(names):
    return [f"done/{JOBS[name]['rule']}/{name}.json" for name in names]


rule all:
    localrule: True
    input:
        done(JOBS),


for each in PLAN["rules"]:

    rule:
        name:
            each
        input:
            lambda wildcards: done(JOBS[wildcards.job]["needs"]),
        output:
            f"done/{each}/{{job}}.json",
        log:
            "logs/{job}.log",
        threads: PLAN["machine"]["threads"]
        resources:
            gpu=lambda wildcards: JOBS[wildcards.job]["gpu"],
        params:
            command=shlex.join([*PLAN["program"], config["plan"]]),
        shell:
            "exec {params.command} {wildcards.job} >> {log} 2>&1"
