import pytest

from affectnet.labels import EXPRESSIONS
from affectnet.report.runs import read_runs
from affectnet.report.tables import (
    categorical_table,
    continuous_table,
    per_class_table,
    published_figures,
)


@pytest.fixture(scope="module")
def runs(two_runs):
    return read_runs(two_runs, "test")


def test_the_two_tables_of_the_described_system(runs):
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
        assert [row.name for row in table.rows if not row.baseline] == ["good", "poor"]
    names = [row.name for row in categorical.rows if row.baseline]
    assert names[0] == "majority class"
    assert [row.name for row in continuous.rows if row.baseline] == ["constant mean"]


def test_cells_are_those_of_the_metrics(runs):
    cell = categorical_table(runs).rows[0].cells[0]
    known = runs[0].metrics["expression"]["accuracy"]
    assert (cell.value, cell.low, cell.high) == (known["value"], known["low"], known["high"])
    assert cell.text == f"{known['value']:.3f}"
    assert cell.interval == f"{known['low']:.3f} to {known['high']:.3f}"
    constant = continuous_table(runs).rows[-1].cells
    assert constant[1].text == "–"
    assert "does not vary" in constant[1].reason


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


def test_ties_are_best_unless_all_tie_and_one_run_is_not_the_best_of_anything(runs):
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


def test_equal_baselines_stand_once_and_others_say_whose_they_are(runs, make_run):
    assert sum(row.baseline for row in continuous_table(runs).rows) == 1
    other = read_runs([make_run("shifted", valence=0.5)], "test")
    named = [row.name for row in continuous_table([*runs, *other]).rows if row.baseline]
    assert named == ["constant mean", "constant mean (faces of shifted)"]


def test_per_class_has_a_column_an_expression(runs):
    table = per_class_table(runs)
    assert table.columns == EXPRESSIONS
    known = runs[1].metrics["expression"]["per_class"]["fear"]["f1"]["value"]
    assert table.rows[1].cells[EXPRESSIONS.index("fear")].value == known
    assert len(table.rows) == 2


def test_scores_without_baselines_or_anything(make_run, change_metrics):
    run = make_run("bare")
    change_metrics(run, lambda known: known.clear())
    runs = read_runs([run], "test")
    assert [cell.text for cell in categorical_table(runs).rows[0].cells] == ["–"] * 6
    assert categorical_table(runs).rows[0].cells[0].reason == "not scored"
    assert len(continuous_table(runs).rows) == 1
    assert published_figures(runs) == []


def test_published_figures_come_along(runs):
    assert {"model", "figure", "value", "source"} <= set(published_figures(runs)[0])
