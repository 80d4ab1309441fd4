import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from affectnet.figures import class_distribution, save_figure
from affectnet.figures.style import CLASS_COLOURS, PERSON_COLOURS, known, shades, thin


def test_figures_leave_no_global_state():
    # In another process, for here other tests may have loaded pyplot.
    import subprocess
    import sys

    code = (
        "import sys; from affectnet.figures import class_distribution;"
        "class_distribution({'test': [1] * 8}).draw_without_rendering();"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_style_of_the_user_has_no_effect_and_stays():
    with matplotlib.rc_context({"font.size": 31, "text.color": "red"}):
        figure = class_distribution({"test": [1] * 8})
        assert matplotlib.rcParams["font.size"] == 31
    assert figure.axes[0].texts[0].get_fontsize() == 7.5
    assert figure.axes[0].yaxis.get_ticklabels()[0].get_fontsize() == 8


@pytest.mark.parametrize(
    ("kind", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?x")]
)
def test_saving_for_print(tmp_path, kind, start):
    figure = class_distribution({"test": [1] * 8})
    (path,) = save_figure(figure, tmp_path, "classes", (kind,))
    assert path == tmp_path / f"classes.{kind}"
    assert path.read_bytes().startswith(start)
    if kind == "png":
        with Image.open(path) as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    figure = class_distribution({"test": [1] * 8})
    for kind in ("png", "pdf", "svg"):
        (first,) = save_figure(figure, tmp_path, "a", (kind,))
        (second,) = save_figure(figure, tmp_path, "b", (kind,))
        assert first.read_bytes() == second.read_bytes()


def test_known_and_thin():
    assert known(np.array([1, np.nan, 3]), np.array([1, 2, np.inf])).tolist() == [
        True,
        False,
        False,
    ]
    assert thin(3, 5).tolist() == [0, 1, 2]
    rows = thin(1000, 50)
    assert len(set(rows.tolist())) == 50
    assert (np.diff(rows) > 0).all()


def test_shades_start_clear():
    assert shades()(0.0)[3] == 0
    assert shades()(1.0)[3] == 1


def test_persons_are_told_apart_from_each_other_and_from_expressions():
    def lab(colours):
        rgb = np.array([[to_rgb(colour) for colour in colours]], np.float32)
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)[0]

    persons, classes = lab(PERSON_COLOURS), lab(CLASS_COLOURS)
    assert np.linalg.norm(persons[:, None] - classes, axis=2).min() >= 40
    apart = np.linalg.norm(persons[:, None] - persons, axis=2)
    assert apart[np.triu_indices(len(persons), 1)].min() >= 40
