"""Helpers for the tests of all readers: images, files, and ingest."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from affectnet.commands.ingest import ingest
from affectnet.config import IngestConfig
from affectnet.data.store import open_split


class Kit:
    """Makes sources below a folder and reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    @staticmethod
    def pixels(seed: int, width: int = 24, height: int = 24) -> np.ndarray:
        """A smooth image, which JPEG preserves."""
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))

    def image(self, seed: int, form: str = "PNG", width: int = 24, height: int = 24) -> bytes:
        buffer = io.BytesIO()
        made = Image.fromarray(self.pixels(seed, width, height))
        made.save(buffer, form, **({"quality": 95} if form == "JPEG" else {}))
        return buffer.getvalue()

    def write(self, files: dict[str, bytes | str], name: str = "source") -> Path:
        top = self.folder / name
        top.mkdir(exist_ok=True)
        for path, content in files.items():
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            (top / path).write_bytes(data)
        return top

    def ingest(self, *sources: Path, **settings):
        """Make a dataset; return its folder and info."""
        self.count += 1
        out = self.folder / f"dataset{self.count}"
        return out, ingest(IngestConfig(sources, out, **settings))

    @staticmethod
    def rows(out: Path, *splits: str) -> dict:
        """id -> Face, of all the splits named."""
        faces = {}
        for split in splits or ("train",):
            opened = open_split(out, split)
            faces |= {opened.ids[i]: opened.face(i) for i in range(len(opened))}
        return faces

    @staticmethod
    def dropped(out: Path) -> dict[str, str]:
        with (out / "dropped.csv").open(newline="", encoding="utf-8") as file:
            return {row["id"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture
def kit(tmp_path) -> Kit:
    return Kit(tmp_path)
