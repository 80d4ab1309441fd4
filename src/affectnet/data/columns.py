"""Arrow columns from NumPy arrays and back, by their buffers.

`pyarrow.array` and `to_numpy` do the same, but import pandas first, a third of a second.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def numbers_column(
    kind: pa.DataType, values: NDArray[np.generic], absent: NDArray[np.bool_]
) -> pa.Array:
    """Make a column of numbers, null where `absent`; rows of a 2-D array become fixed-size lists.

    The values are not copied when they are contiguous.
    """
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    nulls = int(absent.sum())
    validity = pa.py_buffer(np.packbits(~absent, bitorder="little")) if nulls else None
    if pa.types.is_fixed_size_list(kind):
        child = pa.Array.from_buffers(kind.value_type, values.size, [None, buffer])
        return pa.Array.from_buffers(kind, len(values), [validity], nulls, children=[child])
    return pa.Array.from_buffers(kind, len(values), [validity, buffer], nulls)


def text_column(texts: Sequence[str]) -> pa.Array:
    """Make a column of strings without nulls."""
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers, 0)


def known(column: pa.Array) -> NDArray[np.bool_]:
    """Return which values of a column are not null, bool (n,)."""
    validity = column.buffers()[0]
    if validity is None or not len(column):
        return np.ones(len(column), bool)
    bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")
    return bits[column.offset : column.offset + len(column)].astype(bool)


def numbers(column: pa.Array) -> NDArray[np.generic]:
    """Return the numbers of a column, (n,) or (n, width) for lists; they are undefined at nulls."""
    kind, width = column.type, 1
    if pa.types.is_fixed_size_list(kind):
        kind, width = kind.value_type, kind.list_size
    dtype = np.dtype(kind.to_pandas_dtype())
    content = column.buffers()[-1]
    begin = column.offset * width
    if content is None:
        values = np.zeros(len(column) * width, dtype)
    else:
        values = np.frombuffer(content, dtype)[begin : begin + len(column) * width]
    return values.reshape(-1, width) if width > 1 else values
