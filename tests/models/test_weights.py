"""Weight files: read safely, or refused with the reason."""

import argparse

import pytest
import torch
from safetensors.torch import save_file

from affectnet.errors import WeightsError
from affectnet.models.weights import explain_mismatch, first_few, read_weights

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, -1.0])}


def same(given):
    return given.keys() == TENSORS.keys() and all(
        torch.equal(given[k], TENSORS[k]) for k in TENSORS
    )


def test_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path)
    file = read_weights(path)
    assert same(file.tensors)
    assert file.config is None
    assert not file.is_affectnet


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"state_dict": t, "epoch": 3},
        lambda t: {"model": t},
        lambda t: {"state_dict": {k: v + 1 for k, v in t.items()}, "state_dict_ema": t},
        lambda t: {"state_dict": {f"module.{k}": v for k, v in t.items()}},
    ],
    ids=["plain", "state_dict", "model", "ema first", "data parallel"],
)
def test_pytorch_checkpoints_are_unwrapped(tmp_path, wrap):
    path = tmp_path / "w.pth"
    torch.save(wrap(TENSORS), path)
    assert same(read_weights(path).tensors)


class Planted:
    """Runs a command when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    path, marker = tmp_path / "w.pth", tmp_path / "ran"
    torch.save({"state_dict": TENSORS, "extra": Planted(marker)}, path)
    with pytest.raises(WeightsError, match=r"plain tensors.*run code.*refused.*safetensors"):
        read_weights(path)
    assert not marker.exists()


def test_a_pickled_model_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(WeightsError, match="refused"):
        read_weights(path)


def test_training_arguments_next_to_the_tensors_are_ignored(tmp_path):
    """timm's own training script saves its arguments with the weights."""
    path = tmp_path / "w.pth"
    torch.save({"state_dict": TENSORS, "args": argparse.Namespace(lr=0.1)}, path)
    assert same(read_weights(path).tensors)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_damaged_files(tmp_path, suffix, keep):
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(WeightsError) as error:
        read_weights(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_text_is_not_a_checkpoint(tmp_path):
    path = tmp_path / "w.pth"
    path.write_text("these are not weights")
    with pytest.raises(WeightsError, match=str(path)):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [({"lr": 0.1, **TENSORS}, "lr"), ({}, "no tensor"), ({"state_dict": {}}, "no tensor")],
)
def test_files_without_weights(tmp_path, content, what):
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=what):
        read_weights(path)


def test_a_list_is_not_a_state_dict(tmp_path):
    path = tmp_path / "w.pth"
    torch.save([torch.ones(2)], path)
    with pytest.raises(WeightsError, match="state_dict"):
        read_weights(path)


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(WeightsError, match="no weights file"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match=r"contains no model\.safetensors"):
        read_weights(tmp_path)


def test_a_run_folder_names_its_model_folder(tmp_path):
    (tmp_path / "model").mkdir()
    save_file(TENSORS, tmp_path / "model" / "model.safetensors")
    with pytest.raises(WeightsError, match=str(tmp_path / "model")):
        read_weights(tmp_path)


def test_affectnet_files_are_recognised_by_their_names(tmp_path):
    tensors = {"backbone.x": torch.ones(1), "heads.y": torch.zeros(2)}
    save_file(tensors, tmp_path / "model.safetensors")
    file = read_weights(tmp_path)
    assert file.is_affectnet
    assert file.config is None
    assert list(file.under("heads.")) == ["y"]


def test_mismatch_names_a_few_of_each_kind():
    wanted = {**TENSORS, **{f"b{i}": torch.zeros(1) for i in range(5)}}
    given = {"a.weight": torch.zeros(2, 4), "a.bias": TENSORS["a.bias"], "z": torch.zeros(1)}
    told = explain_mismatch(given, wanted)
    assert told == (
        "missing: b0, b1, b2 and 2 more; unexpected: z; other shape: a.weight (2, 4) for (2, 3)"
    )
    assert explain_mismatch(TENSORS, TENSORS) == ""
    assert first_few(["a", "b", "c"]) == "a, b, c"
