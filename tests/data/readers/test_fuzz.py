"""Broken sources of every release: a dataset or one `AffectNetError`, never anything else.

Run as a script, it takes a seed, a count and a folder, and works through mutated sources.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from affectnet.commands.ingest import ingest
from affectnet.config import IngestConfig
from affectnet.data.readers.affectnet_csv import COLUMNS
from affectnet.data.store import SPLITS, open_split
from affectnet.errors import AffectNetError
from affectnet.labels import EXPRESSIONS

COUNT = 10_000
SECONDS_EACH = 60
MEMORY = 1 << 30


def image(seed: int, form: str = "JPEG", size: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def npy(value) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value))
    return buffer.getvalue()


def eight_class() -> dict[str, bytes]:
    files = {}
    for i in range(4):
        files[f"train_set/images/{i}.jpg"] = image(i)
        for piece, value in (("exp", str(i)), ("val", "0.25"), ("aro", "-0.5")):
            files[f"train_set/annotations/{i}_{piece}.npy"] = npy(value)
        files[f"train_set/annotations/{i}_lnd.npy"] = npy(np.linspace(1, 14, 136))
    return files


def eight_class_tar() -> dict[str, bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in eight_class().items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), {"mtime": "1.5"} if "0" in name else {}
            archive.addfile(info, io.BytesIO(content))
    return {"train.tar": buffer.getvalue()}


def affectnet_csv() -> dict[str, bytes]:
    points = ";".join(f"{v:g}" for v in np.linspace(1, 14, 136))
    rows = [f"1/{i}.jpg,-1,2,12,12,{points},{i},0.5,-0.25" for i in range(4)]
    text = "\n".join([",".join(COLUMNS), *rows, ""])
    files = {f"1/{i}.jpg": image(i) for i in range(4)}
    return files | {"training.csv": text.encode()}


def affectnet_plus() -> dict[str, bytes]:
    files = {}
    for i in range(4):
        meta = {"age": 30, "valence": 0.5, "arousal": 0, "gender": "m", "race": "x", "pose": [1, 2]}
        meta["landmark-68"] = np.linspace(1, 14, 136).reshape(68, 2).tolist()
        face = {"human-label": i, "soft-label": [0.125] * 8, "subset": 1, "meta-data": meta}
        files[f"train_set/images/{i}.jpg"] = image(i)
        files[f"train_set/annotations/{i}.json"] = json.dumps(face).encode()
    return files


def ferplus() -> dict[str, bytes]:
    rows = [
        f'{i}.png,"(0, 0, 48, 48)",{",".join("9" if j == i else "0" for j in range(10))}'
        for i in range(8)
    ]
    files = {f"FER2013Train/{i}.png": image(i, "PNG") for i in range(8)}
    return files | {"FER2013Train/label.csv": "\n".join(rows).encode()}


def rafdb() -> dict[str, bytes]:
    rows = [f"train_{i:05}.jpg {i}" for i in range(1, 8)]
    files = {f"aligned/train_{i:05}_aligned.jpg": image(i) for i in range(1, 8)}
    return files | {"list_patition_label.txt": "\n".join(rows).encode()}


def folder() -> dict[str, bytes]:
    return {f"train/{name}/{i}.png": image(i, "PNG") for i, name in enumerate(EXPRESSIONS)}


def csv_table() -> dict[str, bytes]:
    rows = [f"{i},{i}.png,{EXPRESSIONS[i]},0.5,-0.5,train" for i in range(8)]
    text = "\n".join(["id,path,expression,valence,arousal,split", *rows])
    return {f"{i}.png": image(i, "PNG") for i in range(8)} | {"faces.csv": text.encode()}


def parquet_table() -> dict[str, bytes]:
    buffer = io.BytesIO()
    columns = {
        "image": [{"bytes": image(i, "PNG"), "path": f"{i}.png"} for i in range(8)],
        "expression": list(EXPRESSIONS),
        "valence": [0.5] * 8,
        "landmarks": [np.linspace(1, 14, 136).tolist()] * 8,
    }
    pq.write_table(pa.table(columns), buffer, row_group_size=3)
    return {"faces.parquet": buffer.getvalue()}


RELEASES = {
    "affectnet": eight_class,
    "affectnet_tar": eight_class_tar,
    "affectnet_csv": affectnet_csv,
    "affectnet_plus": affectnet_plus,
    "ferplus": ferplus,
    "rafdb": rafdb,
    "folder": folder,
    "table": csv_table,
    "table_parquet": parquet_table,
}
TOKENS = [
    b"", b"\0", b"\n", b"\r", b'"', b",", b";", b"../", b"/", b"nan", b"inf", b"-2", b"1e999",
    b"9" * 400, b"\xff\xfe", b"\xed\xa0\x80", b"[" * 3000, b"{", b"null", b"true", b"\x93NUMPY",
    b"\x80\x04.", b"PAR1", b"=", b"\xef\xbb\xbf", b" ", b"-", b"A" * 200_000,
]  # fmt: skip
WAYS = ("overwrite", "insert", "cut", "repeat", "end here", "bit")


def mutate(data: bytes, way: str, at: float, token: bytes, width: int) -> bytes:
    """Change some bytes at a fraction `at` of the length."""
    place = int(at * len(data))
    head, tail = data[:place], data[place:]
    match way:
        case "overwrite":
            return head + token + tail[len(token) :]
        case "insert":
            return head + token + tail
        case "cut":
            return head + tail[width:]
        case "repeat":
            return head + tail[:width] + tail
        case "end here":
            return head
        case _:
            return head + bytes(tail[:1][0] ^ (1 << width % 8) for _ in tail[:1]) + tail[1:]


def fingerprint(top: Path) -> dict[str, str]:
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(top.rglob("*"))
        if path.is_file()
    }


def attempt(top: Path, kind: str, changes: list[tuple]) -> bool:
    """Make a source, spoil it, ingest it; return whether a dataset came of it.

    Raises whatever ingest raises beyond `AffectNetError`.
    """
    files = RELEASES[kind]()
    names = sorted(files)
    # Annotations are few compared with the images: prefer them.
    papers = [name for name in names if not name.endswith((".jpg", ".png"))] or names
    for pick, of_all, way, at, token, width in changes:
        chosen = names if of_all else papers
        name = chosen[int(pick * len(chosen))]
        files[name] = mutate(files[name], way, at, token, width)
    source = top / "source"
    for name, content in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    before = fingerprint(source)
    given = source / names[0] if len(names) == 1 else source
    release = kind.partition("_tar")[0].partition("_parquet")[0]
    out = top / "out"
    plain = int(changes[0][3] * 1000)
    config = IngestConfig(
        (given,),
        out,
        release=release if plain % 4 else "auto",
        align=plain % 5 == 0,
        check="header" if plain % 3 == 0 else "decode",
        face_size=32,
        allow_empty_classes=kind == "folder" and plain % 2 == 0,
        allow_outside=kind == "table" and plain % 7 == 0,
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            info = ingest(config)
    except AffectNetError as error:
        message = str(error)
    else:
        message = ""
        for split in SPLITS:
            if split in info.counts:
                opened = open_split(out, split)
                assert len(opened) == sum(info.counts[split].values())
                assert set(opened.expression.tolist()) <= set(range(-1, 8))
                assert np.nanmax(np.abs(opened.valence), initial=0) <= 1
    made = out.exists()
    assert made == (not message)
    assert {path.name for path in top.iterdir()} == {"source", *(["out"] if made else [])}
    assert fingerprint(source) == before
    return made


def changes(draw) -> list[tuple]:
    return [
        (draw.random(), draw.random() < 0.2, draw.choice(WAYS), draw.random(),
         draw.choice(TOKENS) if draw.random() < 0.7 else draw.randbytes(draw.randint(1, 40)),
         draw.randint(1, 60))
        for _ in range(draw.choice((1, 1, 2, 3, 8)))
    ]  # fmt: skip


fraction = st.floats(0, 0.999999)


@pytest.mark.parametrize("kind", RELEASES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    made=st.lists(
        st.tuples(
            fraction,
            st.booleans(),
            st.sampled_from(WAYS),
            fraction,
            st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=40),
            st.integers(1, 60),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_broken_sources_make_a_dataset_or_one_error(kind, made):
    with tempfile.TemporaryDirectory() as top:
        attempt(Path(top), kind, made)


@pytest.mark.slow
def test_ten_thousand_broken_sources(tmp_path):
    """None crashes, hangs, takes 1 GB, or writes outside --out and the folder next to it."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, __file__, "1", str(COUNT), str(tmp_path / "work")]
    done = subprocess.run(
        command,
        cwd=tmp_path / "cwd",
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    print(result)
    assert result["sources"] == COUNT
    assert result["peak"] < MEMORY
    assert min(result["datasets"].values()) > 0
    assert list((tmp_path / "cwd").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list((tmp_path / "work").iterdir()) == []


def main(seed: int, count: int, folder: Path) -> None:
    def hang(*_: object) -> None:
        raise TimeoutError(f"over {SECONDS_EACH} seconds")

    signal.signal(signal.SIGALRM, hang)
    kinds = list(RELEASES)
    made = dict.fromkeys(kinds, 0)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        top = folder / str(number)
        draw = random.Random(f"{seed}:{number}")
        signal.alarm(SECONDS_EACH)
        try:
            made[kind] += attempt(top, kind, changes(draw))
        except BaseException:
            print(f"source {number} of seed {seed}, {kind}, in {top}", file=sys.stderr)
            raise
        signal.alarm(0)
        shutil.rmtree(top)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"sources": count, "datasets": made, "peak": peak}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
