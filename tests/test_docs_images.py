"""The pictures of the documentation are made from the current code."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    file = ROOT / "scripts" / "make_docs_images.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_wide_picture_is_made(script: ModuleType, tmp_path: Path) -> None:
    script.main(["--only", "faces", "--small", "--out", str(tmp_path)])
    made, stored = (Image.open(f / "faces.jpg") for f in (tmp_path, ROOT / "docs" / "images"))
    assert made.width / made.height > 2.5
    # The stored one is of the current code: the same picture, at another size.
    small = [np.asarray(image.convert("L").resize((64, 20)), float) for image in (made, stored)]
    assert np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1] > 0.95


def test_the_badges_say_what_the_package_says(script: ModuleType, tmp_path: Path) -> None:
    script.main(["--only", "badges", "--out", str(tmp_path)])
    made, stored = (f / "badges.svg" for f in (tmp_path, ROOT / "docs" / "images"))
    assert made.read_text(encoding="utf-8") == stored.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_film_is_made(script: ModuleType, tmp_path: Path) -> None:
    script.main(["--only", "film", "--small", "--out", str(tmp_path)])
    film = Image.open(tmp_path / "film.webp")
    assert film.n_frames == 4


def test_the_stored_film_is_small() -> None:
    file = ROOT / "docs" / "images" / "film.webp"
    assert file.stat().st_size <= 2_000_000
    assert Image.open(file).n_frames >= 20


def test_wrong_names_are_refused(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--only", "faces,portrait"])
    assert "--only portrait: there are badges, faces, film" in capsys.readouterr().err
