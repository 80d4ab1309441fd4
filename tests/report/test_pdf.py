"""Layout of the PDF: long tables, wide ones, and text that needs escaping or breaking."""

from dataclasses import replace
from pathlib import Path

import pypdf
import pytest

from affectnet.report.contents import Contents, contents_of
from affectnet.report.pdf import write_pdf
from affectnet.report.runs import read_runs
from affectnet.report.tables import text_table


@pytest.fixture(scope="module")
def contents(two_runs) -> Contents:
    """A report without figures."""
    whole = contents_of(read_runs(two_runs, "test"), explain=False)
    unavailable = replace(whole.history, missing="not needed here")
    return replace(whole, drawn=[], data_figures=[], history=unavailable)


def pages_of(contents: Contents, out: Path) -> list[str]:
    return [page.extract_text() for page in pypdf.PdfReader(write_pdf(contents, out)).pages]


def test_headings_of_a_long_table_are_repeated(contents: Contents, tmp_path: Path) -> None:
    rows = [[f"setting {i}", f"value {i}"] for i in range(120)]
    table = text_table("Long", ["name of it", "value of it"], rows)
    pages = pages_of(replace(contents, settings=table), tmp_path / "long.pdf")
    with_rows = [page for page in pages if "setting " in page and "value " in page]
    assert len(with_rows) >= 3
    assert all("name of it" in page for page in with_rows)
    whole = "\n".join(pages)
    assert all(f"setting {i}" in whole and f"value {i}" in whole for i in range(120))


def test_any_text_is_printed_inside_the_page(contents: Contents, tmp_path: Path) -> None:
    names = ["**bold** __under__ --x--", "λ ★ − κ", "<b>&amp;", "x" * 400]
    table = text_table("Text", ["name", *"abc"], [[name, name, "", name] for name in names])
    out = tmp_path / "text.pdf"
    whole = "".join("".join(pages_of(replace(contents, settings=table), out)).split())
    for name in names:
        assert whole.count("".join(name.split())) >= (3 if len(name) < 100 else 0)
    assert whole.count("x") >= 3 * 400
    for page in pypdf.PdfReader(out).pages:
        places: list[float] = []

        def visit(text, _, matrix, *fonts, places=places) -> None:  # noqa: ARG001
            if text.strip():
                places.append(matrix[4])

        page.extract_text(visitor_text=visit)
        assert all(0 <= x <= 595.5 for x in places)


def test_the_same_contents_give_the_same_bytes(contents: Contents, tmp_path: Path) -> None:
    first, second = (write_pdf(contents, tmp_path / f"{i}.pdf").read_bytes() for i in range(2))
    assert first == second
