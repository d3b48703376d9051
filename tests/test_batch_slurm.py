"""The SLURM profile that ships, through Snakemake's real executor, against a stand-in for the cluster."""

import os

import pytest
import yaml
from batch_runs import hglad_run, results_of, tiny_profile
from slurm_standin import install, submitted

from hglad.experiments.rules import RULES
from hglad.paths import PROJECT

pytestmark = pytest.mark.slow
SHIPPED = PROJECT / "configs" / "cluster" / "slurm"


@pytest.fixture
def cluster(tmp_path):
    """Environment of a machine with the commands; a profile that differs in its waiting times only."""
    profile = tmp_path / "profile"
    profile.mkdir()
    quick = {
        "latency-wait": 5,
        "slurm-init-seconds-before-status-checks": 1,
        "seconds-between-status-checks": 1,
    }
    values = yaml.safe_load((SHIPPED / "config.yaml").read_text()) | quick
    (profile / "config.yaml").write_text(yaml.safe_dump(values))
    binaries = install(tmp_path)
    environment = {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "SLURM_STANDIN": str(tmp_path)}
    return tmp_path, profile, environment


def test_jobs_are_submitted_with_the_resources_of_their_rule_and_do_their_work(cluster):
    folder, profile, environment = cluster
    config, results = tiny_profile(folder), folder / "results"
    run = hglad_run(config, results, "--cluster", str(profile), "--threads", "1", **environment)
    assert run.returncode == 0, run.stdout + run.stderr
    jobs = submitted(folder)
    limits = yaml.safe_load((SHIPPED / "config.yaml").read_text())
    assert len(jobs) == 4
    for job in jobs:
        rule = job["comment"].split("_")[1]
        wanted = limits["default-resources"] | limits["set-resources"][rule]
        assert (int(job["runtime"]), int(job["mem"])) == (wanted["runtime"], wanted["mem_mb"])
        assert job["partition"] == "gpu" and not job["gpus"]
    assert hglad_run(config, folder / "here", "--threads", "1").returncode == 0
    assert results_of(results) == results_of(folder / "here")


def test_a_gpu_is_asked_for_and_a_node_without_one_says_so(cluster):
    folder, profile, environment = cluster
    config = tiny_profile(folder, sets={"seeds": [0]}, studies={"matching_seeds": 1})
    values = yaml.safe_load((profile / "config.yaml").read_text()) | {"retries": 0}
    (profile / "config.yaml").write_text(yaml.safe_dump(values))
    words = ("--cluster", str(profile), "--device", "cuda", "--quiet")
    run = hglad_run(config, folder / "results", *words, **environment)
    assert run.returncode == 3 and "PyTorch finds no GPU" in run.stderr
    assert [job["gpus"] for job in submitted(folder)] == ["1", "1"]  # the classifier, and random images


def test_a_dry_run_submits_nothing(cluster):
    folder, profile, environment = cluster
    run = hglad_run(
        tiny_profile(folder), folder / "results", "--cluster", str(profile), "--dry-run", **environment
    )
    assert run.returncode == 0 and "4 jobs" in run.stdout and not submitted(folder)


def test_the_shipped_profile_has_a_walltime_and_memory_for_every_rule():
    values = yaml.safe_load((SHIPPED / "config.yaml").read_text())
    assert set(values["set-resources"]) == set(RULES)
    for wanted in values["set-resources"].values():
        assert {"runtime", "mem_mb"} <= (values["default-resources"] | wanted).keys()


def test_a_missing_cluster_profile_is_one_clear_line(tmp_path):
    run = hglad_run(tiny_profile(tmp_path), tmp_path / "results", "--cluster", str(tmp_path / "nowhere"))
    assert run.returncode == 1 and run.stderr.count("\n") == 1 and "nowhere" in run.stderr
