from dataclasses import replace

import numpy as np
import pytest

from affectnet.figures import confusion_counts
from affectnet.labels import EXPRESSIONS
from affectnet.report.runs import read_run, read_runs
from affectnet.report.summary import (
    alt_affect,
    alt_areas,
    alt_confusion,
    alt_history,
    card_findings,
    commonest_mistakes,
    summary_sentences,
    trained_on,
)


@pytest.fixture(scope="module")
def runs(two_runs):
    return read_runs(two_runs, "test")


def test_the_summary_states_the_metrics(runs):
    said = summary_sentences(runs)
    accuracy = runs[0].metrics["expression"]["accuracy"]
    assert said[0].startswith("good, the most accurate run, predicts the right expression for")
    assert f"{100 * accuracy['value']:.1f}% of 112 faces" in said[0]
    assert f"{100 * accuracy['low']:.1f}% to {100 * accuracy['high']:.1f}%" in said[0]
    assert "always predicting the most frequent expression scores 12.5%" in said[0]
    assert said[1].startswith("The second best run is poor")
    assert "good is better than poor by more than chance: poor minus good, 112 faces" in said[1]
    apart = runs[1].metrics["expression"]["accuracy"]["value"] - accuracy["value"]
    assert f"accuracy {apart:+.3f} (95% interval" in said[1]
    assert "McNemar p < 0.001" in said[1]
    text = " ".join(said)
    rmse = runs[0].metrics["valence"]["rmse"]["value"]
    assert f"The RMSE of valence is {rmse:.2f}" in text
    assert "Most frequent mistake" in text
    assert "always predicting the mean" in text


def test_a_small_lead_is_not_significant(runs):
    p = runs[0].predictions
    preds = p.expression_pred.copy()
    preds[np.flatnonzero(p.right)[:2]] += 1
    nearly = replace(runs[0], name="nearly", predictions=replace(p, expression_pred=preds % 8))
    (_, second, *_) = summary_sentences([runs[0], nearly])
    assert "good and nearly differ by no more than chance: nearly minus good" in second
    assert "McNemar p = 0.500" in second


def test_the_order_of_the_rows_does_not_matter(runs):
    p = runs[1].predictions
    turned = replace(
        p,
        **{name: getattr(p, name)[::-1] for name in p.__dataclass_fields__},
    )
    assert summary_sentences([runs[0], replace(runs[1], predictions=turned)]) == summary_sentences(
        runs
    )


def test_two_that_are_right_on_the_same_faces(runs):
    (_, second, *_) = summary_sentences([runs[0], replace(runs[0], name="twin")])
    assert "good and twin are equally good" in second


def test_runs_on_other_faces_are_not_compared(runs):
    elsewhere = replace(runs[1].predictions, ids=[f"x{i}" for i in runs[1].predictions.ids])
    said = summary_sentences([runs[0], replace(runs[1], predictions=elsewhere)])
    assert "on other faces" in said[1]


def test_worse_than_the_baseline_is_stated(make_run, change_metrics):
    run = make_run("poor")

    def edit(known):
        known["expression"]["accuracy"] = {"value": 0.1, "low": 0.05, "high": 0.2}

    change_metrics(run, edit)
    assert "12.5%, which is better." in summary_sentences([read_run(run, "test")])[0]


def test_a_single_run_is_not_compared(runs):
    said = summary_sentences(runs[:1])
    assert said[0].startswith("good predicts the right expression")
    assert not any("second best" in one for one in said)


def test_mistakes_agree_with_a_count(runs):
    p = runs[1].predictions
    pairs = [(t, q) for t, q in zip(p.expression, p.expression_pred, strict=True) if t != q]
    (i, j, n, of), *rest = commonest_mistakes(confusion_counts(p.expression, p.expression_pred), 3)
    assert n == max(pairs.count(pair) for pair in pairs) == pairs.count((i, j))
    assert of == (p.expression == i).sum()
    assert all(one[2] <= n for one in rest)


def test_all_of_the_best_and_worst_classes_are_named_as_in_the_card(make_run, change_metrics):
    path = make_run("ties")

    def tie(metrics):
        f1 = dict.fromkeys(("disgust", "anger", "contempt"), 0.0) | {"happiness": 0.75}
        for name, block in metrics["expression"]["per_class"].items():
            block["f1"]["value"] = f1.get(name, 0.5)

    change_metrics(path, tie)
    run = read_run(path, "test")
    sentence = (
        "It recognises happiness best (F1 0.750) and disgust, anger and contempt worst (F1 0.000)."
    )
    assert sentence in summary_sentences([run])
    assert card_findings(run.metrics)[0] == sentence
    rare = run.predictions.expression.copy()
    rare[rare == EXPRESSIONS.index("anger")] = EXPRESSIONS.index("neutral")
    rare[:2] = EXPRESSIONS.index("anger")
    fewer = replace(run, predictions=replace(run.predictions, expression=rare))
    assert f"{sentence} Of the faces, only 2 show anger." in summary_sentences([fewer])


def test_the_faces_trained_on(runs):
    assert trained_on(runs[0]) == (
        "trained on 800 faces of the train split (max_per_class 100), and its best epoch chosen on "
        "208 faces of the val split"
    )
    config = {"max_per_class": None, "leaks": "drop", "refit": "runs/a"}
    refit = replace(runs[0], config=config, faces={"train+val": {"neutral": 1500, "fear": 1}})
    assert trained_on(refit) == "trained on 1,501 faces of the train and val splits (leaks drop)"
    assert trained_on(replace(runs[0], faces={})) == ""


def test_missing_scores(make_run):
    run = read_run(
        make_run("mute", expression=-1, valence=np.nan, arousal=np.nan, epochs=0), "test"
    )
    said = summary_sentences([run])
    assert said[0] == "mute has no score for expression accuracy."
    assert said[1] == "No face has annotated valence and arousal on which mute could be scored."
    assert len(said) == 2
    assert alt_confusion(run) == "Confusion matrix without faces."


def test_alternative_texts_have_the_metrics(runs):
    assert "112 faces" in alt_confusion(runs[0])
    auc = runs[0].metrics["expression"]["per_class"]["anger"]["auc_roc"]["value"]
    assert f"anger {auc:.2f}" in alt_areas(runs[0], "ROC curve", "auc_roc")
    assert "good reaches its best validation accuracy, 60.0%, in epoch 4 of 4" in alt_history(runs)
    assert alt_affect(runs[0], "Dots.").startswith("Dots. CCC of valence 0.")
