"""The report as one HTML file with everything in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from markupsafe import Markup
from tqdm import tqdm

from affectnet import __version__
from affectnet.labels import COLOURS
from affectnet.report.contents import Contents, RunPart, draw_or_say, gather
from affectnet.report.drawings import Drawing
from affectnet.report.explorer import Strip, embed_json, explored, strips_of, telling_rows
from affectnet.report.faces import Album
from affectnet.report.html import asset, html_template
from affectnet.report.runs import EvaluatedRun
from affectnet.report.svg import inline_svg

PICTURE_BUDGET = 4_500_000
"""Characters of all thumbnails together: with the figures the page stays under 10 MB."""
SCRIPTS = ("theme.js", "tables.js", "explore.js")


@dataclass(frozen=True)
class ShownFigure:
    """A drawn figure of the page."""

    name: str
    title: str
    caption: str
    svg: Markup
    wide: bool = False


@dataclass
class ShownRun:
    """All that the page shows of one run."""

    name: str
    anchor: str
    n: int
    figures: list[ShownFigure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    image_problem: str = ""


def render_page(
    runs: Sequence[EvaluatedRun], datasets: Sequence[Path] = (), explain: bool = True
) -> str:
    """Return the whole page over these runs of one split; arguments as of `gather`."""
    return page_of(gather(runs, datasets, explain))


def page_of(contents: Contents) -> str:
    """Return the whole page."""
    album = Album(PICTURE_BUDGET)
    parts = sum(len(part.drawings) + 1 for part in contents.drawn) + len(contents.data) + 1
    with tqdm(total=parts, desc="report", unit="part", leave=False, disable=None) as bar:
        # The strips first, then all telling faces, then the samples: where the budget runs out,
        # the least telling go without a picture.
        shown = [_run(part, f"run-{i + 1}", album, bar) for i, part in enumerate(contents.drawn)]
        faces = _faces(contents.drawn, album, bar)
        common, missing = _draw([contents.history], "all", bar)
        data, data_missing = _draw(contents.data, "all", bar)
    # Contempt comes last, so the indices of seven classes are those of the eight.
    classes = max((run.classes for run in contents.runs), key=len)
    payload = {
        "classes": classes,
        "colours": [COLOURS[name] for name in classes],
        "faces": album.pictures,
        "runs": faces,
    }
    return html_template("page.html.j2").render(
        contents=contents,
        made=date.today().isoformat(),
        version=__version__,
        names=[run.name for run in contents.runs],
        expressions=classes,
        colours=COLOURS,
        runs=shown,
        training=common,
        training_missing=missing,
        data=data,
        data_missing=data_missing,
        album=album,
        payload=embed_json(payload),
        style=asset("page.css"),
        scripts=[asset(name) for name in SCRIPTS],
    )


def _run(part: RunPart, anchor: str, album: Album, bar: "tqdm[Any]") -> ShownRun:
    drawn, missing = _draw(part.drawings, anchor, bar)
    return ShownRun(
        part.run.name,
        anchor,
        len(part.run.predictions),
        drawn,
        missing,
        strips_of(part.run, part.source, album),
        part.source.problem,
    )


def _faces(parts: Sequence[RunPart], album: Album, bar: "tqdm[Any]") -> list[dict[str, Any]]:
    """What the interactive part knows of each run, pictures taken into `album`."""
    telling = [telling_rows(part.run, len(parts)) for part in parts]
    for rows, part in zip(telling, parts, strict=True):
        for row in rows:
            album.add(part.source, part.run.predictions.ids[row])
    faces = []
    for rows, part in zip(telling, parts, strict=True):
        faces.append(explored(part.run, rows, part.source, album))
        bar.update()
    return faces


def _draw(
    drawings: Sequence[Drawing], anchor: str, bar: "tqdm[Any]"
) -> tuple[list[ShownFigure], list[str]]:
    """What can be drawn, and a line for each that cannot."""
    shown, missing = [], []
    for drawing in drawings:
        figure, why = draw_or_say(drawing)
        if figure is None:
            missing.append(why)
        else:
            svg = inline_svg(figure, f"{anchor}-{drawing.name}", drawing.alt)
            shown.append(
                ShownFigure(drawing.name, drawing.title, drawing.caption, svg, drawing.wide)
            )
        bar.update()
    return shown, missing
