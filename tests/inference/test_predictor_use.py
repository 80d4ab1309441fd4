"""`affectnet.predict`, file objects, and the predictor in threads and in other processes."""

import io
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import affectnet
from affectnet.errors import ConfigError, DataError
from affectnet.inference.classifiers import OnnxClassifier
from affectnet.inference.predictor import Predictor


def test_one_call_predicts(photo_file: Path) -> None:
    result = affectnet.predict(photo_file)
    assert result == affectnet.load().predict(photo_file)
    assert affectnet.predict([photo_file], faces="none", without_contempt=True)[0].faces[
        0
    ].classes == tuple(result.faces[0].classes[:-1])
    with pytest.raises(TypeError, match="modell"):
        affectnet.predict(photo_file, modell="cvnet")


def test_file_objects_are_images(photo_file: Path) -> None:
    predictor = affectnet.load()
    expected = predictor.predict(photo_file.read_bytes())
    for settings in ({}, {"faces": "none"}):
        wanted = predictor.predict(photo_file.read_bytes(), **settings)
        with photo_file.open("rb") as file:
            assert predictor.predict(file, **settings) == wanted
    assert expected.faces
    buffers = [io.BytesIO(photo_file.read_bytes()) for _ in range(3)]
    assert list(predictor.predict(buffers)) == [expected] * 3
    with photo_file.open("rb") as closed:
        pass
    with pytest.raises(DataError, match="closed file"):
        predictor.predict(closed)
    with pytest.raises(DataError, match="in binary mode: 'rb'"):
        predictor.predict(io.StringIO("text"))
    with pytest.raises(DataError, match="the file is empty"):
        predictor.predict(io.BytesIO())


def test_a_pickled_predictor_has_its_settings(photo_file: Path) -> None:
    given = affectnet.load(flip=True, without_contempt=True, min_score=0.6, margin=0.0)
    data = pickle.dumps(given)
    assert len(data) < 2000  # the settings, not the weights
    again = pickle.loads(data)
    assert repr(again) == repr(given)
    assert again.predict(photo_file) == given.predict(photo_file)
    own = Predictor(given.classifier, detect_size=640)  # made without `load`
    assert pickle.loads(pickle.dumps(own)).predict(photo_file) == own.predict(photo_file)


def test_spawned_processes_take_a_predictor(photo_file: Path) -> None:
    predictor = affectnet.load()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        there = pool.submit(predictor.predict, str(photo_file)).result(timeout=120)
    assert there == predictor.predict(str(photo_file))


def test_threads_share_a_predictor(photo_file: Path) -> None:
    predictor = affectnet.load()
    expected = predictor.predict(photo_file)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(predictor.predict, [photo_file] * 12):
            assert result == expected


FORK = """
import os, signal, sys
import affectnet
from affectnet.errors import ConfigError
{load}
predictor.predict(sys.argv[1])
if os.fork() == 0:
    signal.alarm(60)  # a process that hangs is killed
    tries = [lambda: predictor.predict(sys.argv[1]), lambda: next(predictor.video(sys.argv[2]))]
    for attempt in tries:
        try:
            attempt()
        except ConfigError as error:
            assert "forked" in str(error) and "spawn" in str(error), error
        else:
            os._exit(3)
    {child}
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
ONNX = "predictor = affectnet.load()"
AGAIN = "affectnet.load().predict(sys.argv[1])"
TORCH = """
from affectnet.inference.predictor import Predictor
from affectnet.inference.torch_classifier import TorchClassifier
from affectnet.models.affect_model import AffectModel
model = AffectModel.from_pretrained("cvnet")
predictor = Predictor(TorchClassifier(model, "cpu"))
"""
REFUSED = """
    try:
        TorchClassifier(model, "cpu")
    except ConfigError:
        pass
    else:
        os._exit(4)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("load", "child"), [(ONNX, AGAIN), (TORCH, REFUSED)], ids=["onnx", "torch"]
)
def test_a_forked_process_fails_clearly(
    load: str, child: str, photo_file: Path, walk: Path
) -> None:
    if load == TORCH:
        pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-c", FORK.format(load=load, child=child), photo_file, walk],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        # PyTorch hangs in forked processes where it has several threads.
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr


def test_the_predictor_describes_itself() -> None:
    text = repr(affectnet.load(flip=True))
    assert text == (
        "<Predictor model='cvnet', flip=True: 8 classes, faces of 48 px, margin 0, "
        "ONNX Runtime on cpu>"
    )


def test_an_onnx_file_is_pickled_by_its_path(photo: np.ndarray) -> None:
    from affectnet.models.model_config import ONNX, shipped_model

    given = OnnxClassifier(shipped_model("cvnet") / ONNX, "cpu")
    again = pickle.loads(pickle.dumps(given))
    for a, b in zip(given(photo[None, :48, :48]), again(photo[None, :48, :48]), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ConfigError, match="no provider"):
        OnnxClassifier(shipped_model("cvnet") / ONNX, provider="none")
