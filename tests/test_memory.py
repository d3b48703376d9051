"""Freed memory that stays with the process costs no page faults when it is asked for again."""

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from hglad.runtime import keep_freed_memory

STEPS = """
import resource
import torch
from hglad.runtime import keep_freed_memory

torch.set_num_threads(1)

def faults_per_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        maps = [torch.ones(2**22) for _ in range(8)]  # 16 MiB each: a forward pass keeps them
        del maps                                      # and the backward pass gives them back
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 5

faults_per_step()
before, kept = faults_per_step(), keep_freed_memory()
faults_per_step()
print(before, kept, faults_per_step())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc")
def test_page_faults_of_a_step_fall():
    # What glibc starts with; given so, it does not change with the sizes that happen to be freed first.
    usual = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    ran = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, env=os.environ | usual
    )
    before, kept, after = ran.stdout.split()
    assert kept == "True"
    assert float(before) > 30_000  # of 4 KiB: all 128 MiB come as new pages
    assert float(after) < 300


def test_other_systems_and_libraries_are_left_as_they_are(monkeypatch):
    def without_mallopt(name):
        return object()

    def unknown(name):
        raise OSError(name)

    for library in (without_mallopt, unknown):
        monkeypatch.setattr(ctypes, "CDLL", library)
        assert keep_freed_memory() is False
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
