"""Differentiable siamese augmentation against plain restatements of each strategy."""

from math import cos, radians, sin

import pytest
import torch

from hglad.data.augmentation import STRATEGIES, Augmentation, Transform
from hglad.errors import HgladError
from hglad.settings import DSA

NAMES = DSA.split("_")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed))


def ramps(height: int, width: int) -> torch.Tensor:
    """Two channels (n=1): the horizontal and the vertical coordinate, 0 in the middle, +-1 at the borders."""
    x = (2 * torch.arange(width) + 1) / width - 1
    y = (2 * torch.arange(height) + 1) / height - 1
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("color_crpo", "did you mean 'crop'"),
        ("color__flip", "unknown augmentation strategy ''"),
        ("none", "'none'"),
        ("colour", "did you mean 'color'"),
    ],
)
def test_unknown_strategies_are_a_clear_error(text, message):
    with pytest.raises(HgladError, match=message):
        Augmentation(text)


def test_empty_text_leaves_images_alone():
    images = noise(3, 3, 8, 8)
    assert torch.equal(Augmentation("").draw(3, (8, 8), seeded(0))(images), images)


@pytest.mark.parametrize("size", [(16, 16), (15, 24)])
def test_crop_shifts_whole_pixels_and_fills_with_zero(size):
    images = noise(64, 2, *size)
    transform = Augmentation("crop").draw(64, size, seeded(1))
    reach = torch.tensor([int(side * 0.125 + 0.5) for side in size])
    assert (transform.parameters.amin(0) == -reach).all() and (transform.parameters.amax(0) == reach).all()
    result = transform(images)
    for image, (down, right), got in zip(images, transform.parameters.tolist(), result, strict=True):
        padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
        expected = padded[:, 4 + down : 4 + down + size[0], 4 + right : 4 + right + size[1]]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("size", "square"), [((16, 16), (8, 8)), ((7, 10), (4, 5))])
def test_cutout_blanks_one_rectangle_of_half_the_sides(size, square):
    transform = Augmentation("cutout").draw(300, size, seeded(1))
    result = transform(torch.ones(300, 2, *size))
    blank = result == 0
    assert torch.equal(blank[:, 0], blank[:, 1]) and (result[~blank] == 1).all()
    for image, centre in zip(blank[:, 0], transform.parameters.tolist(), strict=True):
        expected = torch.zeros(size, dtype=torch.bool)
        top, left = (middle - side // 2 for middle, side in zip(centre, square, strict=True))
        expected[max(0, top) : top + square[0], max(0, left) : left + square[1]] = True
        assert torch.equal(image, expected)
    assert blank[:, 0].flatten(1).sum(1).max() == square[0] * square[1]
    assert blank[:, 0].any(0).all()  # every pixel is hit by some square


def test_flip_mirrors_about_half_of_the_images():
    images = noise(400, 1, 4, 6)
    result = Augmentation("flip").draw(400, (4, 6), seeded(1))(images)
    kept = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all() and 160 < mirrored.sum() < 240


def test_scale_is_between_its_ratio_and_its_inverse_for_each_axis():
    transform = Augmentation("scale").draw(500, (32, 32), seeded(1))
    ramp = ramps(32, 32)
    result = transform(ramp.expand(500, -1, -1, -1))
    horizontal = result[:, 0, 16, 16] / ramp[0, 0, 16, 16]
    vertical = result[:, 1, 16, 16] / ramp[0, 1, 16, 16]
    for ratio in (horizontal, vertical):
        assert 1 / 1.2 - 1e-3 < ratio.min() < 0.84 and 1.19 < ratio.max() < 1.2 + 1e-3
    assert (horizontal - vertical).abs().max() > 0.2
    expected = horizontal[:, None] * ramp[0, 0, 10, 16:20]
    torch.testing.assert_close(result[:, 0, 10, 16:20], expected, atol=1e-4, rtol=0)


def test_rotation_turns_by_up_to_15_degrees_both_ways():
    draws = torch.tensor([[0.0], [0.5], [1.0]])
    ramp = ramps(32, 32)
    x, y = ramp[0]
    result = Transform("rotate", draws)(ramp.expand(3, -1, -1, -1))
    inside = (slice(8, 24), slice(8, 24))
    for image, angle in zip(result, (-15, 0, 15), strict=True):
        expected = cos(radians(angle)) * x - sin(radians(angle)) * y
        torch.testing.assert_close(image[0][inside], expected[inside], atol=1e-4, rtol=0)


def test_color_is_brightness_then_saturation_then_contrast():
    images = noise(8, 3, 5, 5)
    transform = Augmentation("color").draw(8, (5, 5), seeded(1))
    for image, (brightness, saturation, contrast), got in zip(
        images, transform.parameters, transform(images), strict=True
    ):
        bright = image + brightness - 0.5
        grey = bright.mean(0)
        saturated = grey + 2 * saturation * (bright - grey)
        expected = saturated.mean() + (contrast + 0.5) * (saturated - saturated.mean())
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_saturation_leaves_a_grey_image_alone():
    images = noise(2, 1, 5, 5)
    result = Transform("color", torch.tensor([[0.5, 0.1, 0.5], [0.5, 0.9, 0.5]]))(images)
    torch.testing.assert_close(result, images)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_exact(name):
    images = noise(4, 2, 6, 6).double().requires_grad_()
    transform = Augmentation(name).draw(4, (6, 6), seeded(2))
    assert torch.autograd.gradcheck(transform, (images,))


@pytest.mark.parametrize("name", NAMES)
def test_repeat_gives_every_image_of_a_class_the_same_transform(name):
    transform = Augmentation(name).draw(3, (16, 16), seeded(2))
    images = noise(3, 2, 16, 16)
    twice = transform.repeat(2)(images.repeat_interleave(2, dim=0))
    torch.testing.assert_close(twice, transform(images).repeat_interleave(2, dim=0))


@pytest.mark.parametrize("name", [*NAMES, ""])
def test_select_gives_the_transform_of_one_image(name):
    transform = Augmentation(name).draw(3, (16, 16), seeded(2))
    images = noise(3, 2, 16, 16)
    for index, expected in enumerate(transform(images)):
        torch.testing.assert_close(transform.select(index)(images[index : index + 1])[0], expected)
        twice = transform.select(index).repeat(2)(images[index].expand(2, -1, -1, -1))
        torch.testing.assert_close(twice, expected.expand(2, -1, -1, -1))


@pytest.mark.parametrize("name", NAMES)
def test_images_of_a_batch_get_parameters_of_their_own(name):
    images = noise(1, 2, 16, 16).expand(20, -1, -1, -1)
    assert len(torch.unique(Augmentation(name).draw(20, (16, 16), seeded(2))(images), dim=0)) > 1


def test_one_strategy_is_drawn_per_call_and_all_equally_often():
    generator, augmentation = seeded(0), Augmentation(DSA)
    drawn = [augmentation.draw(1, (8, 8), generator).strategy for _ in range(600)]
    assert set(drawn) == set(STRATEGIES) - {"none"}
    assert all(70 < drawn.count(name) < 130 for name in NAMES)


def test_draws_follow_from_the_generator_alone():
    state = torch.random.get_rng_state()
    first, second = (Augmentation(DSA).draw(5, (8, 8), seeded(3)) for _ in range(2))
    assert first.strategy == second.strategy and torch.equal(first.parameters, second.parameters)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 1, 8, 8), "drawn for 2 images"),
        (torch.zeros(2, 8, 8), r"\(2, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "uint8"),
    ],
)
def test_images_that_do_not_fit_are_a_clear_error(images, message):
    with pytest.raises(HgladError, match=message):
        Augmentation("flip").draw(2, (8, 8), seeded(0))(images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_draws_on_a_gpu_without_waiting_for_it():
    torch.cuda.set_sync_debug_mode("error")
    try:
        generator, images = torch.Generator("cuda").manual_seed(0), torch.ones(4, 3, 16, 16, device="cuda")
        transforms = [Augmentation(DSA).draw(4, (16, 16), generator) for _ in range(60)]
        results = [transform(images) for transform in transforms]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {transform.strategy for transform in transforms} == set(NAMES)
    assert all(result.isfinite().all() for result in results)
