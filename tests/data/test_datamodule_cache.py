from pathlib import Path

import pytest
import torch

from affectnet.data import datamodule as cache
from affectnet.errors import ConfigError


def test_decoded_bytes_are_those_of_the_array():
    assert cache.decoded_bytes(10, 48) == torch.empty(10, 48, 48, 3, dtype=torch.uint8).nbytes


def test_free_memory_is_plausible():
    free = cache.free_memory()
    assert free is None or 10_000_000 < free < 10**14


def test_what_does_not_fit_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr(cache, "free_memory", lambda *_: 12_100_000_000)
    cache.check_fits(80_000, 224)
    with pytest.raises(ConfigError) as caught:
        cache.check_fits(287_651, 224)
    assert str(caught.value) == (
        "cache 'ram' needs 43.3 GB for 287,651 faces of 224x224 pixels, but 12.1 GB are free; "
        "choose a smaller image size or cache 'none'"
    )
    with pytest.raises(ConfigError, match=r"24\.1 GB .* once for each of 2 processes"):
        cache.check_fits(80_000, 224, copies=2)
    gpu = torch.device("cuda", 1)
    cache.check_fits(80_000, 224, gpu, copies=2)  # each process has a device of its own
    with pytest.raises(ConfigError, match=r"cache 'device' needs 43\.3 GB .* free on cuda:1"):
        cache.check_fits(287_651, 224, gpu)


def test_auto_keeps_what_is_small_and_leaves_room(monkeypatch):
    monkeypatch.setattr(cache, "free_memory", lambda *_: 100 * 10**9)
    assert cache.fits_auto(25_045, 48)
    assert not cache.fits_auto(287_651, 224)
    monkeypatch.setattr(cache, "free_memory", lambda *_: 400_000_000)
    assert cache.fits_auto(25_045, 48)
    assert not cache.fits_auto(25_045, 48, copies=2)
    monkeypatch.setattr(cache, "free_memory", lambda *_: None)
    assert cache.fits_auto(25_045, 48)


def test_limits_of_control_groups(tmp_path: Path):
    assert cache.control_group_memory(tmp_path) is None
    second = tmp_path / "second"
    second.mkdir()
    (second / "memory.max").write_text("8000\n")
    (second / "memory.current").write_text("5000\n")
    (second / "memory.stat").write_text("anon 4000\ninactive_file 700\n")
    assert cache.control_group_memory(second) == 3700
    (second / "memory.max").write_text("max\n")
    assert cache.control_group_memory(second) is None
    first = tmp_path / "first" / "memory"
    first.mkdir(parents=True)
    (first / "memory.limit_in_bytes").write_text("8000\n")
    (first / "memory.usage_in_bytes").write_text("9000\n")
    (first / "memory.stat").write_text("total_inactive_file 400\n")
    assert cache.control_group_memory(first.parent) == 0
