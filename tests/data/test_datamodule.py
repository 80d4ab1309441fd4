import json
import pickle
import subprocess
import sys
from itertools import chain
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import simplejpeg
import torch
from drawn import write_faces

from affectnet.data.datamodule import AffectDataModule
from affectnet.data.images import decode_image
from affectnet.data.samplers import TrainBatches
from affectnet.data.store import DatasetInfo, Face
from affectnet.errors import ConfigError, DataError


def face(i: int, *, size: int = 32, broken: bool = False) -> Face:
    rng = np.random.default_rng(i)
    pixels = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((size // 4, size // 4, 1)))
    image = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels, np.uint8), quality=90)
    soft = rng.dirichlet(np.ones(8)).astype(np.float32)
    return Face(
        id=f"face{i:04}",
        image=image[:300] if broken else image,
        expression=None if i % 7 == 6 else int(rng.choice(8, p=[0.3] + [0.1] * 7)),
        valence=None if i % 5 == 4 else float(np.float32(rng.uniform(-1, 1))),
        arousal=None if i % 3 == 2 else float(np.float32(rng.uniform(-1, 1))),
        soft=soft if i % 2 else None,
    )


def write(folder: Path, **splits: list[Face]) -> Path:
    folder.mkdir(parents=True)
    for name, faces in splits.items():
        write_faces(folder / f"{name}.arrow", faces)
    DatasetInfo(
        source=[], release="test", counts={}, dropped={}, content_hash="", version="0"
    ).write(folder)
    return folder


TRAIN = [face(i, size=48 if i % 4 == 3 else 32) for i in range(101)]
VAL = [face(i) for i in range(200, 231)]
TEST = [face(i) for i in range(300, 309)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "faces", train=TRAIN, val=VAL, test=TEST)


def gathered(loader) -> dict[str, torch.Tensor]:
    batches = list(loader)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def check_rows(batch: dict[str, torch.Tensor], faces: list[Face], size: int) -> None:
    """Every row of a batch must say what the face at its index says."""
    n = len(batch["index"])
    assert batch["image"].shape == (n, 3, size, size)
    assert {name: values.dtype for name, values in batch.items()} == {
        "image": torch.uint8,
        "index": torch.int64,
        "expression": torch.int64,
        "valence": torch.float32,
        "arousal": torch.float32,
        "soft": torch.float32,
    }
    for k, row in enumerate(batch["index"].tolist()):
        one = faces[row]
        # Resized ones are rounded in another way.
        pixels = batch["image"][k].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(pixels - decode_image(one.image, size)).max() <= 1
        assert batch["expression"][k] == (-1 if one.expression is None else one.expression)
        for name in ("valence", "arousal"):
            value = getattr(one, name)
            expected = np.float32(np.nan if value is None else value)
            np.testing.assert_equal(batch[name][k].numpy(), expected)
        expected = np.full(8, np.nan, np.float32) if one.soft is None else one.soft
        np.testing.assert_array_equal(batch["soft"][k].numpy(), expected)


@pytest.mark.parametrize("cache", ["auto", "none", "ram", "device"])
@pytest.mark.parametrize("size", [32, 24])
def test_batches_say_what_the_dataset_says(dataset, cache, size):
    data = AffectDataModule(dataset, 16, size, cache=cache, device="cpu")
    train = gathered(data.train_dataloader())
    check_rows(train, TRAIN, size)
    assert sorted(set(train["index"].tolist())) == list(range(101))
    for loader, faces in (
        (data.val_dataloader(), VAL),
        (data.test_dataloader(), TEST),
        (data.loader("train"), TRAIN),
    ):
        batch = gathered(loader)
        check_rows(batch, faces, size)
        assert batch["index"].tolist() == list(range(len(faces)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_give_the_same_batches(dataset, method):
    alone = AffectDataModule(dataset, 16, 32, 0, cache="none").train_dataloader()
    loader = AffectDataModule(dataset, 16, 32, 1, cache="none").train_dataloader()
    loader.multiprocessing_context = method
    for epoch in (0, 3):  # the workers stay for the second pass
        alone.sampler.set_epoch(epoch)
        loader.sampler.set_epoch(epoch)
        for ours, expected in zip(loader, alone, strict=True):
            assert ours.keys() == expected.keys()
            for name in ours:
                torch.testing.assert_close(
                    ours[name], expected[name], rtol=0, atol=0, equal_nan=True
                )


def test_default_workers(dataset, monkeypatch):
    few = AffectDataModule(dataset, 16, 32, cache="none")
    assert few.train_dataloader().num_workers == 0
    monkeypatch.setattr("affectnet.data.datamodule._FEW_FACES", 50)
    workers = few.train_dataloader().num_workers
    assert 1 <= workers <= 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert few.train_dataloader().num_workers == 1
    cached = AffectDataModule(dataset, 16, 32, cache="ram")
    assert cached.train_dataloader().num_workers == 0


def test_cap_per_class(dataset):
    data = AffectDataModule(dataset, 16, 32, max_per_class=3, cache="ram")
    batch = gathered(data.train_dataloader())
    rows = sorted(set(batch["index"].tolist()))
    labels = [-1 if TRAIN[row].expression is None else TRAIN[row].expression for row in rows]
    everything = [-1 if one.expression is None else one.expression for one in TRAIN]
    for label in set(everything):
        assert labels.count(label) == min(3, everything.count(label))
    check_rows(batch, TRAIN, 32)
    assert len(gathered(data.loader("train"))["index"]) == 101


def test_balanced_sampling_evens_out_the_classes(dataset):
    data = AffectDataModule(dataset, 16, 32, sampler="balanced")
    loader = data.train_dataloader()
    counts = np.zeros(9)
    for epoch in range(20):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            counts += np.bincount(batch["expression"].numpy() + 1, minlength=9)
    shares = counts[1:] / counts[1:].sum()
    np.testing.assert_allclose(shares, 1 / 8, atol=0.03)
    natural = np.bincount([one.expression for one in TRAIN if one.expression is not None])
    assert natural.max() / natural.sum() > 0.2


def test_several_datasets_are_joined(dataset, tmp_path):
    plain = [
        Face(id=one.id, image=one.image, valence=0.25) for one in (face(i) for i in range(500, 510))
    ]
    other = write(tmp_path / "other", train=plain)
    data = AffectDataModule([dataset, other], 8, 32)
    check_rows(gathered(data.train_dataloader()), TRAIN + plain, 32)
    check_rows(gathered(data.val_dataloader()), VAL, 32)
    joined = data.splits["train"]
    assert len(joined) == 111
    assert joined.ids[0] == "faces/face0000"
    assert joined.ids[101] == "other/face0500"
    assert (joined.expression[101:] == -1).all()
    assert np.isnan(joined.soft[101:]).all()
    assert (joined.valence[101:] == 0.25).all()
    assert joined.landmarks(105) is None
    assert joined.describe(100).startswith("the face 'face0100' (row 100 of")
    assert joined.describe(105).startswith("the face 'face0504' (row 4 of")
    copy = pickle.loads(pickle.dumps(joined))
    assert (copy.ids, len(copy)) == (joined.ids, 111)
    assert copy.image_bytes(105) == plain[4].image
    with pytest.raises(IndexError):
        joined.image_bytes(111)
    with pytest.raises(DataError, match="no split 'nothing'"):
        data.loader("nothing")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cache", ["none", "ram"])
def test_broken_image_is_named(tmp_path, workers, cache):
    folder = write(tmp_path / "bad", val=[face(0), face(1), face(2, broken=True)])
    data = AffectDataModule(folder, 2, 32, workers, cache=cache)
    with pytest.raises(DataError) as caught:
        list(data.val_dataloader())
    message = str(caught.value)
    assert message.startswith(f"the face 'face0002' (row 2 of {folder / 'val.arrow'}): the image")
    assert "\n" not in message


def test_broken_image_of_a_joined_dataset_is_named(dataset, tmp_path):
    folder = write(tmp_path / "bad", val=[face(0), face(1, broken=True)])
    data = AffectDataModule([dataset, folder], 64, 32, cache="none")
    with pytest.raises(DataError, match=rf"'face0001' \(row 1 of {folder / 'val.arrow'}\)"):
        list(data.val_dataloader())


def test_wrong_settings(dataset, tmp_path):
    for wrong, message in (
        ({"sampler": "balance"}, "did you mean 'balanced'"),
        ({"cache": "disk"}, "none, ram, device"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"image_size": 4}, "image size is 4"),
        ({"workers": -1}, "workers is -1"),
        ({"max_per_class": 0}, "cap per class is 0"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            AffectDataModule(dataset, **wrong)
    with pytest.raises(ConfigError, match="no dataset"):
        AffectDataModule([])
    with pytest.raises(DataError, match="affectnet ingest"):
        AffectDataModule(tmp_path).setup("fit")
    empty = write(tmp_path / "empty", train=TRAIN[:3], val=[])
    with pytest.raises(DataError, match=r"'val' of .* is empty"):
        AffectDataModule(empty).setup("fit")


def test_stages_open_their_splits(dataset):
    for stage, names in (
        ("fit", {"train", "val"}),
        ("validate", {"val"}),
        ("test", {"test"}),
        ("predict", set()),
        (None, {"train", "val", "test"}),
    ):
        data = AffectDataModule(dataset)
        data.setup(stage)
        assert set(data.splits) == names


def test_it_pickles(dataset):
    data = AffectDataModule(dataset, 16, 32)
    data.setup("fit")
    copy = pickle.loads(pickle.dumps(data))
    ours, theirs = gathered(data.train_dataloader()), gathered(copy.train_dataloader())
    assert torch.equal(ours["image"], theirs["image"])
    assert len(pickle.dumps(data.train_dataloader().dataset.split)) < 1000


TWO_PROCESSES = """
import json, sys
from torch import distributed
from affectnet.data.datamodule import AffectDataModule
rank, folder, meeting = int(sys.argv[1]), sys.argv[2], sys.argv[3]
data = AffectDataModule(folder, 16, 32, cache="none")
train, test = data.train_dataloader(), data.loader("test")  # made before the processes meet
distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
found = {"test": [batch["index"].tolist() for batch in test], "train": [], "steps": len(train)}
for epoch in (0, 1):
    train.sampler.set_epoch(epoch)
    found["train"] += [batch["index"].tolist() for batch in train]
distributed.barrier()
distributed.destroy_process_group()
print(json.dumps(found))
"""


def test_two_processes_share_the_batches_of_one(dataset, tmp_path):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(rank), str(dataset), str(tmp_path / "meet")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=100)[0] for process in started]
    first, second = (json.loads(output.splitlines()[-1]) for output in outputs)
    loader = AffectDataModule(dataset, 16, 32, cache="none").train_dataloader()
    expected = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        expected += [batch["index"].tolist() for batch in loader]
    joined = [a + b for a, b in zip(first["train"], second["train"], strict=True)]
    assert joined == expected
    assert first["steps"] == second["steps"] == len(loader)
    tested = sorted(chain.from_iterable(first["test"] + second["test"]))
    assert tested == list(range(len(TEST)))
    assert len(first["test"]) == len(second["test"])


class Recorder(L.LightningModule):
    """Trains one number and keeps the rows that it was shown, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, list[int]] = {}

    def training_step(self, batch, batch_idx):
        self.seen.setdefault(self.current_epoch, []).extend(batch["index"].tolist())
        return (self.weight - batch["image"].float().mean()) ** 2

    def validation_step(self, batch, batch_idx):
        self.log("val", (self.weight - batch["image"].float().mean()) ** 2)

    def predict_step(self, batch, batch_idx):
        return batch["index"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(epochs: int) -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 1])
def test_lightning_sets_the_epoch_also_when_it_resumes(dataset, tmp_path, workers):
    def fit(epochs: int, resume: Path | None = None) -> tuple[L.Trainer, Recorder]:
        data = AffectDataModule(dataset, 16, 32, workers, seed=9, cache="none")
        run, model = trainer(epochs), Recorder()
        run.fit(model, data, ckpt_path=resume, weights_only=True)
        return run, model

    order = TrainBatches(np.arange(101), 16, seed=9)
    expected = {}
    for epoch in range(4):
        order.set_epoch(epoch)
        expected[epoch] = list(chain.from_iterable(order))
    assert len({tuple(rows) for rows in expected.values()}) == 4

    _, through = fit(4)
    assert through.seen == expected
    stopped, before = fit(2)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    _, after = fit(4, tmp_path / "half.ckpt")
    assert {**before.seen, **after.seen} == expected
    assert set(after.seen) == {2, 3}
    assert torch.equal(after.weight, through.weight)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("error:.*batch sampler")
def test_lightning_predicts_each_row_once(dataset):
    loader = AffectDataModule(dataset, 8, 32).loader("val")
    predicted = torch.cat(trainer(1).predict(Recorder(), loader))
    assert predicted.tolist() == list(range(len(VAL)))


def test_without_contempt_its_faces_are_neither_trained_nor_validated_on(dataset):
    data = AffectDataModule(dataset, batch_size=8, image_size=32, without_contempt=True, workers=0)
    data.setup("fit")
    contempt = {i for i, one in enumerate(TRAIN) if one.expression == 7}
    assert len(contempt) > 3
    assert set(data.rows("train").tolist()) == set(range(len(TRAIN))) - contempt
    train = gathered(data.train_dataloader())
    assert set(train["index"].tolist()) == set(range(len(TRAIN))) - contempt
    val = gathered(data.val_dataloader())
    used = [i for i, one in enumerate(VAL) if one.expression != 7]
    assert val["index"].tolist() == used
    assert 7 not in val["expression"]
    whole = gathered(data.loader("val"))
    assert whole["index"].tolist() == list(range(len(VAL)))


def test_train_and_val_together(dataset):
    data = AffectDataModule(dataset, 16, 32, with_val=True, cache="none")
    data.setup("fit")
    assert list(data.splits) == ["train"]
    both = gathered(data.train_dataloader())
    assert sorted(set(both["index"].tolist())) == list(range(len(TRAIN) + len(VAL)))
    check_rows(both, [*TRAIN, *VAL], 32)
    assert data.later("train") == ("test",)
    assert AffectDataModule(dataset).later("train") == ("val", "test")
