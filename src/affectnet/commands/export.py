"""`affectnet export`: a trained model as an ONNX file, once it is found to predict the same."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from affectnet.config import ExportConfig
from affectnet.data.drawn.release import draw_faces
from affectnet.data.images import decode_image
from affectnet.data.store import Split, open_split
from affectnet.errors import ConfigError, DataError
from affectnet.inference.classifiers import OnnxClassifier
from affectnet.inference.onnx_export import ExportComparison, Precision, check_packages, export_onnx
from affectnet.models.affect_model import AffectModel
from affectnet.models.model_config import Preprocessing
from affectnet.run import refuse_existing

_CALIBRATION = 128
_DRAWN_SIZE = 112


class Shown(NamedTuple):
    """Faces that both models are shown."""

    faces: NDArray[np.uint8]
    calibration: NDArray[np.uint8]
    said: str


def export(config: ExportConfig) -> ExportComparison:
    """Export as `config` says, print how the file compares with PyTorch, and return that.

    Raises:
        ConfigError: settings that do not go together, or a missing package.
        RunError: no such model, or the file exists and --overwrite was not given.
        WeightsError: the model cannot be exported, or predicts otherwise; nothing is written then.
        DataError: no such dataset.
    """
    _check(config)
    model = AffectModel.from_pretrained(config.model)
    precision: Precision = "int8" if config.int8 else "fp16" if config.fp16 else "fp32"
    shown = _faces_of_data(config, model.preprocessing) if config.data else _drawn(config, model)
    print(f"comparing with PyTorch on {len(shown.faces)} {shown.said}", flush=True)
    found = export_onnx(
        model,
        config.out,
        shown.faces,
        calibration=shown.calibration,
        precision=precision,
        inside=config.preprocess,
        overwrite=config.overwrite,
    )
    _tell(config, found, precision, model.preprocessing.size)
    return found


def _check(config: ExportConfig) -> None:
    faults = []
    if config.int8 and config.fp16:
        faults.append("--int8 and --fp16 are both given; leave one out")
    if config.out.suffix.lower() != ".onnx":
        faults.append(f"--out {config.out}: give a name that ends in .onnx")
    if not 1 <= config.faces <= 100_000:
        faults.append(f"--faces is {config.faces}; it may be 1 to 100000")
    if faults:
        raise ConfigError("; ".join(faults))
    refuse_existing(config.out, config.overwrite)
    check_packages()


def _drawn(config: ExportConfig, model: AffectModel) -> Shown:
    prep = model.preprocessing
    calibration = _CALIBRATION if config.int8 else 0
    drawn = draw_faces(-(-(config.faces + calibration) // 8), seed=0, size=_DRAWN_SIZE)
    pixels = np.stack([decode_image(f.image, prep.size, prep.interpolation) for f in drawn])
    faces, rest = pixels[: config.faces], pixels[config.faces : config.faces + calibration]
    return Shown(faces, rest, "drawn faces; --data DATASET compares on real ones")


def _faces_of_data(config: ExportConfig, prep: Preprocessing) -> Shown:
    """Faces of the val split, and others, of the train split where there is one, to calibrate."""
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
    return Shown(faces, calibration, f"faces of {config.data} ({name})")


def _decode(split: Split, rows: NDArray[np.int64], prep: Preprocessing) -> NDArray[np.uint8]:
    if len(rows) == 0:
        raise DataError(f"{split.path} holds too few faces to compare and to calibrate on")
    return np.stack(
        [decode_image(split.image_bytes(int(row)), prep.size, prep.interpolation) for row in rows]
    )


def _tell(config: ExportConfig, found: ExportComparison, precision: Precision, size: int) -> None:
    given = (
        f"uint8 RGB (n, {size}, {size}, 3)"
        if config.preprocess
        else f"normalised float32 RGB (n, 3, {size}, {size})"
    )
    print(
        f"largest difference {found.largest:.2g}, mean {found.mean:.2g}; the same expression on "
        f"{found.agreement:.1%} of {found.faces} faces"
    )
    print(f"{config.out}: {_size(config.out)}, {precision}, takes {given}, any n")
    assert OnnxClassifier(config.out, "cpu").size == size  # what was put in place can be read


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
