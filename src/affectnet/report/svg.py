"""A matplotlib figure as SVG inside a page: small, in the page's own type, turning dark with it."""

import base64
import io
import re
from html import escape

from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from affectnet.report.figures.style import GRID, INK, MUTED, PAPER, look

THEMED = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--card)"}
"""Colours of the figures that follow the page's theme, and the page's names for them."""
RASTER_DPI = 140


def inline_svg(figure: Figure, name: str, alt: str) -> Markup:
    """Return the figure as an `<svg>` element for a page that defines the variables of `THEMED`.

    Args:
        figure: any figure of `affectnet.report.figures`.
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
