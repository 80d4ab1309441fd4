"""Operations on batches of float images: each image has its own parameters, nothing is random.

All take float images (n, 3, H, W) in [0, 1] and parameters (n,) on the same device unless said
otherwise, and return a new tensor of the same shape in [0, 1].
"""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from affectnet.data.augmentation import Fill

BLUR_KERNEL: Final = 5
LUMA: Final = (0.2989, 0.587, 0.114)
"""Shares of red, green and blue in the luma of ITU-R BT.601, rounded as torchvision does."""

_PADDING: Final[dict[str, str]] = {"black": "zeros", "edge": "border", "mirror": "reflection"}


def warp(
    images: Tensor,
    *,
    angle: Tensor,
    scale: Tensor,
    shift: Tensor,
    hflip: Tensor,
    vflip: Tensor,
    fill: Fill = "black",
) -> Tensor:
    """Flip, then scale and rotate about the centre, then shift, in one bilinear resampling.

    Args:
        images: (n, 3, H, W).
        angle: (n,) degrees, clockwise on the screen.
        scale: (n,) above 0; 2 makes the face twice as large.
        shift: (n, 2) to the right and down, as shares of width and height.
        hflip: bool (n,), mirror left and right.
        vflip: bool (n,), turn upside down.
        fill: what shows where the image does not reach.
    """
    height, width = images.shape[-2:]
    radians = torch.deg2rad(angle)
    cos, sin = torch.cos(radians) / scale, torch.sin(radians) / scale
    across, down = torch.where(hflip, -1.0, 1.0), torch.where(vflip, -1.0, 1.0)
    # Where an output pixel comes from, in coordinates that run from -1 to 1 over the image; the
    # aspect ratio keeps a rotation a rotation when the image is no square.
    xx, xy = across * cos, across * sin * (height / width)
    yx, yy = -down * sin * (width / height), down * cos
    right, below = 2 * shift[:, 0], 2 * shift[:, 1]
    x0, y0 = -(xx * right + xy * below), -(yx * right + yy * below)
    # x and y as one complex number: one vectorised addition makes the whole grid, ten times as
    # fast as affine_grid, which takes a matrix product over a dimension of three.
    column = torch.complex(xx, yx)[:, None] * _pixel_centres(width, images.device)
    row = torch.complex(xy, yy)[:, None] * _pixel_centres(height, images.device)
    row = row + torch.complex(x0, y0)[:, None]
    grid = torch.view_as_real(column[:, None, :] + row[:, :, None])
    return F.grid_sample(
        images, grid, mode="bilinear", padding_mode=_PADDING[fill], align_corners=False
    )


def _pixel_centres(n: int, device: torch.device) -> Tensor:
    return (torch.arange(n, device=device, dtype=torch.float32) * 2 + 1) / n - 1


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur with a Gaussian cut to 5 x 5 pixels, the border mirrored; sigma (n,) in pixels."""
    reach = BLUR_KERNEL // 2
    offsets = torch.arange(reach + 1, device=images.device, dtype=images.dtype)
    taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    taps = taps / (taps[:, :1] + 2 * taps[:, 1:].sum(dim=1, keepdim=True))
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    return _blur_along(_blur_along(padded, taps, -1), taps, -2).clamp_(0, 1)


def _blur_along(images: Tensor, taps: Tensor, dim: int) -> Tensor:
    """Weigh shifted copies: as fast as one grouped convolution, and fast for few images too."""
    reach = BLUR_KERNEL // 2
    size = images.shape[dim] - 2 * reach
    result = images.narrow(dim, reach, size) * _per_image(taps[:, 0])
    for step in range(1, reach + 1):
        pair = images.narrow(dim, reach - step, size) + images.narrow(dim, reach + step, size)
        result.addcmul_(pair, _per_image(taps[:, step]))
    return result


def luma(images: Tensor) -> Tensor:
    """Return the luma (n, 1, H, W): 0.2989 R + 0.587 G + 0.114 B."""
    grey = images[:, 0] * LUMA[0]
    grey.add_(images[:, 1], alpha=LUMA[1]).add_(images[:, 2], alpha=LUMA[2])
    return grey[:, None]


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by the factor (n,), at least 0, and clamp."""
    return (images * _per_image(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Return m + factor * (image - m), clamped; m is the image's mean luma."""
    mean = luma(images).mean(dim=(1, 2, 3), keepdim=True)
    factor = _per_image(factor)
    return torch.addcmul(mean * (1 - factor), images, factor).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Return y + factor * (image - y), clamped; y is each pixel's luma, so factor 0 is grey."""
    factor = _per_image(factor)
    return torch.addcmul(luma(images) * (1 - factor), images, factor).clamp_(0, 1)


def adjust_gamma(images: Tensor, exponent: Tensor) -> Tensor:
    """Raise to the exponent (n,) above 0; above 1 darkens the middle tones, as low light does."""
    return images.pow(_per_image(exponent))


def to_grey(images: Tensor) -> Tensor:
    """Put the luma into all three channels."""
    return luma(images).expand_as(images).clone()


def low_resolution(images: Tensor, sides: Sequence[float]) -> Tensor:
    """Shrink each image and enlarge it again, as if the face had been small in the photo.

    Args:
        images: (n, 3, H, W).
        sides: n shares in (0, 1] of height and width that are left between the two steps.
    """
    height, width = images.shape[-2:]
    small = [(max(1, round(height * side)), max(1, round(width * side))) for side in sides]
    result = images.clone()
    for size in sorted(set(small)):
        if size == (height, width):
            continue
        rows = torch.tensor([i for i, other in enumerate(small) if other == size])
        rows = rows.to(images.device)
        tiny = F.interpolate(images[rows], size, mode="area")
        large = F.interpolate(tiny, (height, width), mode="bilinear", align_corners=False)
        result[rows] = large
    return result


def add_noise(images: Tensor, std: Tensor, seeds: Sequence[int]) -> Tensor:
    """Add Gaussian noise of standard deviation std (n,), from one seed an image, and clamp."""
    generator = torch.Generator(images.device)
    noise = torch.empty_like(images)
    for row, seed in enumerate(seeds):
        noise[row].normal_(generator=generator.manual_seed(seed))
    return torch.addcmul(images, noise, _per_image(std)).clamp_(0, 1)


def erase(images: Tensor, boxes: Sequence[tuple[int, int, int, int]], colours: Tensor) -> Tensor:
    """Paint one rectangle an image.

    Args:
        images: (n, 3, H, W).
        boxes: n rectangles (top, left, height, width) in pixels, inside the image.
        colours: (n, 3) in [0, 1].
    """
    result = images.clone()
    for row, (top, left, height, width) in enumerate(boxes):
        result[row, :, top : top + height, left : left + width] = colours[row, :, None, None]
    return result


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
