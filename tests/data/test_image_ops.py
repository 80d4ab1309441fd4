import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from affectnet.data import image_ops


@pytest.fixture(params=[(48, 48), (40, 64)], ids=["square", "wide"])
def images(request: pytest.FixtureRequest) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(5, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, request.param, mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("fill", ["black", "edge", "mirror"])
def test_warp_is_flip_then_affine(images, fill):
    height, width = images.shape[-2:]
    angle = torch.tensor([0.0, 30.0, -45.0, 10.0, 180.0])
    scale = torch.tensor([1.0, 1.0, 1.2, 0.8, 0.95])
    shift = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, -0.125], [0.05, 0.2], [-0.1, -0.1]])
    hflip = torch.tensor([True, False, True, False, True])
    vflip = torch.tensor([False, False, True, True, False])
    lines = image_ops.warp_lines(
        (height, width), angle=angle, scale=scale, shift=shift, hflip=hflip, vflip=vflip
    )
    warped = image_ops.warp(images, *lines, fill)
    for i, image in enumerate(images):
        expected = reference.horizontal_flip(image) if hflip[i] else image
        expected = reference.vertical_flip(expected) if vflip[i] else expected
        # The reference knows black borders only: the others are a wide padding, cut off after.
        pad = 0 if fill == "black" else 40
        mode = {"black": "constant", "edge": "edge", "mirror": "symmetric"}[fill]
        expected = reference.affine(
            reference.pad(expected, [pad] * 4, padding_mode=mode) if pad else expected,
            angle=float(angle[i]),
            translate=[float(shift[i, 0]) * width, float(shift[i, 1]) * height],
            scale=float(scale[i]),
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )[:, pad : pad + height, pad : pad + width]
        torch.testing.assert_close(warped[i], expected, atol=2e-4, rtol=0)


def test_warp_by_nothing_gives_the_pixels(images):
    n = len(images)
    none = torch.zeros(n, dtype=torch.bool)
    lines = image_ops.warp_lines(
        tuple(images.shape[-2:]),
        angle=torch.zeros(n),
        scale=torch.ones(n),
        shift=torch.zeros(n, 2),
        hflip=none,
        vflip=none,
    )
    warped = image_ops.warp(images, *lines)
    torch.testing.assert_close(warped, images, atol=1e-5, rtol=0)


def test_blur_equals_the_reference(images):
    sigma = torch.tensor([0.1, 0.5, 1.0, 1.5, 2.0])
    blurred = image_ops.gaussian_blur(images.clone(), image_ops.blur_taps(sigma))
    for image, result, s in zip(images, blurred, sigma.tolist(), strict=True):
        torch.testing.assert_close(
            result, reference.gaussian_blur(image, [5, 5], [s, s]), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (image_ops.adjust_brightness, reference.adjust_brightness),
        (image_ops.adjust_contrast, reference.adjust_contrast),
        (image_ops.adjust_saturation, reference.adjust_saturation),
        (image_ops.adjust_gamma, reference.adjust_gamma),
    ],
    ids=lambda function: function.__name__,
)
def test_colour_equals_the_reference(images, ours, theirs):
    factors = torch.tensor([0.5, 0.8, 1.0, 1.25, 2.0])
    for image, result, factor in zip(images, ours(images.clone(), factors), factors, strict=True):
        torch.testing.assert_close(result, theirs(image, float(factor)), atol=2e-6, rtol=0)


def test_grey_equals_the_reference(images):
    expected = reference.rgb_to_grayscale(images, num_output_channels=3)
    torch.testing.assert_close(image_ops.to_grey(images.clone()), expected, atol=1e-6, rtol=0)


def test_erase_equals_the_reference(images):
    boxes = [(0, 5, 0, 7), (3, 4, 4, 5), (10, 40, 20, 40), (39, 40, 0, 40), (0, 40, 0, 48)]
    colours = torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
    erased = image_ops.erase(images.clone(), torch.tensor(boxes), colours)
    for image, result, box, colour in zip(images, erased, boxes, colours, strict=True):
        top, bottom, left, right = box
        corner, size = (top, left), (bottom - top, right - left)
        assert torch.equal(result, reference.erase(image, *corner, *size, colour[:, None, None]))


def test_low_resolution_is_block_means_enlarged(images):
    height, width = images.shape[-2:]
    sides = torch.tensor([1.0, 0.5, 0.25, 0.5, 0.01])
    matrices = (image_ops.shrinking(sides, length) for length in (height, width))
    shrunk = image_ops.low_resolution(images, *matrices)
    assert torch.equal(shrunk[0], images[0])
    for row, factor in ((1, 2), (2, 4), (3, 2)):
        blocks = images[row].numpy().reshape(3, height // factor, factor, width // factor, factor)
        small = torch.from_numpy(blocks.mean(axis=(2, 4)))
        expected = reference.resize(small, [height, width], antialias=False)
        torch.testing.assert_close(shrunk[row], expected, atol=1e-5, rtol=0)
    # One pixel is left of the last image: its mean colour.
    mean = images[4].mean(dim=(1, 2), keepdim=True).expand(3, height, width)
    torch.testing.assert_close(shrunk[4], mean, atol=1e-5, rtol=0)


def test_noise_has_its_standard_deviation_and_seed():
    grey = torch.full((4, 3, 96, 96), 0.5)
    std = torch.tensor([0.0, 0.05, 0.1, 0.1])
    noisy = image_ops.add_noise(grey.clone(), std, [7, 8, 9, 10])
    assert torch.equal(noisy[0], grey[0])
    for image, s in zip(noisy, std.tolist(), strict=True):
        assert math.isclose(float(image.std()), s, rel_tol=0.03)
        assert abs(float(image.mean()) - 0.5) < 0.005
    assert not torch.equal(noisy[2], noisy[3])
    again = image_ops.add_noise(grey[:1].clone(), std[3:], [10])
    assert torch.equal(again[0], noisy[3])
    assert np.isclose(np.corrcoef(noisy[2].flatten(), noisy[3].flatten())[0, 1], 0, atol=0.03)


def test_a_level_smear_is_a_mean_of_neighbours(images):
    n = len(images)
    taps = image_ops.motion_taps(torch.full((n,), 5.0), torch.zeros(n), 3)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (0, 0), (2, 2)), mode="edge")
    expected = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=3).mean(axis=-1)
    smeared = image_ops.motion_blur(images.clone(), taps).numpy()
    np.testing.assert_allclose(smeared, expected, atol=1e-5)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 45.0, 90.0, 120.0, 180.0])
def test_a_dot_is_smeared_along_its_line(degrees):
    dot = torch.zeros(1, 3, 41, 41)
    dot[..., 20, 20] = 1
    taps = image_ops.motion_taps(torch.tensor([15.0]), torch.tensor([degrees]), 8)
    line = image_ops.motion_blur(dot, taps)[0, 0].double()
    assert float(line.sum()) == pytest.approx(1, abs=1e-5)
    offsets = torch.arange(41) - 20.0
    x, y = offsets[None, :], -offsets[:, None]
    moments = [float((line * product).sum()) for product in (x * x, x * y, y * y)]
    spread = np.array([[moments[0], moments[1]], [moments[1], moments[2]]])
    (narrow, wide), axes = np.linalg.eigh(spread)
    # An even line of 15 px has a variance of 15 ** 2 / 12.
    assert wide == pytest.approx(15**2 / 12, rel=0.08)
    assert narrow < 0.4
    along = np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
    assert abs(float(axes[:, 1] @ along)) == pytest.approx(1, abs=1e-3)


def test_a_smear_of_one_pixel_is_none(images):
    taps = image_ops.motion_taps(torch.linspace(0, 1, 5), torch.linspace(0, 180, 5), 4)
    smeared = image_ops.motion_blur(images.clone(), taps)
    torch.testing.assert_close(smeared[::2], images[::2], atol=1e-5, rtol=0)
    torch.testing.assert_close(smeared, images, atol=0.02, rtol=0)  # askew it is nearly none


def test_jpeg_is_that_of_another_library(images):
    """Pillow's, of the same quality: most values differ by one of 255 at most.

    Where rounding differs, a coefficient may be quantised to the next step and change its block.
    """
    qualities = [5, 20, 50, 80, 100]
    steps = image_ops.jpeg_steps(torch.tensor(qualities))
    compressed = image_ops.through_jpeg(images.clone(), steps)
    for image, result, quality in zip(images, compressed, qualities, strict=True):
        file = io.BytesIO()
        pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file)).astype(np.float32)
        apart = np.abs(result.permute(1, 2, 0).numpy() * 255 - expected)
        assert np.mean(apart <= 1.01) > 0.8
        assert apart.mean() < 0.16 * np.abs(expected - pixels).mean()
    error = (compressed - images).square().mean(dim=(1, 2, 3))
    assert error.tolist() == sorted(error.tolist(), reverse=True)
    assert error[0] > 10 * error[4]


def _with_glasses(image, apart, below, wide, high, rim, shade, opacity):
    """Pixel by pixel: the nearer lens by the pixel's side of the middle."""
    worn = image.clone()
    height, width = image.shape[-2:]
    for row in range(height):
        for column in range(width):
            x = abs((column + 0.5) / width - 0.5) - apart
            y = (row + 0.5) / height - below
            out = (math.hypot(x / wide, y / high) - 1) * min(wide, high)
            bridge = x < -wide and abs(y) < rim / 2
            cover = 1 if abs(out) < rim / 2 or bridge else opacity if out < 0 else 0
            worn[:, row, column] = image[:, row, column] * (1 - cover) + shade * cover
    return worn


def test_glasses_are_painted_where_they_are_meant(images):
    n = len(images)
    settings = torch.tensor(
        [
            [0.19, 0.40, 0.155, 0.105, 0.025, 0.1, 1.0],
            [0.19, 0.40, 0.155, 0.105, 0.025, 0.1, 0.0],
            [0.16, 0.33, 0.12, 0.14, 0.05, 0.0, 0.6],
            [0.22, 0.45, 0.18, 0.08, 0.01, 0.25, 0.3],
        ]
    )[torch.arange(n) % 4]
    eyes, lens, rim, tint = settings.split([2, 2, 1, 2], dim=1)
    worn = image_ops.wear_glasses(images.clone(), eyes, lens, rim[:, 0], tint)
    for image, result, row in zip(images, worn, settings.tolist(), strict=True):
        torch.testing.assert_close(result, _with_glasses(image, *row), atol=1e-5, rtol=0)
        assert not torch.equal(result, image)
