"""`affectnet demo`: every step on drawn faces, offline, in two minutes on two CPU cores."""

import shutil
import time
from pathlib import Path

from affectnet.commands.evaluate import evaluate
from affectnet.commands.ingest import ingest
from affectnet.commands.predict import predict
from affectnet.commands.report import report
from affectnet.commands.train import train
from affectnet.config import (
    DemoConfig,
    EvaluateConfig,
    IngestConfig,
    PredictConfig,
    ReportConfig,
    TrainConfig,
)
from affectnet.data.drawn.release import draw_faces, write_affectnet_tars
from affectnet.run import refuse_existing

PHOTO = Path(__file__).parents[1] / "photos" / "astronaut.jpg"
TRAIN_PER_CLASS = 160
TEST_PER_CLASS = 40
SIZE = 64
BACKBONES = {"cvnet": 7, "resnet10t": 9}
"""Backbones and epochs: our own network and a small one from timm, from random weights."""


def demo(config: DemoConfig) -> None:
    """Draw an AffectNet-like release, then ingest, train, evaluate, report and predict.

    Everything is written under `config.out`.

    Raises:
        RunError: `config.out` exists and --overwrite was not given.
    """
    refuse_existing(config.out, config.overwrite)
    if config.overwrite and config.out.exists():
        shutil.rmtree(config.out)
    started = time.monotonic()

    _heading(f"drawing {8 * (TRAIN_PER_CLASS + TEST_PER_CLASS)} faces as AffectNet's two tar files")
    tars = write_affectnet_tars(
        config.out / "release",
        train_per_class=TRAIN_PER_CLASS,
        test_per_class=TEST_PER_CLASS,
        size=SIZE,
        seed=0,
    )
    _heading("affectnet ingest" + " --without-contempt" * config.without_contempt)
    dataset = config.out / "dataset"
    ingest(IngestConfig(sources=tars, out=dataset, without_contempt=config.without_contempt))

    runs = []
    for backbone, epochs in BACKBONES.items():
        _heading(f"affectnet train --backbone {backbone} --epochs {epochs} --no-pretrained")
        run = train(
            TrainConfig(
                data=(dataset,),
                backbone=backbone,
                epochs=epochs,
                image_size=48,
                pretrained=False,
                runs=config.out / "runs",
                batch_size=32,
                lr=2e-3,
                # A few hundred steps are too few to benefit from augmentation.
                augment="none",
                ema=0.98,
            )
        )
        runs.append(run.path)
    for path in runs:
        _heading(f"affectnet evaluate {path}")
        evaluate(EvaluateConfig(runs=(path,), data=dataset))
    _heading("affectnet report")
    page = config.out / "report.html"
    report(ReportConfig(runs=tuple(runs), out=page))
    _heading("affectnet predict photos --annotate marked")
    photos = str(_photos(config.out / "photos"))
    predict(PredictConfig(inputs=(photos,), annotate=config.out / "marked"))
    _heading(f"done in {time.monotonic() - started:.0f} s; open {page.resolve()}")


def _photos(folder: Path) -> Path:
    """Write a photo and a few drawn faces for the model that the package ships."""
    folder.mkdir()
    shutil.copy(PHOTO, folder)
    for face in draw_faces(1, seed=3, size=224):
        (folder / f"{face.id}.jpg").write_bytes(face.image)
    return folder


def _heading(text: str) -> None:
    print(f"\n== {text}", flush=True)
