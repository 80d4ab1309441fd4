"""Put a trained CVNet into the package: float16 weights, config, model card, ONNX file, checksums.

    python scripts/ship_cvnet.py runs/NAME    # everything
    python scripts/ship_cvnet.py              # only the ONNX file, from the weights in the package

For maintainers. The run must be evaluated on `test`, because the card contains only measured
metrics. Floating-point weights are converted to float16, which halves the file; predictions change
by less than 1e-2. The ONNX file holds the same float16 weights and computes with them in float32,
so it predicts what PyTorch predicts.
"""

import argparse
import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import onnx
from safetensors.torch import save_file

from affectnet.data.drawn.release import draw_faces
from affectnet.data.images import decode_image
from affectnet.inference.classifiers import OnnxClassifier
from affectnet.inference.onnx_export import Exported, compare, finish_file, quiet, write_graph
from affectnet.inference.runtime import weights_digest
from affectnet.inference.torch_classifier import TorchClassifier
from affectnet.models.affect_model import AffectModel
from affectnet.models.model_config import CONFIG, ONNX, WEIGHTS
from affectnet.report.card import model_card
from affectnet.run import RunFolder, write_beside

OUT = Path(__file__).parents[1] / "src" / "affectnet" / "weights" / "cvnet"
MARGIN = 0.0
"""FER+ faces are cropped as tightly as YuNet's boxes: the median margin over 400 is 0.01."""
LARGEST = 6_000_000
LARGEST_DIFFERENCE = 1e-5
FLOAT = onnx.TensorProto.FLOAT
TERMS = """
## Data, terms and what to know before use

Trained on the faces of FER-2013 (Goodfellow et al. 2013), 48 x 48 pixels and grey, with the
crowd-sourced votes of FER+ (Barsoum et al. 2016). Those images were collected for **research**;
use these weights for research, or make sure that you have the right to the data. Valence and
arousal were not annotated: they are the vote shares times the coordinates of Russell and Mehrabian
(1977), so these two outputs follow the expression closely. The test split is FER+'s public part
(FER2013Valid). 410 of its 3,191 faces have a copy in the training data, as another crop of the same
photo: the metrics above are too high. The 2,781 faces without one have an accuracy of .876 and a
macro F1 of .691. Faces of contempt and disgust are rare in the data, and more than half of them are
misclassified; these metrics hold for tightly cropped faces of 48 pixels only.

The metrics are for the mean prediction over each face and its mirror image (`affectnet predict
--flip`). Colour, and the brightness and contrast of the whole image, are removed before the first
convolution. The cost of blur, noise, low light, glasses and turned heads is given in the project's
`docs/cvnet.md`.
"""


def main() -> None:
    """Write the files and print their sizes and checksums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="evaluated run folder of a CVNet")
    run = parser.parse_args().run
    if run is not None:
        write_weights(RunFolder(run))
    write_onnx(OUT / ONNX)
    lines = []
    for file in (OUT / WEIGHTS, OUT / ONNX):
        size = file.stat().st_size
        if size > LARGEST:
            raise SystemExit(f"{file} has {size:,} bytes; the limit is {LARGEST:,}")
        lines.append(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n")
        print(f"{file}: {size:,} bytes, sha256 {lines[-1].split()[0]}")
    (OUT / "SHA256").write_text("".join(lines), encoding="utf-8")


def write_weights(run: RunFolder) -> None:
    """Write the float16 weights, the config and the card of a run."""
    model = AffectModel.from_pretrained(run.model)
    model.preprocessing = dataclasses.replace(model.preprocessing, margin=MARGIN)
    config = json.dumps(model.config(), indent=2)
    half = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    OUT.mkdir(parents=True, exist_ok=True)
    save_file(half, OUT / WEIGHTS, {"format": "pt", "affectnet": config})
    (OUT / CONFIG).write_text(config + "\n", encoding="utf-8")
    (OUT / "README.md").write_text(card(run), encoding="utf-8")


def write_onnx(path: Path) -> None:
    """Write the weights in the package as ONNX, and compare the file with PyTorch on drawn faces.

    Every weight must be a float16 exactly: that is so where batch norms are not merged.
    """
    model = AffectModel.from_pretrained(OUT)
    with write_beside(path) as new, quiet():
        write_graph(Exported(model, inside=True, half=False).eval(), new, fused=False)
        store_in_half(new)
        finish_file(new, model, "fp32", True, weights_digest(OUT))
        drawn = draw_faces(16, seed=0, size=112)
        faces = np.stack([decode_image(face.image, model.preprocessing.size) for face in drawn])
        expected = TorchClassifier(model, "cpu")(faces)
        found = compare(expected, OnnxClassifier(new, "cpu")(faces))
        if found.largest > LARGEST_DIFFERENCE:
            raise SystemExit(f"ONNX and PyTorch differ: {found}")
    print(f"largest difference from PyTorch on {len(faces)} drawn faces: {found.largest:.2g}")


def store_in_half(path: Path) -> None:
    """Store each float32 array of an ONNX file as float16, cast back to float32 when it is used."""
    file = onnx.load(str(path))
    casts = []
    for array in file.graph.initializer:
        values = onnx.numpy_helper.to_array(array)
        if values.dtype != np.float32 or values.size == 1:
            continue
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            raise SystemExit(f"{array.name} cannot be stored as float16 exactly")
        name = array.name
        array.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=FLOAT))
    nodes = [*casts, *file.graph.node]
    del file.graph.node[:]
    file.graph.node.extend(nodes)
    onnx.save(file, str(path))


def card(run: RunFolder) -> str:
    """Return the run's card with FER+ in place of AffectNet, whose layout the release has."""
    text, _, _ = model_card(run.path, name="CVNet").partition("<!--")
    text = re.sub(r"name: \S+\n(\s+)type: affectnet", r"name: FER+\n\1type: ferplus", text)
    text = re.sub(r"^\S+: affectnet release", "FER+ in AffectNet's layout", text, flags=re.M)
    text = re.sub(r"^AffectNet's images were collected.*?\n\n", "", text, flags=re.M | re.S)
    return text.rstrip() + "\n" + TERMS


if __name__ == "__main__":
    main()
