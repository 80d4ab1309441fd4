"""A page that finds and classifies faces in the visitor's browser, as a folder of static files.

ONNX Runtime runs YuNet and the model as WebAssembly. Its two files are part of the folder, or come
from a fixed address; the page uses them only if they have the hashes in its `model.json`.
"""

import base64
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from affectnet.data.crop import DEFAULT_MARGIN
from affectnet.errors import ConfigError, WeightsError, megabytes
from affectnet.inference.classifiers import OnnxClassifier
from affectnet.inference.detector import yunet
from affectnet.labels import CIRCUMPLEX, COLOURS

MODEL_NAME: Final = "model.onnx"
MAX_MODEL_BYTES: Final = 30_000_000
"""A visitor downloads the model before the page can do anything."""
RUNTIME_VERSION: Final = "1.30.0"
_PAGE: Final = Path(__file__).parent / "web"
_HOST: Final = "https://cdn.jsdelivr.net"
_SCRIPT: Final = "ort.wasm.bundle.min.mjs"
_WASM: Final = "ort-wasm-simd-threaded.wasm"
_PINNED: Final = {
    _SCRIPT: "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    _WASM: "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
"""Hashes of the files of onnxruntime-web of `RUNTIME_VERSION`."""


def runtime_files(folder: Path) -> dict[str, Path]:
    """Return the two files of the npm package onnxruntime-web that the page needs.

    Args:
        folder: the package, its `dist` folder, or the folder in which it was unpacked.

    Raises `ConfigError` where they are missing.
    """
    for place in (folder, folder / "dist", folder / "package" / "dist"):
        found = {name: place / name for name in (_SCRIPT, _WASM)}
        if all(file.is_file() for file in found.values()):
            return found
    raise ConfigError(
        f"--runtime {folder} has no {_SCRIPT} and {_WASM}; get them with `npm pack onnxruntime-web@"
        f"{RUNTIME_VERSION}`, unpack the file, and give the folder `package`"
    )


def write_page(
    folder: Path, model_name: str, precision: str, runtime: Mapping[str, Path] | None = None
) -> None:
    """Add the page to a folder that holds the model, as `MODEL_NAME`, with uint8 faces as input.

    Args:
        folder: of the page.
        model_name: as the page shows it.
        precision: of the model, as the page shows it.
        runtime: from `runtime_files`; None to load them from a fixed address.

    Raises `WeightsError` where the model is larger than `MAX_MODEL_BYTES`, and `ConfigError` where
    the face detector's file is missing.
    """
    size = (folder / MODEL_NAME).stat().st_size
    if size > MAX_MODEL_BYTES:
        raise WeightsError(
            f"the model has {megabytes(size)}, more than the {megabytes(MAX_MODEL_BYTES)} that a "
            "visitor can be asked to download; export it with --int8, or train a smaller backbone"
        )
    for file in _PAGE.iterdir():
        shutil.copyfile(file, folder / file.name)
    (folder / "yunet.onnx").write_bytes(yunet())
    sources = "'self'"
    if runtime is None:
        address, hashes = f"{_HOST}/npm/onnxruntime-web@{RUNTIME_VERSION}/dist", _PINNED
        sources += f" {_HOST}"
    else:
        address, hashes = "runtime", {name: _hash(file) for name, file in runtime.items()}
        (folder / address).mkdir()
        for name, file in runtime.items():
            shutil.copyfile(file, folder / address / name)
    index = folder / "index.html"
    index.write_text(
        index.read_text(encoding="utf-8").replace("CONNECT", sources), encoding="utf-8"
    )
    model = OnnxClassifier(folder / MODEL_NAME, "cpu")
    content = {
        "name": model_name,
        "precision": precision,
        "classes": model.classes,
        "colours": {word: COLOURS[word] for word in model.classes},
        "circumplex": {word: CIRCUMPLEX[word] for word in model.classes},
        "size": model.size,
        "margin": DEFAULT_MARGIN if model.margin is None else model.margin,
        "alignment": model.alignment,
        "interpolation": model.interpolation,
        "face_size": model.face_size,
        "runtime": {
            kind: {"url": f"{address}/{name}", "integrity": hashes[name]}
            for kind, name in (("script", _SCRIPT), ("wasm", _WASM))
        },
    }
    (folder / "model.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _hash(file: Path) -> str:
    """The hash of a file as browsers check it (subresource integrity)."""
    return "sha384-" + base64.b64encode(hashlib.sha384(file.read_bytes()).digest()).decode()
