"""The notebook runs from top to bottom on drawn faces."""

import contextlib
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "affectnet.ipynb"


def test_small_outputs_are_stored() -> None:
    assert NOTEBOOK.stat().st_size < 1_500_000
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    outputs = [out for cell in cells if cell.cell_type == "code" for out in cell.outputs]
    images = [out.data["image/png"] for out in outputs if "image/png" in out.get("data", {})]
    assert len(images) >= 20
    assert all(len(image) < 200_000 for image in images)
    assert not any(out.output_type == "error" or out.get("name") == "stderr" for out in outputs)
    assert str(Path.home()) not in NOTEBOOK.read_text(encoding="utf-8")


def installed_package(folder: Path, **settings: object) -> object:
    """What the install cell gives to pip in a folder, where affectnet is missing."""
    (cell,) = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if "%pip" in c.source]
    code = cell.source.replace('%pip install -q "{package}[train]"', "pass")
    code = code.replace('find_spec("affectnet")', 'find_spec("affectnet_that_is_missing")')
    names = {"Path": Path, "AFFECTNET": None, "WORK": folder, "PACKAGE": None} | settings
    with contextlib.chdir(folder):
        exec(code, names)
    return names["package"]


def test_the_install_cell_takes_the_wheel_or_the_checkout(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="upload it, or set PACKAGE"):
        installed_package(tmp_path)
    (tmp_path / "src" / "affectnet").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    assert installed_package(tmp_path / "notebooks") == tmp_path
    wheel = tmp_path / "affectnet-1.0-py3-none-any.whl"
    wheel.touch()
    assert installed_package(tmp_path) == wheel
    assert installed_package(tmp_path, PACKAGE="affectnet==2") == "affectnet==2"


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
    for expected in ("contempt", "epoch 10/10", "accuracy", "against", "report:"):
        assert expected in text
    work = tmp_path / "affectnet-work"
    assert {path.name for path in (work / "runs").iterdir()} >= {"finetuned", "frozen"}
    assert (work / "report.html").stat().st_size > 100_000
    assert "model-index" in (work / "runs/finetuned/model/README.md").read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [work]  # nothing is written elsewhere
