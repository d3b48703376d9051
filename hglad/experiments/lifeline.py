"""Processes that end with the one that started them, however that one ends.

`python -m hglad.experiments.lifeline MODULE ARGUMENTS` runs a module as such a process, from before its
imports on: these take seconds, in which a parent may die.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2): the signal that this process gets when its parent is gone


def end_with_parent() -> None:
    """Have this process killed when its parent dies, also by SIGKILL; Linux only, elsewhere without effect.

    Results are published whole or not at all, and states too, so that a kill never harms them. Without it the
    jobs of a run that was killed would go on unseen and take the processors of the next one.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the call
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
