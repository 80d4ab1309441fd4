"""Building blocks of HTML pages: templates, assets, embedded JSON and figures as inline SVG."""

import base64
import io
import json
import re
from collections.abc import Sequence
from datetime import date
from html import escape
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from affectnet.data.images import data_uri
from affectnet.figures.style import GRID, INK, MUTED, PAPER, figure_style
from affectnet.report.tables import md_table, md_text
from affectnet.version import __version__

# Colours of the figures that follow the theme of the page, and their CSS variables.
THEMED: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    PAPER: "var(--card)",
}
RASTER_DPI: Final = 140


def template(name: str) -> Template:
    """A template of the package; a missing value is an error, and HTML is escaped.

    In Markdown the filter `md` escapes texts and `table` renders a table.
    """
    environment = Environment(
        loader=PackageLoader("affectnet.report", "templates"),
        autoescape=".html." in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": md_text, "table": md_table}
    return environment.get_template(name)


def page(name: str, scripts: Sequence[str] = (), **values: Any) -> str:
    """An HTML page from a template, with the date, the version, the style sheet and scripts."""
    return template(name).render(
        made=date.today().isoformat(),
        version=__version__,
        style=asset("page.css"),
        scripts=[asset(script) for script in scripts],
        **values,
    )


def asset(name: str) -> Markup:
    """A style sheet or script of the package, inserted into a page unchanged."""
    return Markup((resources.files("affectnet.report") / "templates" / name).read_text("utf-8"))


def embed_json(value: object) -> Markup:
    """Return JSON that is safe inside a `<script>` element, whatever strings it contains.

    It contains no `<`, `>` or `&`, so no string can end the element or open a comment.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def inline_svg(figure: Figure, name: str, alt: str) -> Markup:
    """Return the figure as an `<svg>` element for a page that defines the variables of `THEMED`.

    Args:
        figure: any figure of `affectnet.figures`.
        name: unique in the page, of letters, digits and hyphens; prefix of every id inside.
        alt: alternative text.
    """
    buffer = io.BytesIO()
    engine = figure.get_layout_engine()
    with figure_style(**{"svg.fonttype": "none"}):
        if engine is not None:
            # Lay out once, here: savefig would draw the figure a second time to do so.
            engine.execute(figure)
            figure.set_layout_engine("none")
        figure.savefig(
            buffer, format="svg", dpi=RASTER_DPI, facecolor="none", metadata={"Date": None}
        )
    figure.set_layout_engine(engine)
    text = buffer.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    # In a page this rule would apply to every element; the style of the root is inherited instead.
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
    """One tag with themed colours, the font of the page, short numbers, and only used ids."""
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
    """The same image as WebP, a third of the size."""
    with Image.open(io.BytesIO(base64.b64decode(match.group(1)))) as image:
        return data_uri(image, "webp", 75)
