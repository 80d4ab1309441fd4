"""What the package's HTML pages are made with: its templates, styles and scripts.

A matplotlib figure as SVG inside a page: small, in the page's own type, turning dark with it.

What the interactive part of the page knows of the faces, and the strips of faces beside it.

The report as one HTML file with everything in it.
"""

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from affectnet.figures.style import GRID, INK, MUTED, PAPER, look
from affectnet.labels import COLOURS
from affectnet.report.contents import Contents, RunPart, draw_or_say, gather
from affectnet.report.run_figures import Drawing
from affectnet.report.runs import EvaluatedRun
from affectnet.report.samples import Album, FaceSource, fair_sample, for_gallery, most_confident
from affectnet.version import __version__


def html_template(name: str) -> Template:
    """A template of the package; what goes into it is escaped, and a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("affectnet.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def asset(name: str) -> Markup:
    """A file of the package that goes into a page as it is."""
    return Markup((resources.files("affectnet.report") / "templates" / name).read_text("utf-8"))


THEMED = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--card)"}
"""Colours of the figures that follow the page's theme, and the page's names for them."""
RASTER_DPI = 140


def inline_svg(figure: Figure, name: str, alt: str) -> Markup:
    """Return the figure as an `<svg>` element for a page that defines the variables of `THEMED`.

    Args:
        figure: any figure of `affectnet.figures`.
        name: unique in the page, letters, digits and hyphens; goes before every id inside.
        alt: what the figure shows, in words.
    """
    buffer = io.BytesIO()
    engine = figure.get_layout_engine()
    with look(**{"svg.fonttype": "none"}):
        if engine is not None:
            # Laid out here, once: savefig would draw everything a second time for it.
            engine.execute(figure)
            figure.set_layout_engine("none")
        figure.savefig(
            buffer, format="svg", dpi=RASTER_DPI, facecolor="none", metadata={"Date": None}
        )
    figure.set_layout_engine(engine)
    text = buffer.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    # Inside a page this rule would reach every element: the root's own style is inherited instead.
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)", _smaller_image, text)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    text = re.sub(r"<[^>]+>", lambda tag: _tidy(tag.group(), name, used), text)
    text = re.sub(r">\s+<", "><", text.strip())
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    width, height = box.groups() if box else ("400", "300")
    root = (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(alt)}" class="figure" '
        'style="stroke-linejoin:round;stroke-linecap:butt">'
    )
    return Markup(re.sub(r"^<svg[^>]*>", lambda _: root, text))


def _tidy(tag: str, name: str, used: set[str]) -> str:
    """One tag with themed colours, the page's type, short numbers, and only the ids in use."""
    for colour, variable in THEMED.items():
        tag = tag.replace(colour, variable)
    tag = re.sub(r"font-family: [^;\"]+", "font-family:inherit", tag)
    tag = re.sub(
        r' id="([^"]*)"', lambda i: f' id="{name}-{i.group(1)}"' if i.group(1) in used else "", tag
    )
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', tag)
    tag = tag.replace("xlink:href", "href")
    if "data:" in tag:
        return tag
    tag = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number.group()):.2f}", tag)
    return re.sub(r"\s+", " ", tag)


def _smaller_image(match: re.Match[str]) -> str:
    """The same pixels as WebP, a third of the size."""
    with Image.open(io.BytesIO(base64.b64decode(match.group(1)))) as image:
        buffer = io.BytesIO()
        image.save(buffer, format="WEBP", quality=75, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


SAMPLE_FACES = 600
GALLERY_FACES = 400
STRIP_FACES = 12


@dataclass(frozen=True)
class Strip:
    """A row of faces of one kind, written into the page without any script."""

    title: str
    faces: list[dict[str, Any]]


def embed_json(value: object) -> Markup:
    """Return JSON that may stand inside a `<script>` element, whatever strings it holds.

    No `<`, `>` or `&` is left, so no string can end the element or open a comment.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def strips_of(run: EvaluatedRun, source: FaceSource, album: Album) -> list[Strip]:
    """The most confidently wrong and right faces of a run, their pictures taken into `album`."""
    strips = []
    for kind, title in (("wrong", "Most confidently wrong"), ("right", "Most confidently right")):
        rows = most_confident(run.predictions, "wrong" if kind == "wrong" else "right", STRIP_FACES)
        faces = [_face(run, int(row), source, album) for row in rows]
        for face in faces:
            face["picture"] = None if face["f"] is None else album.pictures[face["f"]]
            face["right"] = kind == "right"
        strips.append(Strip(title, faces))
    return strips


def telling_rows(run: EvaluatedRun, n_runs: int) -> list[int]:
    """The faces of a run that the gallery shows besides the fair sample, fewer for many runs."""
    rows: list[int] = for_gallery(run.predictions, max(60, GALLERY_FACES // n_runs)).tolist()
    return rows


def explored(
    run: EvaluatedRun, telling: list[int], source: FaceSource, album: Album
) -> dict[str, Any]:
    """What the interactive part knows of a run: the telling faces and a fair sample."""
    sample = fair_sample(run.predictions, SAMPLE_FACES)
    in_sample = set(sample.tolist())
    rows = dict.fromkeys([*telling, *sample.tolist()])
    faces = []
    for row in rows:
        face = _face(run, row, source, album)
        face["s"] = int(row in in_sample)
        faces.append(face)
    return {"name": run.name, "n": len(run.predictions), "rows": faces}


def _face(run: EvaluatedRun, row: int, source: FaceSource, album: Album) -> dict[str, Any]:
    """One face for the page: short keys, for there are thousands."""
    p = run.predictions
    return {
        "id": p.ids[row],
        "f": album.add(source, p.ids[row]),
        "t": int(p.expression[row]),
        "p": int(p.expression_pred[row]),
        "c": _short(p.confidence[row]),
        "q": [_short(value) for value in p.probabilities[row]],
        "v": _short(p.valence[row]),
        "a": _short(p.arousal[row]),
        "vp": _short(p.valence_pred[row]),
        "ap": _short(p.arousal_pred[row]),
    }


def _short(value: float) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None


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
