"""What `predict` prints on the terminal: the first rows of each file, and a line on all."""

import pytest

from affectnet.inference.results import PictureResult
from affectnet.inference.terminal_summary import TerminalSummary


def test_a_film_leaves_room_for_the_files_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    summary = TerminalSummary(show=True)
    for i in range(100):
        summary.add(PictureResult("long.mp4", 64, 64, frame=i, time=i / 25))
    summary.add(PictureResult("photo.jpg", 64, 64))
    summary.print([])
    lines = capsys.readouterr().out.splitlines()
    assert sum("long.mp4" in line for line in lines) == 8
    assert any("photo.jpg" in line for line in lines)
    assert "and 92 more; --out FILE writes all of them" in lines
    assert lines[-1].startswith("1 image and 100 frames: 0 faces, 101 without a face; ")
