"""A report of two runs in a browser from start to end, on drawn and on real faces.

Screenshots are saved in the folder named by AFFECTNET_SCREENSHOTS, else in a temporary folder.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from affectnet.commands.evaluate import evaluate
from affectnet.commands.ingest import ingest
from affectnet.commands.train import train
from affectnet.config import EvaluateConfig, IngestConfig, TrainConfig
from affectnet.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def real_report(ferplus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two networks trained briefly on real faces."""
    folder = tmp_path_factory.mktemp("real")
    data = folder / "dataset"
    sources = (ferplus / "train_and_val_set.tar.gz", ferplus / "test_set.tar.gz")
    ingest(IngestConfig(sources=sources, out=data, max_per_class=250))
    runs = []
    for backbone in ("cvnet", "resnet10t"):
        run = train(
            TrainConfig(
                data=(data,),
                backbone=backbone,
                pretrained=False,
                epochs=2,
                image_size=48,
                runs=folder / "runs",
                workers=0,
                accelerator="cpu",
            )
        )
        evaluate(EvaluateConfig(runs=(run.path,), data=data, workers=0, figures=False))
        runs.append(run.path)
    return write_report(runs, folder / "report.html")


@pytest.fixture(params=["drawn", pytest.param("real", marks=pytest.mark.slow)])
def opened(request: pytest.FixtureRequest, browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The page, its path, and the folder of screenshots; fails on any console message."""
    report: Path = request.getfixturevalue(
        {"drawn": "report", "real": "real_report"}[request.param]
    )
    shots = Path(os.environ.get("AFFECTNET_SCREENSHOTS") or tmp_path) / request.param
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(report.as_uri())
    yield page, report, shots
    context.close()
    assert messages == []


def confidences(page: Any) -> list[int]:
    return [int(t.rstrip("%")) for t in page.locator("#gallery .badge").all_inner_texts()]


def verdicts(page: Any) -> list[tuple[str, str]]:
    """True and predicted expression of each face of the gallery, from its alternative text."""
    alts = page.locator("#gallery img").evaluate_all("all => all.map(one => one.alt)")
    pairs = [alt.split(": ")[1].split(", predicted ") for alt in alts]
    return [(truth, pred) for truth, pred in pairs]


def test_two_runs_from_end_to_end(opened: Any, browser: Any) -> None:
    page, report, shots = opened
    shots.mkdir(parents=True, exist_ok=True)
    assert report.stat().st_size < 10_000_000
    page.screenshot(path=shots / "light.png", full_page=True)

    # Hovering shows the face and its scores.
    dot = page.locator("#dots circle").nth(11)
    dot.scroll_into_view_if_needed()
    dot.hover(force=True)
    image = page.locator("#hover img")
    assert image.evaluate("one => one.complete && one.naturalWidth") == 48
    face = page.locator("#card code").inner_text()
    assert f"Face {face}:" in image.get_attribute("alt")
    numbers = page.locator("#card .affect td").all_inner_texts()
    assert sum(any(c.isdigit() for c in text) for text in numbers) >= 2
    page.screenshot(path=shots / "hover.png")

    # Class, kind of error and confidence filter; the order sorts.
    everything = page.locator("#dots circle").count()
    page.select_option("select[name=truth]", "1")
    assert {truth for truth, _ in verdicts(page)} == {"happiness"}
    assert 0 < page.locator("#dots circle").count() < everything
    page.select_option("select[name=truth]", "")
    page.select_option("select[name=kind]", "wrong")
    page.select_option("select[name=order]", "sure")
    found = verdicts(page)
    assert found
    assert all(truth != pred for truth, pred in found)
    assert confidences(page) == sorted(confidences(page), reverse=True)
    least = sorted(confidences(page))[len(confidences(page)) // 2] // 5 * 5
    page.locator("input[name=least]").fill(str(least))
    assert min(confidences(page)) >= least
    page.screenshot(path=shots / "filtered.png")
    page.get_by_role("button", name="Reset").click()
    sync_api.expect(page.locator("#dots circle")).to_have_count(everything)

    # Figures of the model are included, each with alternative text.
    for name in ("attention-mean", "feature-map") if "real" in str(shots) else ():
        assert page.locator(f"svg.figure[aria-label]:has([id*='{name}'])").count() == 2
    texts = page.locator("svg.figure").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert all(len(text) > 20 for text in texts)

    for scheme, width in (("dark", 1280), ("light", 400)):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        other = context.new_page()
        other.goto(report.as_uri())
        other.screenshot(path=shots / f"{scheme}-{width}.png", full_page=True)
        assert other.evaluate("document.documentElement.scrollWidth") == width
        context.close()
    assert all(path.stat().st_size > 30_000 for path in shots.iterdir())


def test_everything_by_keyboard(opened: Any) -> None:
    page, _, _ = opened
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    visited: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        visited.append(
            page.evaluate("document.activeElement.id || document.activeElement.name || ''")
        )
        if visited[-1] == "plane":
            break
    assert {"run", "truth", "pred", "kind", "least", "order"} <= set(visited)
    assert visited[-1] == "plane"
    page.keyboard.press("ArrowRight")
    first = page.locator("#card code").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#card code").inner_text() != first
    page.locator("#gallery button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#dialog").is_visible()
    assert page.locator("#dialog .bars li").count() == 8
    page.keyboard.press("Escape")
    assert not page.locator("#dialog").is_visible()


def test_tables_sort_by_their_headings(opened: Any) -> None:
    page, _, _ = opened
    table = page.locator("table.scores").first

    def names() -> list[str]:
        rows = table.locator("tbody tr:not(.baseline) th")
        return [text.split("\n")[0] for text in rows.all_inner_texts()]

    def accuracies() -> list[float]:
        cells = table.locator("tbody tr:not(.baseline) td:nth-child(2)")
        return cells.evaluate_all("all => all.map(one => Number(one.dataset.value))")

    written = names()
    head = table.locator("thead tr:last-child th").nth(1)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert accuracies() == sorted(accuracies(), reverse=True)
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert accuracies() == sorted(accuracies())
    last = table.locator("tbody tr").last
    assert "baseline" in last.get_attribute("class")
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") is None
    assert names() == written
