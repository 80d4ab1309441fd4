"""Ingest compared with `tar -xf` and a simple Python loop, on the same tar files.

    python benchmarks/ingest.py [--faces 30000] [--repeats 3] [--folder DIR] [--check]
    python benchmarks/ingest.py --full [--folder DIR] [--check]

The benchmark writes AffectNet-like tar files of drawn 224x224 faces (a few hundred images, repeated
with different ids). It then measures these methods in turns, each in its own process:

- tar and loop: `tar -xf`, then glob, `np.load` of three files and `PIL.Image.open` for each face;
- ingest --check header: checks the JPEG header and end marker of every image;
- ingest --check decode: decodes every image; compared with the loop with decoding.

Ingest runs without the search for duplicates (--group none), which the loop does not have. Times
exclude the start of Python and imports, for both. Peak memory is the largest resident set of
the process. The table shows the median of the repeats; the ratio is that of the medians. With
--check the exit status is 1 if a target is missed.

--full ingests a release of AffectNet's size: with AffectNet's number of faces in every class
(287,651 and 3,999; 2,000 distinct images per part; 5.4 GB, and the same again for the dataset),
once with each check, and prints time, memory and sizes. The counts of the dataset must equal the
published ones.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from affectnet.data.audit.counts import RELEASES
from affectnet.data.drawn.release import write_affectnet_tars

LOOP = """
import glob, json, os, resource, subprocess, sys, time
import numpy as np
from PIL import Image

decode, folder, *tars = sys.argv[1:]
started = time.perf_counter()
for tar in tars:
    subprocess.run(["tar", "-xf", tar, "-C", folder], check=True)
unpacked = time.perf_counter()
faces = []
for path in glob.glob(os.path.join(folder, "*", "images", "*.jpg")):
    part, name = os.path.dirname(os.path.dirname(path)), os.path.basename(path)[:-4]
    numbers = [
        float(np.load(os.path.join(part, "annotations", f"{name}_{piece}.npy")))
        for piece in ("exp", "val", "aro")
    ]
    with Image.open(path) as image:
        if decode == "decode":
            image.load()
        faces.append((name, image.size, numbers))
seconds = time.perf_counter() - started
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"faces": len(faces), "seconds": seconds, "memory": memory}))
"""

INGEST = """
import contextlib, io, json, resource, sys, time
from pathlib import Path
from affectnet.commands.ingest import ingest
from affectnet.config import IngestConfig

check, folder, *tars = sys.argv[1:]
config = IngestConfig(tuple(map(Path, tars)), Path(folder, "dataset"), check=check, group="none")
started = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    info = ingest(config)
seconds = time.perf_counter() - started
faces = sum(sum(counts.values()) for counts in info.counts.values())
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
size = sum(path.stat().st_size for path in Path(folder, "dataset").iterdir())
found = {"faces": faces, "seconds": seconds, "memory": memory, "size": size}
print(json.dumps(found | {"counts": info.counts}))
"""

WAYS = {
    "tar and loop": (LOOP, "header"),
    "ingest --check header": (INGEST, "header"),
    "tar and loop, decoding": (LOOP, "decode"),
    "ingest --check decode": (INGEST, "decode"),
}
AGAINST = {
    "ingest --check header": "tar and loop",
    "ingest --check decode": "tar and loop, decoding",
}
TIMES_AS_FAST, FACES_A_SECOND, MEGABYTES = 15, 10_000, 1024


def measure(name: str, folder: Path, tars: list[Path], faces: int) -> dict[str, Any]:
    """Run one method in its own process, in an empty folder."""
    code, argument = WAYS[name]
    scratch = folder / "scratch"
    scratch.mkdir()
    os.sync()  # so that no method waits for the writes of another
    done = subprocess.run(
        [sys.executable, "-c", code, argument, str(scratch), *map(str, tars)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    shutil.rmtree(scratch)
    result: dict[str, Any] = json.loads(done.stdout)
    if result["faces"] != faces:
        raise SystemExit(f"{name} read {result['faces']} of {faces} faces")
    return result


def main() -> int:
    """Measure and print; return 1 if a target is missed and --check was given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder to write to (default: a temporary one)")
    parser.add_argument("--full", action="store_true", help="ingest a release of AffectNet's size")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.full:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            missed = rehearse(Path(name))
        return missed if options.check else 0
    test_per_class = max(1, options.faces // 80)
    train_per_class = max(2, options.faces // 8 - test_per_class)
    faces = 8 * (train_per_class + test_per_class)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        tars = list(
            write_affectnet_tars(folder / "release", train_per_class, test_per_class, distinct=400)
        )
        size = sum(tar.stat().st_size for tar in tars)
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(options.repeats):
            for way in WAYS:
                runs[way].append(measure(way, folder, tars, faces))
    return show(runs, faces, size) if options.check else show(runs, faces, size) * 0


def rehearse(folder: Path) -> int:
    """Ingest a release of AffectNet's size, print the costs; return 1 if a target is missed."""
    release = next(one for one in RELEASES if one.title == "AffectNet-8 (2021)")
    published = {part.splits[-1]: part.counts for part in release.parts}
    console = Console()
    started = time.perf_counter()
    tars = list(
        write_affectnet_tars(
            folder / "release", published["val"], published["test"], distinct=2_000
        )
    )
    faces = sum(part.total for part in release.parts)
    size = sum(tar.stat().st_size for tar in tars)
    console.print(
        f"{faces:,} drawn faces at 224x224 written as two tar files of {size / 1e9:.2f} GB in "
        f"{time.perf_counter() - started:.0f} s"
    )
    table = Table("method", "seconds", "images/s", "peak MB", "dataset GB")
    held = True
    for way in AGAINST:
        found = measure(way, folder, tars, faces)
        for part in release.parts:
            here = [found["counts"][split].values() for split in part.splits]
            if tuple(map(sum, zip(*here, strict=True))) != part.counts:
                raise SystemExit(f"{way}: the {part.title} does not have the counts of the release")
        held &= found["memory"] < MEGABYTES
        table.add_row(
            way,
            f"{found['seconds']:.1f}",
            f"{faces / found['seconds']:,.0f}",
            f"{found['memory']:,.0f}",
            f"{found['size'] / 1e9:.2f}",
        )
    console.print(table)
    console.print(f"below {MEGABYTES:,} MB: {'met' if held else 'MISSED'}")
    return int(not held)


def show(runs: dict[str, list[dict[str, Any]]], faces: int, size: int) -> int:
    """Print the table; return 1 if a target is missed."""
    table = Table(title=f"{faces:,} faces at 224x224, tar files of {size / 2**20:,.0f} MB")
    for column in ("method", "seconds", "images/s", "speed-up", "peak MB"):
        table.add_column(column, justify="left" if column == "method" else "right")
    seconds = {way: statistics.median(run["seconds"] for run in runs[way]) for way in runs}
    memory = {way: max(run["memory"] for run in runs[way]) for way in runs}
    for way in runs:
        ratio = f"{seconds[AGAINST[way]] / seconds[way]:.1f}" if way in AGAINST else ""
        table.add_row(
            way,
            f"{seconds[way]:.2f}",
            f"{faces / seconds[way]:,.0f}",
            ratio,
            f"{memory[way]:,.0f}",
        )
    console = Console()
    console.print(table)
    way = "ingest --check header"
    held = {
        f"at least {TIMES_AS_FAST} times as fast": (
            seconds[AGAINST[way]] / seconds[way] >= TIMES_AS_FAST
        ),
        f"at least {FACES_A_SECOND:,} images/s": faces / seconds[way] >= FACES_A_SECOND,
        f"below {MEGABYTES:,} MB": all(memory[way] < MEGABYTES for way in AGAINST),
    }
    for target, reached in held.items():
        console.print(f"{target}: {'met' if reached else 'MISSED'}")
    return int(not all(held.values()))


if __name__ == "__main__":
    sys.exit(main())
