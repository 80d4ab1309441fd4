"""The three formats of a report, and when files are replaced."""

import re
from pathlib import Path

import pypdf
import pytest

from affectnet.errors import ConfigError, RunError
from affectnet.report import read_runs, write_report
from affectnet.report.contents import chapters_of, contents_of
from affectnet.report.run_figures import RunFigure
from affectnet.report.tables import Table


@pytest.fixture(scope="module")
def pdf(two_runs, tmp_path_factory) -> pypdf.PdfReader:
    out = write_report(two_runs[:1], tmp_path_factory.mktemp("pdf") / "report.pdf")
    return pypdf.PdfReader(out)


@pytest.fixture(scope="module")
def markdown(two_runs, tmp_path_factory) -> Path:
    return write_report(two_runs, tmp_path_factory.mktemp("md") / "my report.md")


def score(two_runs, *keys: str) -> dict[str, float]:
    known = read_runs(two_runs, "test")[0].metrics
    for key in keys:
        known = known[key]
    return known


def test_the_text_of_the_pdf_can_be_selected(pdf, two_runs) -> None:
    texts = [page.extract_text() for page in pdf.pages]
    assert len(texts) > 8
    whole = "\n".join(texts)
    accuracy = score(two_runs, "expression", "accuracy")
    assert f"{accuracy['value']:.3f}" in whole
    assert f"{accuracy['low']:.3f} to {accuracy['high']:.3f}" in whole
    assert f"{score(two_runs, 'arousal', 'ccc')['value']:.3f}" in whole
    for text in ("Cohen's κ", "majority class", "always neutral", "1 / ", "Findings of the audit"):
        assert text in whole
    assert pdf.metadata.title == "good: affectnet report"
    outline = [entry.title for entry in pdf.outline]
    assert outline[:4] == ["good", "Scores", "good", "Training"]
    for page in pdf.pages:
        assert (float(page.mediabox.width) / 72, float(page.mediabox.height) / 72) == pytest.approx(
            (8.27, 11.69), abs=0.01
        )


def test_the_pdf_has_every_figure_and_its_text(pdf, two_runs) -> None:
    whole = " ".join(" ".join(page.extract_text().split()) for page in pdf.pages)
    chapters = chapters_of(contents_of(read_runs(two_runs[:1], "test")))
    figures = [b for chapter in chapters for b in chapter.blocks if isinstance(b, RunFigure)]
    assert len(figures) >= 10 + 4
    for figure in figures:
        assert figure.title in whole
    # Text inside figures can be selected too.
    assert "false positive rate" in whole
    assert "predicted expression" in whole


def test_all_text_of_the_pdf_is_inside_its_page(pdf) -> None:
    for page in pdf.pages:
        places: list[tuple[float, float]] = []

        def visit(text, _, matrix, *fonts, places=places) -> None:  # noqa: ARG001
            if text.strip():
                places.append((matrix[4], matrix[5]))

        page.extract_text(visitor_text=visit)
        assert all(0 <= x <= 595.5 and 0 <= y <= 842 for x, y in places)


def test_the_markdown_and_its_figures(markdown, two_runs) -> None:
    text = markdown.read_text(encoding="utf-8")
    assert text.startswith("# good and poor\n")
    shown = re.findall(r"!\[([^\]]+)\]\(([^)\s]+)\)", text)
    assert len(shown) >= 2 * 10 + 4
    assert all(len(alt) > 20 for alt, _ in shown)
    folder = markdown.with_name("my report_figures")
    linked = [markdown.parent / path.replace("%20", " ") for _, path in shown]
    assert sorted(linked) == sorted(folder.iterdir())
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in linked)
    value = score(two_runs, "expression", "accuracy")
    assert f"{value['value']:.3f} ★ ({value['low']:.3f} to {value['high']:.3f})" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1


def test_every_format_has_the_same_scores(two_runs, pdf, markdown, report) -> None:
    whole = "\n".join(page.extract_text() for page in pdf.pages)
    page, text = report.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")
    chapters = chapters_of(contents_of(read_runs(two_runs, "test"), explain=False))
    (scores,) = [chapter for chapter in chapters if chapter.title == "Scores"]
    tables = [block for block in scores.blocks if isinstance(block, Table)][:4]
    values = {cell.text for table in tables for row in table.rows for cell in row.cells} - {"–"}
    assert len(values) > 30
    own = {cell.text for table in tables for cell in table.rows[0].cells}
    assert all(value in whole for value in own)
    assert all(
        "good was trained on 800 faces" in " ".join(one.split()) for one in (whole, page, text)
    )
    for value in values:
        assert value in page
        assert value in text


@pytest.mark.parametrize("name", ["report.pdf", "report.md"])
def test_files_are_replaced_only_with_overwrite(make_run, tmp_path, name) -> None:
    run = make_run("bare", epochs=0, expression=-1, valence=float("nan"), arousal=float("nan"))
    out = tmp_path / name
    out.write_text("mine")
    with pytest.raises(RunError, match="--overwrite"):
        write_report([run], out)
    assert out.read_text() == "mine"
    if name.endswith("md"):
        out.unlink()
        (tmp_path / "report_figures").mkdir()
        with pytest.raises(RunError, match="report_figures already exists"):
            write_report([run], out)
    write_report([run], out, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} <= {name, "report_figures", "runs"}
    assert out.stat().st_size > 1000


def test_the_format_follows_the_name(two_runs, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"does not end in \.html, \.pdf or \.md"):
        write_report(two_runs, tmp_path / "report.docx")
    with pytest.raises(ConfigError, match="html, pdf, md"):
        write_report(two_runs, tmp_path / "report.pdf", format="docx")
    assert list(tmp_path.iterdir()) == []
