"""How results show themselves, at a prompt and in a notebook."""

import base64
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from affectnet.data.crop import Box
from affectnet.inference.results import FaceResult, PictureResult, Results
from affectnet.labels import EXPRESSIONS


def face(expression: str, **changes: object) -> FaceResult:
    shares = tuple(0.93 if name == expression else 0.01 for name in EXPRESSIONS)
    found = FaceResult(Box(88.4, 66.6, 90.0, 112.0), None, 0.9, EXPRESSIONS, shares, 0.5, -0.25)
    return replace(found, **changes)


HAPPY = face("happiness")


def test_a_face_is_one_line() -> None:
    assert repr(HAPPY) == (
        "<FaceResult happiness 93%, valence +0.50, arousal -0.25, 90 x 112 px at 88, 67>"
    )
    assert "person 3" in repr(replace(HAPPY, track=3))
    unknown = replace(HAPPY, probabilities=(float("nan"),) * 8, valence=float("nan"))
    assert repr(unknown) == "<FaceResult arousal -0.25, 90 x 112 px at 88, 67>"


def test_an_image_is_one_line() -> None:
    several = (HAPPY, face("anger"), *[HAPPY] * 5)
    assert repr(PictureResult("photos/a.jpg", 640, 480, several)) == (
        "<PictureResult a.jpg, 640 x 480, 7 faces: happiness 93%, anger 93%, happiness 93%, "
        "happiness 93%, happiness 93%, 2 more>"
    )
    assert repr(PictureResult(None, 8, 9)) == "<PictureResult pixels, 8 x 9, 0 faces>"
    assert repr(PictureResult("f.mp4", 8, 9, frame=12, time=0.48)) == (
        "<PictureResult f.mp4 at 0.48 s, 8 x 9, 0 faces>"
    )
    assert repr(PictureResult("a.jpg", None, None, reason="it is empty")) == (
        "<PictureResult a.jpg, unreadable: it is empty>"
    )


def test_many_images_are_a_few_lines() -> None:
    lines = repr(Results([PictureResult("a.jpg", 8, 9, (HAPPY,))] * 1000)).splitlines()
    assert lines[0] == "<Results 1,000 images, 1,000 faces"
    assert len(lines) == 7
    assert lines[-1] == "  and 995 more>"
    assert repr(Results()) == "<Results 0 images, 0 faces>"


def test_a_notebook_shows_the_image_with_its_faces(photo_file: Path, tmp_path: Path) -> None:
    file = shutil.copy(photo_file, tmp_path / "<b>&.jpg")
    result = PictureResult(str(file), 280, 330, (HAPPY,))
    page = result._repr_html_()
    assert "<b>&.jpg" not in page
    assert "&lt;b&gt;&amp;.jpg, 280 x 330, 1 face" in page
    assert (
        "<td>happiness 93%</td><td>+0.50</td><td>-0.25</td><td>90 x 112 px at 88, 67</td>" in page
    )
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), float)
    plain = np.asarray(Image.open(photo_file), float)
    assert shown.shape == plain.shape
    changed = np.abs(shown - plain).max(axis=2) > 60
    assert changed[60:185, 80:185].mean() > 0.03  # the box
    assert changed[250:, :60].mean() < 0.01
    # The file may be gone, and pixels are not kept: the table alone.
    Path(file).unlink()
    for without in (result, PictureResult(None, 280, 330, (HAPPY,))):
        assert "<img" not in without._repr_html_()
        assert "happiness 93%" in without._repr_html_()
    assert "<table" not in PictureResult(None, 8, 9)._repr_html_()
    assert "happiness" in HAPPY._repr_html_()
    assert "and 3 more" in Results([PictureResult(None, 8, 9)] * 8)._repr_html_()


@pytest.mark.parametrize("faces", [(), (HAPPY,)])
def test_an_unreadable_file_has_no_image(faces: tuple[FaceResult, ...], tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no image")
    result = PictureResult(str(tmp_path / "x.jpg"), 8, 9, faces)
    assert "<img" not in result._repr_html_()
