"""`affectnet demo`: the included model, then every step on drawn faces, offline, on a CPU."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from affectnet.commands.predict import predict
from affectnet.config import (
    DemoConfig,
    EvaluateConfig,
    IngestConfig,
    PredictConfig,
    ReportConfig,
    TrainConfig,
)
from affectnet.data.drawn.release import draw_faces, write_affectnet_tars
from affectnet.errors import RunError, hold_signals
from affectnet.run import locked, refuse_existing, scratch_folder

PHOTO = Path(__file__).parents[1] / "photos" / "astronaut.jpg"
TRAIN_PER_CLASS = 128
TEST_PER_CLASS = 40
SIZE = 64
RUNS = {"scratch": (4, None), "finetuned": (2, Path("cvnet"))}
"""Epochs and weights of CVNet: random ones, and the included ones, which know real faces."""
SETTINGS: dict[str, Any] = {
    "image_size": 48,
    "batch_size": 32,
    "lr": 2e-3,
    "augment": "none",  # a few hundred steps are too few to benefit from augmentation
    "ema": 0.98,
}
"""Of both trainings."""
CONTENT = {"release", "dataset", "runs", "report.html", "photos", "marked"}
"""What is in the folder; one with other files is not replaced."""


def demo(config: DemoConfig) -> None:
    """Predict with the included model; draw a release like AffectNet, ingest, train, and report.

    Everything is written under `config.out`. The first result is there within seconds.

    Raises:
        RunError: `config.out` exists and --overwrite was not given, or it has other files.
    """
    with _replaced(config.out, config.overwrite):
        _make(config)


@contextmanager
def _replaced(out: Path, overwrite: bool) -> Iterator[None]:
    """Put an older demo aside until the new one is complete; errors and kills bring it back.

    The new one is made at its final path, since its files contain paths. Raises `RunError` for a
    folder that is no demo.
    """
    out = out.resolve()
    old = out.with_name(f".{out.name}.old")

    def bring_back() -> None:
        if old.exists():
            with hold_signals():
                shutil.rmtree(out, ignore_errors=True)
                old.rename(out)

    with locked(out):
        bring_back()  # a demo that was killed
        refuse_existing(out, overwrite)
        if out.exists():
            _check_is_demo(out)
            out.rename(old)
        try:
            yield
        except BaseException:
            bring_back()
            raise
        if old.exists():
            with scratch_folder(out.parent, f".{out.name}.", ".tmp") as trash:
                old.rename(trash / out.name)


def _check_is_demo(out: Path) -> None:
    others = {path.name for path in out.iterdir()} - CONTENT if out.is_dir() else {out.name}
    if others or Path.cwd().is_relative_to(out):
        what = f"it has {', '.join(sorted(others)[:5])}" if others else "this is the working folder"
        raise RunError(f"{out} is not replaced, since {what}; choose another --out")


def _make(config: DemoConfig) -> None:
    started = time.monotonic()

    photos, marked = config.out / "photos", config.out / "marked"
    _heading(f"affectnet predict {photos} --annotate {marked}")
    predict(PredictConfig(inputs=(str(_photos(photos)),), annotate=marked))

    from affectnet.commands.evaluate import evaluate  # these take seconds to import
    from affectnet.commands.ingest import ingest
    from affectnet.commands.report import report
    from affectnet.commands.train import train

    _heading(f"drawing {8 * (TRAIN_PER_CLASS + TEST_PER_CLASS)} faces as AffectNet's two tar files")
    tars = write_affectnet_tars(
        config.out / "release",
        train_per_class=TRAIN_PER_CLASS,
        test_per_class=TEST_PER_CLASS,
        size=SIZE,
        seed=0,
    )
    dataset = config.out / "dataset"
    seven = " --without-contempt" * config.without_contempt
    _heading(f"affectnet ingest {' '.join(map(str, tars))} --out {dataset}{seven}")
    ingest(IngestConfig(sources=tars, out=dataset, without_contempt=config.without_contempt))

    runs = []
    common = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in SETTINGS.items())
    for name, (epochs, weights) in RUNS.items():
        start = "--weights cvnet" if weights else "--backbone cvnet --no-pretrained"
        _heading(
            f"affectnet train --data {dataset} {start} --epochs {epochs} {common} "
            f"--runs {config.out / 'runs'} --name {name}"
        )
        run = train(
            TrainConfig(
                data=(dataset,),
                backbone="cvnet",
                weights=weights,
                pretrained=weights is not None,
                epochs=epochs,
                runs=config.out / "runs",
                name=name,
                **SETTINGS,
            )
        )
        runs.append(run.path)
    for path in runs:
        _heading(f"affectnet evaluate {path} --data {dataset} --no-figures")
        evaluate(EvaluateConfig(runs=(path,), data=dataset, figures=False))  # the report has them
    page = config.out / "report.html"
    _heading(f"affectnet report {' '.join(map(str, runs))} --out {page}")
    report(ReportConfig(runs=tuple(runs), out=page))
    _heading(f"done in {time.monotonic() - started:.0f} s; open {page.resolve()}")


def _photos(folder: Path) -> Path:
    """Write a photo and a few drawn faces for the model that the package ships."""
    folder.mkdir(parents=True)
    shutil.copy(PHOTO, folder)
    for face in draw_faces(1, seed=3, size=224):
        (folder / f"{face.id}.jpg").write_bytes(face.image)
    return folder


def _heading(text: str) -> None:
    print(f"\n== {text}", flush=True)
