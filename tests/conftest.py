"""Small datasets that many tests share: drawn faces, and the real ones where they are."""

import os
import signal
from pathlib import Path

import pytest

# One thread a process: results must not depend on the machine's cores, and tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Shells start background jobs with Ctrl-C ignored, and processes of tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def drawn_tars(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """AffectNet's two tar files with 24 + 6 drawn faces a class at 64 x 64."""
    from affectnet.data.synthetic import write_affectnet_tars

    folder = tmp_path_factory.mktemp("release")
    return write_affectnet_tars(folder, train_per_class=24, test_per_class=6, size=64, seed=1)


@pytest.fixture(scope="session")
def drawn(drawn_tars: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset folder that ingest makes of `drawn_tars`."""
    from affectnet.commands.ingest import ingest
    from affectnet.config import IngestConfig

    out = tmp_path_factory.mktemp("drawn") / "dataset"
    ingest(IngestConfig(sources=drawn_tars, out=out))
    return out


@pytest.fixture(scope="session")
def ferplus() -> Path:
    """The folder of real faces in AffectNet's layout; skips where it is absent."""
    given = os.environ.get("AFFECTNET_FERPLUS")
    beside = Path(__file__).parents[2] / "shared" / "data" / "ferplus"
    folder = Path(given) if given else beside
    if not (folder / "train_and_val_set.tar.gz").is_file():
        pytest.skip(f"no real faces at {folder}; set AFFECTNET_FERPLUS to their folder")
    return folder
