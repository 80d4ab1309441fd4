"""Scores by the values of a column."""

import numpy as np
import pytest

from affectnet.errors import ConfigError
from affectnet.evaluation import evaluate
from affectnet.evaluation.slices import slice_masks


@pytest.fixture(scope="module")
def faces(make_faces):
    return make_faces(400, seed=41)


def test_each_slice_scores_as_its_faces_alone(faces):
    group = np.where(np.arange(400) % 4 == 0, "rare", "common")
    p = faces.probabilities.copy()
    p[group == "rare"] = np.roll(p[group == "rare"], 1, axis=1)
    preds = faces.predictions() | {"probabilities": p}
    found = evaluate(faces.truth(), preds, resamples=50, slices={"group": group})
    block = found["slices"]["group"]
    assert [(part["slice"], part["n"]) for part in block["slices"]] == [
        ("common", 300),
        ("rare", 100),
    ]
    rare = group == "rare"
    alone = evaluate(
        {name: values[rare] for name, values in faces.truth().items()},
        {name: values[rare] for name, values in preds.items()},
        resamples=50,
    )
    part = block["slices"][1]
    assert part["expression"]["accuracy"] == alone["expression"]["accuracy"]
    assert part["valence"]["ccc"] == alone["valence"]["ccc"]
    assert block["worst"]["slice"] == "rare"
    assert block["worst"]["by"] == "accuracy"
    assert "Worst slice by group: rare (100 faces)" in found.table()


def test_the_worst_slice_has_a_minimum_size(faces):
    group = np.array(["many"] * 395 + ["five"] * 5)
    p = np.eye(8)[faces.expression] * 0.9 + 0.0125
    p[395:] = np.roll(p[395:], 1, axis=1)
    found = evaluate(faces.truth(), {"probabilities": p}, resamples=0, slices={"g": group})
    assert found["slices"]["g"]["slices"][0]["expression"]["accuracy"]["value"] == 0.0
    assert found["slices"]["g"]["worst"]["slice"] == "many"


def test_without_expression_the_worst_is_by_ccc(faces):
    half = np.arange(400) < 200
    valence = np.where(half, faces.valence_pred, -faces.valence_pred)
    found = evaluate(
        {"valence": faces.valence}, {"valence_pred": valence}, resamples=0, slices={"half": half}
    )
    assert found["slices"]["half"]["worst"]["slice"] == "False"
    assert found["slices"]["half"]["worst"]["by"] == "mean CCC"


def test_columns_of_the_truth_by_name(faces):
    truth = faces.truth() | {"subset": np.arange(400) % 3}
    found = evaluate(truth, faces.predictions(), resamples=0, slices=["subset"])
    assert [part["slice"] for part in found["slices"]["subset"]["slices"]] == ["0", "1", "2"]
    with pytest.raises(ConfigError, match="did you mean 'subset'"):
        evaluate(truth, faces.predictions(), resamples=0, slices=["subse"])


def test_many_numbers_are_split_into_quarters():
    values = np.append(np.arange(100.0), np.nan)
    masks = slice_masks("age", values)
    assert [int(mask.sum()) for mask in masks.values()] == [25, 25, 25, 25, 1]
    assert list(masks)[-1] == "(missing)"
    assert sum(masks.values()).tolist() == [1] * 101


def test_many_equal_numbers_make_fewer_slices():
    values = np.concatenate([np.zeros(60), np.linspace(1, 2, 40)])
    masks = slice_masks("x", values)
    assert sum(masks.values()).tolist() == [1] * 100
    assert all(mask.any() for mask in masks.values())


def test_text_with_missing_values():
    masks = slice_masks("pose", np.array(["left", None, "right", "left", ""], object))
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "left": [True, False, False, True, False],
        "right": [False, False, True, False, False],
        "(missing)": [False, True, False, False, True],
    }


def test_a_different_word_for_every_face_is_refused(faces):
    names = np.array([f"file{i}.jpg" for i in range(400)])
    with pytest.raises(ConfigError, match="400 different values"):
        evaluate(faces.truth(), faces.predictions(), resamples=0, slices={"file": names})
    with pytest.raises(ConfigError, match="3 values for 400 faces"):
        evaluate(faces.truth(), faces.predictions(), resamples=0, slices={"file": names[:3]})
