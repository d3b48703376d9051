"""Under which licence known data may be passed on, and what its authors want cited.

A distilled set is made from its source and may show it. What the licence of the source means for the set is
for the reader to judge; here it is stated, not interpreted.
"""

from dataclasses import dataclass, replace

from hglad.data.datasets import IMAGENET_SUBSETS, OTHER_NAMES
from hglad.errors import HgladError


@dataclass(frozen=True)
class Source:
    """Data that sets are made from."""

    title: str
    """Name for a reader."""
    licence: str
    """What its authors allow, in words."""
    identifier: str
    """The Hub's name of the licence, or `other` or `unknown`."""
    citation: str = ""
    """What its authors want cited."""
    link: str = ""
    """Where its terms are."""

    @property
    def name_on_hub(self) -> dict[str, str]:
        """Keys of the licence in a data-set card as the Hub reads it."""
        if self.identifier != "other":
            return {"license": self.identifier}
        keys = {"license": "other", "license_name": self.licence, "license_link": self.link}
        return {key: value for key, value in keys.items() if value}


DIGITS = Source(
    "Optical Recognition of Handwritten Digits (UCI), the 1,797 images that scikit-learn ships",
    "CC BY 4.0",
    "cc-by-4.0",
    "E. Alpaydin and C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, "
    "1998. https://doi.org/10.24432/C50P49",
    "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
)
CIFAR = {
    name: Source(
        title,
        "none given by its authors, who ask to be cited",
        "unknown",
        "A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. Technical report, "
        "University of Toronto, 2009.",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    )
    for name, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"))
}
IMAGENET = (
    "ImageNet terms of access: non-commercial research and education only",
    "other",
    "O. Russakovsky et al. ImageNet Large Scale Visual Recognition Challenge. International Journal of "
    "Computer Vision 115, 2015.",
    "https://image-net.org/download.php",
)
KNOWN = {
    "digits": DIGITS,
    **CIFAR,
    **{name: Source(f"{name}, ten classes of ImageNet", *IMAGENET) for name in IMAGENET_SUBSETS},
    "tiny-imagenet": Source("Tiny-ImageNet, 200 classes of ImageNet", *IMAGENET),
}
ON_HUB = (
    "mit",
    "apache-2.0",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "odc-by",
)
"""Licences that the Hub has a name for, among those that data usually come under."""


def source_of(name: str, licence: str | None = None, folder: bool = False) -> Source:
    """What is known of a data set, or what its owner states.

    Args:
        name: name of the data set; of one's own a name for the reader.
        licence: licence of one's own data.
        folder: whether it is a folder of images of that name, which nobody but its owner knows.

    Raises:
        HgladError: another licence for data whose licence is known.
    """
    known = KNOWN.get(OTHER_NAMES.get(name, name))
    if known is None:
        return _own(name, licence)
    if folder:
        found = replace(known, title=f"{known.title}, going by the name of the folder of images")
        return found if licence is None else _own(name, licence)
    if licence is not None:
        raise HgladError(f"--licence is {licence!r}, but {name} has one: {known.licence}; leave it out")
    return known


def _own(name: str, licence: str | None) -> Source:
    if licence is None:
        return Source(name, "unknown: state it", "unknown")
    identifier = licence.strip().lower().replace(" ", "-")
    return Source(name, licence.strip(), identifier if identifier in ON_HUB else "other")
