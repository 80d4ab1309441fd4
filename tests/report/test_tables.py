from dataclasses import replace

import numpy as np
import pytest

from affectnet import figures
from affectnet.evaluation import evaluate, predictions_table
from affectnet.evaluation.prediction_files import write_predictions
from affectnet.evaluation.scores import published
from affectnet.labels import EXPRESSIONS
from affectnet.report.runs import read_runs
from affectnet.report.tables import (
    categorical_table,
    continuous_table,
    per_class_table,
    published_table,
)
from affectnet.seven import SEVEN


@pytest.fixture(scope="module")
def runs(two_runs):
    return read_runs(two_runs, "test")


def test_the_two_tables_of_the_original_notebook(runs):
    categorical, continuous = categorical_table(runs), continuous_table(runs)
    assert categorical.columns == (
        "Accuracy",
        "F1 (macro)",
        "Cohen's κ",
        "Krippendorff's α",
        "AUC",
        "AUC-PR",
    )
    assert continuous.columns == ("RMSE", "CORR", "SAGR", "CCC") * 2
    assert continuous.lower == {0, 4}
    for table in (categorical, continuous):
        assert [row.name for row in table.rows if row.kind != "baseline"] == ["good", "poor"]
    names = [row.name for row in categorical.rows if row.kind == "baseline"]
    assert names[0] == "majority class"
    assert [row.name for row in continuous.rows if row.kind == "baseline"] == ["constant mean"]


def test_cells_are_those_of_the_metrics(runs):
    cell = categorical_table(runs).rows[0].cells[0]
    known = runs[0].metrics["expression"]["accuracy"]
    assert cell.value == known["value"]
    assert cell.text == f"{known['value']:.3f}"
    assert cell.interval == f"{known['low']:.3f} to {known['high']:.3f}"
    constant = continuous_table(runs).rows[-1].cells
    assert constant[1].text == "–"
    assert "does not vary" in constant[1].note


def test_a_value_without_an_interval_names_the_reason(runs):
    reason = "one face gives no interval"
    entry = {"value": 0.5, "low": None, "high": None, "reason": reason}
    metrics = runs[0].metrics | {"valence": {"rmse": entry}}
    cell = continuous_table([replace(runs[0], metrics=metrics)]).rows[0].cells[0]
    assert (cell.text, cell.interval, cell.note) == ("0.500", "", reason)


def test_the_best_of_each_column_is_marked(runs):
    categorical = categorical_table(runs)
    assert all(cell.best for cell in categorical.rows[0].cells)
    assert not any(cell.best for row in categorical.rows[1:] for cell in row.cells)
    continuous = continuous_table(runs)
    for i in range(8):
        values = [row.cells[i].value for row in continuous.rows[:2]]
        best = min(values) if i in continuous.lower else max(values)
        marked = [row.cells[i].value for row in continuous.rows if row.cells[i].best]
        assert marked == ([best] if len(set(values)) > 1 else [])


def test_ties_are_best_unless_all_tie_and_a_single_run_is_never_best(runs):
    two = categorical_table([runs[0], runs[0], runs[1]])
    assert [[cell.best for cell in row.cells] for row in two.rows[:3]] == [
        [True] * 6,
        [True] * 6,
        [False] * 6,
    ]
    alike = categorical_table([runs[0], runs[0]])
    assert not any(cell.best for row in alike.rows[:2] for cell in row.cells)
    alone = categorical_table(runs[:1])
    assert not any(cell.best for row in alone.rows for cell in row.cells)


def test_equal_baselines_are_listed_once_and_others_name_their_run(runs, make_run):
    assert sum(row.kind == "baseline" for row in continuous_table(runs).rows) == 1
    other = read_runs([make_run("shifted", valence=0.5)], "test")
    named = [row.name for row in continuous_table([*runs, *other]).rows if row.kind == "baseline"]
    assert named == ["constant mean", "constant mean (faces of shifted)"]


def test_per_class_has_one_column_per_expression(runs):
    table = per_class_table(runs)
    # The runs have 10 faces of each class.
    assert table.columns == tuple(f"{name} *" for name in EXPRESSIONS)
    assert table.title == "F1 of each expression (* fewer than 30 faces)"
    known = runs[1].metrics["expression"]["per_class"]["fear"]["f1"]["value"]
    assert table.rows[1].cells[EXPRESSIONS.index("fear")].value == known
    assert len(table.rows) == 2


def test_empty_metrics(make_run, change_metrics):
    run = make_run("bare")
    change_metrics(run, lambda known: known.clear())
    runs = read_runs([run], "test")
    assert [cell.text for cell in categorical_table(runs).rows[0].cells] == ["–"] * 6
    assert categorical_table(runs).rows[0].cells[0].note == "not scored"
    assert len(continuous_table(runs).rows) == 1
    assert published_table(runs).rows == ()


def test_published_scores_are_listed_where_they_are_comparable(make_run, change_metrics):
    run = make_run("affectnet")
    assert published_table(read_runs([run], "test")).rows == ()
    known = [row for row in published() if row["data"] == "AffectNet"]
    change_metrics(run, lambda metrics: metrics["baselines"].update(published=known))
    table = published_table(read_runs([run], "test"))
    assert table.title == "Published scores on AffectNet's test part"
    columns = ("Model", "Classes", "Metric", "Value", "Source", "Condition")
    assert (table.head, *table.columns) == columns
    (fmae,) = [row for row in table.rows if row.name.startswith("FMAE")]
    assert fmae.cells[-1].text.startswith("epoch chosen on the test set; trained on a partial copy")
    first = known[0]
    texts = [table.rows[0].name, *(cell.text for cell in table.rows[0].cells)]
    assert texts[:4] == [str(first[key]) for key in ("model", "classes", "figure", "value")]
    assert texts[4] == f"{first['source']} ({first['checked']})"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
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


def test_seven_class_runs_have_the_faces_that_were_scored(mixed):
    assert [run.classes for run in mixed] == [EXPRESSIONS, SEVEN, SEVEN]
    assert [len(run.predictions) for run in mixed] == [80, 70, 70]
    shown = mixed[1].predictions
    assert 7 not in shown.expression
    assert 7 not in shown.expression_pred
    right = np.mean(shown.expression == shown.expression_pred)
    assert right == pytest.approx(mixed[1].metrics["expression"]["accuracy"]["value"])


def test_seven_and_eight_classes_are_never_ranked_together(mixed):
    table = categorical_table(mixed[:2])
    assert [row.note for row in table.rows[:2]] == ["", "seven classes, without contempt"]
    assert not any(cell.best for row in table.rows for cell in row.cells)
    for some, classes in ((mixed[:2], EXPRESSIONS), (mixed[1:], SEVEN)):
        columns = per_class_table(some).columns
        assert [name.removesuffix(" *") for name in columns] == list(classes)


def test_the_confusion_matrix_has_seven_rows():
    figure = figures.confusion_matrix(np.eye(7) * 3)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == list(SEVEN)


def test_faces_without_duplicates_stand_next_to_all(runs):
    def block(name: str, accuracy: float) -> dict:
        return {"slice": name, "n": 410, "expression": {"accuracy": {"value": accuracy}}}

    known = [block("also in train or val", 0.9), block("not in train or val", 0.7)]
    metrics = runs[0].metrics | {"slices": {"duplicates": {"slices": known, "worst": None}}}
    changed = [replace(runs[0], metrics=metrics), runs[1]]
    (row,) = [r for r in categorical_table(changed).rows if "duplicates" in r.name]
    assert (row.name, row.note) == ("good without duplicates", "the 410 faces not in train or val")
    assert [cell.text for cell in row.cells] == ["0.700", *["–"] * 5]
    assert not any("duplicates" in row.name for row in categorical_table(runs).rows)
    assert not any("duplicates" in row.name for row in continuous_table(changed).rows)
