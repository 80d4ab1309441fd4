"""Accuracy and CCC of a model under image corruptions, at three strengths each.

    python benchmarks/robustness.py --model runs/NAME/model --data DIR [--split test] [--faces N]

Every face of the split is corrupted once per kind and strength (`corruptions.py`), with its row as
the seed, before it is resized for the model; the first line is for the faces without corruption.
The table is printed, and written as Markdown with --out.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from corruptions import CORRUPTIONS, STRENGTHS, corrupt
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from affectnet.data.augment import normalise, to_float
from affectnet.data.images import decode_image, resize
from affectnet.data.store import Split, open_split
from affectnet.evaluation.metrics import affect_metrics
from affectnet.models.affect_model import AffectModel

BATCH = 256


def main() -> None:
    """Score the split without and with every corruption; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="model folder, or owner/name on the hub")
    parser.add_argument("--data", required=True, type=Path, help="dataset folder")
    parser.add_argument("--split", default="test", help="train, val or test (default test)")
    parser.add_argument("--faces", type=int, default=None, help="only the first N faces")
    parser.add_argument("--out", type=Path, default=None, help="Markdown file for the table")
    options = parser.parse_args()

    model = AffectModel.from_pretrained(options.model)
    split = open_split(options.data, options.split)
    rows = np.arange(min(len(split), options.faces or len(split)))
    clean = score(model, split, rows, None, 1)
    table: list[tuple[str, list[dict[str, float]]]] = []
    for kind in tqdm(CORRUPTIONS, desc="corruptions"):
        table.append((kind, [score(model, split, rows, kind, strength) for strength in STRENGTHS]))
    show(clean, table, len(rows))
    if options.out:
        options.out.write_text(as_markdown(clean, table), encoding="utf-8")


def score(
    model: AffectModel, split: Split, rows: np.ndarray, kind: str | None, strength: int
) -> dict[str, float]:
    """Return accuracy, and CCC of valence and arousal, over the faces that have the label."""
    size, way = model.preprocessing.size, model.preprocessing.interpolation

    def face(row: int) -> np.ndarray:
        pixels = decode_image(split.image_bytes(row))
        if kind is not None:
            pixels = corrupt(pixels, kind, strength, seed=row)
        return resize(pixels, size, way)

    parts: list[tuple[np.ndarray, ...]] = []
    with ThreadPoolExecutor(os.cpu_count()) as threads, torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            faces = np.stack(list(threads.map(face, rows[start : start + BATCH].tolist())))
            images = to_float(torch.from_numpy(faces).permute(0, 3, 1, 2))
            output = model(normalise(images, model.preprocessing.mean, model.preprocessing.std))
            parts.append(
                (
                    output.logits.argmax(dim=1).numpy(),
                    output.valence.numpy(),
                    output.arousal.numpy(),
                )
            )
    expression, valence, arousal = (np.concatenate(part) for part in zip(*parts, strict=True))
    truth = split.expression[rows]
    known = truth >= 0
    metrics = {"accuracy": float((expression[known] == truth[known]).mean())}
    for name, predicted in (("valence", valence), ("arousal", arousal)):
        labels = getattr(split, name)[rows]
        known = np.isfinite(labels)
        metrics[name] = float(affect_metrics(labels[known], predicted[known])["ccc"] or np.nan)
    return metrics


def show(
    clean: dict[str, float], table: list[tuple[str, list[dict[str, float]]]], count: int
) -> None:
    """Print the table."""
    console = Console()
    console.print(
        f"{count:,} faces without corruption: accuracy {clean['accuracy']:.3f}, "
        f"CCC valence {clean['valence']:.3f}, arousal {clean['arousal']:.3f}"
    )
    printed = Table("corruption", *(f"accuracy {s}" for s in STRENGTHS), "CCC V, A at strength 3")
    for kind, metrics in table:
        printed.add_row(
            kind,
            *(f"{m['accuracy']:.3f}" for m in metrics),
            f"{metrics[-1]['valence']:.3f}, {metrics[-1]['arousal']:.3f}",
        )
    mean = [np.mean([metrics[s - 1]["accuracy"] for _, metrics in table]) for s in STRENGTHS]
    printed.add_row("mean", *(f"{value:.3f}" for value in mean), "")
    console.print(printed)


def as_markdown(clean: dict[str, float], table: list[tuple[str, list[dict[str, float]]]]) -> str:
    """Return the accuracies as a Markdown table."""
    lines = ["| corruption | slight | medium | heavy |", "| --- | --- | --- | --- |"]
    lines.append(f"| none | {clean['accuracy']:.3f} | | |")
    for kind, metrics in table:
        values = " | ".join(f"{m['accuracy']:.3f}" for m in metrics)
        lines.append(f"| {kind.replace('_', ' ')} | {values} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
