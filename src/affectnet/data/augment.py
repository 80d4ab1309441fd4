"""Augmentation, mixup and CutMix of whole batches on the images' device, and normalisation."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from affectnet.data import image_ops
from affectnet.data.augmentation import Augmentation
from affectnet.data.dataset import Batch
from affectnet.errors import ConfigError

_CHUNK_BYTES: Final = 1_500_000
"""On CPU a batch is processed in chunks of this size (as float32), all steps per chunk: the memory
of a chunk is reused for the next and stays in the cache, whereas steps over a whole batch at 224
spend most of their time on new pages."""

_MIN_SIDE: Final = 8

_DRAWS: Final = (
    *("hflip", "vflip", "angle", "scale", "right", "down"),
    *("low_resolution", "side", "blur", "sigma", "exposure", "exponent"),
    *("brightness", "contrast", "saturation", "grey", "noise", "std", "seed"),
    *("erasing", "area", "aspect", "top", "left", "red", "green", "blue"),
    *("glasses", "apart", "below", "wide", "high", "rim", "shade", "opacity"),
    *("motion", "length", "direction", "jpeg", "quality"),
)
"""One uniform number each per image, drawn for any settings: changing one setting does not change
the draws of the others."""


def step_generator(seed: int, *counters: int) -> torch.Generator:
    """Return a CPU generator that depends only on the seed and the counters (epoch, step).

    With a new one for each step, a resumed run draws the same numbers as one without interruption.
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
    out: Tensor | None = None,
) -> Tensor:
    """Vary each image of a batch by its own draw.

    All draws come from `generator`, one row of numbers per image, so the result is a function of
    the images, the settings and the generator's state.

    Args:
        images: uint8 in [0, 255] or float in [0, 1], (n, 3, H, W), any memory format, at least
            8 pixels per side. Not changed.
        settings: the steps, such as one of `AUGMENTATIONS`.
        generator: on CPU.
        first: with several processes per batch, the index of this part's first image in it.
        of: the size of the whole batch, `first + n` or more. Numbers are drawn for all of it, so
            that two processes with half the batch each augment as one would.
        out: array for the result, such as that of an earlier batch; new memory takes a fifth of the
            time on CPU at 224.

    Returns:
        float32 (n, 3, H, W) in [0, 1], contiguous, on the images' device.

    Raises:
        ConfigError: the images have a different shape.
    """
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < _MIN_SIDE:
        raise ConfigError(
            f"the images to augment have the shape {tuple(images.shape)}; it must be "
            f"(n, 3, H, W) with H and W of at least {_MIN_SIDE}"
        )
    n, _, height, width = images.shape
    total = first + n if of is None else of
    if first < 0 or first + n > total:
        raise ConfigError(f"{n} images from index {first} on do not fit in a batch of {total}")
    if out is None:
        out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    elif out.shape != images.shape or out.dtype != torch.float32 or out.device != images.device:
        raise ConfigError(
            f"`out` is {out.dtype} {tuple(out.shape)} on {out.device}; "
            f"it must be float32 {tuple(images.shape)} on {images.device}"
        )
    draws = torch.rand(total, len(_DRAWS), generator=generator)[first : first + n]
    # In float32 also where training has autocast on.
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False), _any_order():
        steps = _steps(
            settings, dict(zip(_DRAWS, draws.t(), strict=True)), height, width, out.device
        )
        for part in _chunks(images):
            varied = to_float(images[part], copy=True)
            for step in steps:
                varied = step(varied, part)
            out[part] = varied
    return out


@contextlib.contextmanager
def _any_order() -> Iterator[None]:
    """Let a GPU write rows in any order: no step writes a row twice, and sorting is slow."""
    strict = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warn)


def to_float(images: Tensor, *, copy: bool = False) -> Tensor:
    """Turn uint8 images in [0, 255] into contiguous float32 in [0, 1]; float images into float32.

    Contiguous like the result of `augment`: with another memory format in evaluation, a model's
    outputs would differ in the last digits. With `copy` the result never is the given tensor.
    """
    floats = images.to(torch.float32, memory_format=torch.contiguous_format, copy=copy)
    return floats.div_(255) if images.dtype == torch.uint8 else floats


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
    if not inplace:
        return images.sub(offset).div_(scale)
    for part in _chunks(images):
        images[part].sub_(offset).div_(scale)
    return images


def _chunks(images: Tensor) -> Iterator[slice]:
    n = len(images)
    step = max(n, 1)
    if images.device.type == "cpu":
        step = max(1, _CHUNK_BYTES // (4 * math.prod(images.shape[1:])))
    return (slice(start, start + step) for start in range(0, n, step))


Step = Callable[[Tensor, slice], Tensor]
"""Changes the part of a batch that the slice selects. It may overwrite the given images."""


def _steps(
    use: Augmentation, draws: dict[str, Tensor], height: int, width: int, device: torch.device
) -> list[Step]:
    """Return the steps that the settings turn on, with parameters drawn for the whole batch."""
    steps: list[Step] = []
    n = len(draws["hflip"])

    def between(name: str, low: float, high: float) -> Tensor:
        return draws[name] * (high - low) + low

    def change(
        op: Callable[..., Tensor], *parameters: Tensor | list[Any], some: str | None = None
    ) -> None:
        """Add a step that changes all images, or the fraction that the setting `some` states."""
        chosen = (draws[some] < getattr(use, some)).tolist() if some else [True] * n
        moved = [v.to(device) if isinstance(v, Tensor) else v for v in parameters]

        def step(images: Tensor, part: slice) -> Tensor:
            rows = [row for row, drawn in enumerate(chosen[part]) if drawn]
            if not rows:
                return images
            if len(rows) == len(images):
                return op(images, *(values[part] for values in moved))
            at = torch.tensor(rows, device=device)
            picked = (
                values[part][at] if isinstance(values, Tensor) else [values[part][r] for r in rows]
                for values in moved
            )
            images[at] = op(images[at], *picked)
            return images

        steps.append(step)

    if use.glasses:
        eyes = torch.stack([between("apart", 0.16, 0.22), between("below", 0.33, 0.45)], dim=1)
        lens = torch.stack([between("wide", 0.12, 0.18), between("high", 0.08, 0.14)], dim=1)
        tint = torch.stack([between("shade", 0, 0.25), draws["opacity"]], dim=1)
        rim = between("rim", 0.01, 0.05)
        change(image_ops.wear_glasses, eyes, lens, rim, tint, some="glasses")
    if use.resamples:
        shifts = [between(name, -use.shift, use.shift) for name in ("right", "down")]
        columns, rows = image_ops.warp_lines(
            (height, width),
            angle=between("angle", -use.rotation, use.rotation),
            scale=between("scale", 1 - use.scale, 1 + use.scale),
            shift=torch.stack(shifts, dim=1),
            hflip=draws["hflip"] < use.hflip,
            vflip=draws["vflip"] < use.vflip,
        )
        change(partial(image_ops.warp, fill=use.fill), columns, rows)
    else:
        if use.hflip:
            change(lambda images: images.flip(-1), some="hflip")
        if use.vflip:
            change(lambda images: images.flip(-2), some="vflip")
    if use.low_resolution:
        sides = between("side", use.low_resolution_side, 1.0).tolist()
        change(image_ops.low_resolution, sides, some="low_resolution")
    if use.motion:
        shortest, longest = (length * max(height, width) for length in use.motion_length)
        length, direction = between("length", shortest, longest), between("direction", 0, 180)
        taps = image_ops.motion_taps(length, direction, math.ceil(longest / 2))
        change(image_ops.motion_blur, taps, some="motion")
    if use.blur:
        taps = image_ops.blur_taps(between("sigma", *use.blur_sigma))
        change(image_ops.gaussian_blur, taps, some="blur")
    if use.exposure:
        low, high = (math.log(bound) for bound in use.exposure_gamma)
        exponents = between("exponent", low, high).exp()
        change(image_ops.adjust_gamma, exponents, some="exposure")
    for name, reach, op in (
        ("brightness", use.brightness, image_ops.adjust_brightness),
        ("contrast", use.contrast, image_ops.adjust_contrast),
        ("saturation", use.saturation, image_ops.adjust_saturation),
    ):
        if reach:
            change(op, between(name, 1 - reach, 1 + reach))
    if use.grey:
        change(image_ops.to_grey, some="grey")
    if use.noise:
        seeds = (draws["seed"] * 2**24).long().tolist()  # a float32 draw has 24 bits
        std = between("std", 0, use.noise_std)
        change(image_ops.add_noise, std, seeds, some="noise")
    if use.jpeg:
        qualities = between("quality", *use.jpeg_quality).round().long().tolist()
        change(image_ops.through_jpeg, qualities, some="jpeg")
    if use.erasing:
        area = between("area", *use.erasing_area) * height * width
        aspect = 3 ** between("aspect", -1, 1)
        boxes = _boxes(area, aspect, draws["top"], draws["left"], height, width)
        colours = torch.stack([draws[name] for name in ("red", "green", "blue")], dim=1)
        change(image_ops.erase, boxes, colours, some="erasing")
    return steps


def _boxes(
    area: Tensor, aspect: Tensor, top: Tensor, left: Tensor, height: int, width: int
) -> list[Any]:
    """Return rectangles (top, left, height, width) in the image, from area and height / width."""
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    above, before = (top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()
    boxes: list[Any] = torch.stack([above, before, tall, wide], dim=1).long().tolist()
    return boxes


@dataclass(frozen=True)
class Mixing:
    """How faces are mixed. 0 turns a method off; with both on, each face uses one at random."""

    mixup: float = 0.0
    """Alpha of mixup's Beta distribution (Zhang et al. 2018, arXiv:1710.09412)."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta distribution (Yun et al. 2019, arXiv:1905.04899)."""
    fraction: float = 1.0
    """Fraction of the faces that are mixed."""

    def __bool__(self) -> bool:
        return self.fraction > 0 and max(self.mixup, self.cutmix) > 0


def mix(
    images: Tensor,
    batch: Batch,
    mixing: Mixing,
    rng: np.random.Generator,
    *,
    soft: bool = False,
    first: int = 0,
    of: int | None = None,
) -> tuple[Tensor, Batch]:
    """Mix each face with the one before it in the batch (the first with the last).

    Mixup blends the two images; CutMix pastes a rectangle of the other. Targets are blended with
    the same weight: the expression's as vote shares, valence and arousal as numbers. A face keeps
    at least half of its own, so accuracy is still measured by its own label. Faces with different
    labels missing (such as one without an expression) are not mixed with each other: a missing
    target would make the other one missing, too.

    Args:
        images: float (B, 3, S, S).
        batch: `expression` (B,), `valence`, `arousal` (B,), `soft` (B, 8).
        mixing: methods and their strengths.
        rng: determines what is mixed, and how much; drawn for all `of` faces of the batch, so that
            the draws do not depend on the number of processes (the partners do: a process mixes its
            own part of the batch).
        soft: blend vote shares where present, instead of the majority's label.
        first: index of the first of these faces in the batch of all processes.
        of: faces in that batch; only these where None.

    Returns:
        The mixed images, and a copy of the batch with the blended `soft`, `valence` and `arousal`.
    """
    rows, side = len(images), images.shape[-1]
    own, boxes = _draws(mixing, rng, of or rows, side)
    own_weight = torch.from_numpy(own[first : first + rows]).to(images)
    box = torch.from_numpy(boxes[first : first + rows]).to(images.device)

    place = torch.arange(side, device=images.device)
    down = (place >= box[:, 0:1]) & (place < box[:, 1:2])
    right = (place >= box[:, 2:3]) & (place < box[:, 3:4])
    inside = down[:, None, :, None] & right[:, None, None, :]
    cut = (box[:, 1] > box[:, 0])[:, None, None, None]
    weight = torch.where(cut, (~inside).to(images), own_weight[:, None, None, None])

    targets = _vote_shares(batch, soft)
    values = {"soft": targets, "valence": batch["valence"], "arousal": batch["arousal"]}
    alike = torch.ones(rows, dtype=torch.bool, device=images.device)
    for value in values.values():
        known = value.reshape(rows, -1).isfinite().all(dim=1)
        alike &= known == known.roll(1)
    weight = torch.where(alike[:, None, None, None], weight, 1)
    mixed = images * weight + images.roll(1, 0) * (1 - weight)
    remaining = weight.expand(rows, 1, side, side).mean((1, 2, 3))
    blended = {}
    for name, value in values.items():
        part = remaining.to(value)[:, None] if value.ndim == 2 else remaining.to(value)
        # Zero times a missing partner would still be NaN.
        other = torch.where(part < 1, value.roll(1, 0), value)
        blended[name] = value * part + other * (1 - part)
    return mixed, {**batch, **blended}


def _draws(
    mixing: Mixing, rng: np.random.Generator, rows: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each face's own weight (rows,), and the box pasted over it (rows, 4): top, bottom,
    left, right; empty where nothing is pasted."""
    chosen = rng.random(rows) < mixing.fraction
    cuts = rng.random(rows) < (0.5 if mixing.mixup and mixing.cutmix else float(mixing.cutmix > 0))
    alphas = np.where(cuts, mixing.cutmix or 1.0, mixing.mixup or 1.0)
    own = rng.beta(alphas, alphas)
    own = np.where(chosen, np.maximum(own, 1 - own), 1.0)
    half = np.sqrt(1 - own) * side / 2
    centre = rng.random((2, rows)) * side
    low = np.clip(np.rint(centre - half), 0, side)
    high = np.clip(np.rint(centre + half), 0, side)
    boxes = np.stack([low[0], high[0], low[1], high[1]], axis=1)
    empty = ~cuts | ~chosen | (boxes[:, 1] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 2])
    boxes[empty] = 0
    # A box that is empty after rounding pastes nothing.
    own = np.where(cuts, 1.0, own)
    return own.astype(np.float32), boxes.astype(np.int64)


def _vote_shares(batch: Batch, soft: bool) -> Tensor:
    """Return target shares (B, 8): votes where `soft` and present, else the label; NaN without."""
    expression, votes = batch["expression"], batch["soft"]
    hard = F.one_hot(expression.clamp(min=0).long(), votes.shape[1]).to(votes)
    hard = torch.where((expression >= 0)[:, None], hard, torch.nan)
    if not soft:
        return hard
    return torch.where(votes.isfinite().all(dim=1)[:, None], votes, hard)
