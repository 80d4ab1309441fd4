import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectnet.figures import affect_scatter, confusion_matrix, sample_grid
from affectnet.report.html import embed_json, inline_svg


@pytest.fixture(scope="module")
def scatter():
    points = np.random.default_rng(0).uniform(-0.9, 0.9, (4, 200))
    figure = affect_scatter(np.arange(200) % 8, *points)
    return inline_svg(figure, "run-1-circumplex", 'Dots, "quoted" & <tagged>')


def test_the_svg_is_one_element_with_its_alternative_text(scatter):
    root = ElementTree.fromstring(scatter)
    assert root.tag == "svg"
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'Dots, "quoted" & <tagged>'
    assert "viewBox" in root.attrib


def test_ids_and_styles_do_not_affect_the_rest_of_the_page(scatter):
    assert "<style" not in scatter
    ids = re.findall(r'\bid="([^"]*)"', scatter)
    assert ids
    assert all(one.startswith("run-1-circumplex-") for one in ids)
    for reference in re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', scatter):
        assert "".join(reference) in ids
    assert not re.search(r"https?://(?!www\.w3\.org)", scatter)


def test_text_follows_the_theme_and_expressions_keep_their_colours(scatter):
    assert "var(--ink)" in scatter
    assert "var(--muted)" in scatter
    assert "#1f2933" not in scatter
    assert "#e69f00" in scatter
    assert "DejaVu" not in scatter


def test_text_stays_text_with_its_numbers():
    counts = np.diag(np.arange(1, 9)) * 1234
    text = inline_svg(confusion_matrix(counts, title="run 0.123456 <b> & $x$"), "a", "a")
    words = "".join(ElementTree.fromstring(text).itertext())
    assert "run 0.123456 <b> & $x$" in words
    assert "9,872" in words


def test_images_are_small_and_inside(scatter):
    assert "data:image/webp;base64," in scatter
    assert "image/png" not in scatter
    faces = [[np.full((64, 64, 3), 9 * i, np.uint8)] * 6 for i in range(8)]
    assert len(inline_svg(sample_grid(faces), "b", "b")) < 60_000


def test_the_same_figure_gives_the_same_text():
    counts = np.eye(8)
    first, second = (inline_svg(confusion_matrix(counts), "a", "a") for _ in range(2))
    assert first == second


@given(st.recursive(st.text() | st.integers() | st.none(), st.lists))
def test_embedded_json_is_safe_and_the_same(value):
    text = embed_json({"x": value})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"x": value}


def test_embedded_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON compliant"):
        embed_json([float("nan")])
