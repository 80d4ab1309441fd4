"""One predictor, every form of image, and the numbers of `affectnet evaluate`."""

import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import affectnet
from affectnet.commands.evaluate import evaluate
from affectnet.commands.ingest import ingest
from affectnet.config import EvaluateConfig, IngestConfig
from affectnet.data.crop import DEFAULT_MARGIN, crop_face
from affectnet.data.images import decode_image, resize
from affectnet.data.readers.engine import FaceRecord, ReadOptions
from affectnet.data.store import open_split
from affectnet.errors import ConfigError, DataError, RunError
from affectnet.inference.onnx_export import export_onnx
from affectnet.inference.predictor import Predictor, load
from affectnet.inference.results import PictureResult, Results
from affectnet.inference.torch_classifier import TorchClassifier
from affectnet.labels import EXPRESSIONS, PROBABILITY_COLUMNS
from affectnet.models.affect_model import AffectModel


def numbers(result: PictureResult) -> np.ndarray:
    return np.array([[*f.probabilities, f.valence, f.arousal, *f.box] for f in result.faces])


def test_the_public_names_come_without_torch() -> None:
    code = "import sys, affectnet; assert 'torch' not in sys.modules; affectnet.load, affectnet.nix"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "has no attribute 'nix'" in result.stderr
    assert affectnet.load is load


@pytest.mark.parametrize("flip", [False, True])
def test_crops_get_the_numbers_of_evaluate(
    flip: bool, drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    evaluate(
        EvaluateConfig(runs=(model_dir,), data=drawn, out=tmp_path / "e", resamples=0, flip=flip)
    )
    (file,) = (tmp_path / "e").rglob("predictions.parquet")
    table = pq.read_table(file).to_pandas().set_index("id")
    split = open_split(drawn, "test")
    images = [bytes(split.image_bytes(i)) for i in range(len(split))]
    results = load(model_dir, flip=flip).predict(images, faces="none", batch_size=7)
    assert len(results) == len(split) == 48
    for name, result in zip(split.ids, results, strict=True):
        row, (face,) = table.loc[name], result.faces
        expected = [*row[list(PROBABILITY_COLUMNS)], row["valence_pred"], row["arousal_pred"]]
        given = [*face.probabilities, face.valence, face.arousal]
        np.testing.assert_allclose(given, expected, atol=1e-5)
        assert EXPRESSIONS.index(face.expression) == row["expression_pred"]


def png(pixels: np.ndarray, orientation: int = 1) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored = np.rot90(pixels) if orientation == 6 else pixels
    Image.fromarray(np.ascontiguousarray(stored)).save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(("flip", "prior"), [(False, None), (True, "uniform")])
def test_a_face_has_the_same_numbers_by_every_route(
    flip: bool,
    prior: str | None,
    with_prior: Path,
    exported_with_prior: Path,
    photo: np.ndarray,
    tmp_path: Path,
) -> None:
    """A photo with a box, the face cut out, rows of datasets; PyTorch and ONNX; upright or not."""
    box, size = (88, 63, 112, 112), 48
    face = photo[63:175, 88:200]
    given = {}
    for model in (with_prior, exported_with_prior):
        one = load(model, margin=0.0, flip=flip, prior=prior)
        for orientation in (1, 6):
            of_box = one.predict(png(photo, orientation), boxes=[box])
            given[model.name, "box", orientation] = of_box
            whole = one.predict(png(face, orientation), faces="none")
            given[model.name, "whole", orientation] = whole
    values = {
        name: [*result.faces[0].probabilities, result.faces[0].valence, result.faces[0].arousal]
        for name, result in given.items()
    }
    for i, orientation in enumerate((1, 6)):
        (tmp_path / "faces" / "test" / "anger").mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / "test" / "anger" / f"{i}.png").write_bytes(png(face, orientation))
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "a.png").write_bytes(png(photo, 6))
    columns = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks"
    row = ",".join(map(str, ["a.png", *box, "", 6, 0, 0]))
    (tmp_path / "csv" / "validation.csv").write_text(f"{columns},expression,valence,arousal\n{row}")
    for name, release in (("faces", "folder"), ("csv", "affectnet_csv")):
        out, scores = tmp_path / f"{name}.data", tmp_path / f"{name}.scores"
        source = (tmp_path / name,)
        ingest(IngestConfig(source, out, release=release, margin=0.0, face_size=size))
        settings = {"resamples": 0, "flip": flip, "prior": prior}
        evaluate(EvaluateConfig(runs=(with_prior,), data=out, out=scores, **settings))
        table = pq.read_table(next(scores.rglob("predictions.parquet")))
        columns = [*PROBABILITY_COLUMNS, "valence_pred", "arousal_pred"]
        for row in table.to_pylist():
            values[name, row["id"]] = [row[column] for column in columns]
    assert len(values) == 8 + 2 + 1
    expected = values.pop((with_prior.name, "box", 1))
    stored = values.pop(("csv", "a.png"))  # encoded as a JPEG by ingest
    for name, row in values.items():
        np.testing.assert_allclose(row, expected, atol=2e-5, err_msg=str(name))
    np.testing.assert_allclose(stored, expected, atol=0.03)


@pytest.mark.parametrize("size", [32, 48, 112])
def test_a_box_is_cropped_as_ingest_crops_it(size: int, photo: np.ndarray, tmp_path: Path) -> None:
    """The training reads faces of `face_size` pixels and resizes them to the model's size."""
    box, exact = (88.4, 63.7, 91.3, 113.2), ReadOptions(tmp_path, "decode", print, 0.1, 64)
    record = FaceRecord("train", "a", b"", box=box)
    data, _ = exact.edit(photo, record)
    training = decode_image(data, size)
    prediction = crop_face(photo, box, size, margin=0.1, face_size=64)
    assert np.abs(training.astype(int) - prediction).mean() < 2  # the JPEG of ingest
    crop = crop_face(photo, box, 64, margin=0.1)
    np.testing.assert_array_equal(prediction, resize(crop, size))


PRIOR = (0.3, 0.4, 0.1, 0.1, 0.04, 0.03, 0.02, 0.01)


@pytest.fixture(scope="module")
def with_prior(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The saved model, calibrated, with the class fractions of an unbalanced training."""
    model = AffectModel.from_pretrained(model_dir)
    model.temperature, model.class_fractions, model.prior = 1.5, (1 / 8,) * 8, PRIOR
    folder = tmp_path_factory.mktemp("prior") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported_with_prior(with_prior: Path, drawn_crops: np.ndarray, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("prior") / "plain.onnx"
    export_onnx(AffectModel.from_pretrained(with_prior), file, drawn_crops)
    return file


@pytest.mark.parametrize(
    ("prior", "target", "tau"),
    [
        ("uniform", [1 / 8] * 8, 1.0),
        ("train", [1 / 8] * 8, 0.5),
        ("FILE", [0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0, 0], 1.0),
    ],
)
def test_a_prior_gives_the_same_by_every_route(
    prior: str,
    target: list[float],
    tau: float,
    drawn: Path,
    with_prior: Path,
    exported_with_prior: Path,
    drawn_crops: np.ndarray,
    tmp_path: Path,
) -> None:
    """PyTorch, ONNX corrected afterwards, ONNX exported with the correction, and evaluate."""
    if prior == "FILE":
        prior = str(tmp_path / "target.json")
        Path(prior).write_text(json.dumps(target))
    split = open_split(drawn, "test")
    images = [bytes(split.image_bytes(i)) for i in range(len(split))]

    def probabilities(predictor: Predictor) -> np.ndarray:
        results = predictor.predict(images, faces="none")
        return np.array([result.faces[0].probabilities for result in results])

    plain = probabilities(load(with_prior)).astype(np.float64)
    expected = plain * (np.array(target) / np.array(PRIOR)) ** tau
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.abs(expected - plain).max() > 0.1
    settings = {"prior": prior, "prior_tau": tau}
    model = AffectModel.from_pretrained(with_prior).correct_prior(prior, tau)
    routes = [load(with_prior, **settings), load(exported_with_prior, **settings)]
    if Path(prior).is_file():  # exporting takes seconds, so once
        export_onnx(model, tmp_path / "corrected.onnx", drawn_crops)
        routes.append(load(tmp_path / "corrected.onnx"))
    for route in routes:
        np.testing.assert_allclose(probabilities(route), expected, atol=1e-5)
    # A corrected model knows what its probabilities now assume.
    assumed = np.array(PRIOR) * (np.array(target) / np.array(PRIOR)) ** tau
    assert model.prior == pytest.approx(assumed / assumed.sum())
    evaluate(
        EvaluateConfig(
            runs=(with_prior,),
            data=drawn,
            out=tmp_path / "e",
            resamples=0,
            figures=False,
            **settings,
        )
    )
    (file,) = (tmp_path / "e").rglob("predictions.parquet")
    found = pq.read_table(file).select(list(PROBABILITY_COLUMNS)).to_pandas().to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    (scores,) = (tmp_path / "e").rglob("metrics.json")
    notes = json.loads(scores.read_text())["protocol"]["notes"]
    assert any("corrected for other class fractions" in note for note in notes)
    seven = probabilities(load(with_prior, without_contempt=True, **settings))
    dropped = expected[:, :7] / expected[:, :7].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(seven, dropped, atol=1e-5)


def test_a_model_without_fractions_has_no_prior_to_correct(model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="the prior of the model"):
        load(model_dir, prior="uniform")


def test_every_form_of_an_image_gives_the_same(
    predictor: Predictor, photo: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "photo.png"
    Image.fromarray(photo).save(file)
    tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1)
    forms = [str(file), file, file.read_bytes(), Image.fromarray(photo), photo, tensor]
    alone = [predictor.predict(form) for form in forms]
    assert all(len(result.faces) == 1 for result in alone)
    for result in alone:
        np.testing.assert_array_equal(numbers(result), numbers(alone[0]))
    for batch_size in (1, 4, 64):
        together = predictor.predict(forms, batch_size=batch_size, workers=3)
        for result in together:
            np.testing.assert_allclose(numbers(result), numbers(alone[0]), atol=1e-5)
    assert alone[0].source == str(file)
    assert alone[2].source is None


def test_one_gives_one_and_many_give_many(predictor: Predictor, photo: np.ndarray) -> None:
    assert isinstance(predictor.predict(photo), PictureResult)
    assert isinstance(predictor.predict([photo]), Results)
    assert len(predictor.predict(np.stack([photo, photo]))) == 2
    assert len(predictor.predict(torch.from_numpy(photo.copy()).permute(2, 0, 1)[None])) == 1
    assert len(predictor.predict(image for image in (photo, photo))) == 2
    assert predictor.predict([]) == ()


def test_the_result_is_what_the_parts_give(predictor: Predictor, photo: np.ndarray) -> None:
    """Independent of the predictor's own way: detect, crop, normalise, forward, softmax."""
    (found,) = predictor.detector.detect(photo)
    crop = crop_face(photo, found.box, 48, margin=DEFAULT_MARGIN)
    assert isinstance(predictor.classifier, TorchClassifier)
    model, prep = predictor.classifier.model, predictor.classifier.model.preprocessing
    image = (crop / 255 - np.array(prep.mean)) / np.array(prep.std)
    with torch.no_grad():
        output = model(torch.tensor(image.transpose(2, 0, 1)[None], dtype=torch.float32))
    logits = output.logits[0].double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum()
    (face,) = predictor.predict(photo).faces
    np.testing.assert_allclose(face.probabilities, expected, atol=1e-5)
    assert face.valence == pytest.approx(float(output.valence), abs=1e-5)
    assert face.arousal == pytest.approx(float(output.arousal), abs=1e-5)
    assert face.score == found.score
    assert face.landmarks == found.landmarks


def test_own_boxes_are_taken(predictor: Predictor, photo: np.ndarray) -> None:
    found = predictor.predict(photo).faces[0]
    given = predictor.predict(photo, boxes=[found.box, (10, 10, 50, 50)])
    assert len(given.faces) == 2
    np.testing.assert_allclose(given.faces[0].probabilities, found.probabilities, atol=1e-6)
    assert given.faces[0].landmarks is None
    several = predictor.predict([photo, photo], boxes=[[found.box], None])
    assert several[0].faces[0].score is None
    assert several[1].faces[0].score == found.score
    with pytest.raises(DataError, match="2 images and boxes for 1"):
        predictor.predict([photo, photo], boxes=[[found.box]])
    with pytest.raises(DataError, match=r"\(n, 4\)"):
        predictor.predict(photo, boxes=[1, 2, 3, 4])
    with pytest.raises(DataError, match="outside the image"):
        predictor.predict(photo, boxes=[[1000, 0, 5, 5]])
    with pytest.raises(ConfigError, match="leave one of them out"):
        predictor.predict(photo, boxes=[[1, 1, 5, 5]], faces="none")


def test_an_image_without_a_face_has_none(predictor: Predictor) -> None:
    result = predictor.predict(np.full((100, 100, 3), 99, np.uint8))
    assert result.status == "no face"
    assert (result.width, result.height) == (100, 100)


def test_one_unreadable_image_is_reported_or_kept(predictor: Predictor, photo: np.ndarray) -> None:
    with pytest.raises(DataError, match="image 1: "):
        predictor.predict([photo, b"nothing", photo])
    with pytest.raises(DataError, match=r"no\.jpg: the file cannot be read"):
        predictor.predict("no.jpg")
    kept = predictor.predict([photo, b"nothing", photo], on_error="keep")
    assert [result.status for result in kept] == ["ok", "unreadable", "ok"]
    assert "not a JPEG" in (kept[1].reason or "")


@pytest.mark.parametrize("settings", [{"faces": "all"}, {"on_error": "ignore"}, {"batch_size": 0}])
def test_settings_out_of_range_are_refused(predictor: Predictor, settings: dict, photo) -> None:
    with pytest.raises(ConfigError, match=r"may be|must be"):
        predictor.predict(photo, **settings)


def test_the_model_decides_on_the_margin(model_dir: Path, photo: np.ndarray, tmp_path) -> None:
    model = AffectModel.from_pretrained(model_dir)
    model.preprocessing = model.preprocessing.__class__(
        48, model.preprocessing.mean, model.preprocessing.std, margin=0.3, alignment="eyes"
    )
    model.temperature = 2.0
    model.save_pretrained(tmp_path / "m")
    trained = load(tmp_path / "m")
    assert trained.margin == 0.3
    with pytest.raises(ConfigError, match=r"trained with 0\.3"):
        load(tmp_path / "m", margin=0.1)
    assert load(tmp_path / "m", margin=0.3).margin == 0.3
    assert load(model_dir).margin == DEFAULT_MARGIN
    assert load(model_dir, margin=0.0).margin == 0.0
    with pytest.raises(ConfigError, match="margin is 9"):
        load(model_dir, margin=9)
    assert len(trained.predict(photo).faces) == 1
    with pytest.raises(DataError, match="a box does not say"):
        trained.predict(photo, boxes=[[88, 63, 91, 113]])
    # Temperature: the logits of the same crop, halved.
    hot = trained.predict(photo, faces="none").faces[0].probabilities
    cold = load(model_dir).predict(photo, faces="none").faces[0].probabilities
    halved = np.sqrt(cold) / np.sqrt(cold).sum()
    np.testing.assert_allclose(hot, halved, atol=1e-5)


def test_a_face_that_cannot_be_aligned_is_cropped_by_its_box_alone(
    model_dir: Path, photo: np.ndarray, tmp_path: Path
) -> None:
    model = AffectModel.from_pretrained(model_dir)
    model.preprocessing = replace(model.preprocessing, alignment="eyes")
    model.save_pretrained(tmp_path / "m")
    aligned, plain = load(tmp_path / "m"), load(model_dir)
    (whole,) = aligned.detector.detect(photo)
    left, *others = whole.landmarks
    outside = whole._replace(landmarks=((-3.0, left[1]), *others))
    empty = PictureResult(None, 280, 330)
    both = aligned.crop(photo, [outside, whole], empty).crops
    np.testing.assert_array_equal(both[0], plain.crop(photo, [whole], empty).crops[0])
    np.testing.assert_array_equal(both[1], aligned.crop(photo, [whole], empty).crops[0])
    assert (both[0] != both[1]).any()


def test_models_are_found_by_run_folder_too(model_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    AffectModel.from_pretrained(model_dir).save_pretrained(run / "model")
    assert load(run).classes == EXPRESSIONS
    with pytest.raises(RunError, match="no model at"):
        load(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="auto, cpu, cuda, mps"):
        load(model_dir, device="tpu")


def test_results_are_plain_values(predictor: Predictor, photo_file: Path) -> None:
    results = predictor.predict([photo_file, b""], on_error="keep")
    output = json.loads(json.dumps(results.to_dict()))
    face = output[0]["faces"][0]
    assert math.isclose(sum(face["probabilities"].values()), 1, abs_tol=1e-5)
    assert set(face["probabilities"]) == set(EXPRESSIONS)
    assert set(face["box"]) == {"x", "y", "width", "height"}
    assert output[1]["reason"] == "the file is empty"
    frame = results.to_frame()
    assert list(frame["status"]) == ["ok", "unreadable"]
    assert frame.loc[0, "p_fear"] == face["probabilities"]["fear"]
    assert frame.loc[0, "nose_x"] == face["landmarks"]["nose"][0]
    assert frame["valence"].isna().tolist() == [False, True]
    assert len(results[0].to_frame()) == len(results[0].faces[0].to_frame()) == 1


def test_results_draw_themselves(predictor: Predictor, photo_file: Path, tmp_path: Path) -> None:
    results = predictor.predict([photo_file, photo_file])
    for name, figure in (
        ("face", results[0].faces[0].plot(photo_file)),
        ("image", results[0].plot()),
        ("images", results.plot()),
    ):
        figure.savefig(tmp_path / f"{name}.png")
        assert np.asarray(Image.open(tmp_path / f"{name}.png")).std() > 10
    unnamed = predictor.predict(photo_file.read_bytes())
    with pytest.raises(DataError, match="pass it"):
        unnamed.plot()
    assert unnamed.plot(photo_file).axes
