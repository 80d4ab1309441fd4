"""Checkpoints: written atomically, plain data only, the average in place of the weights."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint as LightningCheckpoint

from affectnet.errors import RunError, WeightsError
from affectnet.run import RunFolder
from affectnet.training.checkpoints import (
    AtomicCheckpointIO,
    Average,
    EpochLog,
    ModelCheckpoint,
    MovingAverage,
    checkpoint_callbacks,
    export_best,
    read_checkpoint,
)


class Unsavable:
    def __reduce__(self):
        raise OSError(28, "No space left on device")


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1, "weights": torch.ones(3)}, path)
    with pytest.raises(RunError, match=r"No space left.*the previous one is intact"):
        writer.save_checkpoint({"epoch": 2, "bad": Unsavable()}, path)
    assert read_checkpoint(path)["epoch"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


class Pickle:
    def __reduce__(self):
        return (print, ("code in the pickle ran",))


def test_a_pickle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": Pickle()}, path)
    with pytest.raises(WeightsError, match="not a checkpoint"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Pickle()))
    with pytest.raises(WeightsError, match="not a checkpoint"):
        read_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="not a checkpoint"):
        read_checkpoint(path)
    assert "pickle ran" not in capsys.readouterr().out


def test_a_run_without_an_epoch_has_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no finished epoch"):
        export_best(RunFolder(tmp_path))
    with pytest.raises(RunError, match="train it first"):
        read_checkpoint(RunFolder(tmp_path).last)


def test_the_average_follows_its_formula() -> None:
    model = torch.nn.BatchNorm1d(1)
    averaged = Average(model, torch.device("cpu"), 0.9)
    wanted = None
    for step in range(50):
        value = float(step)
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(2 * value)
            model.num_batches_tracked.fill_(step)
        averaged.update_parameters(model)
        decay = min(0.9, (1 + step) / (10 + step))
        wanted = value if wanted is None else decay * wanted + (1 - decay) * value
        assert averaged.module.weight.item() == pytest.approx(wanted, rel=1e-5)
        assert averaged.module.running_mean.item() == pytest.approx(2 * wanted, rel=1e-5)
        assert averaged.module.num_batches_tracked == step
    assert averaged.n_averaged == 50


def test_the_average_is_on_the_device_of_training() -> None:
    """Lightning sets callbacks up before it moves the module to the GPU."""
    device = torch.device("meta")
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=device))
    average = MovingAverage(0.9)
    module = L.LightningModule()
    module.layer = torch.nn.Linear(1, 1)
    average.setup(trainer, module, "fit")
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    average.on_save_checkpoint(trainer, module, checkpoint)
    assert {weight.device for weight in checkpoint["state_dict"].values()} == {device}
    assert module.layer.weight.device.type == "cpu"


def test_the_best_score_is_remembered_in_a_moved_run(tmp_path: Path) -> None:
    def best_of(run: RunFolder) -> ModelCheckpoint:
        return checkpoint_callbacks(EpochLog(run), "val_loss", "last")[2]

    was, now = RunFolder(tmp_path / "was"), RunFolder(tmp_path / "now")
    before, after = best_of(was), best_of(now)
    before.best_model_score = before.kth_value = torch.tensor(0.5)
    before.best_model_path = before.kth_best_model_path = str(was.checkpoints / "best.ckpt")
    before.best_k_models = {before.best_model_path: before.best_model_score}
    assert after.state_key == LightningCheckpoint("x", "best", "val_loss", mode="min").state_key
    after.load_state_dict(before.state_dict())
    assert after.best_model_score == 0.5
    assert after.best_model_path == str(now.checkpoints / "best.ckpt")
    assert after.best_k_models == {after.best_model_path: torch.tensor(0.5)}
