"""hglad: dataset distillation through the layers of a pretrained generator."""

from importlib.metadata import version

__version__ = version("hglad")
