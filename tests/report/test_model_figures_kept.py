from pathlib import Path

import numpy as np
import pytest

from affectnet.report.model_figures import kept
from affectnet.report.runs import EvaluatedRun, read_run


@pytest.fixture
def run(make_run) -> EvaluatedRun:
    return read_run(make_run("kept"), "test")


def test_an_answer_is_computed_once_until_something_changes(run: EvaluatedRun) -> None:
    asked: list[int] = []

    def compute() -> dict[str, np.ndarray]:
        asked.append(1)
        return {"points": np.full((2, 2), len(asked))}

    def answer(asks: str = "tsne") -> int:
        return int(kept(run, "map", asks, compute)["points"][0, 0])

    assert (answer(), answer()) == (1, 1)
    assert answer("pca") == 2
    run.folder.model.mkdir()
    weights = run.folder.model / "model.safetensors"
    weights.write_bytes(b"weights")
    assert (answer("pca"), answer("pca")) == (3, 3)
    weights.write_bytes(b"other weights")
    assert answer("pca") == 4
    file = run.folder.evaluation("test") / "predictions.parquet"
    file.write_bytes(file.read_bytes() + b" ")
    assert answer("pca") == 5
    place = run.folder.evaluation("test") / "explained" / "map.npz"
    for damage in (b"", b"PK", place.read_bytes()[:-40]):
        place.write_bytes(damage)
        assert answer("pca") == len(asked)
    assert len(asked) == 8


def test_where_nothing_can_be_written_nothing_is_kept(run: EvaluatedRun) -> None:
    place = run.folder.evaluation("test") / "explained"
    place.write_text("a file in the way of the folder")
    assert kept(run, "map", "", lambda: {"a": np.ones(1)})["a"][0] == 1
    assert place.read_text().startswith("a file")
    assert not list(Path(place.parent).glob("*.tmp"))
