"""The class order is AffectNet's, and the circumplex agrees with the real faces' derivation."""

from affectnet.labels import CIRCUMPLEX, COLOURS, EXPRESSIONS, PROBABILITY_COLUMNS


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
