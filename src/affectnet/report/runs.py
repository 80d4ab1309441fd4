"""An evaluated run as a report reads it: settings, epochs, predictions and metrics."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from affectnet.errors import DataError, RunError
from affectnet.evaluation.prediction_files import predictions_of, read_table, truth_of
from affectnet.evaluation.predictions import leave_out_contempt
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS
from affectnet.run import RunFolder
from affectnet.seven import SEVEN, lacks_contempt

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PREDICTIONS_NAME = "predictions.parquet"
METRICS_NAME = "metrics.json"


@dataclass(frozen=True)
class ScoredFaces:
    """Truth and predictions of one split, one row per face.

    `expression` and `expression_pred` are (n,), -1 where missing; `valence`, `arousal` and their
    predictions (n,), NaN where missing; `probabilities` (n, 8), NaN where there are none.
    """

    ids: list[str]
    expression: Ints
    valence: Floats
    arousal: Floats
    probabilities: Floats
    expression_pred: Ints
    valence_pred: Floats
    arousal_pred: Floats

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def confidence(self) -> Floats:
        """The probability of the predicted expression, (n,), NaN where unknown."""
        column = np.clip(self.expression_pred, 0, None)
        own = np.take_along_axis(self.probabilities, column[:, None], axis=1)[:, 0]
        return np.where(self.expression_pred >= 0, own, np.nan)

    @cached_property
    def labelled(self) -> NDArray[np.bool_]:
        """Whether a face has both a true and a predicted expression, (n,)."""
        return np.asarray((self.expression >= 0) & (self.expression_pred >= 0))

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether the predicted expression is the true one, (n,); False where either is missing."""
        return np.asarray(self.labelled & (self.expression == self.expression_pred))

    @cached_property
    def affect_error(self) -> Floats:
        """Distance between annotated and predicted (valence, arousal), (n,), NaN where unknown."""
        return np.hypot(self.valence_pred - self.valence, self.arousal_pred - self.arousal)


@dataclass(frozen=True)
class EvaluatedRun:
    """A run folder with the evaluation of one split.

    Attributes:
        name: the folder's name, with parent folders in front where two runs have the same one.
        config: content of config.yaml, empty where there is none.
        history: column of metrics.csv -> (epochs,) values, NaN where a cell is empty.
        metrics: content of metrics.json.
        faces: content of faces.json, split -> expression -> faces; empty where there is none.
    """

    name: str
    folder: RunFolder
    split: str
    config: dict[str, Any]
    history: dict[str, Floats]
    predictions: ScoredFaces
    metrics: dict[str, Any]
    faces: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """The expressions that were scored: all eight, or seven without contempt."""
        return classes_of(self.metrics)


def read_runs(paths: Sequence[Path | str], split: str = "test") -> list[EvaluatedRun]:
    """Read several run folders and give them distinct names.

    Raises:
        RunError: as `read_run`; also if no run is given or the same run is given twice.
    """
    if not paths:
        raise RunError(
            "no run given; name one or more run folders: `affectnet report RUN...`, or give "
            "predictions: --predictions FILE --truth DIR"
        )
    places = [Path(path).resolve() for path in paths]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise RunError(f"the run {paths[i]} is given twice; name each run once")
    return [
        read_run(Path(path), split, name)
        for path, name in zip(paths, _distinct_names(places), strict=True)
    ]


def _distinct_names(places: list[Path]) -> list[str]:
    """Folder names, with as many parents in front as distinct names need."""
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


def read_run(path: Path | str, split: str = "test", name: str = "") -> EvaluatedRun:
    """Read a run folder and its evaluation of `split`.

    `config.yaml` and `metrics.csv` may be absent: predictions evaluated without a run have neither.

    Raises:
        RunError: the folder is missing, it has no evaluation of the split, or a file is damaged.
    """
    path = Path(path)
    folder = RunFolder(path)
    if not path.is_dir():
        raise RunError(f"there is no run folder {path}; `affectnet train` creates runs")
    evaluation = folder.evaluation(split)
    needed = (PREDICTIONS_NAME, METRICS_NAME)
    missing = [file for file in needed if not (evaluation / file).is_file()]
    if missing:
        others = sorted(p.parent.name for p in evaluation.parent.glob(f"*/{METRICS_NAME}"))
        hint = f" (it has {', '.join(others)}: choose with --split)" if others else ""
        raise RunError(
            f"the run {path} has no evaluation of split '{split}'{hint}: "
            f"{' and '.join(missing)} not found under evaluation/{split}; "
            f"run `affectnet evaluate {path} --data DATASET --split {split}` first"
        )
    metrics = _read_json(evaluation / METRICS_NAME, "run `affectnet evaluate` again")
    return EvaluatedRun(
        name=name or folder.name,
        folder=folder,
        split=split,
        config=_read_config(folder.config),
        history=read_history(folder.metrics),
        predictions=read_predictions(evaluation / PREDICTIONS_NAME, classes_of(metrics)),
        metrics=metrics,
        faces=_read_json(folder.faces, "remove it") if folder.faces.is_file() else {},
    )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        known = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(
            f"{path} is not YAML ({' '.join(str(error).split())}); fix or remove it"
        ) from error
    if not isinstance(known, dict):
        raise RunError(f"{path} contains no `setting: value` lines; fix or remove it")
    return {str(key): value for key, value in known.items()}


def read_history(path: Path) -> dict[str, Floats]:
    """Read metrics.csv: column -> (epochs,) values, NaN where a cell is empty or not a number.

    Empty where the file is absent.

    Raises:
        RunError: the file has no `epoch` column.
    """
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        columns = reader.fieldnames or []
    if "epoch" not in columns:
        raise RunError(f"{path} has no column 'epoch'; it is not the metrics.csv of a run")
    return {
        column: np.array([_number(row.get(column)) for row in rows], np.float64)
        for column in columns
        if column
    }


def _number(cell: str | None) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return math.nan


def _read_json(path: Path, advice: str) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); {advice}") from error
    if not isinstance(known, dict):
        raise RunError(f"{path} contains no {path.stem}; {advice}")
    return known


def classes_of(metrics: dict[str, Any]) -> tuple[str, ...]:
    """The expressions that were scored in metrics.json: all eight, or seven without contempt."""
    known = mapping_of(metrics, "protocol").get("classes")
    return SEVEN if known == list(SEVEN) else EXPRESSIONS


def read_predictions(path: Path, classes: Sequence[str] = EXPRESSIONS) -> ScoredFaces:
    """Read truth and predictions from predictions.parquet as they were scored.

    With seven classes, faces of contempt and the probability of contempt are left out. Predicted
    valence and arousal may lie outside [-1, 1].

    Raises:
        RunError: the content is not what `affectnet evaluate` writes; the message states why.
    """
    try:
        table = read_table(path)
        if "id" not in table.column_names:
            raise DataError(f"{path} has no column 'id'; it has {', '.join(table.column_names)}")
        truth = truth_of(table, str(path))
        preds = predictions_of(table, str(path), out_of_range="keep")
        if lacks_contempt(classes):
            truth, preds = leave_out_contempt(truth, preds)
    except DataError as error:
        raise RunError(f"{error}; run `affectnet evaluate` again") from error
    nothing = np.full((len(truth), N_EXPRESSIONS), np.nan)
    return ScoredFaces(
        ids=list(truth.ids),
        expression=truth.expression,
        valence=truth.valence,
        arousal=truth.arousal,
        probabilities=nothing if preds.probabilities is None else preds.probabilities,
        expression_pred=preds.expression,
        valence_pred=preds.valence,
        arousal_pred=preds.arousal,
    )


def metric_of(
    metrics: dict[str, Any], *keys: str
) -> tuple[float | None, float | None, float | None]:
    """Value, low and high of the metric at `keys`, each None where absent."""
    known = _at(metrics, keys)
    if isinstance(known, dict):
        value, low, high = (_finite(known.get(name)) for name in ("value", "low", "high"))
        return value, low, high
    return _finite(known), None, None


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def reason_of(metrics: dict[str, Any], *keys: str) -> str:
    """Why the metric at `keys` is undefined, empty where no reason is given."""
    known = _at(metrics, keys)
    return str(known.get("reason") or "") if isinstance(known, dict) else ""


def _at(metrics: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        metrics = metrics.get(key) if isinstance(metrics, dict) else None
    return metrics


def mapping_of(metrics: dict[str, Any], key: str) -> dict[str, Any]:
    """The dict at `key`, such as `protocol`; empty where it is missing or not a dict."""
    known = metrics.get(key)
    return known if isinstance(known, dict) else {}


def baselines_of(metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and metrics of each baseline in metrics.json, nested as those of the run."""
    known = mapping_of(metrics, "baselines").items()
    return [(name, block) for name, block in known if isinstance(block, dict)]
