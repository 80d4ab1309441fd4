"""Augmentation, mixup and CutMix of whole batches on the images' device, and normalisation."""

import contextlib
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from affectnet.data import image_ops
from affectnet.data.augmentation import Augmentation
from affectnet.data.dataset import Batch, copied_to
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
        changes = _changes(settings, dict(zip(_DRAWS, draws.t(), strict=True)), height, width)
        _move(changes, out.device)
        for part in _chunks(images):
            varied = to_float(images[part], copy=True)
            for change in changes:
                varied = change.apply(varied, part)
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
    mean: Sequence[float],
    std: Sequence[float],
    *,
    inplace: bool = False,
) -> Tensor:
    """Return (images - mean) / std, by channel; images are float (n, 3, H, W) in [0, 1].

    `inplace` overwrites the images, which saves a third of the time at 224 on CPU.
    """
    offset, scale = (_per_channel(tuple(v), images.dtype, images.device) for v in (mean, std))
    if not inplace:
        return images.sub(offset).div_(scale)
    for part in _chunks(images):
        images[part].sub_(offset).div_(scale)
    return images


@cache
def _per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers as (n, 1, 1), made once: copying them to a GPU waits for all its work."""
    # A cached tensor that was made in inference mode could not be used in training.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


def _chunks(images: Tensor) -> Iterator[slice]:
    n = len(images)
    step = max(n, 1)
    if images.device.type == "cpu":
        step = max(1, _CHUNK_BYTES // (4 * math.prod(images.shape[1:])))
    return (slice(start, start + step) for start in range(0, n, step))


@dataclass
class _Change:
    """An operation on some images of a batch, with parameters for each of them."""

    op: Callable[..., Tensor]
    """May overwrite the images that it is given."""
    rows: list[int]
    at: Tensor
    """The rows, on the images' device."""
    parameters: list[Tensor | list[int]]

    def tensors(self) -> list[Tensor]:
        """All that is needed on the images' device."""
        return [self.at, *(one for one in self.parameters if isinstance(one, Tensor))]

    def apply(self, images: Tensor, part: slice) -> Tensor:
        """Change these images, which are a part of the batch."""
        first, last = (bisect_left(self.rows, bound) for bound in (part.start, part.stop))
        if first == last:
            return images
        parameters = [values[first:last] for values in self.parameters]
        if last - first == len(images):
            return self.op(images, *parameters)
        at = self.at[first:last]
        if part.start:
            at = at - part.start
        return images.index_copy_(0, at, self.op(images.index_select(0, at), *parameters))


def _move(changes: Sequence[_Change], device: torch.device) -> None:
    """Copy all that the changes need to the device, at once."""
    moved = iter(copied_to(device, *(tensor for change in changes for tensor in change.tensors())))
    for change in changes:
        change.at = next(moved)
        change.parameters = [
            next(moved) if isinstance(values, Tensor) else values for values in change.parameters
        ]


def _changes(use: Augmentation, draws: dict[str, Tensor], height: int, width: int) -> list[_Change]:
    """Return the changes that the settings turn on, drawn for the whole batch, on the CPU."""
    changes: list[_Change] = []
    every = torch.ones(len(draws["hflip"]), dtype=torch.bool)

    def between(name: str, low: float, high: float) -> Tensor:
        return draws[name] * (high - low) + low

    def change(
        op: Callable[..., Tensor],
        *parameters: Tensor,
        some: str | None = None,
        prepare: Callable[..., Sequence[Tensor | list[int]]] | None = None,
    ) -> None:
        """Change all images, or the fraction that the setting `some` states.

        `prepare` makes the parameters of `op` from those of the chosen images.
        """
        at = torch.nonzero(draws[some] < getattr(use, some) if some else every)[:, 0]
        if len(at):
            chosen = [values[at] for values in parameters]
            changes.append(
                _Change(op, at.tolist(), at, list(prepare(*chosen) if prepare else chosen))
            )

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
        sides = (height,) if height == width else (height, width)
        change(
            image_ops.low_resolution,
            between("side", use.low_resolution_side, 1.0),
            some="low_resolution",
            prepare=lambda small: [image_ops.shrinking(small, side) for side in sides],
        )
    if use.motion:
        shortest, longest = (length * max(height, width) for length in use.motion_length)
        change(
            image_ops.motion_blur,
            between("length", shortest, longest),
            between("direction", 0, 180),
            some="motion",
            prepare=lambda line, turn: [image_ops.motion_taps(line, turn, math.ceil(longest / 2))],
        )
    if use.blur:
        change(
            image_ops.gaussian_blur,
            between("sigma", *use.blur_sigma),
            some="blur",
            prepare=lambda sigma: [image_ops.blur_taps(sigma)],
        )
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
        change(
            image_ops.add_noise,
            between("std", 0, use.noise_std),
            (draws["seed"] * 2**24).long(),  # a float32 draw has 24 bits
            some="noise",
            prepare=lambda std, seeds: [std, seeds.tolist()],
        )
    if use.jpeg:
        change(
            image_ops.through_jpeg,
            between("quality", *use.jpeg_quality).round(),
            some="jpeg",
            prepare=lambda quality: [image_ops.jpeg_steps(quality)],
        )
    if use.erasing:
        area = between("area", *use.erasing_area) * height * width
        aspect = 3 ** between("aspect", -1, 1)
        boxes = _boxes(area, aspect, draws["top"], draws["left"], height, width)
        colours = torch.stack([draws[name] for name in ("red", "green", "blue")], dim=1)
        change(image_ops.erase, boxes, colours, some="erasing")
    return changes


def _boxes(
    area: Tensor, aspect: Tensor, top: Tensor, left: Tensor, height: int, width: int
) -> Tensor:
    """Return rectangles in the image (n, 4) as `image_ops.erase` takes them.

    `area` is in pixels, `aspect` height / width, `top` and `left` fractions of the free space.
    """
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    above, before = (top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()
    return torch.stack([above, above + tall, before, before + wide], dim=1)


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
    part = slice(first, first + rows)
    given = torch.from_numpy(own[part]).to(images.dtype), torch.from_numpy(boxes[part])
    own_weight, box = copied_to(images.device, *given)
    inside = image_ops.inside(box, side, side)
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
        kept = remaining.to(value)[:, None] if value.ndim == 2 else remaining.to(value)
        # Zero times a missing partner would still be NaN.
        other = torch.where(kept < 1, value.roll(1, 0), value)
        blended[name] = value * kept + other * (1 - kept)
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
