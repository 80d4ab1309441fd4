"""What a person sees of a training: banner, bar, mosaic and curves."""

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from affectnet.data.datamodule import AffectDataModule
from affectnet.models.affect_model import AffectModel
from affectnet.run import RunFolder
from affectnet.training.checkpoints import EpochLog, duration
from affectnet.training.module import AffectModule
from affectnet.training.optimisation import Optimisation
from affectnet.training.progress import banner, label_texts
from affectnet.training.trainer import make_trainer


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (750, "12:30"), (11_100, "3:05:00")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_banner() -> None:
    model = AffectModel("resnet10t", image_size=32).freeze_backbone()
    heads = sum(weight.numel() for weight in model.heads.parameters())
    every = sum(weight.numel() for weight in model.parameters())
    faces = {"train": Counter(neutral=1200, fear=3), "val": Counter(neutral=5)}
    text = banner("CPU", model, faces, {"lr": 0.1, "epochs": 3}, Path("runs/a"))
    assert f"{every:,} parameters, {heads:,} of them trained" in text
    assert "train     1,203 faces: 1,200 neutral, 3 fear" in text
    assert "settings  lr 0.1, epochs 3" in text
    assert text.splitlines()[0] == "device    CPU"
    assert text.splitlines()[-1] == "folder    runs/a"


def test_labels_in_words() -> None:
    nan = float("nan")
    labels = {
        "expression": torch.tensor([1, -1, 2]),
        "valence": torch.tensor([0.5, nan, -1.0]),
        "arousal": torch.tensor([-0.25, 0.1, 0.0]),
        "soft": torch.tensor([[0.7, 0.3, *[0.0] * 6], [nan] * 8, [nan] * 8]),
    }
    assert label_texts(labels, shares=False) == [
        "happiness\nV+0.50 A-0.25",
        "unlabelled",
        "sadness\nV-1.00 A+0.00",
    ]
    assert label_texts(labels, shares=True)[0] == "neutral 70%\nhappiness 30%\nV+0.50 A-0.25"


def test_time_left() -> None:
    log = EpochLog(RunFolder(Path("none")))
    trainer = SimpleNamespace(current_epoch=0, max_epochs=4)
    log.on_train_epoch_start(trainer, None)
    assert log.seconds_left(trainer, 0.0) is None
    started = log.seconds_left(trainer, 0.5)
    assert started is not None
    assert 0 < started < 60


def test_bar_and_pictures(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bar counts from 1; the mosaic shows the augmented faces of the first batch."""
    run = RunFolder(tmp_path / "r")
    data = AffectDataModule(drawn, 64, 32, 0)
    model = AffectModel("test_convnext", image_size=32)
    module = AffectModule(model, optimisation=Optimisation(lr=1e-3))
    trainer = make_trainer(
        run, epochs=2, monitor="val_accuracy", accelerator="cpu", enable_progress_bar=True
    )
    trainer.fit(module, data)
    shown = capsys.readouterr().out
    # The values of a bar are in no fixed order of lines, but each is there.
    assert re.search(r"epoch 1/2: .*loss=\d", shown)
    last = [line for line in re.split(r"[\r\n]", shown) if line.startswith("epoch 2/2:")][-1]
    for name in ("loss", "balanced accuracy", "CCC valence", "arousal", "time left"):
        assert f"{name}=" in last
    assert re.search(r"epoch 1/2  loss \d\.\d{3}  val loss \d", shown)
    assert "Epoch 0" not in shown
    with Image.open(run.path / "train_batch.jpg") as mosaic:
        assert mosaic.width > mosaic.height / 2
    with Image.open(run.path / "curves.png") as curves:
        assert curves.width > 500
    assert module.current_epoch == 2
