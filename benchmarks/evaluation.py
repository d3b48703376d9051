"""Suite `evaluation`: five networks trained on a small set, as GLaD's protocol asks for every score.

Fast: `hglad.evaluate`, in a process that keeps freed memory, as the `hglad` commands do; its memory
is not measured. Straightforward: one network after the other, a DataLoader per epoch, augmentation per batch,
an averaged model of `torch.optim.swa_utils`, PyTorch's own layers. Both return the mean accuracy on the test
images; the draws differ, so these agree up to chance. Images are the handwritten digits, in color.

The test alone, which dominates for a large network and a small set, is a case of its own: in 16 bits against
32, one network with drawn weights, the confusion matrix of the test images.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from bench import Case, Step, seeded
from hglad.data.augmentation import Augmentation
from hglad.data.datasets import DataSet, load_data
from hglad.evaluation.baselines import random_real
from hglad.evaluation.evaluate import evaluate
from hglad.evaluation.training import SCHEDULES, accuracy, confusion_matrix
from hglad.networks import create_network
from hglad.networks.convnet import AveragePool
from hglad.runtime import keep_freed_memory
from hglad.settings import TrainingSettings


@dataclass(frozen=True)
class Problem:
    """Shapes of one case."""

    training: TrainingSettings
    """Protocol."""
    ipc: int = 1
    """Images of each of the ten classes."""
    size: int = 32
    """Height and width of the images in pixels."""
    width: int = 128
    """Channels of the ConvNet."""
    repeats: int = 5
    """Networks."""
    device: str = "cpu"
    """Where everything is computed."""

    @property
    def network(self) -> dict:
        """ConvNet-3."""
        return {"name": "convnet", "depth": 3, "width": self.width}


@cache
def _data(size: int, device: str) -> DataSet:
    return load_data("digits", resolution=size, channels=3, device=device)


def _plain(problem: Problem, generator: torch.Generator) -> Tensor:
    """Mean test accuracy of networks that are trained one after the other."""
    data = _data(problem.size, problem.device)
    chosen = random_real(data.train, problem.ipc, seed=0)
    images, labels = data.train.normalize(chosen.images.to(problem.device)), chosen.labels.to(problem.device)
    dataset = TensorDataset(images, labels)
    scores = [_plain_score(problem, dataset, data, generator) for _ in range(problem.repeats)]
    return torch.tensor([sum(scores) / len(scores)])


def _plain_score(
    problem: Problem, dataset: TensorDataset, data: DataSet, generator: torch.Generator
) -> float:
    settings, shape = problem.training, data.train.image_shape
    network = create_network(image_shape=shape, classes=10, rng=generator, **problem.network)
    layers = [nn.AvgPool2d(2) if isinstance(each, AveragePool) else each for each in network.features]
    model = nn.Sequential(*_out_of_place(layers), nn.AvgPool2d(2), nn.Flatten(), network.classifier)
    model = model.to(problem.device)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
    optimizer = torch.optim.SGD(
        model.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay
    )
    rate = partial(SCHEDULES[settings.schedule], epochs=settings.epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    augmentation = Augmentation(settings.augmentation)
    loader = DataLoader(dataset, settings.batch_size, shuffle=True)
    for _ in range(settings.epochs):
        for batch, labels in loader:
            batch = augmentation.draw(len(batch), batch.shape[-2:], generator)(batch)
            loss = F.cross_entropy(model(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        average.update_parameters(model)
        schedule.step()
    return accuracy(average, data.test)


def _out_of_place(layers: list[nn.Module]) -> list[nn.Module]:
    return [nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in layers]


def _fast_step(problem: Problem) -> Step:
    """A step in a process of its own: what it does to its memory must not help the other side."""
    pool = ProcessPoolExecutor(1, get_context("forkserver"))
    pool.submit(keep_freed_memory).result()
    pool.submit(torch.set_num_threads, torch.get_num_threads()).result()
    data, networks = _data(problem.size, problem.device), {"ConvNet-3": problem.network}
    chosen = random_real(data.train, problem.ipc, seed=0)

    def step(generator: torch.Generator) -> Tensor:
        given = (chosen, data, networks, problem.repeats, problem.training, generator.initial_seed())
        return torch.tensor([pool.submit(evaluate, *given).result()["accuracy"].mean()])

    return seeded(step, "cpu")


def _plain_step(problem: Problem) -> Step:
    return seeded(partial(_plain, problem), problem.device)


def _test_step(size: int, device: str, network: dict, precision: str) -> Step:
    data = _data(size, device)
    generator = torch.Generator().manual_seed(0)
    made = create_network(image_shape=data.test.image_shape, classes=10, rng=generator, **network)
    made = made.to(device)
    return lambda: confusion_matrix(made, data.test, precision).double()


def _test_case(size: int, device: str, label: str, network: dict) -> Case:
    step = partial(_test_step, size, device, network)
    note = f"{len(_data(size, device).test.images)} images of {size} px"
    return Case(f"test, {label}", partial(step, "bfloat16"), partial(step, "float32"), note)


def cases(device: str, quick: bool) -> list[Case]:
    """Five ConvNet-3 at 32 px on 10 and on 100 images, in both precisions, and two tests; `quick`: tiny."""
    glad = TrainingSettings()
    if quick:
        small = glad.changed(epochs=30, lr=0.01, ema_decay=0.9)
        problems = {"1 image per class, tiny": Problem(small, size=16, width=8, repeats=2)}
    else:
        problems = {
            "1 image per class, 1,000 epochs": Problem(glad),
            "1 image per class, 100 epochs": Problem(glad.changed(epochs=100, lr=0.01, ema_decay=0.9)),
            "10 images per class, 20 epochs": Problem(
                glad.changed(epochs=20, lr=0.01, ema_decay=0.8), ipc=10
            ),
        }
    found = []
    for name, problem in problems.items():
        for precision in ("float32", "bfloat16"):
            own = replace(problem, device=device)
            fast = replace(own, training=own.training.changed(precision=precision))
            found.append(Case(f"{name}, {precision}", partial(_fast_step, fast), partial(_plain_step, own)))
    large = {"ResNet-18": {"name": "resnet18"}, "ViT": {"name": "vit"}}
    tested = {"tiny": {"name": "convnet", "depth": 2, "width": 8}} if quick else large
    size = 16 if quick else 32
    return found + [_test_case(size, device, label, network) for label, network in tested.items()]
