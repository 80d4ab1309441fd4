import numpy as np
import pytest

from affectnet.figures.feature_map import feature_map
from affectnet.figures.style import CLASS_COLOURS, save_figure
from affectnet.labels import EXPRESSIONS


def points(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 8, n)
    return rng.normal(0, 1, (n, 2)) + labels[:, None], labels


def test_each_face_is_drawn_once_by_class_and_verdict() -> None:
    where, labels = points(200)
    right = np.random.default_rng(1).random(200) < 0.6
    figure = feature_map(where, labels, right, "t-SNE", of=5000)
    drawn = {one.get_gid(): one for one in figure.axes[0].collections}
    total = 0
    for c in range(8):
        for verdict, mask in (("right", right), ("wrong", ~right)):
            expected = where[(labels == c) & mask]
            marks = drawn[f"{EXPRESSIONS[c]}-{verdict}"]
            np.testing.assert_array_equal(marks.get_offsets(), expected)
            total += len(expected)
    assert total == (labels >= 0).sum()
    assert (
        len(drawn["unlabelled-right"].get_offsets()) + len(drawn["unlabelled-wrong"].get_offsets())
        == (labels < 0).sum()
    )
    assert len(drawn["happiness-wrong"].get_facecolors()) == 0  # hollow
    assert figure.axes[0].get_xlabel() == "200 of 5,000 faces\nt-SNE"


def test_the_key_counts_the_faces_and_wears_their_colours() -> None:
    where, labels = points(120)
    handles = feature_map(where, labels).legends[0].legend_handles
    texts = [handle.get_label() for handle in handles]
    expected = [
        "unlabelled" if c < 0 else EXPRESSIONS[c] for c in range(-1, 8) if (labels == c).any()
    ]
    assert [text.split(" (")[0] for text in texts] == expected
    assert texts[-1] == f"contempt ({(labels == 7).sum()})"
    assert handles[-1].get_markerfacecolor() == CLASS_COLOURS[7]
    assert len({handle.get_marker() for handle in handles}) == 8


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_faces(n: int, tmp_path) -> None:
    where, labels = points(n)
    (path,) = save_figure(feature_map(where, labels), tmp_path, "map", dpi=40)
    assert path.stat().st_size > 500


def test_the_map_looks_as_stored(same_as_stored) -> None:
    where, labels = points(150)
    right = np.arange(150) % 3 > 0
    same_as_stored(feature_map(where, labels, right, "t-SNE"), "features")
