import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from affectnet.data.store import open_split
from affectnet.errors import RunError
from affectnet.report.runs import metric_of, read_run, read_runs, reason_of


def predictions_of(run):
    return run / "evaluation" / "test" / "predictions.parquet"


def test_a_run_is_read_as_it_was_written(two_runs, faces):
    run = read_run(two_runs[0], "test")
    split = open_split(faces, "test")
    assert run.name == "good"
    assert run.config["backbone"] == "good"
    assert run.predictions.ids == split.ids
    np.testing.assert_array_equal(run.predictions.expression, split.expression)
    np.testing.assert_allclose(run.predictions.valence, split.valence, rtol=1e-6)
    table = pq.read_table(predictions_of(two_runs[0]))
    np.testing.assert_allclose(run.predictions.probabilities[:, 3], table["p_surprise"], rtol=1e-6)
    best = np.max([table[name] for name in table.column_names if name.startswith("p_")], axis=0)
    np.testing.assert_allclose(run.predictions.confidence, best, rtol=1e-6)
    right = table["expression"].to_numpy() == table["expression_pred"].to_numpy()
    np.testing.assert_array_equal(run.predictions.right, right)
    np.testing.assert_allclose(run.history["val_accuracy"], [0.3, 0.4, 0.5, 0.6])
    assert np.isnan(run.history["val_f1_macro"]).all()
    accuracy = metric_of(run.metrics, "expression", "accuracy")[0]
    assert accuracy == pytest.approx(right.mean())


def test_a_run_of_an_evaluation_alone(make_run):
    run = make_run("alone", epochs=0)
    (run / "config.yaml").unlink()
    known = read_run(run, "test")
    assert known.config == known.history == {}


def test_missing_truth_is_marked(make_run):
    run = read_run(make_run("half", expression=-1, arousal=np.nan), "test")
    assert (run.predictions.expression == -1).all()
    assert np.isnan(run.predictions.arousal).all()
    assert not run.predictions.labelled.any()
    assert not run.predictions.right.any()
    assert metric_of(run.metrics, "expression", "accuracy") == (None, None, None)
    assert "no face" in reason_of(run.metrics, "expression", "accuracy")


def test_labels_without_probabilities(make_run):
    run = make_run("labels")
    table = pq.read_table(predictions_of(run))
    pq.write_table(
        table.drop([name for name in table.column_names if name.startswith("p_")]),
        predictions_of(run),
    )
    known = read_run(run, "test").predictions
    assert np.isnan(known.confidence).all()
    assert known.labelled.all()


def test_an_unevaluated_run_names_the_command_to_run(tmp_path):
    run = tmp_path / "fresh"
    run.mkdir()
    with pytest.raises(RunError, match=r"affectnet evaluate .*fresh --data DATASET --split test"):
        read_run(run, "test")
    with pytest.raises(RunError, match="there is no run folder"):
        read_run(tmp_path / "nowhere", "test")


def test_the_evaluated_splits_are_named(two_runs):
    with pytest.raises(RunError, match=r"no evaluation of split 'val' \(it has test: choose"):
        read_run(two_runs[0], "val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.rename_columns({"id": "name"}), "id"),
        (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "repeated id"),
        (
            lambda t: t.set_column(
                t.column_names.index("p_fear"), "p_fear", pa.array([2.0] * len(t))
            ),
            "p_fear|sum",
        ),
        (lambda t: t.set_column(1, "expression", pa.array([9] * len(t))), "label 9"),
        (lambda t: t.set_column(2, "valence", pa.array([-2.0] * len(t))), r"outside \[-1, 1\]"),
        (lambda t: t.set_column(1, "expression", pa.array(["grumpy"] * len(t))), "grumpy"),
    ],
)
def test_damaged_predictions_are_an_error(make_run, change, message):
    run = make_run("damaged")
    pq.write_table(change(pq.read_table(predictions_of(run))), predictions_of(run))
    with pytest.raises(RunError, match=message) as caught:
        read_run(run, "test")
    assert "affectnet evaluate" in str(caught.value)


def test_files_with_other_content_are_an_error(make_run):
    run = make_run("broken")
    place = run / "evaluation" / "test"
    for path, text, message in (
        (run / "config.yaml", "a: [", "not YAML"),
        (run / "config.yaml", "- a", "no `setting: value`"),
        (run / "metrics.csv", "loss\n1\n", "no column 'epoch'"),
        (run / "faces.json", "{", "damaged.*remove it"),
        (place / "metrics.json", "{", "damaged"),
        (place / "metrics.json", "[]", "no metrics"),
        (place / "predictions.parquet", "id", "cannot be read"),
    ):
        whole = path.read_bytes()
        path.write_text(text)
        with pytest.raises(RunError, match=message):
            read_run(run, "test")
        path.write_bytes(whole)
    read_run(run, "test")


def test_runs_have_distinct_names(make_run, tmp_path):
    first = make_run("a/cvnet")
    second = make_run("b/cvnet")
    assert [run.name for run in read_runs([first, second], "test")] == ["a/cvnet", "b/cvnet"]
    assert read_runs([first], "test")[0].name == "cvnet"
    with pytest.raises(RunError, match="given twice"):
        read_runs([first, tmp_path / "runs" / "b" / ".." / "a" / "cvnet"], "test")
    with pytest.raises(RunError, match="no run given"):
        read_runs([], "test")


def test_missing_metrics():
    metrics = json.loads('{"x": {"value": NaN, "low": 0, "high": true}, "y": 3, "z": []}')
    assert metric_of(metrics, "x") == (None, 0.0, None)
    assert metric_of(metrics, "y") == (3.0, None, None)
    assert metric_of(metrics, "z", "deep") == (None, None, None)
    assert reason_of(metrics, "y") == ""
