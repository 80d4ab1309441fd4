"""Drawn faces as datasets, for benchmarks and tests."""

import contextlib
import io
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from affectnet.commands.ingest import ingest
from affectnet.config import IngestConfig
from affectnet.data.drawn.release import write_affectnet_tars
from affectnet.data.store import SCHEMA, Face
from affectnet.data.writer import BATCH_ROWS, split_writer


def write_faces(path: Path, faces: Iterable[Face]) -> int:
    """Write faces as the Arrow file of a split; return their number."""
    columns = SCHEMA.names
    count = 0
    with split_writer(path) as writer:
        source = iter(faces)
        while some := list(islice(source, BATCH_ROWS)):
            rows = [{name: getattr(face, name) for name in columns} for face in some]
            for row in rows:
                for name in ("landmarks", "soft"):
                    row[name] = None if row[name] is None else np.ravel(row[name])
            writer.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
            count += len(some)
    return count


def drawn_dataset(folder: Path, a_class: int, size: int) -> Path:
    """Draw `a_class` faces per class (a fifth becomes val), ingest them, return the dataset."""
    with contextlib.redirect_stdout(io.StringIO()):
        tars = write_affectnet_tars(
            folder / "release", train_per_class=a_class, test_per_class=1, size=size, seed=0
        )
        ingest(IngestConfig(sources=tars, out=folder / "data"))
    return folder / "data"
