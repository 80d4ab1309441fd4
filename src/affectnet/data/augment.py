"""Augmentation of whole batches, on the images' device, and their way from uint8 to the model."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from affectnet.data import image_ops
from affectnet.data.augmentation import AUGMENTATIONS, Augmentation, named_augmentation
from affectnet.errors import ConfigError

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "augment",
    "named_augmentation",
    "normalise",
    "step_generator",
    "to_float",
]

_PART_BYTES: Final = 1_500_000
"""On CPU a batch goes through in parts of this size (as float32), all steps a part: memory of one
part is used again for the next and stays in the cache, whereas steps over a whole batch at 224
spend most of their time on fresh pages."""

_MIN_SIDE: Final = 8

_DRAWS: Final = (
    *("hflip", "vflip", "angle", "scale", "right", "down"),
    *("low_resolution", "side", "blur", "sigma", "exposure", "exponent"),
    *("brightness", "contrast", "saturation", "grey", "noise", "std", "seed"),
    *("erasing", "area", "aspect", "top", "left", "red", "green", "blue"),
)
"""One uniform number each for every image, drawn whatever the settings are: changing one setting
leaves the draws of the others as they were."""


def step_generator(seed: int, *counters: int) -> torch.Generator:
    """Return a CPU generator that depends on the seed and the counters (epoch, step) alone.

    With a fresh one for each step, a run that is resumed draws what it would have drawn.
    """
    # Counters as the spawn key: in a plain list of numbers (0, 0) would equal (0, 0, 0).
    sequence = np.random.SeedSequence(seed, spawn_key=counters)
    state = sequence.generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def augment(
    images: Tensor,
    settings: Augmentation,
    generator: torch.Generator,
    *,
    first: int = 0,
    of: int | None = None,
) -> Tensor:
    """Vary each image of a batch by its own draw.

    All draws come from `generator`, one row of numbers an image, so the result is a function of
    the images, the settings and the generator's state.

    Args:
        images: uint8 in [0, 255] or float in [0, 1], (n, 3, H, W), any memory format, at least
            8 pixels a side. Not changed.
        settings: the steps; `AUGMENTATIONS` has named ones.
        generator: on CPU.
        first: where several processes share a batch, the place of this part's first image in it.
        of: the size of the whole batch, `first + n` or more. Draws are made for all of it and this
            part's are used, so that two processes with half the batch each augment as one would.

    Returns:
        float32 (n, 3, H, W) in [0, 1], contiguous, on the images' device.

    Raises:
        ConfigError: the images have another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < _MIN_SIDE:
        raise ConfigError(
            f"the images to augment have the shape {tuple(images.shape)}; it must be "
            f"(n, 3, H, W) with H and W of at least {_MIN_SIDE}"
        )
    n = len(images)
    total = first + n if of is None else of
    if first < 0 or first + n > total:
        raise ConfigError(f"{n} images from place {first} on do not fit in a batch of {total}")
    table = torch.rand(total, len(_DRAWS), generator=generator)[first : first + n]
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    with torch.no_grad():
        for part in _parts(images):
            floats = _copy_to_float(images[part])
            result[part] = _augment_part(floats, settings, _Draws(table[part]))
    return result


def to_float(images: Tensor) -> Tensor:
    """Turn uint8 images in [0, 255] into float32 in [0, 1]; float images become float32."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    return images.to(torch.float32)


def normalise(
    images: Tensor,
    mean: Sequence[float] | Tensor,
    std: Sequence[float] | Tensor,
    *,
    inplace: bool = False,
) -> Tensor:
    """Return (images - mean) / std, by channel; images are float (n, 3, H, W) in [0, 1].

    `inplace` overwrites the images, which saves a third of the time at 224 on CPU.
    """
    offset, scale = (
        torch.as_tensor(values, dtype=images.dtype, device=images.device).view(-1, 1, 1)
        for values in (mean, std)
    )
    return images.sub_(offset).div_(scale) if inplace else images.sub(offset).div_(scale)


def _parts(images: Tensor) -> Iterator[slice]:
    n = len(images)
    step = max(n, 1)
    if images.device.type == "cpu":
        step = max(1, _PART_BYTES // (4 * math.prod(images.shape[1:])))
    return (slice(start, start + step) for start in range(0, n, step))


def _copy_to_float(images: Tensor) -> Tensor:
    floats = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    floats.copy_(images)
    return floats.div_(255) if images.dtype == torch.uint8 else floats


class _Draws:
    """The uniform numbers of some images, by name."""

    def __init__(self, table: Tensor) -> None:
        self._table = table

    def __getitem__(self, name: str) -> Tensor:
        return self._table[:, _DRAWS.index(name)]

    def between(self, name: str, low: float, high: float) -> Tensor:
        return self[name] * (high - low) + low


def _augment_part(images: Tensor, use: Augmentation, draws: _Draws) -> Tensor:
    """Run all steps; `images` are the caller's to lose."""
    device = images.device

    def on_share(step: str, share: float, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Change the share of the images that drew it; `change` also gets their places."""
        if not share:
            return images
        rows = (draws[step] < share).nonzero().flatten()
        if len(rows) == 0:
            return images
        if len(rows) == len(images):
            return change(images, rows)
        there = rows.to(device)
        images[there] = change(images[there], rows)
        return images

    def around_one(name: str, reach: float) -> Tensor:
        return draws.between(name, 1 - reach, 1 + reach).to(device)

    if use.resamples:
        shifts = [draws.between(name, -use.shift, use.shift) for name in ("right", "down")]
        images = image_ops.warp(
            images,
            angle=draws.between("angle", -use.rotation, use.rotation).to(device),
            scale=around_one("scale", use.scale),
            shift=torch.stack(shifts, dim=1).to(device),
            hflip=(draws["hflip"] < use.hflip).to(device),
            vflip=(draws["vflip"] < use.vflip).to(device),
            fill=use.fill,
        )
    else:
        images = on_share("hflip", use.hflip, lambda some, _: some.flip(-1))
        images = on_share("vflip", use.vflip, lambda some, _: some.flip(-2))

    def shrink(some: Tensor, rows: Tensor) -> Tensor:
        sides = draws.between("side", use.low_resolution_side, 1.0)[rows]
        return image_ops.low_resolution(some, sides.tolist())

    def blur(some: Tensor, rows: Tensor) -> Tensor:
        sigma = draws.between("sigma", *use.blur_sigma)[rows]
        return image_ops.gaussian_blur(some, sigma.to(device))

    def bend(some: Tensor, rows: Tensor) -> Tensor:
        low, high = (math.log(bound) for bound in use.exposure_gamma)
        exponent = draws.between("exponent", low, high).exp()[rows]
        return image_ops.adjust_gamma(some, exponent.to(device))

    def roughen(some: Tensor, rows: Tensor) -> Tensor:
        std = draws.between("std", 0, use.noise_std)[rows]
        seeds = (draws["seed"][rows] * 2**24).long()  # a float32 draw has 24 bits
        return image_ops.add_noise(some, std.to(device), seeds.tolist())

    images = on_share("low_resolution", use.low_resolution, shrink)
    images = on_share("blur", use.blur, blur)
    images = on_share("exposure", use.exposure, bend)
    if use.brightness:
        images = image_ops.adjust_brightness(images, around_one("brightness", use.brightness))
    if use.contrast:
        images = image_ops.adjust_contrast(images, around_one("contrast", use.contrast))
    if use.saturation:
        images = image_ops.adjust_saturation(images, around_one("saturation", use.saturation))
    images = on_share("grey", use.grey, lambda some, _: image_ops.to_grey(some))
    images = on_share("noise", use.noise, roughen)
    return on_share("erasing", use.erasing, lambda some, rows: _erase(some, rows, use, draws))


def _erase(images: Tensor, rows: Tensor, use: Augmentation, draws: _Draws) -> Tensor:
    height, width = images.shape[-2:]
    low, high = use.erasing_area
    boxes = []
    for row in rows.tolist():
        area, ratio, top, left = (
            float(draws[name][row]) for name in ("area", "aspect", "top", "left")
        )
        pixels = (low + (high - low) * area) * height * width
        aspect = 3 ** (2 * ratio - 1)
        tall = min(height, max(1, round(math.sqrt(pixels * aspect))))
        wide = min(width, max(1, round(math.sqrt(pixels / aspect))))
        at = (int(top * (height - tall + 1)), int(left * (width - wide + 1)))
        boxes.append((*at, tall, wide))
    colours = torch.stack([draws[name][rows] for name in ("red", "green", "blue")], dim=1)
    return image_ops.erase(images, boxes, colours.to(images.device))
