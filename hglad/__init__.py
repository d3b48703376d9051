"""hglad: dataset distillation through the layers of a pretrained generator."""

from importlib import import_module
from importlib.metadata import version

__version__ = version("hglad")

_EXPORTS = {
    "DistillationSettings": "hglad.search.distillation",
    "DistilledSet": "hglad.evaluation.sets",
    "HgladError": "hglad.errors",
    "create_network": "hglad.networks",
    "distill": "hglad.search.distillation",
    "evaluate": "hglad.evaluation.evaluate",
    "load_data": "hglad.data.datasets",
    "load_prior": "hglad.priors",
    "read_profile": "hglad.experiments",
    "read_set": "hglad.evaluation.sets",
}
__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str):
    """Import a public name when it is first asked for, so that the command line starts without PyTorch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'hglad' has no attribute '{name}'")
    return getattr(import_module(_EXPORTS[name]), name)
