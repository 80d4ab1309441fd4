"""The dataset on disk: one memory-mapped Arrow file per split, next to `dataset.json`."""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from affectnet.data.images import brightness, decode_image, sharpness
from affectnet.errors import DataError, suggest
from affectnet.labels import N_EXPRESSIONS
from affectnet.seven import classes_for

SPLITS: Final = ("train", "val", "test")
N_LANDMARKS: Final = 68
INFO_NAME: Final = "dataset.json"
DROPPED_NAME: Final = "dropped.csv"

SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.large_binary(), nullable=False),
        pa.field("expression", pa.int8()),
        pa.field("valence", pa.float32()),
        pa.field("arousal", pa.float32()),
        pa.field("landmarks", pa.list_(pa.float32(), 2 * N_LANDMARKS)),
        pa.field("soft", pa.list_(pa.float32(), N_EXPRESSIONS)),
    ]
)
"""Columns of a split. Only `id` and `image` are never null."""

COPIES: Final = "copies_in"
"""Further column: the other splits that contain a duplicate of the face, such as `train val`, or
`none`; only where ingest searched for duplicates."""


@dataclass(frozen=True, slots=True)
class Face:
    """One face and its labels; None where the release has none.

    `image` holds the encoded bytes, `expression` is 0-7 in the order of `labels.EXPRESSIONS`,
    `valence` and `arousal` lie in [-1, 1], `landmarks` is float32 (68, 2) in pixels, x first,
    `soft` is float32 (8,), the vote share of each expression, summing to 1.
    """

    id: str
    image: bytes
    expression: int | None = None
    valence: float | None = None
    arousal: float | None = None
    landmarks: NDArray[np.float32] | None = None
    soft: NDArray[np.float32] | None = None


class Split:
    """One split of a dataset, memory-mapped: opening costs milliseconds, rows are never copied.

    Labels are read once, on first use, as NumPy arrays over the whole split; images are read row
    by row. Only the path is pickled, so worker processes, forked or spawned, share the pages of
    the file.

    Offsets, text and labels are checked when the file is opened (20 ms for 290,000 faces): wrong
    offsets would read outside the file. The bytes of the images are not; `content_hash` reads all.

    Raises:
        DataError: the file is missing, cut short, damaged, or lacks a column of `SCHEMA`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
            self.schema: pa.Schema = reader.schema
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            for batch in batches:
                batch.validate(full=True)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._damaged(error) from error
        for wanted in SCHEMA:
            index = self.schema.get_field_index(wanted.name)
            if index < 0 or self.schema.field(index).type != wanted.type:
                raise DataError(
                    f"{self.path} has no column '{wanted.name}' of type {wanted.type}; "
                    "make the dataset again with `affectnet ingest`"
                )
        self._use(batches)
        if any(batch.column(name).null_count for batch in batches for name in ("id", "image")):
            raise self._damaged("rows without id or image")
        labels = self.expression
        if len(labels) and not (labels.min() >= -1 and labels.max() < N_EXPRESSIONS):
            raise self._damaged(f"labels outside 0 to {N_EXPRESSIONS - 1}")
        if any((np.abs(values) > 1).any() for values in (self.valence, self.arousal)):
            raise self._damaged("valence or arousal outside [-1, 1]")

    def _damaged(self, reason: object) -> DataError:
        text = " ".join(str(reason).split())[:200]
        return DataError(
            f"{self.path} cannot be read as a split of a dataset ({text}); make the dataset again "
            "with `affectnet ingest`"
        )

    def _use(self, batches: list[pa.RecordBatch]) -> None:
        ends = np.cumsum([batch.num_rows for batch in batches], dtype=np.int64)
        self._batches = batches
        self._starts: list[int] = [0, *ends.tolist()]
        self._images = [_binary_buffers(batch.column("image")) for batch in batches]

    def __reduce__(self) -> tuple[type[Self], tuple[Any]]:
        return type(self), (self.path,)

    def __len__(self) -> int:
        return self._starts[-1]

    def __repr__(self) -> str:
        return f"Split({str(self.path)!r}, rows={len(self)})"

    def _locate(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a split of {len(self)} rows")
        batch = bisect_right(self._starts, row) - 1
        return batch, row - self._starts[batch]

    def describe(self, row: int) -> str:
        """Return a name of a row for messages."""
        return f"the face '{self.ids[row]}' (row {row} of {self.path})"

    def image_bytes(self, row: int) -> memoryview:
        """Return the encoded image of a row, as a view of the mapped file."""
        batch, within = self._locate(row)
        offsets, data = self._images[batch]
        return data[offsets[within] : offsets[within + 1]]

    def face(self, row: int) -> Face:
        """Return a row with all its labels; copies the image."""
        batch, within = self._locate(row)
        columns = self._batches[batch]
        soft = columns.column("soft")[within].as_py()
        return Face(
            image=bytes(self.image_bytes(row)),
            landmarks=self.landmarks(row),
            soft=None if soft is None else np.array(soft, np.float32),
            **{
                name: columns.column(name)[within].as_py()
                for name in ("id", "expression", "valence", "arousal")
            },
        )

    def landmarks(self, row: int) -> NDArray[np.float32] | None:
        """Return the 68 points of a row in pixels, float32 (68, 2), x first, or None."""
        batch, within = self._locate(row)
        column = self._batches[batch].column("landmarks")
        if not column[within].is_valid:
            return None
        points: NDArray[np.float32] = column.slice(within, 1).flatten().to_numpy()
        return points.reshape(N_LANDMARKS, 2)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Iterate over all rows in order, as Arrow record batches."""
        return iter(self._batches)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return any column as Arrow data, including those that a release adds to `SCHEMA`."""
        if name not in self.schema.names:
            raise DataError(
                f"{self.path.name} has no column '{name}'{suggest(name, self.schema.names)}; "
                f"it has {', '.join(self.schema.names)}"
            )
        chunks = [batch.column(name) for batch in self._batches]
        return pa.chunked_array(chunks, self.schema.field(name).type)

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row."""
        ids: list[str] = self.column("id").to_pylist()
        return ids

    @cached_property
    def expression(self) -> NDArray[np.int8]:
        """The expression of each row, int8 (n,), -1 where missing."""
        return self._numbers("expression", -1)

    @cached_property
    def valence(self) -> NDArray[np.float32]:
        """The valence of each row, float32 (n,) in [-1, 1], NaN where missing."""
        return self._numbers("valence", np.nan)

    @cached_property
    def arousal(self) -> NDArray[np.float32]:
        """The arousal of each row, float32 (n,) in [-1, 1], NaN where missing."""
        return self._numbers("arousal", np.nan)

    @cached_property
    def soft(self) -> NDArray[np.float32]:
        """The vote share of each expression in each row, float32 (n, 8), NaN where missing."""
        result = np.full((len(self), N_EXPRESSIONS), np.nan, np.float32)
        for start, batch in zip(self._starts[:-1], self._batches, strict=True):
            column = batch.column("soft")
            known = column.is_valid().to_numpy(zero_copy_only=False)
            result[start : start + len(column)][known] = (
                column.flatten().to_numpy().reshape(-1, N_EXPRESSIONS)
            )
        return result

    def copied_in(self, splits: Sequence[str]) -> NDArray[np.bool_] | None:
        """Return which rows have a duplicate in one of some splits of the dataset, bool (n,).

        None where ingest did not search for duplicates.
        """
        if COPIES not in self.schema.names:
            return None
        words = self.column(COPIES).to_pylist()
        copied = {word: bool({*word.split()} & {*splits}) for word in set(words)}
        return np.array([copied[word] for word in words], bool)

    def _numbers(self, name: str, missing: float) -> NDArray[Any]:
        column = self.column(name)
        filled = column.fill_null(pa.scalar(missing, column.type))
        values: NDArray[Any] = filled.to_numpy()
        # All users of the split share this array, so none of them may change it.
        values.flags.writeable = False
        return values


class JoinedSplit(Split):
    """The same split of several datasets, one after another, read like one `Split`.

    Row numbers continue from one dataset to the next. A label that a dataset lacks is missing only
    in its rows. Ids are `DATASET/ID`, where DATASET is the name of its folder.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        self.parts = tuple(splits)
        self.schema = SCHEMA
        self._use([batch for part in self.parts for batch in part.batches()])

    def __reduce__(self) -> tuple[type[Self], tuple[Any]]:
        return type(self), (self.parts,)

    def __repr__(self) -> str:
        return f"JoinedSplit({self.parts!r})"

    def describe(self, row: int) -> str:
        """Return a name of a row for messages, by its own dataset."""
        for part in self.parts:
            if row < len(part):
                return part.describe(row)
            row -= len(part)
        raise IndexError(f"{row} rows beyond the last")

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row."""
        return [f"{part.path.parent.name}/{name}" for part in self.parts for name in part.ids]

    def copied_in(self, splits: Sequence[str]) -> NDArray[np.bool_] | None:
        """As of `Split`; None where ingest did not search in one of the datasets."""
        found = [part.copied_in(splits) for part in self.parts]
        known = [rows for rows in found if rows is not None]
        return np.concatenate(known) if len(known) == len(found) else None


def _binary_buffers(
    column: pa.LargeBinaryArray,
) -> tuple[list[int] | NDArray[np.int64], memoryview]:
    """Return the offsets and the bytes of a column without copying the bytes."""
    _, offsets, data = column.buffers()
    if data is None:
        return np.zeros(len(column) + 1, np.int64), memoryview(b"")
    view = np.frombuffer(offsets, np.int64, len(column) + 1, 8 * column.offset)
    return view, memoryview(data).cast("B")  # simplejpeg takes unsigned bytes only


@dataclass(frozen=True)
class DatasetInfo:
    """The content of `dataset.json`.

    `counts` is split -> expression name -> faces, with 'unlabelled' for faces without expression;
    `dropped` is reason -> rows; `content_hash` is a SHA-256 over ids, labels and image bytes that
    does not depend on the order or packing of the source; `settings` are those of ingest, such as
    seed and validation fraction; `copies` is split -> its faces that have a
    duplicate in an earlier split, None where ingest did not search for duplicates.
    """

    source: list[str]
    release: str
    counts: dict[str, dict[str, int]]
    dropped: dict[str, int]
    content_hash: str
    version: str
    settings: dict[str, Any] = field(default_factory=dict)
    copies: dict[str, int] | None = None

    @property
    def without_contempt(self) -> bool:
        """Whether ingest left the faces of contempt out."""
        return bool(self.settings.get("without_contempt"))

    @property
    def classes(self) -> tuple[str, ...]:
        """The expressions in the dataset: all eight, or seven without contempt."""
        return classes_for(self.without_contempt)

    def write(self, folder: Path | str) -> None:
        """Write `dataset.json` into the dataset's folder."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (Path(folder) / INFO_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Read `dataset.json`.

        Raises:
            DataError: the folder is not a dataset, or the file is damaged.
        """
        path = Path(folder) / INFO_NAME
        if not path.is_file():
            raise _not_a_dataset(Path(folder))
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{f.name: known[f.name] for f in fields(cls) if f.name in known})
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path} is damaged ({error}); make the dataset again with `affectnet ingest`"
            ) from error


def existing_splits(folder: Path | str) -> list[str]:
    """Return the names of the splits in a dataset folder, in the order of `SPLITS`."""
    return [name for name in SPLITS if (Path(folder) / f"{name}.arrow").is_file()]


def open_split(dataset_dir: Path | str, split: str) -> Split:
    """Open one split of a dataset folder.

    Raises:
        DataError: the folder is not a dataset, or has no such split; the message lists its splits.
    """
    folder = Path(dataset_dir)
    if not (folder / INFO_NAME).is_file():
        raise _not_a_dataset(folder)
    path = folder / f"{split}.arrow"
    if not path.is_file():
        existing = existing_splits(folder)
        raise DataError(
            f"{folder} has no split '{split}'{suggest(split, existing)}; it has "
            f"{', '.join(existing) or 'none'}"
        )
    return Split(path)


def _not_a_dataset(folder: Path) -> DataError:
    if not folder.exists():
        return DataError(
            f"{folder} is not a dataset: it does not exist; make one with "
            f"`affectnet ingest SOURCE... --out {folder}`"
        )
    if not folder.is_dir():
        state, advice = "it is a file", f"`affectnet ingest {folder} --out DATASET` makes one of it"
    elif (folder / "config.yaml").is_file() or (folder / "config.json").is_file():
        state = "it is a run or a model"
        advice = "give the folder that `affectnet ingest` wrote"
    else:
        state = f"it has no {INFO_NAME}"
        advice = f"if it is a release, `affectnet ingest {folder} --out DATASET` makes one of it"
    return DataError(f"{folder} is not a dataset: {state}; {advice}")


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
