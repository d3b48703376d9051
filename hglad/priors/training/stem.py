"""Higher resolutions step by step: new layers on top of a generator that stays as it is.

StyleGAN-XL is trained so (Sauer et al. 2022, 3.3): a stem of low resolution first, then, frozen and without
its critically sampled layers, below a super-resolution head, at whose resolution the discriminators look.
"""

from dataclasses import replace

from torch import nn

from hglad.errors import HgladError
from hglad.priors.files import load_prior, prior_card
from hglad.priors.geometry import StyleGANXLSettings, plan_layers
from hglad.priors.registry import GeneratorSettings
from hglad.priors.stylegan_xl import StyleGANXL


def with_stem(stem: str, top: GeneratorSettings) -> StyleGANXLSettings:
    """Settings of a generator from those of its stem and the `heads` that are put on it.

    Args:
        stem: name or path of the generator below.
        top: settings of which only the heads are given.

    Raises:
        HgladError: no such stem, one of another family, no head, or other settings beside the heads.
    """
    card = prior_card(stem)
    if card["kind"] != "stylegan_xl":
        raise HgladError(f"training.stem {stem!r} is a {card['kind']}: expected a stylegan_xl")
    if not isinstance(top, StyleGANXLSettings) or not top.heads:
        raise HgladError(
            "training.generator has no heads: with a stem expected {heads: [{up_factor: 2, layers: 4}]} or so"
        )
    if replace(top, heads=()) != StyleGANXLSettings():
        raise HgladError(
            "training.generator has more than heads: expected no other key, they are those of the stem"
        )
    below = StyleGANXLSettings.from_dict(card["settings"])
    return replace(below, heads=(*below.heads, *top.heads))


def put_on_stem(network: StyleGANXL, stem: str) -> None:
    """Copy a stem's mapping, input and layers into a generator with further heads, and freeze them there.

    Its layers at the end that the first new head replaces are left out. Raises `HgladError` as `load_prior`.
    """
    below = load_prior(stem)
    kept = len(plan_layers(below.settings)) - below.settings.num_critical - 1
    for target, source in zip(_parts(network, kept), _parts(below, kept), strict=True):
        target.load_state_dict(source.state_dict())
        target.requires_grad_(False).eval()


def _parts(network: StyleGANXL, layers: int) -> list[nn.Module]:
    own = [network.synthesis.layer(index) for index in range(layers)]
    return [network.mapping, network.synthesis.input, *own]
