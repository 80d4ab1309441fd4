"""The bootstrap as matrix products, compared with a loop over scikit-learn: equality, time, memory.

    OMP_NUM_THREADS=1 python benchmarks/bootstrap.py
    OMP_NUM_THREADS=1 python benchmarks/bootstrap.py --faces 300000 --loop 0

Both compute the same metrics for the same resamples: the 17 metrics of eight classes (six of them
skew-normalised), precision, recall, F1, AUC-ROC and average precision of each class, and the five
of valence and of arousal: 67 in all. The loop uses few resamples and its time is scaled to all.
"""

import argparse
import resource
import sys
import time
import warnings

import krippendorff
import numpy as np
from scipy.stats import pearsonr
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from affectnet.evaluation.bootstrap import bootstrap, draw_counts, percentile_interval
from affectnet.evaluation.metric_vectors import AffectVector, ExpressionVector
from affectnet.labels import EXPRESSIONS

Arrays = dict[str, np.ndarray]


def draw_faces(n: int, seed: int = 0) -> Arrays:
    """Return predictions similar to a good AffectNet model's, with equally many faces per class."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 8
    logits = rng.normal(size=(n, 8)) * 1.2
    logits[np.arange(n), y] += 2.2
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    x = rng.uniform(-1, 1, (2, n))
    x_pred = np.clip(0.7 * x + rng.normal(size=(2, n)) * 0.3, -1, 1)
    return {"y": y, "p": p, "v": x[0], "a": x[1], "v_pred": x_pred[0], "a_pred": x_pred[1]}


def ours(faces: Arrays, resamples: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Return names (F,) and metrics (F, resamples)."""
    parts = [
        ExpressionVector(faces["y"], faces["p"].argmax(axis=1), faces["p"], EXPRESSIONS),
        AffectVector(faces["v"], faces["v_pred"], "valence"),
        AffectVector(faces["a"], faces["a_pred"], "arousal"),
    ]
    prefixes = ("", "valence/", "arousal/")
    names = [
        prefix + name for prefix, part in zip(prefixes, parts, strict=True) for name in part.names
    ]

    def metrics(weights: np.ndarray) -> np.ndarray:
        return np.concatenate([part(weights) for part in parts])

    samples = bootstrap(metrics, len(faces["y"]), resamples, seed)
    percentile_interval(samples)
    return names, samples


def by_packages(faces: Arrays) -> dict[str, float]:
    """Compute the same metrics of one resample with scikit-learn, scipy and krippendorff."""
    y, p = faces["y"], faces["p"]
    preds, k = p.argmax(axis=1), p.shape[1]
    labels = np.arange(k)
    hits = y[:, None] == labels
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y, preds, labels=labels)
    aucs = sk.roc_auc_score(hits, p, average=None)
    aps = sk.average_precision_score(hits, p, average=None)
    right, confidence = preds == y, p.max(axis=1)
    accuracy_of, confidence_of = calibration_curve(right, confidence, n_bins=15)
    counts = np.histogram(confidence, bins=15, range=(0, 1))[0]
    found = {
        "accuracy": sk.accuracy_score(y, preds),
        "balanced_accuracy": sk.balanced_accuracy_score(y, preds),
        "f1_macro": f1.mean(),
        "f1_weighted": sk.f1_score(y, preds, average="weighted"),
        "cohen_kappa": sk.cohen_kappa_score(y, preds),
        "krippendorff_alpha": krippendorff.alpha(
            reliability_data=np.stack([y, preds]), level_of_measurement="nominal"
        ),
        "top2_accuracy": sk.top_k_accuracy_score(y, p, k=2, labels=labels),
        "auc_roc_macro": aucs.mean(),
        "auc_pr_macro": aps.mean(),
        "log_loss": sk.log_loss(y, p, labels=labels),
        "ece": counts[counts > 0] / len(y) @ abs(accuracy_of - confidence_of),
    }
    weights = 1 / np.bincount(y)[y]
    found |= {
        "skew_normalised/accuracy": sk.accuracy_score(y, preds, sample_weight=weights),
        "skew_normalised/f1_macro": sk.f1_score(y, preds, average="macro", sample_weight=weights),
        "skew_normalised/cohen_kappa": sk.cohen_kappa_score(y, preds, sample_weight=weights),
        "skew_normalised/auc_roc_macro": sk.roc_auc_score(hits, p, sample_weight=weights),
        "skew_normalised/auc_pr_macro": sk.average_precision_score(hits, p, sample_weight=weights),
    }
    each = {"precision": precision, "recall": recall, "f1": f1, "auc_roc": aucs, "auc_pr": aps}
    for name, values in each.items():
        found |= {f"per_class/{c}/{name}": values[i] for i, c in enumerate(EXPRESSIONS)}
    for prefix, x, x_pred in (
        ("valence", faces["v"], faces["v_pred"]),
        ("arousal", faces["a"], faces["a_pred"]),
    ):
        cov = np.cov(x, x_pred, bias=True)
        found |= {
            f"{prefix}/rmse": sk.root_mean_squared_error(x, x_pred),
            f"{prefix}/mae": sk.mean_absolute_error(x, x_pred),
            f"{prefix}/corr": pearsonr(x, x_pred).statistic,
            f"{prefix}/sagr": (np.sign(x) == np.sign(x_pred)).mean(),
            f"{prefix}/ccc": 2 * cov[0, 1] / (np.trace(cov) + (x.mean() - x_pred.mean()) ** 2),
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=4000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=20, help="resamples of the loop; 0 for none")
    given = parser.parse_args()
    faces, seed = draw_faces(given.faces), 0

    wall, cpu = time.perf_counter(), time.process_time()
    names, samples = ours(faces, given.resamples, seed)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{given.faces:,} faces, {given.resamples:,} resamples, {len(names)} metrics: "
        f"{cpu:.2f} s of processor time ({wall:.2f} s elapsed), "
        f"peak memory of the process {peak:.2f} GiB"
    )
    if not given.loop:
        return 0

    counts = np.concatenate(list(draw_counts(given.faces, given.loop, seed)), axis=1).astype(int)
    apart, loop_cpu = {}, 0.0
    for r in range(given.loop):
        rows = np.repeat(np.arange(given.faces), counts[:, r])
        drawn = {name: values[rows] for name, values in faces.items()}
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = by_packages(drawn)
        loop_cpu += time.process_time() - started
        for name, value in expected.items():
            gap = abs(samples[names.index(name), r] - value)
            apart[name] = max(apart.get(name, 0.0), gap)
    scaled = loop_cpu / given.loop * given.resamples
    worst = max(apart, key=lambda name: apart[name])
    print(
        f"loop over scikit-learn: {given.loop} resamples in {loop_cpu:.2f} s of processor time, so "
        f"{scaled:.0f} s for {given.resamples:,} (scaled): {scaled / cpu:.0f} times as long"
    )
    print(
        f"largest difference over {len(apart)} metrics and {given.loop} resamples: "
        f"{apart[worst]:.1e} ({worst})"
    )
    return int(apart[worst] > 1e-9)


if __name__ == "__main__":
    sys.exit(main())
