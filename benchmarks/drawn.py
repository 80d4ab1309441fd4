"""Drawn faces for the benchmarks of training."""

import contextlib
import io
from pathlib import Path

from affectnet.commands.ingest import ingest
from affectnet.config import IngestConfig
from affectnet.data.drawn.release import write_affectnet_tars


def drawn_dataset(folder: Path, a_class: int, size: int) -> Path:
    """Draw `a_class` faces per class (a fifth becomes val), ingest them, return the dataset."""
    with contextlib.redirect_stdout(io.StringIO()):
        tars = write_affectnet_tars(
            folder / "release", train_per_class=a_class, test_per_class=1, size=size, seed=0
        )
        ingest(IngestConfig(sources=tars, out=folder / "data"))
    return folder / "data"
