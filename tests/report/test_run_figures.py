import numpy as np
import pytest
from PIL import Image

from affectnet.errors import RunError
from affectnet.report import save_run_figures
from affectnet.report.run_figures import areas_of, figures_of_run
from affectnet.report.runs import read_run


def test_all_figures_are_written_to_the_run_folder(make_run):
    run = make_run("figured")
    place = run / "evaluation" / "test" / "figures"
    place.mkdir()
    (place / "stale.png").touch()
    paths = save_run_figures(run, "test", dpi=40)
    assert sorted(place.iterdir()) == sorted(paths)
    assert [path.name for path in paths] == [
        "confusion.png",
        "reliability.png",
        "roc.png",
        "precision-recall.png",
        "circumplex.png",
        "residuals.png",
        "predicted-true.png",
        "regions.png",
        "annotations.png",
        "learning-curves.png",
        "most-confidently-wrong.png",
        "most-confidently-right.png",
        "samples.png",
    ]
    for path in paths:
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_figures_without_data_or_images_are_left_out(make_run):
    run = make_run("bare", epochs=0, valence=np.nan, arousal=np.nan, data="/no/such/place")
    names = [path.name for path in save_run_figures(run, "test", formats=("svg",), dpi=40)]
    assert names == [
        "confusion.svg",
        "reliability.svg",
        "roc.svg",
        "precision-recall.svg",
        "circumplex.svg",
    ]


def test_an_unevaluated_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match="affectnet evaluate"):
        (tmp_path / "run").mkdir()
        save_run_figures(tmp_path / "run")


def test_areas_are_those_of_the_metrics(two_runs):
    run = read_run(two_runs[0], "test")
    known = run.metrics["expression"]["per_class"]
    areas = areas_of(run, "auc_roc")
    assert areas["disgust"] == known["disgust"]["auc_roc"]["value"]
    run.metrics["expression"].pop("per_class")
    assert areas_of(run, "auc_roc") is None


def test_every_figure_has_a_text_or_a_reason_why_it_is_missing(two_runs, make_run):
    whole = figures_of_run(read_run(two_runs[0], "test"))
    assert not any(figure.missing for figure in whole)
    assert len({figure.alt for figure in whole}) == len(whole)
    bare = figures_of_run(read_run(make_run("none", expression=-1, arousal=np.nan), "test"))
    missing = {figure.name: figure.missing for figure in bare}
    assert "no face" in missing["confusion"]
    assert "no face" in missing["residuals"]
    assert missing["circumplex"] == missing["predicted-true"] == ""
