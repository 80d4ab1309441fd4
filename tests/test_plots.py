"""The library door: every public name is there, draws, and loads no more than it needs."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

import affectnet.report
from affectnet import figures, plots

N = 24


def arrays() -> dict:
    rng = np.random.default_rng(0)
    truth = np.arange(N) % 8
    probabilities = rng.dirichlet(np.ones(8), N)
    preds = probabilities.argmax(axis=1)
    points = rng.uniform(-1, 1, (4, N))
    images = rng.integers(0, 256, (N, 16, 16, 3), dtype=np.uint8)
    maps = rng.random((N, 16, 16))
    rising = np.arange(3.0)
    history = {"epoch": rising, "train_loss": 3 - rising, "val_loss": 3 - rising}
    return {
        "affect_density": (points[0], points[1], truth),
        "affect_over_time": (
            [plots.Line("face", np.arange(N) / 25, *points[:2], truth, 0.04)],
            1.0,
        ),
        "affect_scatter": (truth, *points),
        "attention_overlays": (images[:3], maps[:3]),
        "class_distribution": ({"train": np.bincount(truth, minlength=8)},),
        "confusion_matrix": (plots.confusion_counts(truth, preds),),
        "error_by_region": tuple(points),
        "feature_map": (points[:2].T, truth),
        "gallery": (list(images[:4]), truth[:4], preds[:4], probabilities.max(axis=1)[:4]),
        "learning_curves": ({"run": history},),
        "mean_attention": (images, maps, truth),
        "precision_recall_curves": (truth, probabilities),
        "predicted_against_true": tuple(points),
        "reliability_diagram": (probabilities.max(axis=1), preds == truth),
        "residual_arrows": tuple(points),
        "roc_curves": (truth, probabilities),
        "sample_grid": ([list(images[truth == c]) for c in range(8)],),
    }


NO_FIGURES = {
    "RunFigure",
    "Line",
    "confusion_counts",
    "embed",
    "grad_cam",
    "known",
    "mean_maps",
    "figures_of_model",
    "principal_components",
    "figures_of_run",
    "save_figure",
    "save_run_figures",
    "split_features",
}


@pytest.mark.parametrize("name", sorted(arrays()))
def test_every_figure_draws(name: str, tmp_path) -> None:
    figure = getattr(plots, name)(*arrays()[name])
    assert isinstance(figure, Figure)
    (path,) = plots.save_figure(figure, tmp_path, name, dpi=40)
    assert path.stat().st_size > 1000


def test_no_public_name_is_forgotten() -> None:
    assert set(plots.__all__) == set(arrays()) | NO_FIGURES
    assert set(figures.__all__) <= set(plots.__all__)
    assert dir(plots) == plots.__all__
    for name in plots.__all__:
        assert callable(getattr(plots, name))
        assert getattr(plots, name).__doc__
    for name in affectnet.report.__all__:
        assert callable(getattr(affectnet.report, name))
    with pytest.raises(AttributeError, match="no attribute 'confusion'"):
        plots.confusion  # noqa: B018


def test_a_confusion_matrix_needs_no_torch() -> None:
    code = (
        "import sys; from affectnet import plots; assert 'matplotlib' not in sys.modules; "
        "plots.confusion_matrix; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
