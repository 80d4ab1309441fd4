"""The report of a run, compared with the same report with every face in it: time and size.

    python benchmarks/report.py --check

Both reports are made in this call, of the same run: drawn faces, predictions for them, a small
network, all figures, Grad-CAM and the map of features (computed again for each). The comparison
embeds every predicted face; the report itself the most informative faces and a random sample.
`--check` fails if the report takes 30 s of elapsed time or reaches 10 MB.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from drawn import write_faces

from affectnet.data.drawn.release import draw_faces
from affectnet.data.store import DatasetInfo, Face, open_split
from affectnet.evaluation import evaluate, predictions_table, write_predictions
from affectnet.labels import EXPRESSIONS
from affectnet.models.affect_model import AffectModel
from affectnet.report import page, write_report

MOST_SECONDS, MOST_BYTES = 30.0, 10_000_000


def repeated(distinct: int, faces: int, side: int) -> Iterator[Face]:
    """Yield `faces` faces with different ids, from `distinct` drawn faces per expression."""
    drawn = list(draw_faces(distinct, seed=0, size=side))
    for i, face in enumerate(islice(cycle(drawn), faces)):
        yield replace(face, id=f"{i:06d}")


def make_run(folder: Path, faces: int, distinct: int, side: int) -> Path:
    """Write a dataset and an evaluated run on it."""
    data, run = folder / "dataset", folder / "run"
    data.mkdir()
    counts = {"test": dict.fromkeys(EXPRESSIONS, 0)}
    made = list(repeated(distinct, faces, side))
    write_faces(data / "test.arrow", made)
    for face in made:
        counts["test"][EXPRESSIONS[face.expression]] += 1
    DatasetInfo(["drawn"], "folder", counts, {}, "0" * 64, "0").write(data)
    split = open_split(data, "test")
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.2, (faces, 8))
    logits[np.arange(faces), split.expression] += 2.2
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    v, a = (
        np.clip(0.7 * x + rng.normal(0, 0.25, faces), -1, 1) for x in (split.valence, split.arousal)
    )
    truth = split.expression.astype(int), split.valence.astype(float), split.arousal.astype(float)
    table = predictions_table(split.ids, *truth, p, v, a)
    place = run / "evaluation" / "test"
    place.mkdir(parents=True)
    write_predictions(table, place / "predictions.parquet")
    evaluate(table, table, resamples=100).write(place / "metrics.json")
    (run / "config.yaml").write_text(f"data: [{data}]\nbackbone: cvnet\n")
    torch.manual_seed(0)
    AffectModel("cvnet", image_size=48).save_pretrained(run / "model")
    return run


def timed(run: Path, out: Path) -> tuple[float, float, int]:
    """Return elapsed seconds, processor seconds and bytes of a report without cached results."""
    shutil.rmtree(run / "evaluation" / "test" / "explained", ignore_errors=True)
    wall, cpu = time.perf_counter(), time.process_time()
    write_report([run], out)
    return time.perf_counter() - wall, time.process_time() - cpu, out.stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=4000)
    parser.add_argument("--distinct", type=int, default=40, help="drawn faces per expression")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--check", action="store_true", help="fail from 30 s or 10 MB")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), given.faces, given.distinct, given.side)
        wall, cpu, size = timed(run, Path(folder) / "ours.html")
        page.THUMBNAIL_LIMIT, page.SAMPLE_FACES = 10**12, given.faces
        plain_wall, plain_cpu, plain_size = timed(run, Path(folder) / "plain.html")
    print(
        f"report of {given.faces:,} predictions, {given.side} px: {wall:.1f} s ({cpu:.1f} s of "
        f"processor time), {size / 1e6:.1f} MB"
    )
    print(
        f"with every face in it: {plain_wall:.1f} s ({plain_cpu:.1f} s), "
        f"{plain_size / 1e6:.1f} MB: {plain_cpu / cpu:.2f} times the processor time, "
        f"{plain_size / size:.1f} times the size"
    )
    return int(given.check and (wall >= MOST_SECONDS or size >= MOST_BYTES))


if __name__ == "__main__":
    sys.exit(main())
