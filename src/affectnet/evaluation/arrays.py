"""Array types of the scoring code, and division that marks the undefined.

Inside `affectnet.evaluation` a figure of one resample is a float64, and NaN says "undefined
here". NaN never leaves the package: point figures become None, and a score carries the reason.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide elementwise; NaN, without a warning, where the denominator is zero.

    >>> ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist()
    [0.5, nan]
    """
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def mean_of_defined(values: Floats) -> Floats:
    """Mean over the last axis of the entries that are not NaN; NaN where none is.

    >>> float(mean_of_defined(np.array([1.0, np.nan, 3.0])))
    2.0
    """
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return ratio(total, defined.sum(axis=-1).astype(np.float64))


def none_if_undefined(value: float | np.floating | Floats) -> float | None:
    """Turn a 0-d figure into a Python float, or None where it is undefined."""
    number = float(value)
    return None if np.isnan(number) else number
