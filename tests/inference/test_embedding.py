"""The backbone's features: the same by PyTorch and by an ONNX file, in Python and in Parquet."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import affectnet
from affectnet.commands.predict import predict
from affectnet.config import PredictConfig
from affectnet.data.augment import normalise, to_float
from affectnet.data.images import decode_image
from affectnet.errors import ConfigError
from affectnet.inference.onnx_export import export_onnx
from affectnet.models.affect_model import AffectModel


def test_by_every_route(model_dir: Path, photo_file: Path, drawn_crops, tmp_path: Path) -> None:
    model = AffectModel.from_pretrained(model_dir).eval()
    found = export_onnx(model, tmp_path / "f.onnx", drawn_crops[:8], features=True)
    assert found.cosine == pytest.approx(1, abs=1e-5)
    prep = model.preprocessing
    face = decode_image(photo_file.read_bytes(), prep.size, prep.interpolation)
    with torch.no_grad():
        images = to_float(torch.from_numpy(face.copy()).permute(2, 0, 1)[None])
        (wanted,) = model.features(normalise(images, prep.mean, prep.std)).numpy()
    for route in (str(model_dir), str(tmp_path / "f.onnx")):
        predictor = affectnet.load(route, embedding=True, device="cpu", without_contempt=True)
        given = predictor.predict(photo_file, faces="none")
        embedding = given.faces[0].embedding
        assert embedding is not None
        assert embedding.dtype == np.float16
        np.testing.assert_allclose(embedding, wanted, rtol=2e-3, atol=1e-3)
        np.testing.assert_array_equal(given.to_frame()["embedding"][0], embedding)
        out = tmp_path / f"{Path(route).suffix[1:] or 'torch'}.parquet"
        config = PredictConfig((str(photo_file),), model=route, out=out, faces="none")
        config = PredictConfig(**{**vars(config), "embedding": True, "device": "cpu"})
        assert predict(config) == 0
        table = pq.read_table(out)
        np.testing.assert_array_equal(np.array(table["embedding"][0].as_py()), embedding)
    without = affectnet.load(str(tmp_path / "f.onnx")).predict(photo_file, faces="none")
    assert without.faces[0].embedding is None
    assert "embedding" not in without.to_frame()


def test_what_cannot_have_one_is_refused(
    model_dir: Path, photo_file: Path, drawn_crops, tmp_path: Path
) -> None:
    export_onnx(AffectModel.from_pretrained(model_dir), tmp_path / "m.onnx", drawn_crops[:8])
    with pytest.raises(ConfigError, match="--features"):
        affectnet.load(tmp_path / "m.onnx", embedding=True)
    config = PredictConfig((str(photo_file),), out=tmp_path / "r.csv", embedding=True)
    with pytest.raises(ConfigError, match=r"ends in \.parquet"):
        predict(config)
