"""Recipes under AffectNet's protocol, simulated on FER+: equal classes in the test part alone.

From a dataset of FER+ (docs/cvnet.md says how it is ingested), train and val are resampled to
AffectNet's class fractions, and test to 500 faces of every class; the rare classes of test have
fewer faces, which are repeated. Every row is `affectnet train` with the flags given, for every
seed: heads on the frozen features of the shipped CVNet, and of the better recipe what applies to
heads. CVNet was trained on the faces of FER+'s train split; its val and test faces are new to it.
The scores are those of `affectnet evaluate --calibrate`, from the same stored features.

The table has the means over the seeds and their standard deviations. The last lines say whether
every pair of settings that corrects the class frequencies twice is refused. With `--check` the exit
status is 1 if one is not, or if the better recipe is not first in balanced accuracy and in
calibration error.
"""

import argparse
import contextlib
import csv
import dataclasses
import io
import itertools
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml
from drawn import write_faces
from rich.console import Console
from rich.table import Table
from scipy.special import softmax

from affectnet.cli import parse
from affectnet.commands.train import FEATURES, train
from affectnet.commands.train_settings import check
from affectnet.config import TrainConfig
from affectnet.data.augmentation import Augmentation
from affectnet.data.store import DatasetInfo, Face, Split, open_split
from affectnet.data.writer import content_hash
from affectnet.errors import ConfigError
from affectnet.evaluation.calibration import fit_temperature
from affectnet.evaluation.metric_vectors import ExpressionVector
from affectnet.evaluation.metrics import predicted_class
from affectnet.labels import EXPRESSIONS
from affectnet.models.affect_model import AffectModel
from affectnet.run import RunFolder
from affectnet.training.features import PLAIN, FeaturePass
from affectnet.training.trainer import device_settings
from affectnet.version import __version__

AFFECTNET = np.array([74_874, 134_415, 25_459, 14_090, 6_378, 3_803, 24_882, 3_750])
TEST_FACES = 500
TEST = {
    "balanced": "balanced_accuracy",
    "f1": "f1_macro",
    "ece": "ece",
    "log_loss": "log_loss",
}
BETTER = "better recipe"

CVNET = "--backbone cvnet --weights cvnet --image-size 48 --freeze backbone"
HEADS = f"{CVNET} --epochs 5 --lr 0.003"
OF_HEADS = f"{HEADS} --probe-epochs 0 --layer-decay 1 --drop-path 0 --mixup 0"
METHODS = {
    BETTER: f"--recipe resnet152 {OF_HEADS}",
    "logit adjustment": f"{HEADS} --loss logit_adjusted",
    "plain cross entropy": f"{HEADS} --monitor val_accuracy",
    "class weights": f"{HEADS} --class-weights balanced",
    "sampler balanced": f"{HEADS} --sampler balanced",
    "logit adjustment, smoothing": f"{HEADS} --loss logit_adjusted --label-smoothing 0.1",
    "notebook's recipe": f"--recipe notebook-resnet152 {CVNET} --views 0",
    "balanced monitor": HEADS,
    "label smoothing": f"{HEADS} --label-smoothing 0.1",
    "sampler sqrt": f"{HEADS} --sampler sqrt",
}
"""Flags of `affectnet train`. All but plain cross entropy and the notebook's recipe have the
monitor that is the default for these data, val_balanced_accuracy."""

CORRECTIONS = (
    "--loss logit_adjusted",
    "--class-weights balanced",
    "--sampler sqrt",
    "--sampler balanced",
)


def main() -> int:
    """Simulate the dataset, train and score every method, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="ingested FER+ dataset")
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7,8,9", help="comma-separated (0 to 9)")
    parser.add_argument("--only", default="", help="methods whose name contains this text")
    parser.add_argument("--out", type=Path, help="folder that keeps data and runs (default: none)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    options = parser.parse_args()
    methods = {name: flags for name, flags in METHODS.items() if options.only in name}
    seeds = [int(seed) for seed in options.seeds.split(",")]
    console = Console(width=100)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = simulate(options.data, out / "data")
        for seed, (name, flags) in itertools.product(seeds, methods.items()):
            begun = time.perf_counter()
            rows[name].append(run(data, out / "runs", name, seed, flags))
            found = "  ".join(f"{key} {value:.4f}" for key, value in rows[name][-1].items())
            print(f"seed {seed}  {name}: {found}  {time.perf_counter() - begun:.0f} s", flush=True)
    table = Table("method", "val balanced", "balanced accuracy", "macro F1", "ECE", "log loss")
    for name, scores in sorted(rows.items(), key=lambda row: -mean_of(row[1], "balanced")):
        table.add_row(
            name,
            *(
                mean_and_spread([score[key] for score in scores])
                for key in ("val", "balanced", "f1", "ece", "log_loss")
            ),
        )
    console.print(table)
    refused = all(list(map(pair_refused, itertools.combinations(CORRECTIONS, 2))))
    first = is_first(rows) if BETTER in rows else False
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes")
    return int(options.check and not (refused and first))


def simulate(source: Path, target: Path) -> Path:
    """Write the resampled dataset; return its folder."""
    target.mkdir(parents=True)
    counts = {}
    for name in ("train", "val", "test"):
        split = open_split(source, name)
        rows = equal_rows(split) if name == "test" else rows_like_affectnet(split)
        write_faces(target / f"{name}.arrow", faces(split, rows))
        found = np.bincount(split.expression[rows], minlength=len(EXPRESSIONS))
        counts[name] = dict(zip(EXPRESSIONS, found.tolist(), strict=True))
        print(f"{name}: {', '.join(f'{n} {c}' for c, n in counts[name].items())}")
    info = DatasetInfo([str(source)], "simulation", counts, {}, content_hash(target), __version__)
    info.write(target)
    return target


def rows_like_affectnet(split: Split) -> np.ndarray:
    """As many rows as the rarest class permits, with AffectNet's class fractions."""
    fractions = AFFECTNET / AFFECTNET.sum()
    labels = np.asarray(split.expression)
    own = np.bincount(labels[labels >= 0], minlength=len(fractions))
    wanted = np.round(fractions * (own / fractions).min()).astype(int)
    random = np.random.default_rng(0)
    chosen = [
        random.permutation(np.flatnonzero(labels == c))[:n] for c, n in enumerate(wanted.tolist())
    ]
    return np.sort(np.concatenate(chosen))


def equal_rows(split: Split) -> np.ndarray:
    """The same number of rows of every class; those of rare classes occur several times."""
    labels = np.asarray(split.expression)
    random = np.random.default_rng(0)
    return np.concatenate(
        [
            np.resize(random.permutation(np.flatnonzero(labels == c)), TEST_FACES)
            for c in range(len(EXPRESSIONS))
        ]
    )


def faces(split: Split, rows: np.ndarray) -> Iterator[Face]:
    """The faces of some rows, with ids of their own where they occur again."""
    seen: Counter[str] = Counter()
    for row in rows.tolist():
        face = split.face(row)
        seen[face.id] += 1
        yield dataclasses.replace(face, id=f"{face.id}-{seen[face.id]}")


def run(data: Path, runs: Path, name: str, seed: int, flags: str) -> dict[str, float]:
    """Train one method with one seed, calibrate it on val, and score it on test."""
    folder = "".join(c if c.isalnum() else "_" for c in f"{name}-{seed}")
    common = f"--data {data} --runs {runs} --seed {seed} --name {folder} --accelerator cpu"
    config = parse("train", f"{flags} {common}".split())
    with contextlib.redirect_stdout(io.StringIO()):
        trained = train(config)
    with trained.metrics.open(newline="") as file:
        epochs = list(csv.DictReader(file))
    monitor = yaml.safe_load(trained.config.read_text())["monitor"]
    chosen = max(epochs, key=lambda epoch: float(epoch[monitor]))
    val, val_labels = logits_of(trained, data, "val", config)
    test, truth = logits_of(trained, data, "test", config)
    # As `affectnet evaluate --calibrate`: for the class fractions of test, which are equal.
    weights = 1 / np.bincount(val_labels)
    probabilities = softmax(test / fit_temperature(val, val_labels, weights=weights), axis=1)
    vector = ExpressionVector(truth, predicted_class(probabilities), probabilities, EXPRESSIONS)
    scores = dict(zip(vector.names, vector(np.ones((len(truth), 1)))[:, 0].tolist(), strict=True))
    return {
        "val": float(chosen["val_balanced_accuracy"]),
        **{short: scores[metric] for short, metric in TEST.items()},
    }


@torch.no_grad()
def logits_of(
    trained: RunFolder, data: Path, split: str, config: TrainConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the trained heads for the cached features of a split, (n, 8), and the labels."""
    model = AffectModel.from_pretrained(trained.model).eval()
    faces = open_split(data, split)
    source = FeaturePass(
        model,
        config.runs / FEATURES,
        data=[DatasetInfo.read(data).content_hash],
        augmentation=Augmentation(),
        seed=0,
        device=torch.device("cpu"),
        precision=device_settings("cpu", precision=config.precision)["precision"].split("-")[0],
    )
    features = source.features(faces, split, PLAIN, workers=0).astype(np.float32)
    logits = model.heads(torch.from_numpy(features)).logits.numpy().astype(np.float64)
    return logits, faces.expression.astype(np.int64)


def mean_of(scores: list[dict[str, float]], key: str) -> float:
    """Mean of one metric over the seeds."""
    return statistics.fmean(score[key] for score in scores)


def mean_and_spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}".replace("0.", ".")


def pair_refused(pair: tuple[str, str]) -> bool:
    """Whether two corrections of the class frequencies are refused; print it."""
    if pair[0].split()[0] == pair[1].split()[0]:
        return True  # two values of one flag
    try:
        check(parse("train", ["--data", "D", *" ".join(pair).split()]))
    except ConfigError as error:
        refused = "each correct the class frequencies" in str(error)
    else:
        refused = False
    print(f"{' '.join(pair)}: {'refused' if refused else 'NOT REFUSED'}")
    return refused


def is_first(rows: dict[str, list[dict[str, float]]]) -> bool:
    """Whether the better recipe has the best balanced accuracy and calibration error; print it."""
    found = True
    for key, best in (("balanced", max), ("ece", min)):
        means = {name: mean_of(scores, key) for name, scores in rows.items()}
        winner = best(means, key=lambda name: means[name])
        print(f"first in {key}: {winner.strip()} ({means[winner]:.3f})")
        found &= winner == BETTER
    return found


if __name__ == "__main__":
    sys.exit(main())
