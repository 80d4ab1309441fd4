"""A run folder filled with its figures as files."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from affectnet.report import figures
from affectnet.report.contents import draw_or_say
from affectnet.report.drawings import (
    gallery_drawings,
    history_drawing,
    run_drawings,
    truth_drawing,
)
from affectnet.report.faces import FaceSource, datasets_of
from affectnet.report.model_drawings import explaining_drawings
from affectnet.report.runs import read_run
from affectnet.run import write_beside


def save_run_figures(
    run_folder: Path | str,
    split: str = "test",
    datasets: Sequence[Path] = (),
    formats: Sequence[str] = ("png",),
    dpi: int = 300,
    explain: bool = True,
) -> list[Path]:
    """Fill `evaluation/SPLIT/figures/` of an evaluated run; return the files.

    An earlier folder of figures stays whole until the new one is complete. Galleries are drawn
    where the dataset is found, Grad-CAM and the map of features where the model is there too, and
    figures without data are left out.

    Args:
        datasets: where the images are; what the run's files name, where not given.
        formats: of `png`, `pdf` and `svg`.
        dpi: of PNG.
        explain: with the figures that need the trained model.

    Raises:
        RunError: the run has no evaluation of the split.
    """
    run = read_run(Path(run_folder), split)
    source = FaceSource(datasets or datasets_of(run), split)
    drawings = [*run_drawings(run), truth_drawing(run), history_drawing([run])]
    drawings += gallery_drawings(run, source)
    if explain:
        drawings += explaining_drawings(run, source.datasets)
    target = run.folder.evaluation(split) / "figures"
    names: list[str] = []
    with write_beside(target) as new:
        new.mkdir()
        for drawing in tqdm(drawings, desc="figures", unit="figure", leave=False, disable=None):
            figure, _ = draw_or_say(drawing)
            if figure is not None:
                saved = figures.save_figure(figure, new, drawing.name, formats, dpi)
                names += [path.name for path in saved]
    return [target / name for name in names]
