import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from affectnet.cli import main
from affectnet.commands.report import report
from affectnet.config import ReportConfig
from affectnet.data.store import open_split
from affectnet.evaluation import evaluate, predictions_table, write_predictions
from affectnet.labels import EXPRESSIONS


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that holds an evaluation of ten faces and nothing else."""
    rng = np.random.default_rng(0)
    truth, values = rng.integers(0, 8, 10), rng.uniform(-1, 1, (4, 10))
    ids = [str(i) for i in range(10)]
    probabilities = rng.dirichlet(np.ones(8), 10)
    table = predictions_table(ids, truth, *values[:2], probabilities, *values[2:])
    place = tmp_path / "runs" / "ten" / "evaluation" / "test"
    place.mkdir(parents=True)
    write_predictions(table, place / "predictions.parquet")
    evaluate(table, table, resamples=0).write(place / "metrics.json")
    return tmp_path / "runs" / "ten"


def test_report_writes_the_page_and_prints_its_path(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert report(ReportConfig(runs=(run,), out=out)) == out
    output = capsys.readouterr().out
    assert str(out) in output
    assert "MB" in output
    page = out.read_text(encoding="utf-8")
    assert "<h1>ten</h1>" in page
    assert "of 10 faces" in page
    assert main(["report", str(run), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == page


def test_errors_are_one_line(run, tmp_path, capsys):
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    out = tmp_path / "page.html"
    for args, message in (
        ([str(fresh)], "affectnet evaluate"),
        ([str(run), "--split", "val"], "it has test"),
        ([str(tmp_path / "nowhere")], "no run folder"),
        ([str(run), str(run)], "given twice"),
    ):
        assert main(["report", *args, "--out", str(out)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert message in err
        assert not out.exists()


def test_the_format_follows_the_name_or_the_flag(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run), "--format", "md", "--no-explain"]) == 0
    assert "report: report.md" in capsys.readouterr().out
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# ten")
    assert list((tmp_path / "report_figures").glob("*.png"))
    assert main(["report", str(run), "--out", "Ten.PDF"]) == 0
    assert (tmp_path / "Ten.PDF").read_bytes().startswith(b"%PDF")
    for args, message in (
        (["--out", "a.html", "--format", "pdf"], "another format"),
        (["--out", "a.txt"], "does not end in .html, .pdf or .md"),
    ):
        assert main(["report", str(run), *args]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert message in err
    assert main(["report", str(run), "--out", "page", "--format", "html"]) == 0
    assert "<h1>ten</h1>" in (tmp_path / "page").read_text(encoding="utf-8")


def test_predictions_are_reported_next_to_a_run(run, drawn, tmp_path, capsys):
    """They are scored as `evaluate` does, and the dataset of their truth shows the faces."""
    split = open_split(drawn, "test")
    labels = [EXPRESSIONS[(c + i % 2) % 8] for i, c in enumerate(split.expression)]
    theirs = pa.table({"image": [f"{name}.jpg" for name in split.ids], "label": labels})
    pa.csv.write_csv(theirs, tmp_path / "theirs.csv")
    given = [str(run), "--predictions", str(tmp_path / "theirs.csv"), "--truth", str(drawn)]
    out = tmp_path / "page.html"
    assert main(["report", *given, "--out", str(out)]) == 2
    columns = "--columns id=image,expression_pred=label"
    assert columns in capsys.readouterr().err
    assert main(["report", *given, *columns.split(), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("report: ")
    page = out.read_text(encoding="utf-8")
    assert "<h1>ten and theirs</h1>" in page
    assert "48 faces." in page
    assert "compared without endings" in page
    assert re.search(r'"faces": ?\[\{?"', page)
    assert main(["report", "--out", str(tmp_path / "none.html")]) == 2
    assert "--predictions FILE" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["page.html", "page.md"])
def test_an_existing_report_is_refused_before_the_predictions_are_read(name, tmp_path, capsys):
    out = tmp_path / name
    (tmp_path / "page_figures" if name.endswith(".md") else out).mkdir()
    given = ["--predictions", str(tmp_path / "absent.csv"), "--truth", str(tmp_path)]
    assert main(["report", *given, "--out", str(out)]) == 2
    assert "already exists; choose another --out" in capsys.readouterr().err
