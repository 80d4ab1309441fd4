"""Arrays that take a model seconds to compute, kept beside the evaluation that they belong to."""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from affectnet import __version__
from affectnet.report.runs import PREDICTIONS_NAME, EvaluatedRun
from affectnet.run import write_beside

FOLDER: Final = "explained"

Arrays = Mapping[str, NDArray[Any]]


def kept(run: EvaluatedRun, name: str, asked: str, compute: Callable[[], Arrays]) -> Arrays:
    """Return what `compute` gave when it was asked last, or ask it now and keep the answer.

    Kept as `evaluation/SPLIT/explained/NAME.npz`, and computed anew where the predictions, the
    model's weights or what is `asked` have changed. Where the folder cannot be written to, nothing
    is kept.

    Args:
        asked: all that the answer depends on beside the run: rows, method, seed.
    """
    place = run.folder.evaluation(run.split) / FOLDER / f"{name}.npz"
    key = f"{__version__} {_state(run)} {asked}"
    found = _read(place, key)
    if found is not None:
        return found
    fresh = dict(compute())
    try:
        with write_beside(place) as new, new.open("wb") as file:
            np.savez_compressed(file, key=np.array(key), **fresh)  # type: ignore[arg-type]
    except OSError:
        pass  # a run on a read-only disk: the next report computes it again
    return fresh


def _state(run: EvaluatedRun) -> str:
    """Tells one state of a run from another without reading its weights."""
    predictions = run.folder.evaluation(run.split) / PREDICTIONS_NAME
    weights = [
        f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path in sorted(run.folder.model.glob("*.safetensors"))
    ]
    return f"{zlib.crc32(predictions.read_bytes()):08x} {' '.join(weights)}"


def _read(place: Path, key: str) -> dict[str, NDArray[Any]] | None:
    try:
        with np.load(place, allow_pickle=False) as file:
            known = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    if str(known.pop("key", "")) != key:
        return None
    return known
