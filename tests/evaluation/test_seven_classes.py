"""Seven classes, without contempt: equal to scikit-learn on the faces that are left."""

import numpy as np
import pytest

from affectnet.errors import DataError
from affectnet.evaluation import evaluate
from affectnet.evaluation.comparison import compare
from affectnet.labels import EXPRESSIONS
from affectnet.seven import SEVEN, seven_probabilities


@pytest.fixture(scope="module")
def faces(make_faces):
    return make_faces(240, seed=4)


def test_every_metric_is_that_of_the_remaining_faces(faces, reference_expression, reference_affect):
    scores = evaluate(faces.truth(), faces.predictions(), resamples=0, without_contempt=True)
    kept = faces.expression != 7
    y = faces.expression[kept]
    p = faces.probabilities[kept, :7]
    p = p / p.sum(axis=1, keepdims=True)
    labels = p.argmax(axis=1)
    expected = reference_expression(y, labels, p, classes=SEVEN)
    block = scores["expression"]
    assert scores["n"] == block["n"] == kept.sum() < 240
    assert block["classes"] == list(block["per_class"]) == list(SEVEN)
    assert np.array(block["confusion"]).shape == (7, 7)
    for name, value in expected.items():
        if value == np.inf:
            continue  # the reference repeats faces until classes are equal, here too often
        entry = block
        for part in name.split("/"):
            entry = entry[part]
        assert entry["value"] == pytest.approx(value, abs=1e-9), name
    for name in ("valence", "arousal"):
        x, pred = getattr(faces, name)[kept], getattr(faces, f"{name}_pred")[kept]
        assert scores[name]["n"] == kept.sum()
        for metric, value in reference_affect(x, pred).items():
            assert scores[name][metric]["value"] == pytest.approx(value, abs=1e-9), metric
    shares = np.bincount(y) / len(y)
    majority = scores["baselines"]["majority class"]["expression"]
    assert majority["accuracy"]["value"] == pytest.approx(shares.max())


def test_the_protocol_states_seven_classes(faces):
    scores = evaluate(faces.truth(), faces.predictions(), resamples=0, without_contempt=True)
    protocol = scores["protocol"]
    left_out = int((faces.expression == 7).sum())
    assert protocol["classes"] == list(SEVEN)
    assert protocol["without_contempt"] is True
    assert protocol["n_contempt"] == left_out
    assert any(f"{left_out:,} faces of contempt are in no metric" in n for n in protocol["notes"])
    assert "seven classes (without contempt)" in scores.table()
    eight = evaluate(faces.truth(), faces.predictions(), resamples=0)
    assert eight["protocol"]["classes"] == list(EXPRESSIONS)
    assert eight["protocol"]["without_contempt"] is False
    assert eight["n"] == 240


def test_intervals_and_slices_are_of_the_remaining_faces(faces):
    sides = np.where(np.arange(240) % 2, "odd", "even")
    kept = faces.expression != 7
    whole = evaluate(
        faces.truth(),
        faces.predictions(),
        resamples=100,
        slices={"side": sides},
        without_contempt=True,
        stratified=True,
    )
    p = faces.probabilities[kept, :7]
    cut = evaluate(
        {k: v[kept] for k, v in faces.truth().items()},
        {
            "probabilities": np.column_stack([p, np.zeros(len(p))]) / p.sum(axis=1, keepdims=True),
            **{k: v[kept] for k, v in faces.predictions().items() if k != "probabilities"},
        },
        resamples=100,
        slices={"side": sides[kept]},
        stratified=True,
    )
    for bound in ("value", "low", "high"):
        ours = whole["expression"]["accuracy"][bound]
        assert ours == pytest.approx(cut["expression"]["accuracy"][bound], abs=1e-12)
    assert whole["slices"]["side"]["slices"] == cut["slices"]["side"]["slices"]


def test_comparison_leaves_contempt_out_of_both(faces):
    p = faces.probabilities
    columns = {f"p_{name}": seven_probabilities(p)[:, c] for c, name in enumerate(SEVEN)}
    found = compare(
        {"expression": faces.expression}, {"probabilities": p}, columns, resamples=0
    ).metrics
    assert found["classes"] == list(SEVEN)
    assert found["n"] == (faces.expression != 7).sum()
    assert found["expression"]["accuracy"]["difference"] == 0
    assert found["mcnemar"]["only_a"] == found["mcnemar"]["only_b"] == 0


def test_a_label_of_contempt_alone_is_refused():
    truth = {"expression": [0, 1, 7]}
    with pytest.raises(DataError, match="only the label contempt for 1 face; give p_ columns"):
        evaluate(truth, {"expression_pred": [0, 7, 7]}, without_contempt=True)
    scores = evaluate(truth, {"expression_pred": [0, 2, 7]}, without_contempt=True, resamples=0)
    assert scores["expression"]["accuracy"]["value"] == 0.5


def test_nothing_but_contempt_is_refused():
    with pytest.raises(DataError, match="every face of truth is of contempt"):
        evaluate({"expression": [7]}, {"expression_pred": [0]}, without_contempt=True)
