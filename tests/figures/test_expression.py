import numpy as np
import pytest
from matplotlib.colors import to_hex
from sklearn import metrics

from affectnet.figures import class_distribution, confusion_counts, confusion_matrix
from affectnet.labels import COLOURS, EXPRESSIONS


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_class_distribution_draws_fractions_in_the_class_colours():
    counts = {"train": [300, 100, 50, 0, 20, 10, 15, 5], "test": [5] * 8}
    figure = class_distribution(counts)
    assert len(figure.axes) == 2
    bars = figure.axes[0].patches
    shares = 100 * np.array(counts["train"]) / 500
    np.testing.assert_allclose([bar.get_width() for bar in bars], shares)
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [COLOURS[c] for c in EXPRESSIONS]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(EXPRESSIONS)
    assert figure.axes[0].get_title(loc="left") == "train: 500 faces"
    assert texts(figure)[:8] == [str(n) for n in counts["train"]]


def test_class_distribution_of_nothing_gives_a_message():
    assert "no split" in texts(class_distribution({}))[0]
    figure = class_distribution({"test": [0] * 8})
    assert figure.axes[0].get_xlabel() == "no labelled face"


def test_confusion_counts_agree_with_sklearn(scored):
    counts = confusion_counts(scored.truth, scored.preds)
    np.testing.assert_array_equal(
        counts, metrics.confusion_matrix(scored.truth, scored.preds, labels=range(8))
    )


def test_confusion_counts_leave_out_missing_labels():
    counts = confusion_counts(np.array([0, -1, 2]), np.array([1, 3, -1]))
    assert counts.sum() == counts[0, 1] == 1


@pytest.mark.parametrize("show", ["counts", "fraction", "both"])
def test_confusion_matrix_shades_by_row_and_writes_its_cells(scored, show):
    counts = confusion_counts(scored.truth, scored.preds)
    figure = confusion_matrix(counts, show, title="cvnet")
    (mesh,) = figure.axes[0].collections
    share = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(8, 8), share**0.7)
    written = texts(figure)
    number, per_cent = str(counts[0, 0]), f"{100 * share[0, 0]:.0f}%"
    assert (number in written) == (show != "fraction")
    assert (per_cent in written) == (show != "counts")
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ticks == [f"{c}\n{n:,}" for c, n in zip(EXPRESSIONS, counts.sum(axis=1), strict=True)]


def test_confusion_matrix_of_one_class_leaves_the_other_rows_blank():
    counts = np.zeros((8, 8))
    counts[3, 3] = 7
    written = texts(confusion_matrix(counts))
    assert written.count("–") == 56
    assert "100%" in written


def test_confusion_matrix_of_nothing_gives_a_message():
    assert "no face" in texts(confusion_matrix(np.zeros((8, 8))))[0]


def test_matches_the_stored_image(scored, same_as_stored):
    counts = confusion_counts(scored.truth, scored.preds)
    same_as_stored(confusion_matrix(counts, title="cvnet"), "confusion")
    by_class = counts.sum(axis=1)
    same_as_stored(class_distribution({"train": 4 * by_class, "test": by_class}), "distribution")
