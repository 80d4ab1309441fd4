import numpy as np

from affectnet.figures import learning_curves


def history(epochs=6, seed=0, **more):
    rng = np.random.default_rng(seed)
    rise = 1 - np.exp(-np.arange(1, epochs + 1) / 3)
    return {
        "epoch": np.arange(epochs, dtype=float),
        "train_loss": 2 - rise,
        "val_loss": 2 - 0.8 * rise + rng.normal(0, 0.05, epochs),
        "train_accuracy": 0.3 + 0.5 * rise,
        "val_accuracy": 0.3 + 0.4 * rise + rng.normal(0, 0.02, epochs),
        "val_valence_ccc": 0.6 * rise,
        "val_arousal_ccc": 0.5 * rise,
        **more,
    }


def lines(axes, gid):
    return [line.get_xydata() for line in axes.lines if line.get_gid() == gid]


def test_the_lines_are_the_columns_counted_from_epoch_one():
    runs = {"a": history(seed=1), "b": history(seed=2)}
    figure = learning_curves(runs)
    loss, accuracy, *_ = figure.axes
    for known, drawn in zip(runs.values(), lines(accuracy, "val-accuracy"), strict=True):
        np.testing.assert_allclose(drawn[:, 0], np.arange(1, 7))
        np.testing.assert_allclose(drawn[:, 1], known["val_accuracy"])
    for known, best in zip(runs.values(), lines(loss, "best-loss"), strict=True):
        np.testing.assert_allclose(
            best[0], [1 + known["val_loss"].argmin(), known["val_loss"].min()]
        )
    for known, best in zip(runs.values(), lines(accuracy, "best-accuracy"), strict=True):
        assert best[0, 1] == known["val_accuracy"].max()
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named[:2] == ["a", "b"]


def test_gaps_and_absent_columns():
    known = history(val_accuracy=np.array([0.3, np.nan, 0.5, np.nan, np.nan, 0.4]))
    del known["val_valence_ccc"]
    figure = learning_curves({"a": known})
    (drawn,) = lines(figure.axes[1], "val-accuracy")
    np.testing.assert_allclose(drawn, [[1, 0.3], [3, 0.5], [6, 0.4]])
    assert "no run recorded CCC of valence" in figure.axes[2].texts[0].get_text()


def test_one_epoch_is_a_dot():
    figure = learning_curves({"a": history(epochs=1)})
    assert figure.axes[0].lines[0].get_marker() == "o"


def test_no_epochs_give_a_message():
    for runs in ({}, {"a": {}}, {"a": {"epoch": np.array([])}}):
        assert "no run has" in learning_curves(runs).axes[0].texts[0].get_text()


def test_strange_run_names_are_shown_as_they_are():
    names = ["$\\frac$", "_hidden", "a" * 60]
    figure = learning_curves({name: history() for name in names})
    figure.draw_without_rendering()
    named = [text.get_text().strip("\u200b") for text in figure.legends[0].get_texts()]
    assert named[:3] == names


def test_more_runs_than_colours():
    figure = learning_curves({str(i): history(seed=i) for i in range(9)})
    assert len(lines(figure.axes[0], "val-loss")) == 9


def test_matches_the_stored_image(same_as_stored):
    same_as_stored(learning_curves({"cvnet": history(), "resnet": history(seed=5)}), "curves")
