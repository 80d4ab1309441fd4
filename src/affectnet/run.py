"""The run folder: the names of all files that a training writes."""

import json
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from affectnet.errors import RunError


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside `runs/NAME/`. Reading a path creates nothing."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name, which is the folder's."""
        return self.path.resolve().name

    @property
    def config(self) -> Path:
        """`config.yaml`: `affectnet train --config` on it repeats the run."""
        return self.path / "config.yaml"

    @property
    def datasets(self) -> Path:
        """`datasets.json`: paths and content hashes of the datasets that it is trained on."""
        return self.path / "datasets.json"

    @property
    def metrics(self) -> Path:
        """`metrics.csv`: one row per epoch."""
        return self.path / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """The folder of `last.ckpt` and `best.ckpt`."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The state after the last finished epoch, from which `--resume` continues."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The state after the best epoch by the monitored validation metric."""
        return self.checkpoints / "best.ckpt"

    @property
    def start(self) -> Path:
        """The model before its first epoch; removed when training is complete."""
        return self.checkpoints / "start"

    @property
    def model(self) -> Path:
        """`model.safetensors` and `config.json` of the best epoch."""
        return self.path / "model"

    def evaluation(self, split: str) -> Path:
        """`predictions.parquet`, `metrics.json` and figures of one split."""
        return self.path / "evaluation" / split

    def used(self) -> bool:
        """Whether the folder exists and is not empty."""
        return self.path.is_dir() and any(self.path.iterdir())


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise `RunError` if `path` exists and `overwrite` is false."""
    if path.exists() and not overwrite:
        raise RunError(f"{path} already exists; choose another --out, or add --overwrite")


def plain_settings(config: Any) -> dict[str, Any]:
    """Return the settings of a config as YAML and JSON hold them: lists, and paths as text."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return settings


def changed_settings(
    kind: type, before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str]
) -> str:
    """Describe how settings of the config `kind` differ, except those `ignored`.

    A setting that is missing in `before`, because it is newer, had its default.
    """
    return ", ".join(
        f"{name} (was {was}, now {value})"
        for name, value in now.items()
        if name not in ignored and (was := before.get(name, getattr(kind, name, None))) != value
    )


def folder_name(backbone: str) -> str:
    """A backbone's name as the name of a run folder: hub and timm names may contain `/` and `:`."""
    return backbone.replace("/", "_").replace(":", "_")


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed over `path` on success and removed on failure.

    The caller creates a file or a folder at the yielded path. What is at `path` stays whole until
    the new one is complete, so neither a full disk nor Ctrl-C destroys it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    new, old = temporary / "new", temporary / "old"
    try:
        yield new
        if path.is_dir():
            # A folder cannot be renamed over a folder with files: move the old one away first.
            path.rename(old)
            try:
                new.rename(path)
            except BaseException:
                old.rename(path)
                raise
        else:
            new.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
