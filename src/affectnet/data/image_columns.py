"""Facts computed from the images of a split, as columns to slice scores by."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from affectnet.data.images import decode_image
from affectnet.data.store import Split

GREY: Final = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


def brightness(image: NDArray[np.uint8]) -> float:
    """Mean grey value of an RGB image (H, W, 3), in [0, 1]."""
    return float((image @ GREY).mean() / 255)


def sharpness(image: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of an RGB image's grey values, which are in [0, 255].

    Low for blurred images (Pech-Pacheco et al., 2000). It grows with the size of the image, so
    compare images of one size only; 0 where a side is under three pixels.
    """
    grey = image @ GREY
    if min(grey.shape) < 3:
        return 0.0
    middle = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * middle).var())


IMAGE_COLUMNS: Final[dict[str, Callable[[NDArray[np.uint8]], float]]] = {
    "brightness": brightness,
    "sharpness": sharpness,
}


def image_columns(split: Split, names: list[str]) -> dict[str, NDArray[np.float64]]:
    """Compute columns of `IMAGE_COLUMNS` over all rows of a split, each (n,)."""
    columns = {name: np.empty(len(split)) for name in names}
    if not names:
        return {}
    for row in tqdm(range(len(split)), desc="images", unit="face", leave=False, disable=None):
        image = decode_image(bytes(split.image_bytes(row)))
        for name, column in columns.items():
            column[row] = IMAGE_COLUMNS[name](image)
    return columns
