"""Put a trained CVNet into the package: float16 weights, config, model card, checksum.

    python scripts/ship_cvnet.py runs/NAME

For maintainers. The run must be evaluated on `test`, because the card contains only measured
metrics. Floating-point weights are converted to float16, which halves the file; predictions change
by less than 1e-2.
"""

import argparse
import dataclasses
import hashlib
import json
import re
from pathlib import Path

from safetensors.torch import save_file

from affectnet.models.affect_model import CONFIG, WEIGHTS, AffectModel
from affectnet.report.card import model_card
from affectnet.run import RunFolder

OUT = Path(__file__).parents[1] / "src" / "affectnet" / "weights" / "cvnet"
MARGIN = 0.0
"""FER+ faces are cropped as tightly as YuNet's boxes: the median margin over 400 is 0.01."""
LARGEST = 6_000_000
TERMS = """
## Data, terms and what to know before use

Trained on the faces of FER-2013 (Goodfellow et al. 2013), 48 x 48 pixels and grey, with the
crowd-sourced votes of FER+ (Barsoum et al. 2016). Those images were collected for **research**;
use these weights for research, or make sure that you have the right to the data. Valence and
arousal were not annotated: they are the vote shares times the coordinates of Russell and Mehrabian
(1977), so these two outputs follow the expression closely. About one test face in eight is also in
the training data, as another crop or copy: the metrics above are optimistic. Faces of contempt and
disgust are rare in the data, and more than half of them are misclassified.

The metrics are for the mean prediction over each face and its mirror image (`affectnet predict
--flip`). Colour, and the brightness and contrast of the whole image, are removed before the first
convolution. The cost of blur, noise, low light, glasses and turned heads is given in the project's
`docs/cvnet.md`.
"""


def main() -> None:
    """Write the four files and print their size and checksum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="evaluated run folder of a CVNet")
    run = RunFolder(parser.parse_args().run)

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

    size = (OUT / WEIGHTS).stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{OUT / WEIGHTS} has {size:,} bytes; the limit is {LARGEST:,}")
    digest = hashlib.sha256((OUT / WEIGHTS).read_bytes()).hexdigest()
    (OUT / "SHA256").write_text(f"{digest}  {WEIGHTS}\n", encoding="utf-8")
    print(f"{OUT}: {size:,} bytes, sha256 {digest}")


def card(run: RunFolder) -> str:
    """Return the run's card with FER+ in place of AffectNet, whose layout the release has."""
    text, _, _ = model_card(run.path, name="CVNet").partition("<!--")
    text = re.sub(r"name: \S+\n(\s+)type: affectnet", r"name: FER+\n\1type: ferplus", text)
    text = re.sub(r"^\S+: affectnet release", "FER+ in AffectNet's layout", text, flags=re.M)
    text = re.sub(r"^AffectNet's images were collected.*?\n\n", "", text, flags=re.M | re.S)
    return text.rstrip() + "\n" + TERMS


if __name__ == "__main__":
    main()
