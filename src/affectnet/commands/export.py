"""`affectnet export`: a trained model as an ONNX file or a web page, checked against PyTorch."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from affectnet.config import ExportConfig
from affectnet.data.drawn.release import draw_faces
from affectnet.data.images import decode_image
from affectnet.data.store import Split, open_split
from affectnet.errors import ConfigError, DataError, Faults, megabytes
from affectnet.inference.classifiers import OnnxClassifier
from affectnet.inference.onnx_export import (
    ExportComparison,
    Precision,
    export_onnx,
)
from affectnet.inference.runtime import weights_digest
from affectnet.inference.static_page import MODEL_NAME, runtime_files, write_page
from affectnet.models.affect_model import AffectModel
from affectnet.models.model_config import (
    ONNX,
    WEIGHTS_FOLDER,
    Preprocessing,
    resolve_model,
    untrained_note,
)
from affectnet.run import locked, refuse_existing, write_beside

_CALIBRATION = 128
_DRAWN_SIZE = 112


class SampleFaces(NamedTuple):
    """Faces for the comparison and the calibration, with their description."""

    faces: NDArray[np.uint8]
    calibration: NDArray[np.uint8]
    description: str


def export(config: ExportConfig) -> ExportComparison:
    """Export as `config` specifies; print and return the comparison with PyTorch.

    Raises:
        ConfigError: settings that contradict each other, a missing package, or an unusable prior.
        RunError: no such model, or the file exists and --overwrite is not given.
        WeightsError: the model cannot be exported, predicts differently, or is too large for a web
            page; no file is written.
        DataError: no such dataset.
    """
    _check(config)
    place = resolve_model(config.model)
    out = config.out or _next_to_weights(place, config)
    refuse_existing(out, config.overwrite)
    runtime = runtime_files(config.runtime) if config.runtime else None
    model = AffectModel.from_pretrained(place)
    if config.prior is not None:
        model.correct_prior(config.prior, config.prior_tau)
    if note := untrained_note(model.targets):
        print(f"{note}: these outputs of the file are NaN")
    precision: Precision = "int8" if config.int8 else "fp16" if config.fp16 else "fp32"
    prep = model.preprocessing
    sample = _dataset_faces(config, prep) if config.data else _drawn_faces(config, prep)
    print(f"comparing with PyTorch on {len(sample.faces)} {sample.description}", flush=True)
    write = partial(
        export_onnx,
        model,
        faces=sample.faces,
        calibration=sample.calibration,
        precision=precision,
        features=config.features,
        weights_sha256=weights_digest(place) if isinstance(place, Path) else None,
    )
    with locked(out):
        if config.format == "onnx":
            found = write(out, inside=config.preprocess, overwrite=config.overwrite)
        else:
            with write_beside(out, config.overwrite) as new:
                new.mkdir()
                found = write(new / MODEL_NAME, inside=True)
                write_page(new, _name(place, config), precision, runtime)
    _print_summary(config, out, found, precision, prep.size)
    return found


def _name(place: Path | str, config: ExportConfig) -> str:
    """The name of a model on its page: that of its run, of its repository, or the given one."""
    if isinstance(place, Path) and place.name == "model":
        return place.resolve().parent.name
    return config.model


def _check(config: ExportConfig) -> None:
    faults = Faults(config, [(("faces",), lambda n: 1 <= n <= 100_000, "1 to 100000")])
    if config.int8 and config.fp16:
        faults.append("--int8 and --fp16 are both given; leave one out")
    if config.format == "web":
        if config.out is None:
            faults.append("--format web needs a folder for the page: give --out DIR")
        if config.fp16:
            faults.append("--format web runs on CPUs, which have no --fp16; use --int8")
    elif config.runtime is not None:
        faults.append("--runtime is for --format web; leave it out")
    elif config.out is not None and config.out.suffix.lower() != ".onnx":
        faults.append(f"--out {config.out}: give a name that ends in .onnx")
    if (
        config.format == "onnx"
        and config.out is None
        and (config.int8 or config.fp16 or config.prior is not None)
    ):
        faults.append(
            "the file next to the weights of a run predicts what they predict; with --int8, --fp16 "
            "or --prior give another with --out FILE"
        )
    faults.raise_all()


def _next_to_weights(place: Path | str, config: ExportConfig) -> Path:
    """Return the path of the ONNX file that `predict` uses in place of the weights."""
    if not isinstance(place, Path) or place.parent == WEIGHTS_FOLDER or place.is_file():
        raise ConfigError(
            f"{config.model} is not a run folder, which would take the file; give --out FILE"
        )
    return place / ONNX


def _drawn_faces(config: ExportConfig, prep: Preprocessing) -> SampleFaces:
    calibration = _CALIBRATION if config.int8 else 0
    drawn = draw_faces(-(-(config.faces + calibration) // 8), seed=0, size=_DRAWN_SIZE)
    pixels = np.stack([decode_image(f.image, prep.size, prep.interpolation) for f in drawn])
    faces, rest = pixels[: config.faces], pixels[config.faces : config.faces + calibration]
    return SampleFaces(faces, rest, "drawn faces; --data DATASET compares on real ones")


def _dataset_faces(config: ExportConfig, prep: Preprocessing) -> SampleFaces:
    """Return faces of the val split, and others for calibration, if possible of the train split."""
    assert config.data is not None
    splits = {}
    for name in ("val", "test", "train"):
        try:
            splits[name] = open_split(config.data, name)
        except DataError:
            if name == "train" and not splits:
                raise
    name, split = next(iter(splits.items()))
    wanted = np.linspace(0, len(split) - 1, min(config.faces, len(split))).astype(int)
    faces = _decode(split, wanted, prep)
    calibration = faces[:0]
    if config.int8:
        other = splits.get("train", split)
        rows = np.arange(len(other))
        if other is split:
            rows = np.setdiff1d(rows, wanted)
        rows = rows[:: max(1, len(rows) // _CALIBRATION)][:_CALIBRATION]
        calibration = _decode(other, rows, prep)
    return SampleFaces(faces, calibration, f"faces of {config.data} ({name})")


def _decode(split: Split, rows: NDArray[np.int64], prep: Preprocessing) -> NDArray[np.uint8]:
    if len(rows) == 0:
        raise DataError(f"{split.path} has too few faces for the comparison and the calibration")
    return np.stack(
        [decode_image(split.image_bytes(int(row)), prep.size, prep.interpolation) for row in rows]
    )


def _print_summary(
    config: ExportConfig, out: Path, found: ExportComparison, precision: Precision, size: int
) -> None:
    given = (
        f"uint8 RGB (n, {size}, {size}, 3)"
        if config.preprocess
        else f"normalised float32 RGB (n, 3, {size}, {size})"
    )
    print(
        f"largest difference {found.largest:.2g}, mean {found.mean:.2g}; the same expression on "
        f"{found.agreement:.1%} of {found.faces} faces"
        + ("" if found.cosine is None else f"; features: cosine {found.cosine:.4f} or more")
    )
    if config.format == "web":
        print(
            f"{out}: {megabytes(sum(file.stat().st_size for file in out.rglob('*')))}, {precision}"
        )
        print(f"to try it: python -m http.server --directory {out}, then http://localhost:8000")
        return
    size_of_file = megabytes(out.stat().st_size)
    print(f"{out}: {size_of_file}, {precision}, takes {given}, any n")
    assert OnnxClassifier(out, "cpu").size == size  # the file can be read
