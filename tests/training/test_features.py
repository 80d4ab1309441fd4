"""Features once: the same metrics as recomputing, and never the features of another model."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from affectnet.data.augmentation import named_augmentation
from affectnet.data.datamodule import AffectDataModule
from affectnet.data.store import open_split
from affectnet.models.affect_model import AffectModel
from affectnet.training.features import FeatureDataModule, FeaturePass, weights_hash


def small_model(seed: int = 0) -> AffectModel:
    torch.manual_seed(seed)
    return AffectModel("resnet10t", image_size=32).freeze_backbone()


def feature_pass(folder: Path, model: AffectModel, **changed) -> FeaturePass:
    settings = {
        "data": ["hash"],
        "augmentation": named_augmentation("standard"),
        "seed": 0,
        "device": torch.device("cpu"),
    }
    return FeaturePass(model, folder, **settings | changed)


def test_features_are_the_backbones_within_float16(drawn: Path, tmp_path: Path) -> None:
    model = small_model()
    split = open_split(drawn, "val")
    found = feature_pass(tmp_path, model).features(split, "val", 0, workers=0)
    data = AffectDataModule(drawn, batch_size=16, image_size=32, interpolation="bicubic")
    assert model.preprocessing.interpolation == "bicubic"
    with torch.no_grad():
        wanted = torch.cat(
            [
                model.features(
                    (batch["image"].float() / 255 - torch.tensor(mean).view(3, 1, 1))
                    / torch.tensor(std).view(3, 1, 1)
                )
                for batch in data.loader("val")
                for mean, std in [(model.preprocessing.mean, model.preprocessing.std)]
            ]
        )
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, wanted.numpy(), rtol=2e-3, atol=2e-3)


def test_a_finished_pass_is_not_repeated(drawn: Path, tmp_path: Path) -> None:
    model = small_model()
    split = open_split(drawn, "val")
    first = np.array(feature_pass(tmp_path, model).features(split, "val", 0, workers=0))
    file = next(tmp_path.rglob("*.f16"))
    stamp = file.stat().st_mtime_ns
    again = feature_pass(tmp_path, model).features(split, "val", 0, workers=0)
    assert file.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    "change",
    [
        {"data": ["other"]},
        {"precision": "bf16"},
        {"seed": 1},
        {"augmentation": named_augmentation("strong")},
    ],
)
def test_other_settings_are_another_key(tmp_path: Path, change: dict) -> None:
    """Seed and augmentation of the augmented views alone: all runs share the plain one."""
    model = small_model()
    one, same, other = (feature_pass(tmp_path, model, **c) for c in ({}, {}, change))
    for view in (0, 1):
        assert one.folder_of(view) == same.folder_of(view)
    assert one.folder_of(1) != other.folder_of(1)
    shared = change.keys() <= {"seed", "augmentation"}
    assert (one.folder_of(0) == other.folder_of(0)) is shared


def test_another_version_of_the_preprocessing_is_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = feature_pass(tmp_path, small_model()).folder_of(0)
    monkeypatch.setattr("affectnet.training.features.PREPROCESSING_VERSION", 999)
    assert feature_pass(tmp_path, small_model()).folder_of(0) != before


def test_a_pass_that_another_process_computes_is_waited_for(drawn: Path, tmp_path: Path) -> None:
    model, split = small_model(), open_split(drawn, "val")
    with ThreadPoolExecutor(4) as pool:
        passes = [
            pool.submit(feature_pass(tmp_path, model, seed=seed).features, split, "val", 0, 0)
            for seed in range(4)
        ]
        found = [np.array(one.result()) for one in passes]
    assert len(list(tmp_path.rglob("*.f16"))) == 1
    for one in found:
        np.testing.assert_array_equal(one, found[0])
        assert one.any(axis=1).all()


def test_other_weights_or_preprocessing_are_another_key(tmp_path: Path) -> None:
    first = feature_pass(tmp_path, small_model())
    assert feature_pass(tmp_path, small_model(seed=1)).folder_of(0) != first.folder_of(0)
    model = small_model()
    model.preprocessing = dataclasses.replace(model.preprocessing, mean=(0.1, 0.2, 0.3))
    assert feature_pass(tmp_path, model).folder_of(0) != first.folder_of(0)
    # The features do not depend on the heads.
    model = small_model()
    torch.nn.init.zeros_(model.heads.expression.weight)
    assert weights_hash(model.backbone) == first.key["weights"]


@pytest.mark.parametrize("damage", ["truncated", "no progress", "broken progress"])
def test_a_damaged_cache_is_computed_again(drawn: Path, tmp_path: Path, damage: str) -> None:
    model = small_model()
    split = open_split(drawn, "val")
    wanted = np.array(feature_pass(tmp_path, model).features(split, "val", 0, workers=0))
    file = next(tmp_path.rglob("*.f16"))
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-2])
    elif damage == "no progress":
        file.with_suffix(".json").unlink()
        file.write_bytes(bytes(file.stat().st_size))
    else:
        file.with_suffix(".json").write_text("{")
    found = feature_pass(tmp_path, model).features(split, "val", 0, workers=0)
    np.testing.assert_array_equal(found, wanted)


def test_views_differ_and_an_epoch_chooses_among_them(drawn: Path, tmp_path: Path) -> None:
    data = AffectDataModule(drawn, batch_size=16, image_size=32)
    module = FeatureDataModule(data, feature_pass(tmp_path, small_model()), views=2)
    module.prepare_data()
    module.setup("fit")
    loader = module.train_dataloader()
    views = loader.dataset.views
    assert len(views) == 3
    assert not np.array_equal(views[0], views[1])
    assert not np.array_equal(views[1], views[2])

    def chosen(epoch: int) -> dict[int, int]:
        loader.sampler.set_epoch(epoch)
        found = {}
        for batch in loader:
            for row, features in zip(
                batch["index"].tolist(), batch["features"].numpy(), strict=True
            ):
                same = [v for v in range(3) if np.array_equal(views[v][row], features)]
                assert len(same) == 1
                found[row] = same[0]
        return found

    first, second = chosen(0), chosen(1)
    assert set(first.values()) == {0, 1, 2}
    assert first != second
    assert chosen(0) == first


CODE = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[3])
from test_features import feature_pass, small_model
from affectnet.data.store import open_split
feature_pass(Path(sys.argv[2]), small_model()).features(
    open_split(Path(sys.argv[1]), "train"), "train", 1, workers=0
)
"""


def test_a_killed_pass_is_resumed_where_it_stopped(drawn: Path, tmp_path: Path) -> None:
    model = small_model()
    split = open_split(drawn, "train")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wanted = np.array(feature_pass(tmp_path / "whole", model).features(split, "train", 1, 0))
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(drawn), str(folder), str(Path(__file__).parent)],
        env=os.environ,
    )
    done, deadline = 0, time.monotonic() + 120
    while done == 0 and process.poll() is None and time.monotonic() < deadline:
        for note in folder.glob("*/train-1.json"):
            done = json.loads(note.read_text())["rows"]
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert done > 0
    source = feature_pass(folder, model)
    found = source.features(split, "train", 1, workers=0)
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(found, wanted)
