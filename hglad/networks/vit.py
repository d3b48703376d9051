"""Vision transformer (Dosovitskiy et al. 2021) in the two variants of GLaD's evaluation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hglad.errors import HgladError
from hglad.networks import Classifier, redraw, register_network, require, require_size

VERSION = 1  # raise when the same parameters give other outputs


class Tokens(nn.Module):
    """Images to tokens: linear embedding of patches, a class token in front, learned positions, dropout."""

    def __init__(self, image_shape: tuple[int, int, int], patch: int, dim: int, dropout: float) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.patch = patch
        self.embedding = nn.Linear(channels * patch**2, dim)
        self.class_token = nn.Parameter(torch.empty(1, 1, dim))
        self.positions = nn.Parameter(torch.empty(1, 1 + (height // patch) * (width // patch), dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        patches = F.unfold(images, self.patch, stride=self.patch).mT  # (n, patches, ch * patch^2)
        tokens = self.embedding(patches)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.dropout(tokens + self.positions)  # (n, 1 + patches, dim)


@redraw.register
def _(module: Tokens, rng: torch.Generator) -> None:
    for parameter in (module.class_token, module.positions):
        draw = torch.empty(parameter.shape, dtype=parameter.dtype, device=rng.device)
        parameter.copy_(draw.normal_(generator=rng))


class Attention(nn.Module):
    """Multi-head self-attention; the projection to queries, keys and values has no bias."""

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # (n, tokens, 3, heads, head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (n, heads, tokens, head_dim)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Attention and MLP, each with a residual connection and its norm in front."""

    def __init__(self, dim: int, norm: type[nn.Module], attention: Attention, mlp: int, dropout: float):
        super().__init__()
        self.attention = nn.Sequential(norm(dim), attention)
        layers = nn.Linear(dim, mlp), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp, dim), nn.Dropout(dropout)
        self.mlp = nn.Sequential(norm(dim), *layers)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens)
        return tokens + self.mlp(tokens)


@register_network("vit")
class ViT(Classifier):
    """Patch tokens and a class token through `depth` blocks; linear head on the class token.

    None takes GLaD's values: up to 32 px patch 4, depth 6, with LayerNorm in every block and before the head;
    above, patch 16, depth 10 and no LayerNorm at all. The patch divides the image's height and width.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        patch: int | None = None,
        depth: int | None = None,
        layer_norm: bool | None = None,
        dim: int = 512,
        heads: int = 8,
        head_dim: int = 64,
        mlp: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(image_shape)
        _, height, width = image_shape
        small = max(height, width) <= 32
        patch = (4 if small else 16) if patch is None else patch
        depth = (6 if small else 10) if depth is None else depth
        norm = nn.LayerNorm if (small if layer_norm is None else layer_norm) else nn.Identity
        require("vit", patch=patch, depth=depth, dim=dim, heads=heads, head_dim=head_dim, mlp=mlp)
        require_size(f"vit with patch {patch}", image_shape, patch)
        if not 0 <= dropout < 1:
            raise HgladError(f"vit has dropout={dropout!r}; give a probability from 0 to below 1")
        if height % patch or width % patch:
            raise HgladError(
                f"vit cannot cut {height} x {width} px into patches of {patch} px; "
                "choose a patch that divides both sides"
            )
        self.grid = height // patch, width // patch
        self.tokens = Tokens(image_shape, patch, dim, dropout)
        attentions = [Attention(dim, heads, head_dim, dropout) for _ in range(depth)]
        self.blocks = nn.Sequential(*(Block(dim, norm, each, mlp, dropout) for each in attentions))
        self.norm = norm(dim)
        self.classifier = nn.Linear(dim, classes)

    def maps_and_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The maps are the patch tokens that enter the last block: its output for them reaches no logit."""
        *first, last = self.blocks
        tokens = self.tokens(images)  # (n, 1 + patches, dim)
        for block in first:
            tokens = block(tokens)
        maps = tokens[:, 1:].mT.unflatten(-1, self.grid)  # (n, dim, h', w')
        tokens = last(torch.cat([tokens[:, :1], maps.flatten(2).mT], dim=1))
        return maps, self.norm(tokens[:, 0])
