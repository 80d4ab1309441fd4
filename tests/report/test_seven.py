"""Runs of seven classes in the report: what is shown, and beside runs of eight."""

import numpy as np
import pytest

from affectnet import figures
from affectnet.evaluation import evaluate, predictions_table
from affectnet.evaluation.prediction_files import write_predictions
from affectnet.labels import EXPRESSIONS
from affectnet.report.runs import read_runs
from affectnet.report.tables import categorical_table, per_class_table
from affectnet.seven import SEVEN


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(3)
    y, p = np.arange(80) % 8, rng.dirichlet(np.ones(8), 80)
    x = rng.uniform(-1, 1, (4, 80))
    table = predictions_table([str(i) for i in range(80)], y, x[0], x[1], p, x[2], x[3])
    for name, seven in (("eight", False), ("seven", True), ("again", True)):
        home = folder / name / "evaluation" / "test"
        home.mkdir(parents=True)
        write_predictions(table, home / "predictions.parquet")
        scores = evaluate(table, table, resamples=0, without_contempt=seven)
        scores.write(home / "metrics.json")
    return read_runs([folder / name for name in ("eight", "seven", "again")], "test")


def test_faces_are_those_that_were_scored(runs):
    assert [run.classes for run in runs] == [EXPRESSIONS, SEVEN, SEVEN]
    assert [len(run.predictions) for run in runs] == [80, 70, 70]
    shown = runs[1].predictions
    assert 7 not in shown.expression
    assert 7 not in shown.expression_pred
    right = np.mean(shown.expression == shown.expression_pred)
    assert right == pytest.approx(runs[1].metrics["expression"]["accuracy"]["value"])


def test_seven_and_eight_are_never_ranked_together(runs):
    mixed = categorical_table(runs[:2])
    assert [row.note for row in mixed.rows[:2]] == ["", "seven classes, without contempt"]
    assert not any(cell.best for row in mixed.rows for cell in row.cells)
    assert per_class_table(runs[:2]).columns == EXPRESSIONS
    assert per_class_table(runs[1:]).columns == SEVEN


def test_the_confusion_matrix_has_seven_rows():
    figure = figures.confusion_matrix(np.eye(7) * 3)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == list(SEVEN)
