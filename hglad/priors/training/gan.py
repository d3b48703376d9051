"""Adversarial training of a small generator of any family on a data set (`hglad prior train`)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hglad.data.augmentation import Augmentation
from hglad.data.datasets import RealData
from hglad.errors import HgladError
from hglad.networks import initialize
from hglad.priors.registry import Generator, family, generator_settings, kind_of
from hglad.priors.training.discriminator import Discriminator, FeatureDiscriminator
from hglad.priors.training.stem import put_on_stem
from hglad.settings import later
from hglad.storage import publish

VERSION = 1  # raise when the same settings and seed train another generator


@dataclass(frozen=True)
class GANSettings:
    """How a generator is trained; the defaults make the 16 px prior of the digits."""

    generator: Any = field(default_factory=dict)
    """The network: its `kind` (default `stylegan_xl`) and the settings of that family; resolution, channels
    and classes follow the data set."""
    steps: int = 6000
    """Updates of the generator (and of the discriminator)."""
    batch_size: int = 32
    """Images per update."""
    lr: float = 0.002
    """Learning rate of both Adam optimisers (betas 0 and 0.99)."""
    loss: str = "nonsaturating"
    """`nonsaturating` (Goodfellow et al. 2014) or `hinge` (Lim & Ye 2017)."""
    r1_gamma: float = 0.1
    """Weight of the R1 gradient penalty (Mescheder et al. 2018)."""
    r1_every: int = 8
    """Updates between two penalties, whose weight is multiplied by as many."""
    augmentation: str = "crop_scale_rotate_color"
    """Differentiable augmentation of real and generated images (Zhao et al. 2020), each drawn every time."""
    ema_decay: float = 0.998
    """Decay per update of the averaged generator, which is the one that is kept."""
    classifier_weight: float = 0.0
    """Weight of a trained classifier's cross-entropy, StyleGAN-XL's classifier guidance; 0 is without."""
    width: int = 32
    """Channels of the discriminator's first layer."""
    seed: int = 0
    """Seed of the initial weights and of every draw."""
    classifier_epochs: int = later(40)
    """Epochs of that classifier, a ConvNet of depth 3, on the real images."""
    classifier_width: int = later(32)
    """Its width."""
    feature_weight: float = later(0.0)
    """Weight of discriminators that see the classifier's maps (Sauer et al. 2021) beside the one that sees
    the pixels; 0 is without."""
    shared_images: bool = later(False)
    """The images of an update of the discriminator serve the generator's too: a forward pass less."""
    stem: str | None = later(None)
    """Generator in `data/priors`, or a file, whose layers stay as they are below a new head, which alone is
    trained: StyleGAN-XL's way to higher resolutions. `generator` then has `heads` and nothing else."""
    precision: str = later("float32")
    """Format of convolutions and products: `float32`, or `bfloat16`, faster on processors and GPUs made for
    it; weights and losses stay in float32."""

    def __post_init__(self):
        object.__setattr__(self, "generator", generator_settings(self.generator, "training.generator."))


def discriminator_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator from its logits (n,) on real and generated images."""
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(kind: str, fake: Tensor) -> Tensor:
    """Loss of the generator from the discriminator's logits (n,) on its images."""
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


class GANTraining:
    """Generator, discriminator and optimisers after some number of steps; resumable with the same bits.

    Raises:
        HgladError: unknown loss.
    """

    def __init__(self, data: RealData, settings: GANSettings, classifier: nn.Module | None = None):
        if settings.loss not in ("nonsaturating", "hinge"):
            raise HgladError(f"unknown loss '{settings.loss}': expected nonsaturating or hinge")
        for key in ("classifier_weight", "feature_weight"):
            if getattr(settings, key) and classifier is None:
                raise HgladError(f"{key} needs a classifier: pass one or set it to 0")
        if settings.precision not in ("float32", "bfloat16"):
            raise HgladError(f"unknown precision '{settings.precision}': expected float32 or bfloat16")
        self.data, self.settings, self.classifier, self.step_count = data, settings, classifier, 0
        device = data.images.device
        self.rng = torch.Generator(device).manual_seed(settings.seed)
        network = family(kind_of(settings.generator)).random(settings.generator, self.rng)
        network = network.set_precision(settings.precision).train()
        if settings.stem:
            put_on_stem(network, settings.stem)
        self.generator = network.to(device)
        self.average = AveragedModel(
            self.generator, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True
        )
        classes = len(data.classes)
        with torch.device("meta"):  # no draw from the global generator
            discriminator = Discriminator(data.image_shape, classes, settings.width)
        self.discriminator = initialize(discriminator.to_empty(device=device), self.rng)
        self.of_features = None
        if settings.feature_weight:
            self.of_features = FeatureDiscriminator(classifier, classes, settings.width, self.rng)
        self.judges = nn.ModuleList(filter(None, (self.discriminator, self.of_features)))
        self.optimisers = [
            torch.optim.Adam(parameters, settings.lr, betas=(0.0, 0.99))
            for parameters in (_trained(self.generator), self.judges.parameters())
        ]
        self.augmentations = [Augmentation(name) for name in settings.augmentation.split("_") if name]

    def step(self) -> dict[str, Tensor]:
        """One update of both networks; the losses.

        Raises:
            HgladError: a loss is not finite.
        """
        half = self.settings.precision == "bfloat16"
        with torch.autocast(self.rng.device.type, torch.bfloat16, enabled=half):
            fakes = self._fake_batch() if self.settings.shared_images else None
            losses = {
                "discriminator": self._update_discriminator(fakes),
                "generator": self._update_generator(fakes),
            }
        self.average.update_parameters(self.generator)
        self.step_count += 1
        for name, loss in losses.items():
            if not torch.isfinite(loss):
                raise HgladError(
                    f"{name} loss is {loss.item()} at step {self.step_count}: lower lr ({self.settings.lr})"
                )
        return losses

    def _update_discriminator(self, fakes: tuple[Tensor, Tensor] | None = None) -> Tensor:
        real, labels = self._real_batch()
        with torch.no_grad():
            fake, fake_labels = fakes or self._fake_batch()
        penalised = self.settings.r1_gamma > 0 and self.step_count % self.settings.r1_every == 0
        real, fake = self._augment(real).requires_grad_(penalised), self._augment(fake.detach())
        real_logits, fake_logits = self.discriminator(real, labels), self.discriminator(fake, fake_labels)
        loss = discriminator_loss(self.settings.loss, real_logits, fake_logits)
        if self.of_features:
            pairs = zip(self._seen(real.detach(), labels), self._seen(fake, fake_labels), strict=True)
            losses = sum(discriminator_loss(self.settings.loss, *pair) for pair in pairs)
            loss = loss + self.settings.feature_weight * losses
        penalty = self._penalty(real, real_logits) if penalised else 0.0
        self._descend(1, loss + penalty)
        return loss.detach()

    def _seen(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Logits (n, places) of every discriminator of features."""
        return self.of_features(self.data.normalize(images), labels)

    def _penalty(self, real: Tensor, logits: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        weight = self.settings.r1_gamma / 2 * self.settings.r1_every
        return weight * gradient.square().sum(dim=(1, 2, 3)).mean()

    def _update_generator(self, fakes: tuple[Tensor, Tensor] | None = None) -> Tensor:
        images, labels = fakes or self._fake_batch()
        self.judges.requires_grad_(False)
        augmented = self._augment(images)
        loss = generator_loss(self.settings.loss, self.discriminator(augmented, labels))
        if self.of_features:
            losses = sum(generator_loss(self.settings.loss, each) for each in self._seen(augmented, labels))
            loss = loss + self.settings.feature_weight * losses
        if self.settings.classifier_weight:
            logits = self.classifier(self.data.normalize(self._augment(images)))
            loss = loss + self.settings.classifier_weight * F.cross_entropy(logits, labels)
        self._descend(0, loss)
        self.judges.requires_grad_(True)
        return loss.detach()

    def _descend(self, index: int, loss: Tensor) -> None:
        self.optimisers[index].zero_grad()
        loss.backward()
        self.optimisers[index].step()

    def _real_batch(self) -> tuple[Tensor, Tensor]:
        images = self.data.images
        chosen = torch.randint(
            len(images), (self.settings.batch_size,), generator=self.rng, device=images.device
        )
        return images[chosen].float() / 255, self.data.labels[chosen]

    def _fake_batch(self) -> tuple[Tensor, Tensor]:
        size, device = self.settings.batch_size, self.rng.device
        z = torch.randn(size, self.settings.generator.z_dim, generator=self.rng, device=device)
        labels = torch.randint(len(self.data.classes), (size,), generator=self.rng, device=device)
        images = self.generator.decode(self.generator.start(self.generator.map(z, labels)), 0)
        return images.float(), labels

    def _augment(self, images: Tensor) -> Tensor:
        for augmentation in self.augmentations:
            images = augmentation.draw(len(images), images.shape[-2:], self.rng)(images)
        return images

    def finished(self) -> Generator:
        """The averaged generator with the statistics of its samples, frozen."""
        network = self.average.module.eval().requires_grad_(False).set_precision("float32")
        network.measure_statistics(torch.Generator(self.rng.device).manual_seed(self.settings.seed))
        return network

    def save(self, path: Path, key: str = "", seconds: float = 0.0) -> None:
        """Write everything that the next step needs, the key of the run and the seconds spent so far."""
        state = {
            "key": key,
            "seconds": seconds,
            "step": self.step_count,
            "rng": self.rng.get_state(),
            "networks": [n.state_dict() for n in (self.generator, self.average, *self.judges)],
            "optimisers": [o.state_dict() for o in self.optimisers],
        }
        with publish(path) as draft, open(draft, "wb") as file:
            torch.save(state, file)

    def load(self, path: Path, key: str = "") -> float:
        """Continue from a saved state; the seconds spent on it, 0 where it is of a run with another key."""
        state = torch.load(path, map_location=self.rng.device, weights_only=True)
        if state["key"] != key:
            return 0.0
        self.step_count = state["step"]
        self.rng.set_state(state["rng"].cpu())
        for network, saved in zip(
            (self.generator, self.average, *self.judges), state["networks"], strict=True
        ):
            network.load_state_dict(saved)
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        return state["seconds"]
