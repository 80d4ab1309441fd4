"""The page of a film: complete without a network, whatever the names; it jumps and downloads."""

import csv
import io
import re
from pathlib import Path

import numpy as np

from affectnet.data.crop import Box
from affectnet.inference.film import Film
from affectnet.inference.results import FaceResult, PictureResult
from affectnet.labels import EXPRESSIONS
from affectnet.report.film_page import clock, write_film_page

NAME = "<b>&'film\".mp4"


def results(untrained: bool = False):
    """Two persons for ten seconds: neutral, then happy; neutral, then angry."""
    pixels = np.full((90, 180, 3), 120, np.uint8)
    for n in range(250):
        faces = []
        for track, later in ((1, "happiness"), (2, "anger")):
            shown = later if n >= 100 else "neutral"
            shares = [0.86 if name == shown else 0.02 for name in EXPRESSIONS]
            values = (0.5, -0.25) if not untrained else (float("nan"),) * 2
            box = Box(90.0 * (track - 1) + 10, 10, 60, 70)
            faces.append(FaceResult(box, None, 0.9, EXPRESSIONS, tuple(shares), *values, track))
        yield PictureResult(NAME, 180, 90, tuple(faces), frame=n, time=n / 25), pixels


def page_of(path: Path, untrained: bool = False) -> str:
    film = Film(results(untrained), NAME, pictures=True)
    summary = film.summary()
    write_film_page(path, summary, film.over_time)
    return path.read_text()


def test_everything_is_in_one_file(tmp_path: Path) -> None:
    text = page_of(tmp_path / "film.html")
    assert NAME not in text
    assert "&lt;b&gt;&amp;" in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert text.count("data:image/jpeg") == 4  # one for each episode
    assert "0:04.0" in text
    untrained = page_of(tmp_path / "u.html", untrained=True)
    assert "Valence and arousal of every person" not in untrained


def test_an_empty_film(tmp_path: Path) -> None:
    film = Film([], "f.mp4")
    write_film_page(tmp_path / "f.html", film.summary(), film.over_time)
    assert "No face was seen" in (tmp_path / "f.html").read_text()


def test_times() -> None:
    assert [clock(t) for t in (0, 59.96, 750, 3750.04)] == [
        "0:00.0",
        "1:00.0",
        "12:30.0",
        "1:02:30.0",
    ]


def test_in_a_browser(browser, tmp_path: Path) -> None:
    page_of(tmp_path / "film.html")
    for width, scheme in ((390, "dark"), (1200, "light")):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
        )
        page, faults = context.new_page(), []
        page.on("pageerror", lambda error, faults=faults: faults.append(str(error)))
        page.on(
            "console",
            lambda message, faults=faults: (
                faults.append(message.text) if message.type == "error" else None
            ),
        )
        page.goto((tmp_path / "film.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator(".episodes button", has_text="anger").click()
        assert page.locator("#now").inner_text() == "0:04.0"
        x = float(page.locator("line.now").get_attribute("x1"))
        card = page.locator(".curve")
        left, right = (float(card.get_attribute(f"data-{side}")) for side in ("left", "right"))
        across = page.evaluate("document.querySelector('.curve svg').viewBox.baseVal.width")
        assert abs((x / across - left) / (right - left) - 0.4) < 0.01
        page.locator("#by-expression").select_option("anger")
        assert page.locator(".episodes li:visible").count() == 1
        with page.expect_download() as download:
            page.get_by_text("Episodes as CSV").click()
        rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
        assert [row["expression"] for row in rows] == ["neutral", "neutral", "happiness", "anger"]
        assert faults == []
        context.close()
