"""How far TESLA's gradient of trajectory matching is from the exact one, by the number of student steps.

    python benchmarks/unroll.py [--epochs 4] [--steps 1 2 5 10 20 40]

Trains an expert on the handwritten digits, takes random real images as the distilled set, and compares both
image gradients for the same start, target and draws, in float64.
"""

import argparse
import tempfile

import torch

from hglad.data.datasets import load_data
from hglad.networks import create_network
from hglad.objectives import create_objective
from hglad.objectives.experts import Experts, train_expert
from hglad.provenance import device_name
from hglad.settings import ExpertSettings

NETWORK = {"name": "convnet", "depth": 3, "width": 32}
AUGMENTATION = "color_crop_cutout_scale_rotate"


def gradient(experts: Experts, unroll: str, steps: int, lr: float, ipc: int = 1) -> torch.Tensor:
    """Image gradient of one draw, flat."""
    real = load_data("digits").train
    network = create_network(image_shape=real.image_shape, classes=10, **NETWORK).double()
    objective = create_objective(
        "mtt", network=network, experts=experts, augmentation=AUGMENTATION, unroll=unroll,
        student_steps=steps, expert_epochs=2, max_start_epoch=3, student_lr=lr,
    )  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    images = real.batch(ipc, draw).flatten(0, 1).double()
    labels = torch.arange(10).repeat_interleave(ipc)
    return objective.gradient(images, labels, real, draw)[0].flatten()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4, help="epochs of the expert (default: 4)")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 5, 10, 20, 40], help="student steps")
    parser.add_argument("--lr", type=float, nargs="+", default=[0.01, 0.05], help="student learning rates")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = ExpertSettings(1, options.epochs, batch_size=64, augmentation=AUGMENTATION)
        train_expert(settings, NETWORK, load_data("digits").train, 0, folder)
        experts = Experts(folder)
        print(f"{device_name()}, torch {torch.__version__}, float64, 10 images")
        print("rate  steps  relative difference  cosine  norm of TESLA / norm of exact")
        for lr in options.lr:
            for steps in options.steps:
                full, tesla = (gradient(experts, unroll, steps, lr) for unroll in ("full", "tesla"))
                difference = ((tesla - full).norm() / full.norm()).item()
                cosine = torch.cosine_similarity(tesla, full, 0).item()
                ratio = (tesla.norm() / full.norm()).item()
                print(f"{lr:<5g} {steps:5d}  {difference:19.4f}  {cosine:6.4f}  {ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
