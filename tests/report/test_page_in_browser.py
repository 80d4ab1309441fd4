"""The page in a real browser: interaction, themes, and no network requests.

Skips where Chromium or playwright is missing. If AFFECTNET_SCREENSHOTS names a
folder, screenshots are saved there.
"""

import os
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture
def page(browser, report):
    """The report in light mode; fails on any console message or request."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    yield page
    context.close()
    assert messages == []
    assert {url for url in requests if not url.startswith("data:")} == {report.as_uri()}


def screenshot(page, name):
    folder = os.environ.get("AFFECTNET_SCREENSHOTS")
    if folder:
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def ids_shown(page):
    return page.locator("#gallery li").evaluate_all("all => all.map(one => one.dataset.id)")


def test_pointing_at_a_dot_shows_the_face_and_its_scores(page):
    dot = page.locator("#dots circle").nth(7)
    dot.scroll_into_view_if_needed()
    assert not page.locator("#hover").is_visible()
    dot.hover(force=True)
    hover = page.locator("#hover")
    assert hover.is_visible()
    assert hover.locator("img").evaluate("image => image.naturalWidth") == 48
    alt = hover.locator("img").get_attribute("alt")
    assert alt.startswith("Face ")
    card = page.locator("#card")
    assert card.locator(".bars li").count() == 8
    assert card.locator("code").inner_text() == alt.split()[1].rstrip(":")
    percentages = [int(text.rstrip("%")) for text in card.locator(".number").all_inner_texts()]
    assert 96 <= sum(percentages) <= 104
    screenshot(page, "hover")


def test_the_plot_is_usable_by_keyboard(page):
    plane = page.locator("#plane")
    plane.focus()
    seen = set()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
        seen.add(page.locator("#card code").inner_text())
    assert len(seen) >= 3
    page.keyboard.press("Escape")
    assert page.locator("#card .hint").is_visible()


def test_filters_apply_to_the_gallery_and_the_plot(page):
    everything = page.locator("#dots circle").count()
    assert everything == 112
    page.select_option("select[name=truth]", "3")
    assert page.locator("#dots circle").count() == 14
    assert set(
        page.locator("#gallery img").evaluate_all("all => all.map(one => one.alt.split(' ')[2])")
    ) == {"surprise,"}
    page.select_option("select[name=kind]", "wrong")
    wrong = page.locator("#gallery li").count()
    assert 0 < wrong < 14
    assert page.locator("#gallery li.wrong").count() == wrong
    page.locator("input[name=least]").fill("60")
    assert page.locator("#gallery li").count() < wrong
    badges = page.locator("#gallery .badge").all_inner_texts()
    assert all(int(text.rstrip("%")) >= 60 for text in badges)
    page.get_by_role("button", name="Reset").click()
    sync_api.expect(page.locator("#dots circle")).to_have_count(112)


def test_sorting_and_showing_more(page):
    page.select_option("select[name=order]", "sure")
    sure = [int(t.rstrip("%")) for t in page.locator("#gallery .badge").all_inner_texts()]
    assert sure == sorted(sure, reverse=True)
    first = ids_shown(page)
    page.select_option("select[name=order]", "unsure")
    assert ids_shown(page)[0] != first[0]
    shown = len(ids_shown(page))
    page.get_by_role("button", name="Show more").click()
    assert len(ids_shown(page)) > shown
    assert len(set(ids_shown(page))) == len(ids_shown(page))


def test_each_run_has_its_own_predictions(page):
    page.select_option("select[name=kind]", "wrong")
    few = page.locator("#gallery-count").inner_text()
    page.select_option("select[name=run]", label="poor")
    many = page.locator("#gallery-count").inner_text()
    assert int(few.split()[0]) < int(many.split()[0])


def test_a_face_opens_and_closes(page):
    page.locator("#gallery button").first.click()
    dialog = page.locator("#dialog")
    assert dialog.is_visible()
    assert dialog.locator(".bars li").count() == 8
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_dots_move_between_prediction_and_annotation(page):
    first = page.locator("#dots circle").first
    before = first.get_attribute("cx")
    page.get_by_label("annotated", exact=True).check()
    assert first.get_attribute("cx") != before


def test_the_legend_filters(page):
    button = page.locator("#classes button", has_text="anger")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator("#dots circle").count() == 14
    button.click()
    assert page.locator("#dots circle").count() == 112


def brightness(page):
    return page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)"
        ".map(Number).reduce((a, b) => a + b)"
    )


def test_dark_by_button_and_by_system(page, browser, report):
    screenshot(page, "light")
    assert brightness(page) > 600
    page.locator("#theme").click()
    assert brightness(page) < 200
    ink = page.locator("svg.figure text").first.evaluate("text => getComputedStyle(text).fill")
    assert ink == "rgb(230, 235, 240)"
    page.reload()
    assert brightness(page) < 200
    page.locator("#theme").click()
    assert brightness(page) > 600
    context = browser.new_context(color_scheme="dark", viewport={"width": 1280, "height": 900})
    dark = context.new_page()
    dark.goto(report.as_uri())
    assert brightness(dark) < 200
    screenshot(dark, "dark")
    context.close()


def test_a_narrow_window_does_not_scroll_sideways(browser, report):
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    screenshot(page, "narrow")
    context.close()


@pytest.mark.parametrize("width", [1200, 390])
def test_the_chosen_options_are_not_cut_off(browser, report, width):
    page = browser.new_page(viewport={"width": width, "height": 780})
    page.goto(report.as_uri())
    room = page.evaluate("""() => [...document.querySelectorAll("#filters select")].map(one => {
        const pen = document.createElement("canvas").getContext("2d");
        const style = getComputedStyle(one);
        pen.font = style.font;
        const arrow = 12, padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
        const text = pen.measureText(one.selectedOptions[0].text).width;
        return one.clientWidth - padding - arrow - text;
    })""")
    page.close()
    assert min(room) >= 0, room


def test_texts_in_figures_do_not_overlap(page):
    """Texts of a figure, rendered in the fonts of the browser, do not overlap."""
    overlaps = page.evaluate(
        """() => [...document.querySelectorAll('svg.figure')].flatMap(svg => {
          const boxes = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim()).map(
            t => [t.textContent, t.getBoundingClientRect()]);
          const bad = [];
          boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
            const x = Math.min(p.right, q.right) - Math.max(p.left, q.left);
            const y = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
            if (x > 2 && y > 4) bad.push(`${svg.ariaLabel}: ${a} | ${b}`);
          }));
          return bad;
        })"""
    )
    assert overlaps == []


def test_without_scripts_the_tables_and_figures_are_there(browser, report):
    context = browser.new_context(java_script_enabled=False, color_scheme="dark")
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("noscript").count() == 1
    assert page.locator("table.scores").count() == 3
    assert page.locator("svg.figure").first.is_visible()
    assert not page.locator("#browser").is_visible()
    context.close()
