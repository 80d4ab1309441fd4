from dataclasses import replace

import numpy as np
import pytest

from affectnet.report import summary as words
from affectnet.report.runs import read_run, read_runs


@pytest.fixture(scope="module")
def runs(two_runs):
    return read_runs(two_runs, "test")


def test_the_summary_says_what_the_figures_say(runs):
    said = words.summary(runs)
    accuracy = runs[0].metrics["expression"]["accuracy"]
    assert said[0].startswith("good, the most accurate run, names the expression of")
    assert f"{100 * accuracy['value']:.1f}% of 112 faces" in said[0]
    assert f"{100 * accuracy['low']:.1f}% to {100 * accuracy['high']:.1f}%" in said[0]
    assert "commonest answer would be right for 12.5%" in said[0]
    assert said[1].startswith("Next comes poor")
    mine, theirs = (run.predictions.right for run in runs)
    only_mine, only_theirs = (mine & ~theirs).sum(), (theirs & ~mine).sum()
    assert f"{only_mine} go to good and {only_theirs} to poor" in said[1]
    assert "more than chance" in said[1]
    assert "p < 0.001" in said[1]
    text = " ".join(said)
    rmse = runs[0].metrics["valence"]["rmse"]["value"]
    assert f"Valence is off by {rmse:.2f}" in text
    assert "commonest mistake" in text
    assert "always answering the mean" in text


def test_a_small_lead_settles_nothing(runs):
    p = runs[0].predictions
    preds = p.expression_pred.copy()
    preds[np.flatnonzero(p.right)[:2]] += 1
    nearly = replace(runs[0], name="nearly", predictions=replace(p, expression_pred=preds % 8))
    (_, second, *_) = words.summary([runs[0], nearly])
    assert "2 go to good and 0 to nearly" in second
    assert "do not settle which is better" in second
    assert "p = 0.500" in second


def test_the_order_of_the_rows_does_not_matter(runs):
    p = runs[1].predictions
    turned = replace(
        p,
        **{name: getattr(p, name)[::-1] for name in p.__dataclass_fields__},
    )
    assert words.summary([runs[0], replace(runs[1], predictions=turned)]) == words.summary(runs)


def test_two_that_are_right_on_the_same_faces(runs):
    (_, second, *_) = words.summary([runs[0], replace(runs[0], name="twin")])
    assert "right on the same faces" in second


def test_runs_on_other_faces_are_not_compared(runs):
    elsewhere = replace(runs[1].predictions, ids=[f"x{i}" for i in runs[1].predictions.ids])
    said = words.summary([runs[0], replace(runs[1], predictions=elsewhere)])
    assert "on other faces" in said[1]


def test_worse_than_guessing_is_said(make_run, change_metrics):
    run = make_run("poor")

    def edit(known):
        known["expression"]["accuracy"] = {"value": 0.1, "low": 0.05, "high": 0.2}

    change_metrics(run, edit)
    assert "12.5%, which is better than this." in words.summary([read_run(run, "test")])[0]


def test_one_run_is_compared_with_nothing(runs):
    said = words.summary(runs[:1])
    assert said[0].startswith("good names the expression")
    assert not any("Next comes" in one for one in said)


def test_mistakes_agree_with_a_count(runs):
    p = runs[1].predictions
    pairs = [(t, q) for t, q in zip(p.expression, p.expression_pred, strict=True) if t != q]
    (i, j, n, of), *rest = words.commonest_mistakes(p, 3)
    assert n == max(pairs.count(pair) for pair in pairs) == pairs.count((i, j))
    assert of == (p.expression == i).sum()
    assert all(one[2] <= n for one in rest)


def test_nothing_to_say_of_what_is_missing(make_run):
    run = read_run(
        make_run("mute", expression=-1, valence=np.nan, arousal=np.nan, epochs=0), "test"
    )
    said = words.summary([run])
    assert said[0] == "No expression accuracy is scored for mute."
    assert said[1] == "No face has annotated valence and arousal that mute could be scored on."
    assert len(said) == 2
    assert words.alt_confusion(run) == "Confusion matrix without faces."


def test_alternative_texts_hold_the_figures(runs):
    assert "112 faces" in words.alt_confusion(runs[0])
    auc = runs[0].metrics["expression"]["per_class"]["anger"]["auc_roc"]["value"]
    assert f"anger {auc:.2f}" in words.alt_areas(runs[0], "ROC curve", "auc_roc")
    assert "good reaches its best validation accuracy, 60.0%, in epoch 4 of 4" in words.alt_history(
        runs
    )
    assert words.alt_affect(runs[0], "Dots.").startswith("Dots. CCC of valence 0.")
