"""The seven-class mode, `--without-contempt`, as AffectNet-7: everything without contempt.

Faces of contempt are left out, and the numbers of the other seven expressions are scaled to sum to
one. Contempt comes last in `EXPRESSIONS`, so the seven keep their indices.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from affectnet.labels import EXPRESSIONS

CONTEMPT: Final = EXPRESSIONS.index("contempt")
SEVEN: Final = EXPRESSIONS[:CONTEMPT]
"""AffectNet-7 has 283,901 faces of these for training and 3,500 for the test."""

_Float = TypeVar("_Float", np.float32, np.float64)


def classes_for(without_contempt: bool) -> tuple[str, ...]:
    """The expressions that apply: all eight, or the seven."""
    return SEVEN if without_contempt else EXPRESSIONS


def lacks_contempt(classes: Sequence[str]) -> bool:
    """Whether contempt is not among `classes`."""
    return EXPRESSIONS[CONTEMPT] not in classes


def seven_probabilities(probabilities: NDArray[_Float]) -> NDArray[_Float]:
    """Drop the last of K probabilities, contempt, and scale the others to sum to one, (n, K - 1).

    All are equal where all but contempt are zero. Rows of NaN stay NaN.
    """
    return _scaled(probabilities[:, :-1], 1 / (probabilities.shape[1] - 1))


def seven_votes(soft: NDArray[_Float]) -> NDArray[_Float]:
    """Soft labels with contempt set to zero and the others scaled to sum to one, (n, 8).

    NaN where all votes are for contempt. Rows of NaN stay NaN.
    """
    return _scaled(np.where(np.arange(soft.shape[1]) == CONTEMPT, soft.dtype.type(0), soft), np.nan)


def _scaled(rows: NDArray[_Float], of_zeros: float) -> NDArray[_Float]:
    """Each row divided by its sum; `of_zeros` where the sum is zero."""
    total = rows.sum(axis=1, keepdims=True)
    scaled = rows / np.where(total == 0, rows.dtype.type(1), total)
    return np.where(total == 0, rows.dtype.type(of_zeros), scaled)
