"""The state of a training under way, on disk: with it a stopped training goes on to the same result."""

import time
from pathlib import Path

import torch
from torch import Tensor, nn

from hglad.errors import HgladError
from hglad.storage import read_metadata, read_tensors, write_tensors

SAVE_SECONDS = 60.0  # what a stop loses at most, beside the epoch under way


class SavedTraining:
    """File of a training: weights, momentum, average and random states after some epochs.

    Args:
        path: file; None keeps nothing.
        key: fingerprint of what is trained how; a file with another one is not gone on with.
        network: network in training.
        optimizer: its optimizer, SGD.
        average: moving average of the network, if there is one.
        generator: source of the training's draws.
    """

    def __init__(
        self,
        path: Path | None,
        key: str,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: nn.Module | None,
        generator: torch.Generator,
    ) -> None:
        self.path, self.key = path, key
        self.networks = {"network": network} | ({"average": average} if average is not None else {})
        self.optimizer, self.generator = optimizer, generator
        self.device = next(network.parameters()).device
        self.saved_at = time.monotonic()

    def restore(self) -> int:
        """Put the saved state in place; epochs that are done, 0 where there is no usable file."""
        if self.path is None or not self.path.is_file():
            return 0
        try:
            metadata, tensors = read_metadata(self.path), read_tensors(self.path)
        except HgladError:  # damaged: the training begins anew and ends with the same result
            return 0
        if metadata.get("key") != self.key:
            return 0
        for name, network in self.networks.items():
            network.load_state_dict(_below(name, tensors))
        for index, momentum in _below("momentum", tensors).items():
            parameter = self.optimizer.param_groups[0]["params"][int(index)]
            self.optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device)
        self.generator.set_state(tensors["generator"])
        self._set_global_state(tensors["global"])
        return int(metadata["epochs"])

    def save_when_due(self, epochs: int) -> None:
        """Write the state after so many epochs, once a minute."""
        if self.path is None or time.monotonic() - self.saved_at < SAVE_SECONDS:
            return
        write_tensors(self.path, self._tensors(), {"key": self.key, "epochs": str(epochs)})
        self.saved_at = time.monotonic()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"generator": self.generator.get_state(), "global": self._global_state()}
        for name, network in self.networks.items():
            tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for index, parameter in enumerate(self.optimizer.param_groups[0]["params"]):
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{index}"] = momentum
        return tensors

    def _global_state(self) -> Tensor:
        """State of PyTorch's global generator, which dropout draws from."""
        on_gpu = self.device.type == "cuda"
        return torch.cuda.get_rng_state(self.device) if on_gpu else torch.get_rng_state()

    def _set_global_state(self, state: Tensor) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state, self.device)
        else:
            torch.set_rng_state(state)


def _below(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors named `name.*`, without that prefix."""
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
