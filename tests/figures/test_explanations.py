import numpy as np
import pytest

from affectnet.figures.explanations import attention_overlays, feature_map, heat, mean_attention
from affectnet.figures.style import CLASS_COLOURS, save_figure
from affectnet.labels import EXPRESSIONS


def faces(n: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def spots(n: int, size: int = 24) -> np.ndarray:
    """Maps with one bright spot, a column further right in each."""
    maps = np.zeros((n, size, size), np.float32)
    for i in range(n):
        maps[i, 10:14, 2 * i : 2 * i + 4] = 1
    return maps


def images_of(figure) -> list:
    return [axes.get_images() for axes in figure.axes if axes.get_images()]


def test_each_face_stands_above_its_map() -> None:
    images, maps = faces(8), spots(8)
    figure = attention_overlays(images, maps, [f"line {i}" for i in range(8)], columns=6)
    panels = [axes for axes in figure.axes if axes.get_images()]
    plain = [axes for axes in panels if len(axes.get_images()) == 1]
    over = [axes for axes in panels if len(axes.get_images()) == 2]
    assert len(plain) == len(over) == 8
    shown = np.stack([axes.get_images()[0].get_array() for axes in plain])
    np.testing.assert_array_equal(shown, images)
    found = np.stack([axes.get_images()[1].get_array() for axes in over])
    np.testing.assert_array_equal(found, maps)
    assert [axes.texts[0].get_text() for axes in over] == [f"line {i}" for i in range(8)]
    for above, below in zip(plain, over, strict=True):
        assert above.get_position().y0 > below.get_position().y0


def test_a_map_of_another_size_covers_the_whole_face() -> None:
    figure = attention_overlays(faces(1, 48), spots(1, 24))
    grey, colour = next(images for images in images_of(figure) if len(images) == 2)
    assert tuple(colour.get_extent()) == tuple(grey.get_extent())


def test_grey_faces_and_no_face() -> None:
    assert len(images_of(attention_overlays(faces(2)[..., 0], spots(2)))) >= 4
    figure = attention_overlays([], np.zeros((0, 2, 2)), title="surely right")
    assert figure.axes[0].texts[0].get_text() == "surely right: no face to explain"


def test_zero_is_transparent_and_more_is_lighter() -> None:
    colours = heat()(np.linspace(0, 1, 20))
    assert colours[0, 3] == 0
    assert (np.diff(colours[:, 3]) > 0).all()
    light = colours[:, :3] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(light) > 0).all()


def test_the_mean_map_of_each_expression() -> None:
    images, maps = faces(6), spots(6)
    labels = np.array([0, 0, 3, 3, 3, -1])
    figure = mean_attention(images, maps, labels, title="Where it looks")
    titled = {
        axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")
    }
    assert set(titled) >= {"neutral, 2", "surprise, 3", "contempt, 0"}
    means = {c: maps[labels == c].mean(axis=0) for c in (0, 3)}
    top = max(mean.max() for mean in means.values())
    for name, c in (("neutral, 2", 0), ("surprise, 3", 3)):
        grey, colour = titled[name].get_images()
        np.testing.assert_allclose(colour.get_array(), means[c] / top, atol=1e-6)
        expected = images[labels == c].mean(axis=0) @ (0.299, 0.587, 0.114)
        np.testing.assert_allclose(grey.get_array(), expected, atol=1)
    assert titled["contempt, 0"].texts[0].get_text() == "no face"


@pytest.mark.parametrize("labels", [np.full(3, -1), np.zeros(3, int)])
def test_poor_input_still_draws(labels: np.ndarray, tmp_path) -> None:
    figure = mean_attention(faces(3), np.zeros((3, 24, 24), np.float32), labels)
    (path,) = save_figure(figure, tmp_path, "mean", dpi=40)
    assert path.stat().st_size > 1000


def test_overlays_match_the_stored_image(same_as_stored) -> None:
    from affectnet.data.drawn.release import render

    rng = np.random.default_rng(3)
    images = [render(c, 0.0, 0.0, rng, size=64)[0] for c in (1, 3, 6)]
    same_as_stored(attention_overlays(images, spots(3), ["one", "two", "three"]), "attention")


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


def test_the_legend_counts_the_faces_in_their_colours() -> None:
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
def test_feature_map_of_few_faces(n: int, tmp_path) -> None:
    where, labels = points(n)
    (path,) = save_figure(feature_map(where, labels), tmp_path, "map", dpi=40)
    assert path.stat().st_size > 500


def test_the_feature_map_matches_the_stored_image(same_as_stored) -> None:
    where, labels = points(150)
    right = np.arange(150) % 3 > 0
    same_as_stored(feature_map(where, labels, right, "t-SNE"), "features")
