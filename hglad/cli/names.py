"""Names that arguments of the command line take, for its help and its completion.

Listed here, since nobody waits for PyTorch at a key; a test holds them against the registries.
"""

NAMES = {
    "data": (
        "cifar10", "cifar100", "digits", "folder", "imagefruit", "imagemeow", "imagenet-a", "imagenet-b",
        "imagenet-c", "imagenet-d", "imagenet-e", "imagenet-food", "imagenet-geo", "imagenet-mammals",
        "imagenet-marine", "imagenette", "imagesquawk", "imagewoof", "imageyellow", "tiny-imagenet",
    ),
    "device": ("cpu", "cuda"),
    "experiments": (
    "matching_objectives",
    "glad_baseline",
    "hierarchical_search",
    "metric_ablation",
    "cross_architecture",
    "paper_vs_code",
    "baselines",
    "claims",
),
    "format": ("text", "markdown", "latex", "csv"),
    "interval": ("t", "bootstrap", "networks"),
    "networks": ("alexnet", "convnet", "resnet18", "vgg11", "vit"),
    "objective": ("dc", "dm", "mtt"),
    "precision": ("float32", "bfloat16"),
    "preset": ("paper", "released"),
    "protocol": ("glad", "dm", "dc"),
    "search": ("pixels", "single", "hierarchical"),
    "suite": ("matching", "generator", "evaluation", "metric"),
}  # fmt: skip
"""Names by the argument that takes one of them."""
