"""How the box of a detected face has to be enlarged to match the crop that a model was trained on.

    python benchmarks/margin.py --data DIR [--split test] [--faces 1000] [--model cvnet]

Each face of the split, and each drawn face, is enlarged to 96 to 288 pixels and pasted on a
background of smooth noise, 640x480; YuNet looks for it. The faces of the dataset are themselves the
crop of the training. Table 1: by how much the true crop is larger than the box (by the longer side,
the shorter side or their mean), half of it being the margin, and how far its centre is off. A rule
with a smaller spread fits more faces. Table 2: accuracy of the model on the crops of each margin,
over its accuracy on the true crops. Table 3: accuracy and balanced accuracy on the true crops,
enlarged by each margin, as with boxes of the user's own that are looser. Around the pasted face
there is only background, so tables 2 and 3 put larger margins at a disadvantage that table 1 does
not have. `--loose` prints table 3 alone, for every model given (`--model A B`).
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from affectnet.data.crop import Box, crop_face
from affectnet.data.drawn.release import draw_faces
from affectnet.data.images import decode_image, resize
from affectnet.data.store import open_split
from affectnet.evaluation.metrics import accuracy, balanced_accuracy, confusion_matrix
from affectnet.inference.detector import FaceDetector
from affectnet.inference.predictor import load

LOOSE = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
MARGINS = (-0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
SIDES = {"longer": max, "shorter": min, "mean": lambda *sides: sum(sides) / 2}
CANVAS = (480, 640)
Pixels = NDArray[np.uint8]


def pasted(face: Pixels, rng: np.random.Generator) -> tuple[Pixels, Box]:
    """Enlarge a face and paste it on a background; returns the image and the true crop."""
    side = int(rng.integers(96, 289))
    coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    image = np.array(coarse.resize(CANVAS[::-1], Image.Resampling.BICUBIC))
    top, left = (int(rng.integers(0, length - side)) for length in CANVAS)
    image[top : top + side, left : left + side] = resize(face, side, "bicubic")
    return image, Box(left, top, side, side)


def found(faces: Sequence[Pixels]) -> Iterator[tuple[int, Pixels, Box, Box]]:
    """Yield each face that is found: its number, its image, the true crop and the detected box."""
    detector = FaceDetector()
    for i, face in enumerate(faces):
        image, crop = pasted(face, np.random.default_rng(i))
        middle = crop.x + crop.width / 2, crop.y + crop.height / 2
        for candidate in detector.detect(image)[:1]:
            x, y, width, height = candidate.box
            if x < middle[0] < x + width and y < middle[1] < y + height:
                yield i, image, crop, candidate.box


def geometry(title: str, pairs: Sequence[tuple[Box, Box]], total: int) -> Table:
    """Table 1: the margin that each rule needs."""
    table = Table("side", "margin: median", "quartiles", "spread", title=title)
    for name, rule in SIDES.items():
        margins = np.array([(c.width / rule(b.width, b.height) - 1) / 2 for c, b in pairs])
        low, middle, high = np.quantile(margins, [0.25, 0.5, 0.75])
        spread = np.std(np.log(1 + 2 * margins))
        table.add_row(name, f"{middle:.3f}", f"{low:.3f} to {high:.3f}", f"{spread:.3f}")
    apart = [
        (c.x + c.width / 2 - b.x - b.width / 2, c.y + c.height / 2 - b.y - b.height / 2, c.width)
        for c, b in pairs
    ]
    x, y = np.median([(dx / side, dy / side) for dx, dy, side in apart], axis=0)
    table.caption = (
        f"{len(pairs)} of {total} faces found; the crop's centre is {x:+.3f} of its side to the "
        f"right and {y:+.3f} below the box's (medians)"
    )
    return table


def loose_crops(
    models: Sequence[str], tau: float, faces: Sequence[Pixels], truth: NDArray[np.int8]
) -> Table:
    """Table 3: accuracy and balanced accuracy on the true crops, enlarged, with mirror images."""
    table = Table("model", *(f"{margin:.2f}" for margin in LOOSE))
    known = truth >= 0
    for name in models:
        model = load(name, prior="uniform" if tau else None, prior_tau=tau).classifier
        cells = []
        for margin in LOOSE:
            crops = []
            for i, face in enumerate(faces):
                image, crop = pasted(face, np.random.default_rng(i))
                crops.append(crop_face(image, crop, model.size, margin=margin))
            preds = np.concatenate(
                [
                    (model(batch).probabilities + model(batch[:, :, ::-1]).probabilities).argmax(1)
                    for batch in np.array_split(np.stack(crops), len(crops) // 64 + 1)
                ]
            )
            confusion = confusion_matrix(truth[known].astype(int), preds[known])
            cells.append(f"{accuracy(confusion):.3f} / {balanced_accuracy(confusion):.3f}")
        table.add_row(name, *cells)
    table.title = f"true crops with a margin: accuracy / balanced accuracy, {known.sum()} faces"
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="dataset folder")
    parser.add_argument("--split", default="test", help="train, val or test (default test)")
    parser.add_argument("--faces", type=int, default=1000, help="faces, drawn without order")
    parser.add_argument("--model", nargs="+", default=["cvnet"], help="as of affectnet.load")
    parser.add_argument("--loose", action="store_true", help="print table 3 alone")
    parser.add_argument("--prior-tau", type=float, default=0.0, help="table 3: of --prior uniform")
    options = parser.parse_args()
    split = open_split(options.data, options.split)
    rows = np.random.default_rng(0).permutation(len(split))[: options.faces].tolist()
    real = [decode_image(split.image_bytes(row)) for row in rows]
    console = Console(width=120)
    console.print(loose_crops(options.model, options.prior_tau, real, split.expression[rows]))
    if options.loose:
        return
    drawn = [decode_image(face.image) for face in draw_faces(options.faces // 16, seed=1)]

    seen = list(found(real))
    pairs = [(crop, box) for _, _, crop, box in seen]
    console.print(geometry(f"{options.data.name} {options.split}", pairs, len(real)))
    drawn_pairs = [(crop, box) for _, _, crop, box in found(drawn)]
    console.print(geometry("drawn faces", drawn_pairs, len(drawn)))

    model = load(options.model[0]).classifier
    truth = split.expression[[rows[i] for i, *_ in seen]]

    def fraction_right(crops: list[Pixels]) -> float:
        batches = [np.stack(crops[i : i + 64]) for i in range(0, len(crops), 64)]
        labels = np.concatenate([model(batch).probabilities.argmax(axis=1) for batch in batches])
        return float((labels == truth)[truth >= 0].mean())

    def crops_of(margin: float, rule: str) -> list[Pixels]:
        crops = []
        for _, image, _, box in seen:
            side = SIDES[rule](box.width, box.height)
            x, y = box.x + (box.width - side) / 2, box.y + (box.height - side) / 2
            square = Box(x, y, side, side)
            crops.append(crop_face(image, square, model.size, margin=margin))
        return crops

    true = fraction_right([crop_face(im, crop, model.size, margin=0) for _, im, crop, _ in seen])
    stored = fraction_right([resize(real[i], model.size) for i, *_ in seen])
    table = Table("side", *(f"{margin:+.2f}" for margin in MARGINS), title=f"accuracy, {len(seen)}")
    for name in SIDES:
        values = [fraction_right(crops_of(margin, name)) for margin in MARGINS]
        table.add_row(name, *(f"{v:.3f} ({v / true:.3f})" for v in values))
    table.caption = (
        f"true crops {true:.3f}, as stored {stored:.3f}; in brackets over the true crops"
    )
    console.print(table)


if __name__ == "__main__":
    main()
