"""The notebook runs from top to bottom on drawn faces."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "affectnet.ipynb"


def test_no_output_is_stored() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_it_contains_little_code() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    lines = [line for cell in cells if cell.cell_type == "code" for line in cell.source.split("\n")]
    assert len(lines) < 150
    assert not any(line.startswith("class ") for line in lines)
    paths = [line for line in lines if line.startswith(("AFFECTNET =", "WORK ="))]
    assert paths[0].startswith("AFFECTNET = None")


def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()  # raises at the first cell that fails, with its traceback

    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    images = [out for out in outputs if "image/png" in out.get("data", {})]
    assert len(images) >= 20
    text = "".join(
        out.get("text", "") + out.get("data", {}).get("text/plain", "") for out in outputs
    )
    for expected in ("contempt", "epoch 6/6", "accuracy", "against", "report:"):
        assert expected in text
    work = tmp_path / "affectnet-work"
    assert {path.name for path in (work / "runs").iterdir()} >= {"cvnet", "resnet10t"}
    assert (work / "report.html").stat().st_size > 100_000
    assert "model-index" in (work / "runs/cvnet/model/README.md").read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [work]  # nothing is written elsewhere
