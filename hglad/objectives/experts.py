"""Expert trajectories (Cazenavette et al., CVPR 2022): networks trained on real images, kept epoch by epoch.

One safetensors file per expert: every parameter under its name, (epochs + 1, *shape). Files are mapped into
memory, so that reading two epochs reads nothing else.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hglad.data.datasets import RealData
from hglad.errors import HgladError
from hglad.evaluation.training import check_losses, train_epoch
from hglad.networks import create_network
from hglad.networks.passes import dropout_from
from hglad.provenance import Stopwatch, declared, versions_of
from hglad.runtime import host_rng
from hglad.settings import ExpertSettings, derive_seed, fingerprint
from hglad.storage import Checkpoint, intact, read_metadata, write_tensors

VERSION = 1  # raise when the same settings and seed give another trajectory

Weights = dict[str, Tensor]


def experts_identity(settings: ExpertSettings, network: dict, real: RealData) -> list:
    """What a set of experts follows from, however many of them: more can be added later."""
    return ["experts", settings.changed(count=100).identity(), network, real.content_hash]


def experts_versions(network: dict) -> dict[str, int | str]:
    """Versions of the algorithms that train them."""
    return versions_of("experts", "training", "augment", f"network {network['name']}")


def experts_key(settings: ExpertSettings, network: dict, real: RealData) -> str:
    """Fingerprint of a set of experts."""
    return fingerprint(experts_identity(settings, network, real), experts_versions(network))


def expert_file(folder: Path | str, index: int) -> Path:
    """Where expert number `index` lies, from 0."""
    return Path(folder) / f"expert-{index:03d}.safetensors"


def train_expert(
    settings: ExpertSettings,
    network: dict,
    real: RealData,
    index: int,
    folder: Path | str,
    progress: Callable[[], None] | None = None,
) -> None:
    """Train expert number `index` and write its file; one that was stopped goes on from its last saved epoch.

    Args:
        network: `name` of a registered network and its options.
        real: training split, on the device where the expert is trained.
        index: number of the expert, from which its seed follows.
        folder: where the files of this set of experts lie.
        progress: called after every epoch.

    Raises:
        HgladError: settings that do not fit, a loss that is not finite, a file that cannot be written.
    """
    watch, path, device = Stopwatch(real.images.device), expert_file(folder, index), real.images.device
    if intact(path):  # another process was faster
        return
    key, seed = experts_key(settings, network, real), derive_seed("expert", index)
    rng = torch.Generator(device).manual_seed(seed)
    model = create_network(image_shape=real.image_shape, classes=len(real.classes), rng=rng, **network)
    model = model.to(device).train()
    checkpoint = Checkpoint(path.with_suffix(".state"), f"{key} on {device.type}")
    trajectory: list[Weights] = [parameters_of(model)]
    if state := checkpoint.load():
        tensors, _ = state
        trajectory = tensors["trajectory"]
        model.load_state_dict(trajectory[-1] | tensors["buffers"])
        rng.set_state(tensors["rng"])
    optimizer = torch.optim.SGD(model.parameters(), settings.lr, foreach=True)
    for epoch in range(len(trajectory) - 1, settings.epochs):
        with dropout_from(model, rng):
            losses = train_epoch(
                model, optimizer, real.images, real.labels, real.normalize, settings.training, rng
            )
        check_losses(losses, epoch, settings.lr)
        trajectory.append(parameters_of(model))
        if epoch + 1 < settings.epochs:
            buffers = dict(model.named_buffers())
            checkpoint.save({"trajectory": trajectory, "buffers": buffers, "rng": rng.get_state()})
        if progress is not None:
            progress()
    provenance = watch.provenance() | {"seconds": round(checkpoint.seconds, 2)}
    provenance |= {"data_hash": real.content_hash, "seed": seed}
    identity = [experts_identity(settings, network, real), index]
    provenance |= declared(identity, experts_versions(network))
    card = {"expert": index, "loss": losses.mean().item(), "settings": settings.to_dict(), "network": network}
    metadata = {"key": key, "card": json.dumps(card | {"provenance": provenance})}
    write_tensors(path, stack(trajectory), metadata)
    checkpoint.clear()


def parameters_of(model: nn.Module) -> Weights:
    """A copy of all parameters in main memory."""
    return {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}


def stack(trajectory: list[Weights]) -> Weights:
    """Weights per epoch to one tensor per parameter, (epochs + 1, *shape), as in the file of an expert."""
    return {name: torch.stack([weights[name] for weights in trajectory]) for name in trajectory[0]}


class Experts:
    """The experts of a folder, read as they are needed.

    Args:
        folder: where `train_expert` wrote them.
        count: how many to use, from number 0 (none: all).

    Raises:
        HgladError: no experts, fewer than `count`, a damaged file.
    """

    def __init__(self, folder: Path | str, count: int | None = None) -> None:
        self.folder = Path(folder)
        there = sorted(self.folder.glob("expert-*.safetensors"))
        self.files = there if count is None else [expert_file(folder, index) for index in range(count)]
        missing = [path.name for path in self.files if path not in there]
        if missing or not there:
            name = missing[0] if missing else expert_file(folder, 0).name
            raise HgladError(f"no {name} among {len(there)} experts in {folder}; make it with hglad experts")
        self.kept: dict[tuple[int, int, str], Weights] = {}  # on a GPU, where a copy from disk waits
        self.shapes = [_read(path, _shapes) for path in self.files]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def epochs(self) -> int:
        """Epochs that every expert has trained for: the fewest of them."""
        return min(shape[0] for shapes in self.shapes for shape in shapes.values()) - 1

    def check_key(self, key: str) -> None:
        """Raise `HgladError` when an expert says that it was made with other settings or data."""
        for path in self.files:
            found = read_metadata(path).get("key", key)
            if found != key:
                raise HgladError(
                    f"the expert {path} has the fingerprint {found}, expected {key}: other settings, network "
                    "or data; make experts of this profile with hglad experts"
                )

    def check(self, network: nn.Module) -> None:
        """Raise `HgladError` unless names and shapes are those of `network`'s parameters."""
        own = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        for path, shapes in zip(self.files, self.shapes, strict=True):
            found = {name: shape[1:] for name, shape in shapes.items()}
            for name in sorted(own.keys() | found.keys()):
                if own.get(name) != found.get(name):
                    raise HgladError(
                        f"the expert {path} has {name} of shape {found.get(name)}, the network "
                        f"{own.get(name)}; use the network that the experts were trained with"
                    )

    def check_length(self, max_start_epoch: int, expert_epochs: int) -> None:
        """Raise `HgladError` unless the experts reach `expert_epochs` behind every start."""
        needed = max_start_epoch - 1 + expert_epochs
        if needed > self.epochs:
            raise HgladError(
                f"experts of {self.epochs} epochs in {self.folder}: a start below {max_start_epoch} and "
                f"{expert_epochs} more need {needed}; train them for longer or lower max_start_epoch"
            )

    def weights(self, index: int, epoch: int, device: torch.device | str = "cpu") -> Weights:
        """Parameters of expert `index` after `epoch` epochs."""

        def epoch_of(file) -> Weights:
            return {name: file.get_slice(name)[epoch].to(device, copy=True) for name in self.shapes[index]}

        if torch.device(device).type == "cpu":
            return _read(self.files[index], epoch_of)
        key = (index, epoch, str(device))
        if key not in self.kept:
            self.kept[key] = _read(self.files[index], epoch_of)
        return self.kept[key]

    def draw(
        self,
        rng: torch.Generator,
        max_start_epoch: int,
        expert_epochs: int,
        device: torch.device | str = "cpu",
    ) -> tuple[Weights, Weights]:
        """Start and target: a random expert after a random epoch below `max_start_epoch`, and
        `expert_epochs` later. Raises `HgladError` when the experts are not that long."""
        self.check_length(max_start_epoch, expert_epochs)
        host = host_rng(rng)
        index, start = (int(torch.randint(high, (), generator=host)) for high in (len(self), max_start_epoch))
        if rng.device.type != "cpu":
            torch.rand((), generator=rng, device=rng.device)  # moves the offset on
        return self.weights(index, start, device), self.weights(index, start + expert_epochs, device)


def _read(path: Path, function: Callable):
    """`function` of the opened file, whose tensors stay on disk until they are asked for."""
    try:
        with safe_open(path, "pt") as file:
            return function(file)
    except (OSError, SafetensorError) as error:
        raise HgladError(f"cannot read the expert {path}: {error}; delete it and train it again") from error


def _shapes(file) -> dict[str, tuple[int, ...]]:
    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def expert_card(path: Path | str) -> dict:
    """What the file of an expert says of itself: number, last loss, settings, provenance."""
    return json.loads(read_metadata(path).get("card", "{}"))
