"""The state of a training under way, on disk: with it a stopped training goes on to the same result."""

import time
from pathlib import Path

import torch
from torch import Tensor, nn

from hglad.errors import HgladError
from hglad.networks.initialization import draws
from hglad.storage import read_metadata, read_tensors, spared, write_tensors

SAVE_SECONDS = 60.0  # what a stop loses at most, beside the epoch under way


class SavedTraining:
    """File of a training: weights, momentum, average and random states after some epochs.

    Args:
        path: file; None keeps nothing.
        key: fingerprint of how it is trained; a file with another one is not gone on with.
        network: network in training.
        optimizer: its optimizer, SGD.
        average: moving average of the network, if there is one.
        generators: sources of the training's draws.
    """

    def __init__(
        self,
        path: Path | None,
        key: str,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: nn.Module | None,
        *generators: torch.Generator,
    ) -> None:
        self.path, self.key = path, key
        self.networks = {"network": network} | ({"average": average} if average is not None else {})
        self.optimizer, self.generators = optimizer, generators
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
        if metadata.get("key") != self.key or not self._fits(tensors):
            return 0
        for name, network in self.networks.items():
            network.load_state_dict(_below(name, tensors))
        for index, momentum in _below("momentum", tensors).items():
            parameter = self.optimizer.param_groups[0]["params"][int(index)]
            self.optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device)
        for generator, drawn in zip(self.generators, tensors["generators"], strict=True):
            generator.set_state(drawn.clone())  # it reads from the start of the storage, view or not
        if any(draws(module) for module in self.networks["network"].modules()):
            self._set_global_state(tensors["global"])
        return int(metadata["epochs"])

    def _fits(self, tensors: dict[str, Tensor]) -> bool:
        """Whether these are tensors of a training of such a network, and not of another one."""
        own = {name: value.shape for name, value in self._tensors().items()}
        found = {name: value.shape for name, value in tensors.items() if not name.startswith("momentum.")}
        return found == own

    def save_when_due(self, epochs: int) -> None:
        """Write the state after so many epochs, once a minute; a full disk does not end the training."""
        if self.path is None or time.monotonic() - self.saved_at < SAVE_SECONDS:
            return
        with spared(self.path):
            write_tensors(self.path, self._tensors(), {"key": self.key, "epochs": str(epochs)})
        self.saved_at = time.monotonic()

    def _tensors(self) -> dict[str, Tensor]:
        drawn = torch.stack([generator.get_state() for generator in self.generators])
        tensors = {"generators": drawn, "global": self._global_state()}
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
