"""The leaderboard: mean and spread, the best marked, failures listed, no network access."""

import csv
import io
import re
import statistics
from pathlib import Path

import pytest

from affectnet.report.leaderboard import (
    Entry,
    cost_table,
    leaderboard_csv,
    leaderboard_html,
    leaderboard_md,
    score_table,
    write_leaderboard,
)
from affectnet.report.tables import CATEGORICAL, CONTINUOUS


def scores(accuracy: float, rmse: float) -> dict:
    metric = {"value": rmse, "low": rmse - 0.1, "high": rmse + 0.1}
    affect = dict.fromkeys(("rmse", "corr", "sagr", "ccc"), metric)
    expression = {keys[-1]: {"value": accuracy} for keys in CATEGORICAL}
    return {"n": 10, "expression": expression, "valence": affect, "arousal": affect}


ENTRIES = [
    Entry(
        "cvnet",
        {0: scores(0.5, 0.4), 1: scores(0.6, 0.3), 2: scores(0.55, 0.35)},
        {"parameters": 1.5e6, "multiply_adds": 1.29e8, "images_per_second": 123.4},
    ),
    Entry("vgg19", {0: scores(0.7, 0.5)}, {"parameters": 1.4e8, "peak_memory": 2.5e9}, {1: "out"}),
    Entry("<b>", failed={0: "train: out of memory"}, waiting=[1]),
]


def test_mean_and_spread_over_the_seeds() -> None:
    table = score_table("Expression", ENTRIES, CATEGORICAL)
    assert [row.name for row in table.rows] == ["cvnet", "vgg19"]
    cell = table.rows[0].cells[0]
    assert cell.value == statistics.fmean([0.5, 0.6, 0.55])
    spread = statistics.stdev([0.5, 0.6, 0.55])
    assert cell.interval == f"± {spread:.3f}" == "± 0.050"
    assert table.rows[1].cells[0].interval == ""  # nothing was resampled
    assert [row.cells[0].best for row in table.rows] == [False, True]
    affect = score_table("Affect", ENTRIES, CONTINUOUS)
    assert [row.cells[0].best for row in affect.rows] == [True, False]  # RMSE: less is better
    assert [row.cells[0].interval for row in affect.rows] == ["± 0.050", "[0.400, 0.600]"]


def test_costs_in_their_units() -> None:
    row = cost_table(ENTRIES).rows[0]
    assert [cell.text for cell in row.cells] == ["1.50", "0.13", "123.4", "–"]


def test_csv_has_one_row_per_backbone() -> None:
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(ENTRIES))))
    assert [row["backbone"] for row in rows] == ["cvnet", "vgg19", "<b>"]
    assert float(rows[0]["expression_accuracy_mean"]) == 0.55
    assert float(rows[0]["expression_accuracy_std"]) == pytest.approx(0.05)
    assert rows[1]["expression_accuracy_std"] == ""
    assert [rows[0][f"valence_rmse_{end}"] for end in ("low", "high")] == ["", ""]
    assert [rows[1][f"valence_rmse_{end}"] for end in ("low", "high")] == ["0.4", "0.6"]
    assert rows[2]["failed"] == "seed 0: train: out of memory"
    assert rows[2]["waiting"] == "1"


def test_the_page_lists_failures_and_fetches_nothing(tmp_path: Path) -> None:
    page = leaderboard_html(ENTRIES, "Benchmark", {"epochs": 1})
    assert "&lt;b&gt;, seed 0: train: out of memory" in page
    assert "<b>, seed" not in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    text = leaderboard_md(ENTRIES, "Benchmark", {"epochs": 1})
    assert "0.550 ± 0.050" in text
    write_leaderboard(tmp_path, ENTRIES, "Benchmark", {})
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".csv", ".html", ".md"]


def test_an_empty_leaderboard_says_so() -> None:
    assert "No model is scored yet" in leaderboard_html([Entry("cvnet")], "Benchmark", {})
