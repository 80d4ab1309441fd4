"""Ten thousand broken archives: each is read or refused, and nothing else happens."""

import bz2
import gzip
import io
import lzma
import random
import resource
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import zstandard
from PIL import Image

from affectnet.data.readers.affectnet import read_affectnet
from affectnet.errors import DataError

PACKERS = [
    bytes,
    bytes,
    gzip.compress,
    lambda data: lzma.compress(data, preset=0),
    zstandard.ZstdCompressor().compress,
    bz2.compress,
]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def npy(value) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value))
    return buffer.getvalue()


def image(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    picture = Image.effect_noise((24, 24), 60).convert(rng.choice(["L", "RGB", "CMYK"]))
    form = rng.choice(["JPEG", "JPEG", "JPEG", "PNG", "WEBP", "GIF", "TIFF"])
    if form != "JPEG" and picture.mode == "CMYK":
        picture = picture.convert("RGB")
    picture.save(buffer, form, **({"progressive": True} if rng.random() < 0.2 else {}))
    return buffer.getvalue()


def archive(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=rng.choice(FORMATS)) as tar:
        for i in range(rng.randrange(1, 5)):
            prefix = rng.choice(["", "./", "a" * 80 + "/" + "b" * 60 + "/"])
            part = rng.choice(["train_set", "val_set"])
            pieces = {
                f"images/{i}.jpg": image(rng),
                f"annotations/{i}_exp.npy": npy(str(rng.randrange(8))),
                f"annotations/{i}_val.npy": npy(rng.choice([0.5, "0.5", np.float32(1)])),
                f"annotations/{i}_aro.npy": npy(rng.choice(["-0.25", -2, [0.5]])),
                f"annotations/{i}_lnd.npy": npy(np.arange(136.0)),
            }
            for name, content in rng.sample(sorted(pieces.items()), len(pieces)):
                content = mutate(rng, content) if rng.random() < 0.15 else content
                info = tarfile.TarInfo(f"{prefix}{part}/{name}")
                info.size, info.mtime = len(content), rng.choice([0, 1.5])
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def mutate(rng: random.Random, content: bytes) -> bytes:
    """Flip, overwrite, cut out, repeat or cut off some bytes."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        if not data:
            break
        at = rng.randrange(len(data))
        length = rng.choice([1, 1, 4, 12, 100, 512])
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + length] = rng.randbytes(length)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at : at + length] = rng.choice([b"\0", b"\xff", b"7", b" "]) * length
            case 5 if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


def mend_checksums(rng: random.Random, data: bytes) -> bytes:
    """Make broken headers valid again, so that what they say is believed."""
    mended = bytearray(data)
    for at in range(0, len(mended) - 511, 512):
        if mended[at + 257 : at + 262] == b"ustar" and rng.random() < 0.8:
            if rng.random() < 0.2:
                field = rng.choice([0, 124, 156, 257, 345])
                mended[at + field : at + field + 12] = rng.choice(
                    [
                        b"77777777777\0",
                        b"\x80" + b"\xff" * 11,
                        b"L" * 12,
                        b"x" * 12,
                        b"../../../../",
                    ]
                )
            mended[at + 148 : at + 156] = b" " * 8
            mended[at + 148 : at + 156] = b"%06o\0 " % (sum(mended[at : at + 512]) % 8**6)
    return bytes(mended)


def read(path: Path, scratch: Path, check: str) -> bool:
    with suppress(DataError):
        with read_affectnet([path], scratch, check, lambda _: lambda *_: None) as found:
            for part in found.parts.values():
                rows = np.arange(len(part))
                assert all(part.images(rows))
                part.landmarks(rows)
        return True
    return False


def fuzz(folder: Path, seed: int, count: int) -> tuple[int, int]:
    rng = random.Random(seed)
    scratch = folder / "scratch"
    scratch.mkdir()
    readable = 0
    for _ in range(count):
        data = archive(rng)
        if rng.random() < 0.8:
            data = mend_checksums(rng, mutate(rng, data))
        packed = rng.choice(PACKERS)(data)
        if rng.random() < 0.2:
            packed = mutate(rng, packed)
        (folder / "x").write_bytes(packed)
        readable += read(folder / "x", scratch, rng.choice(["header", "decode"]))
        assert not any(scratch.iterdir())
        assert {path.name for path in folder.iterdir()} == {"x", "scratch"}
    return readable, count


def test_a_few_broken_archives(tmp_path):
    readable, count = fuzz(tmp_path, 0, 150)
    assert 0 < readable < count


@pytest.mark.slow
def test_ten_thousand_broken_archives(tmp_path):
    readable, count = fuzz(tmp_path, 1, 10_000)
    assert 0 < readable < count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1 << 20  # kilobytes
