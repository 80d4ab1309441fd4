"""The class order is AffectNet's, and the circumplex agrees with the real faces' derivation."""

import pytest

from affectnet.labels import (
    CIRCUMPLEX,
    COLOURS,
    EXPRESSIONS,
    LABEL_COLOURS,
    PROBABILITY_COLUMNS,
    UNKNOWN_COLOUR,
)


def test_order_is_affectnets() -> None:
    assert EXPRESSIONS == (
        "neutral",
        "happiness",
        "sadness",
        "surprise",
        "fear",
        "disgust",
        "anger",
        "contempt",
    )
    assert PROBABILITY_COLUMNS[1] == "p_happiness"


def test_every_expression_has_a_colour_and_a_place() -> None:
    assert list(COLOURS) == list(CIRCUMPLEX) == list(EXPRESSIONS)
    assert len(set(COLOURS.values())) == len(EXPRESSIONS)
    assert all(-1 <= v <= 1 and -1 <= a <= 1 for v, a in CIRCUMPLEX.values())


@pytest.mark.parametrize("colour", [*LABEL_COLOURS.values(), UNKNOWN_COLOUR])
def test_white_text_on_a_label_is_legible(colour: str) -> None:
    """WCAG 2.2, success criterion 1.4.3: relative luminance and contrast of at least 4.5:1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    luminance = sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    assert 1.05 / (luminance + 0.05) >= 4.5
    assert list(LABEL_COLOURS) == list(EXPRESSIONS)
