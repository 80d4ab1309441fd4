"""Predictions of a split: rows in order, mirror images, temperature, fewer classes."""

import numpy as np
import pytest
import torch

from affectnet.data.images import decode_image
from affectnet.data.store import open_split
from affectnet.errors import DataError
from affectnet.evaluation.metrics import surprise
from affectnet.evaluation.prediction_files import predictions_of, truth_of
from affectnet.labels import EXPRESSIONS
from affectnet.models.affect_model import AffectModel
from affectnet.training.prediction import calibrate, predict_split

SETTINGS = {"batch_size": 20, "workers": 0, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AffectModel("resnet10t", image_size=32).eval()


def direct(model, data, flip=False):
    """Probabilities, valence and arousal of the test split, computed from the images."""
    split, facts = open_split(data, "test"), model.preprocessing
    rows = range(len(split))
    pixels = np.stack(
        [decode_image(split.image_bytes(row), 32, facts.interpolation) for row in rows]
    )
    images = torch.from_numpy(pixels / 255).float()
    images = (images - torch.tensor(facts.mean)) / torch.tensor(facts.std)
    images = images.permute(0, 3, 1, 2)
    with torch.no_grad():
        output = model(images.flip(-1) if flip else images)
    columns = [output.logits.softmax(dim=1), output.valence[:, None], output.arousal[:, None]]
    return torch.cat(columns, dim=1).double().numpy()


def columns(table):
    preds = predictions_of(table)
    return np.column_stack([preds.probabilities, preds.valence, preds.arousal])


def test_rows_and_truth_are_those_of_the_split(model, drawn):
    table = predict_split(model, drawn, **SETTINGS)
    split, truth = open_split(drawn, "test"), truth_of(table)
    assert truth.ids == split.ids
    assert (truth.expression == split.expression).all()
    assert (truth.valence == split.valence).all()
    assert columns(table) == pytest.approx(direct(model, drawn), abs=1e-4)


def test_the_mean_with_the_mirror_image(model, drawn):
    mean = (direct(model, drawn) + direct(model, drawn, flip=True)) / 2
    assert columns(predict_split(model, drawn, flip=True, **SETTINGS)) == pytest.approx(
        mean, abs=1e-4
    )
    # The hook is removed: later predictions are of the faces as they are.
    assert columns(predict_split(model, drawn, **SETTINGS)) == pytest.approx(
        direct(model, drawn), abs=1e-4
    )


def test_a_temperature_is_fitted_and_used(drawn):
    torch.manual_seed(1)
    model = AffectModel("resnet10t", image_size=32).eval()
    with torch.no_grad():
        model.heads.expression.weight *= 40
    before = predict_split(model, drawn, "val", **SETTINGS)
    temperature, ece_before, ece_after = calibrate(model, drawn, "val", scored="val", **SETTINGS)
    after = predict_split(model, drawn, "val", **SETTINGS)
    truth = truth_of(before).expression
    losses = [surprise(truth, predictions_of(t).probabilities).mean() for t in (before, after)]
    assert model.temperature == temperature > 1
    assert losses[1] < losses[0]
    assert ece_after < ece_before
    assert before.column("expression_pred") == after.column("expression_pred")


def test_a_model_of_fewer_classes(drawn):
    torch.manual_seed(0)
    model = AffectModel("resnet10t", image_size=32, classes=EXPRESSIONS[:7]).eval()
    table = predict_split(model, drawn, **SETTINGS)
    assert predictions_of(table).uncovered == ("contempt",)
    assert calibrate(model, drawn, "val", **SETTINGS).temperature > 0


def test_no_such_split(model, drawn):
    with pytest.raises(DataError, match="has no split 'tset'"):
        predict_split(model, drawn, "tset", **SETTINGS)
