"""Deterministic operations on batches of float images, with parameters for each image.

All take float images (n, 3, H, W) in [0, 1] and parameters (n,) on the same device unless stated
otherwise, and return images of the same shape in [0, 1]. They may overwrite the given images: use
the returned ones.
"""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from affectnet.data.augmentation import Fill

BLUR_KERNEL: Final = 5
LUMA: Final = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the luma of ITU-R BT.601, rounded as torchvision does."""

_TO_YCC: Final = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
"""YCbCr from RGB in JPEG files (JFIF 1.02)."""

_TABLES: Final = (
    # Luma, then chroma (T.81, tables K.1 and K.2).
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)

_PADDING: Final[dict[str, str]] = {"black": "zeros", "edge": "border", "mirror": "reflection"}


def warp_lines(
    size: tuple[int, int],
    *,
    angle: Tensor,
    scale: Tensor,
    shift: Tensor,
    hflip: Tensor,
    vflip: Tensor,
) -> tuple[Tensor, Tensor]:
    """Prepare `warp`: flip, then scale and rotate about the centre, then shift.

    Args:
        size: H and W.
        angle: (n,) degrees, clockwise on the screen.
        scale: (n,) above 0; 2 makes the face twice as large.
        shift: (n, 2) to the right and down, as fractions of width and height.
        hflip: bool (n,), mirror left and right.
        vflip: bool (n,), turn upside down.

    Returns:
        complex (n, W) and (n, H). The pixel in row i, column j is taken from the point
        first[j] + second[i], whose real part is x and imaginary part y, both from -1 to 1 over the
        image.
    """
    height, width = size
    radians = torch.deg2rad(angle)
    cos, sin = torch.cos(radians) / scale, torch.sin(radians) / scale
    across, down = torch.where(hflip, -1.0, 1.0), torch.where(vflip, -1.0, 1.0)
    # The aspect ratio keeps angles in images that are not square.
    xx, xy = across * cos, across * sin * (height / width)
    yx, yy = -down * sin * (width / height), down * cos
    right, below = 2 * shift[:, 0], 2 * shift[:, 1]
    centre = torch.complex(-(xx * right + xy * below), -(yx * right + yy * below))
    columns = torch.complex(xx, yx)[:, None] * _pixel_centres(width, angle.device)
    rows = torch.complex(xy, yy)[:, None] * _pixel_centres(height, angle.device)
    return columns, rows + centre[:, None]


def warp(images: Tensor, columns: Tensor, rows: Tensor, fill: Fill = "black") -> Tensor:
    """Resample once, bilinear, by `warp_lines`; `fill` is used outside the image."""
    # One complex addition makes the whole grid, some forty times as fast as affine_grid.
    grid = torch.view_as_real(columns[:, None, :] + rows[:, :, None])
    return F.grid_sample(
        images, grid, mode="bilinear", padding_mode=_PADDING[fill], align_corners=False
    )


def _pixel_centres(n: int, device: torch.device) -> Tensor:
    return (torch.arange(n, device=device, dtype=torch.float32) * 2 + 1) / n - 1


def blur_taps(sigma: Tensor) -> Tensor:
    """Return the taps for `gaussian_blur`, (n, 3): the middle and two neighbours; sigma (n,)."""
    offsets = torch.arange(BLUR_KERNEL // 2 + 1, device=sigma.device, dtype=sigma.dtype)
    taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    return taps / (taps[:, :1] + 2 * taps[:, 1:].sum(dim=1, keepdim=True))


def gaussian_blur(images: Tensor, taps: Tensor) -> Tensor:
    """Blur with a Gaussian cut to 5 x 5 pixels, the border mirrored; taps (n, 3)."""
    padded = F.pad(images, (BLUR_KERNEL // 2,) * 4, mode="reflect")
    return _blur_along(_blur_along(padded, taps, -1), taps, -2).clamp_(0, 1)


def _blur_along(images: Tensor, taps: Tensor, dim: int) -> Tensor:
    """Add weighted shifted copies: as fast as a grouped convolution, also for few images."""
    reach = BLUR_KERNEL // 2
    size = images.shape[dim] - 2 * reach
    result = images.narrow(dim, reach, size) * _per_image(taps[:, 0])
    pair = torch.empty_like(result)
    for step in range(1, reach + 1):
        before, after = (images.narrow(dim, reach + side, size) for side in (-step, step))
        torch.add(before, after, out=pair)
        result.addcmul_(pair, _per_image(taps[:, step]))
    return result


def motion_taps(length: Tensor, direction: Tensor, reach: int) -> Tensor:
    """Return the taps for `motion_blur`: a line through the middle, a pixel wide.

    Args:
        length: (n,) of the line in pixels; up to one pixel nothing is blurred.
        direction: (n,) degrees from the horizontal, anticlockwise on the screen.
        reach: half of the longest line, rounded up. The same for all parts of a batch, so that
            they are computed in the same way.

    Returns:
        (n, 2 * reach + 1, 2 * reach + 1), each with sum 1.
    """
    offsets = torch.arange(-reach, reach + 1, device=length.device, dtype=length.dtype)
    radians = torch.deg2rad(direction)
    cos, sin = (values[:, None, None] for values in (torch.cos(radians), torch.sin(radians)))
    x, y = offsets[None, None, :], -offsets[None, :, None]
    along, across = (x * cos + y * sin).abs(), (y * cos - x * sin).abs()
    half = length[:, None, None].clamp_min(1) / 2
    # Approximate fraction of a pixel that the line covers.
    taps = (half + 0.5 - along).clamp(0, 1) * (1 - across).clamp_min(0)
    return taps / taps.sum(dim=(1, 2), keepdim=True)


def motion_blur(images: Tensor, taps: Tensor) -> Tensor:
    """Blur along a straight line, the border repeated; taps from `motion_taps`."""
    reach, (height, width) = taps.shape[-1] // 2, images.shape[-2:]
    # By Fourier transforms: at 224 px a convolution with such a large kernel takes twenty times as
    # long. Only rows and columns that are cut off wrap around.
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    size = (height + 2 * reach, width + 2 * reach)
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(taps, s=size)[:, None]
    smeared: Tensor = torch.fft.irfft2(spectrum, s=size)[..., 2 * reach :, 2 * reach :]
    return smeared.clamp(0, 1)


def luma(images: Tensor) -> Tensor:
    """Return the luma (n, 1, H, W): 0.2989 R + 0.587 G + 0.114 B."""
    grey = images[:, 0] * LUMA[0]
    grey.add_(images[:, 1], alpha=LUMA[1]).add_(images[:, 2], alpha=LUMA[2])
    return grey[:, None]


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by the factor (n,), at least 0, and clamp."""
    return images.mul_(_per_image(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Return m + factor * (image - m), clamped; m is the image's mean luma."""
    mean = luma(images).mean(dim=(1, 2, 3), keepdim=True)
    factor = _per_image(factor)
    return images.mul_(factor).add_(mean.mul_(1 - factor)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Return y + factor * (image - y), clamped; y is each pixel's luma, so factor 0 is grey."""
    factor = _per_image(factor)
    grey = luma(images).mul_(1 - factor)
    return images.mul_(factor).add_(grey).clamp_(0, 1)


def adjust_gamma(images: Tensor, exponent: Tensor) -> Tensor:
    """Raise to the exponent (n,) above 0; above 1 darkens the middle tones like low light."""
    return images.pow_(_per_image(exponent))


def to_grey(images: Tensor) -> Tensor:
    """Set all three channels to the luma."""
    return images.copy_(luma(images).expand_as(images))


@lru_cache(maxsize=256)
def _small_and_back(length: int, small: int) -> Tensor:
    """The matrix (length, length) that shrinks a line to `small` means and enlarges it again."""
    line = torch.eye(length)[None]
    return F.interpolate(F.interpolate(line, small, mode="area"), length, mode="linear")[0].T


def shrinking(fractions: Tensor, length: int) -> Tensor:
    """Prepare `low_resolution` for sides of `length` pixels.

    Args:
        fractions: (n,) in (0, 1] of the side after shrinking, on the CPU.
        length: height or width.

    Returns:
        (n, length, length).
    """
    smalls = (max(1, round(length * fraction)) for fraction in fractions.tolist())
    matrices = [_small_and_back(length, small) for small in smalls]
    return torch.stack(matrices) if matrices else torch.empty(0, length, length)


def low_resolution(images: Tensor, rows: Tensor, columns: Tensor | None = None) -> Tensor:
    """Shrink each image and enlarge it again, like a small face in a photo.

    Means of the pixels that become one, then bilinear, by the matrices of `shrinking`.

    Args:
        images: (n, 3, H, W).
        rows: (n, H, H).
        columns: (n, W, W); the same as `rows` where None.
    """
    columns = rows if columns is None else columns
    return (rows[:, None] @ images @ columns[:, None].mT).clamp_(0, 1)


def add_noise(images: Tensor, std: Tensor, seeds: Sequence[int]) -> Tensor:
    """Add Gaussian noise of standard deviation std (n,), from one seed per image, and clamp."""
    generator = torch.Generator(images.device)
    noise = torch.empty_like(images)
    for row, seed in enumerate(seeds):
        noise[row].normal_(generator=generator.manual_seed(seed))
    return images.addcmul_(noise, _per_image(std)).clamp_(0, 1)


def jpeg_steps(qualities: Tensor) -> Tensor:
    """Prepare `through_jpeg`: the tables of T.81's annex K, scaled as libjpeg does.

    Args:
        qualities: (n,), 1 to 100.

    Returns:
        (n, 2, 8, 8), the steps of the coefficients of luma and of chroma, 1 to 255.
    """
    scale = torch.where(qualities < 50, 5000 / qualities, 200 - 2 * qualities).floor_()
    tables = torch.tensor(_TABLES, device=qualities.device).view(2, 8, 8)
    return ((tables * scale[:, None, None, None] + 50) / 100).floor_().clamp_(1, 255)


def through_jpeg(images: Tensor, steps: Tensor) -> Tensor:
    """Compress as baseline JPEG (ITU-T T.81) and decompress, without the lossless parts.

    Colours as in JFIF, chroma at half the resolution. All values are rounded where a file has
    integers.

    Args:
        images: (n, 3, H, W).
        steps: of `jpeg_steps`.
    """
    height, width = images.shape[-2:]
    to_ycc, to_rgb, basis = _jpeg_constants(images.device)
    # Whole blocks of chroma to the right; below they are filled afterwards, as libjpeg does.
    pixels = F.pad(images * 255, (0, -width % 16, 0, height % 2), mode="replicate").round_()
    ycc = torch.einsum("ij,njhw->nihw", to_ycc, pixels - 128).round_()
    brightness = _quantised(ycc[:, :1], steps[:, :1], basis)[..., :height, :width]
    colour = F.avg_pool2d(ycc[:, 1:], 2)
    # Halves are rounded down and up by turns, as in libjpeg.
    up = torch.arange(colour.shape[-1], device=colour.device) % 2
    colour = _quantised((colour + (1 + up) / 4).floor_(), steps[:, 1:], basis)
    colour = colour[..., : (width + 1) // 2]
    colour = F.interpolate(colour, scale_factor=2, mode="bilinear", align_corners=False)
    planes = torch.cat([brightness, colour[..., :height, :width]], dim=1)
    decoded = torch.einsum("ij,njhw->nihw", to_rgb, planes)
    return decoded.add_(128).round_().clamp_(0, 255).div_(255)


def _quantised(planes: Tensor, steps: Tensor, basis: Tensor) -> Tensor:
    """Round the cosine coefficients of planes (n, c, H, W) around 0 to multiples of `steps`.

    Args:
        planes: W is a multiple of 8.
        steps: (n, 1, 8, 8), for each coefficient of a block.
        basis: (8, 8), of the cosine transform.
    """
    height = planes.shape[2]
    planes = F.pad(planes, (0, 0, 0, -height % 8), mode="replicate")
    blocks = planes.unfold(2, 8, 8).unfold(3, 8, 8)
    steps = steps[:, :, None, None]
    # The factor rounds halves away from zero, as libjpeg does.
    rounded = (basis @ blocks @ basis.T).div_(steps).mul_(1 + 1e-6).round_().mul_(steps)
    decoded = (basis.T @ rounded @ basis).round_().clamp_(-128, 127)
    return decoded.transpose(3, 4).reshape(planes.shape)[:, :, :height]


@cache
def _jpeg_constants(device: torch.device) -> tuple[Tensor, ...]:
    """YCbCr from RGB and RGB from YCbCr (3, 3), and the cosines of T.81 (8, 8)."""
    # A cached tensor that was made in inference mode could not be used in training.
    with torch.inference_mode(False):
        at = torch.arange(8)
        basis = torch.cos((2 * at + 1) * at[:, None] * math.pi / 16) / 2
        basis[0] /= math.sqrt(2)
        to_ycc = torch.tensor(_TO_YCC)
        constants = (to_ycc, to_ycc.inverse(), basis)
        return tuple(values.to(device, non_blocking=True) for values in constants)


def erase(images: Tensor, boxes: Tensor, colours: Tensor) -> Tensor:
    """Paint one rectangle per image.

    Args:
        images: (n, 3, H, W).
        boxes: (n, 4), top, bottom, left and right in pixels.
        colours: (n, 3) in [0, 1].
    """
    height, width = images.shape[-2:]
    return torch.where(inside(boxes, height, width), colours[:, :, None, None], images)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels are in the rectangle of each image.

    Args:
        boxes: (n, 4), top, bottom, left and right; the pixel in row `bottom` is outside.
        height, width: of the images.

    Returns:
        bool (n, 1, height, width).
    """
    top, bottom, left, right = boxes[:, :, None].unbind(dim=1)
    down, across = (torch.arange(side, device=boxes.device) for side in (height, width))
    rows, columns = (top <= down) & (down < bottom), (left <= across) & (across < right)
    return rows[:, None, :, None] & columns[:, None, None, :]


def wear_glasses(images: Tensor, eyes: Tensor, lens: Tensor, rim: Tensor, tint: Tensor) -> Tensor:
    """Paint glasses on upright, centred faces: two elliptic lenses, their rims and a bridge.

    Args:
        images: (n, 3, H, W) in [0, 1].
        eyes: (n, 2), distance of each eye from the middle, and of both from the top, as fractions
            of the side.
        lens: (n, 2), half width and half height of a lens, as fractions of the side.
        rim: (n,), its width as a fraction of the side.
        tint: (n, 2), brightness of rim and lens, and opacity of the lens (1 for black sunglasses).
    """
    height, width = images.shape[-2:]
    right = (torch.arange(width, device=images.device) + 0.5) / width - 0.5
    down = (torch.arange(height, device=images.device) + 0.5) / height
    apart, below = _per_image(eyes[:, 0]), _per_image(eyes[:, 1])
    wide, high = _per_image(lens[:, 0]), _per_image(lens[:, 1])
    half = _per_image(rim) / 2
    # The two sides are mirror images.
    x, y = right.abs()[None, None, None, :] - apart, down[None, None, :, None] - below
    # Approximate distance to the lens's edge, exact for a circle.
    edge = ((x / wide).square() + (y / high).square()).sqrt().sub(1) * torch.minimum(wide, high)
    framed = (edge.abs() < half) | ((x < -wide) & (y.abs() < half))
    glass = (edge < 0) & ~framed
    opacity = framed + glass * _per_image(tint[:, 1])
    return images.lerp_(_per_image(tint[:, 0]).expand_as(images), opacity.expand_as(images))


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
