"""A planted offset is removed, and what cannot have a baseline is refused or missing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from affectnet.commands.predict import predict
from affectnet.config import PredictConfig
from affectnet.data.crop import Box
from affectnet.errors import ConfigError
from affectnet.inference.baseline import Baseline, compared
from affectnet.inference.predictor import Predictor
from affectnet.inference.quality import Quality
from affectnet.inference.results import FaceResult, PictureResult
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS

OFFSET = np.array([0, 0, 3.0, 0, 1.0, 0, 0, -0.5])


def faces(shown: Sequence[str], offset: np.ndarray = OFFSET * 0, affect=(0.0, 0.0)):
    """Frames of one person with noise, whose logits, valence and arousal have an offset."""
    rng = np.random.default_rng(1)
    for n, name in enumerate(shown):
        logits = 3.0 * (np.array(EXPRESSIONS) == name) + rng.normal(0, 0.2, 8) + offset
        shares = np.exp(logits) / np.exp(logits).sum()
        valence, arousal = np.array(CIRCUMPLEX[name]) * 0.7 + affect
        one = FaceResult(
            Box(0, 0, 50, 50), None, 0.9, EXPRESSIONS, tuple(shares), valence, arousal, 1
        )
        one = replace(one, quality=Quality(50, 0.5, 1.0))
        yield PictureResult("f", 90, 90, (one,), frame=n, time=n * 0.04), n


SHOWN = ["neutral"] * 60 + ["happiness"] * 60 + ["neutral"] * 20 + ["anger"] * 60


@pytest.mark.parametrize("setting", ["2", 2.0, "auto"])
def test_a_planted_offset_is_removed(predictor: Predictor, setting: str | float) -> None:
    plain, planted = (
        [r.faces[0].relative for r, _ in compared(given, Baseline(setting, predictor))]
        for given in (faces(SHOWN), faces(SHOWN, OFFSET, (-0.2, 0.1)))
    )
    raw = [r.faces[0].expression for r, _ in faces(SHOWN, OFFSET)]
    assert np.mean([one == true for one, true in zip(raw, SHOWN, strict=True)]) < 0.7
    right = [one.expression == true for one, true in zip(planted, SHOWN, strict=True)]
    assert np.mean(right) > 0.97
    for one, other, true in zip(plain, planted, SHOWN, strict=True):
        np.testing.assert_allclose(other.probabilities, one.probabilities, atol=0.06)
        np.testing.assert_allclose(
            np.subtract(other.log_ratios, other.log_ratios[0]),
            np.subtract(one.log_ratios, one.log_ratios[0]),
            atol=0.3,
        )
        assert other.valence == pytest.approx(0.7 * CIRCUMPLEX[true][0], abs=1e-6)
        assert other.arousal == pytest.approx(0.7 * CIRCUMPLEX[true][1], abs=1e-6)


def test_the_order_and_what_comes_with_results_stay(predictor: Predictor) -> None:
    given = list(faces(SHOWN))
    made = list(compared(given, Baseline("auto", predictor)))
    assert [n for _, n in made] == list(range(len(SHOWN)))
    assert [replace(r.faces[0], relative=None) for r, _ in made] == [r.faces[0] for r, _ in given]


def test_faces_that_are_not_usable_or_too_few_give_no_baseline(predictor: Predictor) -> None:
    def small(results):
        for result, n in results:
            one = replace(result.faces[0], quality=Quality(10, 0.5, 1.0))
            yield replace(result, faces=(one,)), n

    for given in (small(faces(SHOWN)), list(faces(SHOWN))[:3]):
        made = compared(given, Baseline("auto", predictor))
        assert all(result.faces[0].relative is None for result, _ in made)


def test_pictures_of_the_neutral_face(predictor: Predictor, photo_file: Path) -> None:
    (neutral,) = predictor.predict(photo_file).faces
    for setting in (photo_file, f"1={photo_file}"):
        baseline = Baseline(setting, predictor)
        assert not baseline.waits
        (result, _), *_ = compared(faces(["anger"]), baseline)
        relative = result.faces[0].relative
        assert relative is not None
        assert relative.valence == pytest.approx(result.faces[0].valence - neutral.valence)
    ((result, _),) = compared(faces(["anger"]), Baseline(f"2={photo_file}", predictor))
    assert result.faces[0].relative is None
    for wrong, message in (
        ("0", "above 0"),
        ("calm", "a number of seconds, auto"),
        ("1=none.jpg", "no file none.jpg"),
        (f"²={photo_file}", "a number of seconds, auto"),
    ):
        with pytest.raises(ConfigError, match=message):
            Baseline(wrong, predictor)


def test_from_the_command_line(walk: Path, tmp_path: Path, capsys) -> None:
    import pandas as pd

    config = PredictConfig(
        (str(walk),),
        out=tmp_path / "r.csv",
        summary=tmp_path / "s.csv",
        report=tmp_path / "film.html",
        baseline="auto",
        device="cpu",
    )
    assert predict(config) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    for name in ("r.csv", "s.csv", "s_episodes.csv", "film.html"):
        assert str(tmp_path / name) in last
    rows = pd.read_csv(tmp_path / "r.csv")
    seen = rows[rows["status"] == "ok"]
    assert seen["relative_valence"].notna().all()
    assert set(seen["face"]) == {1}
    (person,) = pd.read_csv(tmp_path / "s.csv").to_dict("records")
    assert person["frames"] == 16
    assert person["baseline"] == "the calmest tenth of each person's faces"
    assert person["valence_mean"] == pytest.approx(seen["relative_valence"].mean(), abs=0.02)
    text = (tmp_path / "film.html").read_text()
    assert "://" not in text.replace("http://www.w3.org", "")
    with pytest.raises(ConfigError, match="give a picture"):
        predict(PredictConfig(("0",), baseline="auto"))
