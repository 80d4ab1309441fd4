"""The figure over time: lines break where no face was visible, and poor input is drawn."""

from itertools import pairwise

import numpy as np
import pytest

from affectnet.figures.curves import MOST_LINES, Line, affect_over_time


def line(name: str, times: np.ndarray, step: float = 0.04) -> Line:
    wave = np.sin(times)
    return Line(name, times, wave, -wave, (np.arange(len(times)) // 10) % 8, step)


def test_a_gap_breaks_the_line_and_the_ribbon() -> None:
    times = np.concatenate([np.arange(50) * 0.04, 6 + np.arange(50) * 0.04])
    figure = affect_over_time([line("face 1", times)], 8.0)
    valence, arousal, ribbon = figure.axes
    drawn = valence.get_lines()[0]
    x, y = np.asarray(drawn.get_xdata(), float), np.asarray(drawn.get_ydata(), float)
    assert np.flatnonzero(np.isnan(x)).tolist() == [50]
    np.testing.assert_allclose(y[~np.isnan(y)], np.sin(times))
    np.testing.assert_allclose(
        np.asarray(arousal.get_lines()[0].get_ydata(), float)[:50], -np.sin(times[:50])
    )
    spans = sorted(
        (path.vertices[:, 0].min(), path.vertices[:, 0].max())
        for collection in ribbon.collections
        for path in collection.get_paths()
    )
    assert spans[0][0] == 0
    assert spans[-1][1] == pytest.approx(times[-1] + 0.04)
    uncovered = [b[0] - a[1] for a, b in pairwise(spans)]
    assert max(uncovered) == pytest.approx(6 - times[49] - 0.12)
    assert sorted(uncovered)[-2] < 1e-6


def test_too_many_faces_are_counted_in_a_note(tmp_path) -> None:
    lines = [line(f"face {i}", np.arange(30) * 0.04) for i in range(MOST_LINES + 3)]
    figure = affect_over_time(lines, 400.0, left_out=2)
    assert "5 more persons" in figure.axes[2].get_xlabel()
    assert "minutes" in figure.axes[2].get_xlabel()
    figure.savefig(tmp_path / "f.png")


@pytest.mark.parametrize("n", [0, 1])
def test_few_moments_are_drawn(n: int, tmp_path) -> None:
    lines = [line("face 1", np.zeros(1))][:n]
    affect_over_time(lines, 0.0).savefig(tmp_path / "f.png")
