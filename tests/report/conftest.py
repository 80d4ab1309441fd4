"""A small dataset of drawn faces, and run folders as written by train and evaluate."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from drawn import write_faces

from affectnet.data.drawn.release import draw_faces
from affectnet.data.store import DatasetInfo, open_split
from affectnet.evaluation import evaluate, predictions_table, write_predictions
from affectnet.labels import EXPRESSIONS
from affectnet.report import write_report

PER_CLASS = 14
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; skips where it or Playwright is absent."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; install it with `apt-get install chromium`")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder with a test split of 14 faces per class at 48 x 48."""
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder / "test.arrow", draw_faces(PER_CLASS, seed=5, size=48))
    counts = {"test": dict.fromkeys(EXPRESSIONS, PER_CLASS)}
    DatasetInfo(["tars"], "affectnet", counts, {"duplicate id": 2}, "ab" * 32, "0.1.0").write(
        folder
    )
    return folder


def write_run(
    folder: Path,
    faces: Path,
    *,
    seed: int = 0,
    skill: float = 2.0,
    epochs: int = 4,
    data: str | None = None,
    **missing: Any,
) -> Path:
    """Write a run folder with seeded predictions on `faces`; `missing` replaces truth columns."""
    split = open_split(faces, "test")
    n, rng = len(split), np.random.default_rng(seed)
    truth = {"expression": split.expression, "valence": split.valence, "arousal": split.arousal}
    truth |= {name: np.full(n, value) for name, value in missing.items()}
    logits = rng.normal(0, 1, (n, 8))
    logits[np.arange(n), split.expression] += skill
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    preds = {
        "probabilities": probabilities,
        "valence_pred": np.clip(0.7 * split.valence + rng.normal(0, 0.2, n), -1, 1),
        "arousal_pred": np.clip(0.7 * split.arousal + rng.normal(0, 0.2, n), -1, 1),
    }
    table = predictions_table(split.ids, **truth, **preds)
    scores = evaluate(table, table, resamples=40)
    place = folder / "evaluation" / "test"
    place.mkdir(parents=True)
    write_predictions(table, place / "predictions.parquet")
    scores.write(place / "metrics.json")
    settings = {"data": [data or str(faces)], "backbone": folder.name, "seed": seed}
    settings |= {"max_per_class": 100, "leaks": "keep"}
    used = {"train": dict.fromkeys(EXPRESSIONS, 100), "val": dict.fromkeys(EXPRESSIONS, 26)}
    (folder / "faces.json").write_text(json.dumps(used))
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    if epochs:
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "train_loss", "val_loss", "val_accuracy", "val_f1_macro"])
            for epoch in range(epochs):
                writer.writerow([epoch, 2 - 0.2 * epoch, 2 - 0.1 * epoch, 0.3 + 0.1 * epoch, ""])
    return folder


@pytest.fixture
def make_run(tmp_path: Path, faces: Path) -> Callable[..., Path]:
    """Make a run under this test's folder; see `write_run`."""
    return lambda name, **kwargs: write_run(tmp_path / "runs" / name, faces, **kwargs)


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> tuple[Path, Path]:
    """A good and a poor run on the same faces; tests do not change them."""
    folder = tmp_path_factory.mktemp("runs")
    good = write_run(folder / "good", faces, seed=1, skill=2.5)
    return good, write_run(folder / "poor", faces, seed=2, skill=0.4)


@pytest.fixture(scope="session")
def report(two_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page over `two_runs`."""
    return write_report(two_runs, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def change_metrics() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Rewrite a run's metrics.json through a function."""

    def change(run: Path, edit: Callable[[dict[str, Any]], None]) -> None:
        path = run / "evaluation" / "test" / "metrics.json"
        known = json.loads(path.read_text())
        edit(known)
        path.write_text(json.dumps(known))

    return change
