"""Classifier networks by name, and their initialisation."""

from hglad.networks.initialise import initialise
from hglad.networks.registry import NETWORKS, Classifier, create_network, register_network

__all__ = ["NETWORKS", "Classifier", "create_network", "initialise", "register_network"]
