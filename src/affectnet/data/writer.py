"""Writing the parts of a release as the Arrow files of a dataset, and the hash of their content.

NumPy arrays become Arrow columns, and the reverse, by their buffers: `pyarrow.array` and `to_numpy`
would import pandas first, which takes a third of a second.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from affectnet.data.readers.release_part import ReleasePart
from affectnet.data.readers.streams import new_memory
from affectnet.data.store import SCHEMA, Split, existing_splits
from affectnet.threads import Background


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


BATCH_ROWS: Final = 1024
BATCH_BYTES = 16 << 20
"""A batch is closed early when its images reach this size, which bounds the memory."""


@contextmanager
def split_writer(path: Path, schema: pa.Schema = SCHEMA) -> Iterator[pa.ipc.RecordBatchFileWriter]:
    """Open the Arrow file of one split for record batches; an exception removes the file.

    Args:
        path: the file to write; its folder exists.
        schema: `SCHEMA`, or `SCHEMA` followed by further columns.
    """
    sink = pa.OSFile(str(path), "wb")
    try:
        with sink:
            writer = pa.ipc.new_file(sink, schema)
            yield writer
            writer.close()
    except BaseException:  # also a disk that fills up while the footer is written, and Ctrl-C
        path.unlink(missing_ok=True)
        raise


class ContentHash:
    """SHA-256 over ids, labels and image bytes of a split, independent of its batches.

    Each column has its own streams, because a batch is hashed column by column.
    """

    def __init__(self) -> None:
        self._streams = {name: hashlib.sha256() for name in SCHEMA.names}

    def update(self, batch: pa.RecordBatch) -> None:
        """Add rows; columns beyond `SCHEMA` are ignored."""
        for field in SCHEMA:
            column = batch.column(field.name)
            stream = self._streams[field.name]
            if field.name in ("id", "image"):
                lengths, content = _texts(column)
                stream.update(lengths)
                if content is not None:
                    self._content(field.name).update(content)
                continue
            present = known(column)
            stream.update(present.tobytes())
            self._content(field.name).update(numbers(column)[present].tobytes())

    def _content(self, name: str) -> Any:
        return self._streams.setdefault(f"{name} content", hashlib.sha256())

    def digest(self) -> bytes:
        """Return the hash of all rows so far."""
        whole = hashlib.sha256()
        for name in sorted(self._streams):
            whole.update(name.encode() + b"\0" + self._streams[name].digest())
        return whole.digest()


def _texts(column: pa.Array) -> tuple[bytes, memoryview | None]:
    """Return the length of each value as int64 bytes, and all values end to end, not copied."""
    large = pa.types.is_large_binary(column.type)
    kind = np.dtype(np.int64 if large else np.int32)
    _, offsets, content = column.buffers()
    ends = np.frombuffer(offsets, kind, len(column) + 1, column.offset * kind.itemsize)
    lengths = np.diff(ends).astype("<i8").tobytes()
    if content is None or not len(column):
        return lengths, None
    return lengths, memoryview(content)[int(ends[0]) : int(ends[-1])]


def combine(digests: Mapping[str, bytes]) -> str:
    """Return the content hash of a dataset, from the digests of its splits."""
    whole = hashlib.sha256()
    for name in sorted(digests):
        whole.update(name.encode() + b"\0" + digests[name])
    return whole.hexdigest()


def content_hash(folder: Path | str) -> str:
    """Compute the content hash of a dataset on disk, to be compared with `dataset.json`."""
    digests = {}
    for name in existing_splits(folder):
        content = ContentHash()
        for batch in Split(Path(folder) / f"{name}.arrow").batches():
            content.update(batch)
        digests[name] = content.digest()
    return combine(digests)


def write_splits(
    folder: Path,
    splits: Mapping[str, tuple[ReleasePart, NDArray[np.int64]]],
    progress: Callable[[int], object],
) -> str:
    """Write one Arrow file per split that has rows.

    Reading, hashing and writing of successive batches overlap.

    Args:
        folder: where to write the files.
        splits: name -> the part and its rows, in the order in which to write them.
        progress: called with each batch's number of rows.

    Returns:
        The content hash.

    Raises:
        DataError: a source has changed since it was read.
        OSError: the disk is full.
    """
    digests = {}
    for name, (part, rows) in splits.items():
        if not len(rows):
            continue
        content = ContentHash()
        schema = pa.schema(
            [*SCHEMA, *(pa.field(key, values.type) for key, values in part.extra.items())]
        )
        with (
            split_writer(folder / f"{name}.arrow", schema) as writer,
            Background(content.update, depth=0) as hashing,
            Background(writer.write_batch, depth=0) as writing,
        ):
            for batch in _batches(part, rows, schema):
                hashing.submit(batch)
                writing.submit(batch)
                progress(batch.num_rows)
        digests[name] = content.digest()
    return combine(digests)


def _batches(
    part: ReleasePart, rows: NDArray[np.int64], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield the rows; the images of a batch live until the batch after the next is requested."""
    # One buffer is filled while the other is written. A new one for every batch would cost as much
    # as the writing: the system clears each page of memory that it hands out.
    buffers = cycle([[new_memory(BATCH_BYTES)], [new_memory(BATCH_BYTES)]])
    ends = np.cumsum(part.size[rows])
    first = 0
    while first < len(rows):
        before = int(ends[first - 1]) if first else 0
        full = int(np.searchsorted(ends, before + BATCH_BYTES, "right"))
        last = min(max(full, first + 1), first + BATCH_ROWS, len(rows))
        size = int(ends[last - 1]) - before
        buffer = next(buffers)
        if len(buffer[0]) < size:
            buffer[0] = new_memory(size)
        yield _batch(part, rows[first:last], buffer[0][:size], schema)
        first = last


def _batch(
    part: ReleasePart, rows: NDArray[np.int64], images: memoryview, schema: pa.Schema
) -> pa.RecordBatch:
    part.read_images(rows, images)
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(part.size[rows], out=offsets[1:])
    label, valence, arousal = part.expression[rows], part.valence[rows], part.arousal[rows]
    kinds = {field.name: field.type for field in SCHEMA}
    return pa.record_batch(
        [
            text_column([part.ids[row] for row in rows.tolist()]),
            pa.Array.from_buffers(
                pa.large_binary(),
                len(rows),
                [None, pa.py_buffer(offsets), pa.py_buffer(images)],
                0,
            ),
            numbers_column(kinds["expression"], label, label < 0),
            numbers_column(kinds["valence"], valence, np.isnan(valence)),
            numbers_column(kinds["arousal"], arousal, np.isnan(arousal)),
            numbers_column(kinds["landmarks"], *part.landmarks(rows)),
            numbers_column(kinds["soft"], *part.soft_labels(rows)),
            *(values.take(pa.array(rows)) for values in part.extra.values()),
        ],
        schema=schema,
    )
