"""Decoded faces kept in memory, on the machine or on its GPU, where they fit."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from affectnet.data.dataset import AnySplit, FaceDataset
from affectnet.errors import ConfigError

Cache = Literal["auto", "none", "ram", "device"]

AUTO_BYTES = 1_000_000_000
"""`auto` keeps a split in memory when its decoded faces take less than this."""

_CHUNK = 256


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decoded_bytes(faces: int, size: int) -> int:
    """Return what `faces` decoded faces of `size` x `size` pixels take."""
    return faces * size * size * 3


def free_memory(device: torch.device | None = None) -> int | None:
    """Return how many bytes are free in main memory or on a CUDA device; None where unknown.

    In main memory it is what the kernel could hand out without swapping, or what is left of the
    control group's limit (containers, SLURM), whichever is less.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [_meminfo(), _control_group()]
    return min((figure for figure in known if figure is not None), default=None)


def fits_unasked(faces: int, size: int, copies: int = 1) -> bool:
    """Decide for `auto`: the faces take under 1 GB and at most half of the free memory."""
    need = decoded_bytes(faces, size)
    free = free_memory()
    return need < AUTO_BYTES and (free is None or 2 * copies * need <= free)


def check_fits(faces: int, size: int, device: torch.device | None = None, copies: int = 1) -> None:
    """Make sure that the decoded faces fit.

    Args:
        faces: their number.
        size: side in pixels.
        device: the CUDA device that is to hold them; main memory where not given.
        copies: processes on this machine that hold them.

    Raises:
        ConfigError: they do not; the message states the size.
    """
    on_gpu = device is not None and device.type == "cuda"
    free = free_memory(device)
    need = decoded_bytes(faces, size) * (1 if on_gpu else copies)
    if free is None or need <= free:
        return
    times = f", once for each of {copies} processes" if copies > 1 and not on_gpu else ""
    raise ConfigError(
        f"cache '{'device' if on_gpu else 'ram'}' needs {need / 1e9:.1f} GB for {faces:,} faces of "
        f"{size}x{size} pixels{times}, but {free / 1e9:.1f} GB are free"
        f"{f' on {device}' if on_gpu else ''}; choose a smaller image size or cache 'none'"
    )


def decode_all(
    split: AnySplit,
    rows: NDArray[np.int64],
    size: int,
    device: torch.device | None = None,
    interpolation: str = "bilinear",
) -> Tensor:
    """Decode some rows once, by threads, with a progress bar.

    Returns:
        uint8 (n, size, size, 3) in main memory, or on `device`.

    Raises:
        DataError: an image cannot be decoded; the message names it.
    """
    faces = FaceDataset(split, size, interpolation=interpolation)
    shape = (len(rows), size, size, 3)
    pixels = torch.empty(shape, dtype=torch.uint8, device=device)

    def decode(start: int) -> int:
        chunk = rows[start : start + _CHUNK]
        into = pixels[start : start + len(chunk)]
        if pixels.device.type == "cpu":
            faces.decode(chunk, into.numpy())
        else:
            decoded = np.empty(into.shape, np.uint8)
            faces.decode(chunk, decoded)
            into.copy_(torch.from_numpy(decoded))
        return len(chunk)

    with (
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=len(rows), desc="decoding", unit=" faces", disable=None, leave=False) as bar,
    ):
        for done in pool.map(decode, range(0, len(rows), _CHUNK)):
            bar.update(done)
    return pixels


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return what is left of the limit, counting pages of files, which give way, as free."""
    for limit_name, used_name, stat_name, key in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            limit = (root / limit_name).read_text(encoding="ascii").strip()
            if limit == "max":
                return None
            used = int((root / used_name).read_text(encoding="ascii"))
            stat = (root / stat_name).read_text(encoding="ascii").split()
        except OSError:
            continue
        pairs = dict(zip(stat[::2], stat[1::2], strict=False))
        return max(0, int(limit) - used + int(pairs.get(key, 0)))
    return None
