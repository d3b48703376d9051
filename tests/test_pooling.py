"""Average pooling on processors."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from hglad.networks.pooling import AveragePool


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 4, 6), (2, 1, 7, 8), (1, 1, 5, 5), (3, 2, 2, 2)])
def test_average_pooling_is_that_of_pytorch_with_its_derivatives(shape):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.randn(
        avg_pool2d(maps, 2).shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    results = []
    for pool in (AveragePool(), lambda maps: avg_pool2d(maps, 2)):
        leaf = maps.clone().requires_grad_()
        pooled = pool(leaf)
        (first,) = torch.autograd.grad((pooled.square() * weight).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        results.append((pooled, first, second))
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)
    assert avg_pool2d(torch.ones(1, 1, 4, 4), 2).equal(AveragePool()(torch.ones(1, 1, 4, 4)))
