import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet.report.sheets import (
    BOTTOM,
    HEIGHT,
    LEFT,
    WIDTH,
    Sheets,
    lines_of,
    table_rows,
    width_of,
)

WORDS = st.text("abcdefgh λ★−\n", max_size=120)


@given(WORDS, st.floats(0.4, 7.0))
@settings(max_examples=60, deadline=None)
def test_lines_fit_and_lose_nothing(text: str, width: float) -> None:
    lines = lines_of(text, 9, width)
    assert all(width_of(line, 9) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(st.lists(st.lists(WORDS, min_size=3, max_size=3), min_size=2, max_size=5))
@settings(max_examples=30, deadline=None)
def test_a_table_stays_between_the_margins(rows: list[list[str]]) -> None:
    for row in table_rows(rows):
        assert all(x >= 0 and x + width <= WIDTH + 1e-6 for x, width, *_ in row.cells)
        for _, width, _, lines in row.cells:
            assert all(width_of(line, size) <= width + 1e-5 for line, size in lines)
            needed = sum(size for _, size in lines) / 72
            assert row.height >= needed


def test_numbers_stand_on_their_right_edge() -> None:
    head, first = table_rows([["run", "accuracy", "source"], ["a", "0.5\n0.4 to 0.6", "2024, x"]])
    assert [side for *_, side, _ in first.cells] == ["left", "right", "right"]
    assert [side for *_, side, _ in head.cells] == ["left", "right", "right"]
    assert table_rows([["a"], ["–"], ["word"]])[0].cells[0][2] == "left"


def test_pages_turn_before_they_are_full() -> None:
    sheets = Sheets()
    for i in range(200):
        sheets.paragraph(f"sentence {i}", bullet="•", indent=0.2)
    assert len(sheets.pages) > 2
    for sheet in sheets.pages:
        assert all(BOTTOM <= one.y <= HEIGHT for one in sheet.texts)
    said = [one.text for sheet in sheets.pages for one in sheet.texts if one.x > LEFT]
    assert said == [f"sentence {i}" for i in range(200)]
    sheets.make_room(HEIGHT)
    n = len(sheets.pages)
    sheets.make_room(HEIGHT)  # an empty page is not turned again
    assert len(sheets.pages) == n
    assert (
        width_of("wide", 10, "bold")
        > width_of("wide", 10)
        == pytest.approx(2 * width_of("wide", 5), rel=0.02)
    )
