"""The window of `predict --show`, on a virtual display (Xvfb); skipped where there is none."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from affectnet.data.crop import Box
from affectnet.errors import ConfigError
from affectnet.inference.drawing import annotate
from affectnet.inference.panels import Traces
from affectnet.inference.results import FaceResult, PictureResult
from affectnet.inference.window import Window, check_display
from affectnet.labels import EXPRESSIONS


@pytest.fixture(scope="module")
def display():
    """A virtual display; the variable DISPLAY names it."""
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    if shutil.which("Xvfb") is None:
        pytest.skip("there is no Xvfb; `apt-get install xvfb` installs it")
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "900x800x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        number = pipe.readline().strip()
    before = os.environ.get("DISPLAY")
    os.environ["DISPLAY"] = f":{number}"
    yield f":{number}"
    os.environ.pop("DISPLAY")
    if before is not None:
        os.environ["DISPLAY"] = before
    server.terminate()
    server.wait()


def frame(time: float) -> PictureResult:
    probabilities = tuple(np.eye(8)[1].tolist())
    face = FaceResult(Box(100, 90, 80, 90), None, None, EXPRESSIONS, probabilities, 0.5, 0.1, 1)
    return PictureResult(None, 400, 300, (face,), frame=round(10 * time), time=time)


def screen() -> np.ndarray:
    """What the display shows, RGB."""
    from PIL import ImageGrab

    return np.asarray(ImageGrab.grab(xdisplay=os.environ["DISPLAY"]).convert("RGB"))


@pytest.mark.usefixtures("display")
def test_the_window_shows_what_annotate_draws() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    traces = Traces()
    with Window("camera 0") as window:
        for i in range(4):
            window.show(frame(i / 10), pixels)
            traces.add(frame(i / 10))
        assert window.rate > 0
        expected = annotate(pixels, frame(0.3), traces)
        shown = screen()
        height, width = expected.shape[:2]
        places = np.argwhere((shown[:, :, None] == expected[0, :1]).all(axis=3)[:, :, 0])
        assert any(
            np.array_equal(shown[y : y + height, x : x + width], expected) for y, x in places
        )
        window.close()
        assert window.closed
        window.show(frame(0.5), pixels)  # nothing happens
    assert not (screen()[:, :, None] == expected[0, :1]).all(axis=3).all()


@pytest.mark.usefixtures("display")
def test_predict_shows_a_film(walk, model_dir, capsys) -> None:
    from affectnet.commands.predict import predict
    from affectnet.config import PredictConfig

    assert predict(PredictConfig((str(walk),), model=str(model_dir), show=True)) == 0
    assert "20 frames" in capsys.readouterr().out


@pytest.mark.usefixtures("display")
def test_closing_the_window_ends_the_film(walk, model_dir, tmp_path: Path, monkeypatch) -> None:
    from affectnet.commands.predict import predict
    from affectnet.config import PredictConfig

    show, shown = Window.show, []

    def close_after_five(window: Window, result, pixels) -> None:
        show(window, result, pixels)
        shown.append(result)
        if len(shown) == 5:
            window.close()

    monkeypatch.setattr(Window, "show", close_after_five)
    out = tmp_path / "faces.csv"
    assert predict(PredictConfig((str(walk),), model=str(model_dir), show=True, out=out)) == 0
    assert len(out.read_text().splitlines()) == 6


def test_without_a_display_it_says_what_to_do(monkeypatch, photo_file, model_dir) -> None:
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    from affectnet.commands.predict import predict
    from affectnet.config import PredictConfig

    monkeypatch.setenv("DISPLAY", ":9876")
    with pytest.raises(ConfigError, match=r"needs a display.*affectnet serve"):
        check_display()
    with pytest.raises(ConfigError, match="all inputs are images"):
        predict(PredictConfig((str(photo_file),), model=str(model_dir), show=True))
