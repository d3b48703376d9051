"""Adversarial training of a small generator of any family on a data set (`hglad prior train`)."""

from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hglad.data.augmentation import Augmentation
from hglad.data.datasets import RealData
from hglad.errors import HgladError
from hglad.networks import initialize
from hglad.priors.base import PRIORS, Generator, kind_of
from hglad.priors.files import generator_settings, load_prior
from hglad.priors.training.discriminator import Discriminator, FeatureDiscriminator
from hglad.settings import Settings

VERSION = 1  # raise when the same settings and seed train another generator


class GANSettings(Settings):
    """How a generator is trained; the defaults make the 16 px prior of the digits."""

    generator: Any = Field({}, validate_default=True)
    """The network: its `kind` (default `stylegan_xl`) and the settings of that family; resolution, channels
    and classes follow the data set."""
    steps: int = Field(6000, ge=0)
    """Updates of the generator (and of the discriminator)."""
    batch_size: int = Field(32, ge=1)
    """Images per update."""
    lr: float = Field(0.002, gt=0)
    """Learning rate of both Adam optimizers (betas 0 and 0.99)."""
    loss: Literal["nonsaturating", "hinge"] = "nonsaturating"
    """`nonsaturating` (Goodfellow et al. 2014) or `hinge` (Lim & Ye 2017)."""
    r1_gamma: float = Field(0.1, ge=0)
    """Weight of the R1 gradient penalty (Mescheder et al. 2018)."""
    r1_every: int = Field(8, ge=1)
    """Updates between two penalties, whose weight is multiplied by as many."""
    augmentation: str = "crop_scale_rotate_color"
    """Differentiable augmentation of real and generated images (Zhao et al. 2020), each drawn every time."""
    ema_decay: float = Field(0.998, ge=0, lt=1)
    """Decay per update of the averaged generator, which is the one that is kept."""
    classifier_weight: float = Field(0.0, ge=0)
    """Weight of a trained classifier's cross-entropy, StyleGAN-XL's classifier guidance; 0 is without."""
    width: int = Field(32, ge=1)
    """Channels of the discriminator's first layer."""
    seed: int = Field(0, ge=0)
    """Seed of the initial weights and of every draw."""
    classifier_epochs: int = Field(40, ge=1)
    """Epochs of that classifier, a ConvNet of depth 3, on the real images."""
    classifier_width: int = Field(32, ge=1)
    """Its width."""
    feature_weight: float = Field(0.0, ge=0)
    """Weight of discriminators that see the classifier's maps (Sauer et al. 2021) beside the one that sees
    the pixels; 0 is without."""
    shared_images: bool = False
    """The images of an update of the discriminator serve the generator's too: a forward pass less."""
    stem: str | None = None
    """Generator in `data/priors`, or a file, whose layers stay as they are below a new head, which alone is
    trained: StyleGAN-XL's way to higher resolutions. `generator` then has `heads` and nothing else."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Format of convolutions and products: `float32`, or `bfloat16`, faster on processors and GPUs made for
    it; weights and losses stay in float32."""

    @field_validator("generator")
    @classmethod
    def _of_its_family(cls, values: Any) -> Any:
        return generator_settings(values, "training.generator.")


def discriminator_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator from its logits (n,) on real and generated images."""
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(kind: str, fake: Tensor) -> Tensor:
    """Loss of the generator from the discriminator's logits (n,) on its images."""
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


class GANTraining:
    """Generator, discriminator and optimizers after some number of steps; resumable with the same bits.

    Raises:
        HgladError: a weight of a classifier that is not there.
    """

    def __init__(self, data: RealData, settings: GANSettings, classifier: nn.Module | None = None):
        for key in ("classifier_weight", "feature_weight"):
            if getattr(settings, key) and classifier is None:
                raise HgladError(f"{key} needs a classifier: pass one or set it to 0")
        self.data, self.settings, self.classifier, self.step_count = data, settings, classifier, 0
        device, classes = data.images.device, len(data.classes)
        self.rng = torch.Generator(device).manual_seed(settings.seed)
        network = PRIORS.get(kind_of(settings.generator)).random(settings.generator, self.rng)
        network = network.set_precision(settings.precision).train()
        if settings.stem:
            network.put_on(load_prior(settings.stem))
        self.generator = network.to(device)
        self.average = AveragedModel(
            self.generator, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True
        )
        with torch.device("meta"):  # no draw from the global generator
            discriminator = Discriminator(data.image_shape, classes, settings.width)
        self.discriminator = initialize(discriminator.to_empty(device=device), self.rng)
        self.of_features = None
        if settings.feature_weight:
            self.of_features = FeatureDiscriminator(classifier, classes, settings.width, self.rng)
        self.judges = nn.ModuleList(filter(None, (self.discriminator, self.of_features)))
        learned = [parameter for parameter in self.generator.parameters() if parameter.requires_grad]
        self.optimizers = [
            torch.optim.Adam(parameters, settings.lr, betas=(0.0, 0.99))
            for parameters in (learned, self.judges.parameters())
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
                advice = f"lower lr ({self.settings.lr})"
                raise HgladError(f"{name} loss is {loss.item()} at step {self.step_count}: {advice}")
        return losses

    def _update_discriminator(self, fakes: tuple[Tensor, Tensor] | None = None) -> Tensor:
        real, labels = self._real_batch()
        with torch.no_grad():
            fake, fake_labels = fakes or self._fake_batch()
        penalized = self.settings.r1_gamma > 0 and self.step_count % self.settings.r1_every == 0
        real, fake = self._augment(real).requires_grad_(penalized), self._augment(fake.detach())
        real_logits, fake_logits = self.discriminator(real, labels), self.discriminator(fake, fake_labels)
        loss = discriminator_loss(self.settings.loss, real_logits, fake_logits)
        if self.of_features:
            pairs = zip(self._seen(real.detach(), labels), self._seen(fake, fake_labels), strict=True)
            losses = sum(discriminator_loss(self.settings.loss, *pair) for pair in pairs)
            loss = loss + self.settings.feature_weight * losses
        penalty = self._penalty(real, real_logits) if penalized else 0.0
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
        self.optimizers[index].zero_grad()
        loss.backward()
        self.optimizers[index].step()

    def _real_batch(self) -> tuple[Tensor, Tensor]:
        images, size = self.data.images, self.settings.batch_size
        chosen = torch.randint(len(images), (size,), generator=self.rng, device=images.device)
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

    def state(self) -> dict[str, Any]:
        """Everything that the next step needs, besides the count of the steps."""
        networks = (self.generator, self.average, *self.judges)
        return {
            "rng": self.rng.get_state(),
            "networks": [network.state_dict() for network in networks],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def resume(self, state: dict[str, Any], step_count: int) -> None:
        """Continue from a state after `step_count` steps."""
        self.step_count = step_count
        self.rng.set_state(state["rng"])
        parts = (self.generator, self.average, *self.judges, *self.optimizers)
        for part, saved in zip(parts, state["networks"] + state["optimizers"], strict=True):
            part.load_state_dict(saved)
