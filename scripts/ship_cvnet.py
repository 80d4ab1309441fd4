"""Put a trained CVNet into the package: float16 weights, config, model card, checksum.

    python scripts/ship_cvnet.py runs/NAME

For maintainers. The run must be evaluated on `test` (the card tells measured figures only). Weights
of floating point become float16, which halves the file; predictions move by less than 1e-2.
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
"""FER+ faces are cut as tightly as YuNet's boxes: over 400 of them the median margin is 0.01."""
LARGEST = 6_000_000
TERMS = """
## Data, terms and what to know before use

Trained on the faces of FER-2013 (Goodfellow et al. 2013), 48 x 48 pixels and grey, with the
crowd's votes of FER+ (Barsoum et al. 2016). Those images were gathered for **research**; use
these weights for research, or see to your own right to the data. Valence and arousal were not
annotated: they are the vote shares times the coordinates of Russell and Mehrabian (1977), so
these two outputs follow the expression closely. About one test face in eight also stands, in
another cut or copy, in the training data: the figures above are optimistic. Faces of contempt and
disgust are rare in the data, and more than half of them are missed.

The figures are of the mean for each face and its mirror image (`affectnet predict --flip`). Colour,
and the light and contrast of the whole picture, are taken out before the first convolution. What
blur, noise, darkness, glasses and turned heads cost is in the project's `docs/cvnet.md`.
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
        raise SystemExit(f"{OUT / WEIGHTS} has {size:,} bytes; at most {LARGEST:,} may be shipped")
    digest = hashlib.sha256((OUT / WEIGHTS).read_bytes()).hexdigest()
    (OUT / "SHA256").write_text(f"{digest}  {WEIGHTS}\n", encoding="utf-8")
    print(f"{OUT}: {size:,} bytes, sha256 {digest}")


def card(run: RunFolder) -> str:
    """The run's card, which takes the faces for AffectNet's, whose layout they have, set right."""
    told, _, _ = model_card(run.path, name="CVNet").partition("<!--")
    told = re.sub(r"name: \S+\n(\s+)type: affectnet", r"name: FER+\n\1type: ferplus", told)
    told = re.sub(r"^\S+: affectnet release", "FER+ in AffectNet's layout", told, flags=re.M)
    told = re.sub(r"^AffectNet's own pictures.*?\n\n", "", told, flags=re.M | re.S)
    return told.rstrip() + "\n" + TERMS


if __name__ == "__main__":
    main()
