"""The model that a name stands for, and files that are refused unread."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from affectnet.data.crop import ALIGNMENT
from affectnet.data.images import INTERPOLATIONS
from affectnet.errors import RunError, WeightsError
from affectnet.labels import EXPRESSIONS
from affectnet.models import model_config as shipped
from affectnet.models.affect_model import AffectModel
from affectnet.models.model_config import local_path, parse_config, read_config, resolve_model

CONFIG = {
    "format": 1,
    "affectnet_version": "0.1.0",
    "backbone": "vgg19",
    "architecture": "vgg19.tv_in1k",
    "classes": list(EXPRESSIONS[:7]),
    "targets": ["expression", "arousal"],
    "hidden": None,
    "dropout": 0.1,
    "temperature": 0.75,
    "class_fractions": [0.25, 0.25, 0.1, 0.1, 0.1, 0.1, 0.1],
    "prior": [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
    "preprocessing": {
        "colour_order": "RGB",
        "size": 224,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "margin": 0.1,
        "alignment": "eyes",
        "face_size": 112,
    },
}
ODD = (True, -5, 10**9, 10**400, 48.5, float("nan"), float("inf"), "x", "5", [], [1], {}, {"a": 1})
"""Values of which each entry takes at most those given in `FINE`."""
FINE = {"dropout": (), "temperature": (48.5,), "size": (), "margin": (), "backbone": ("x", "5")}
FINE |= {"face_size": (), "architecture": FINE["backbone"], "affectnet_version": ("x", "5")}
NULLABLE = (
    "targets",
    "affectnet_version",
    "hidden",
    "class_fractions",
    "prior",
    "temperature",
    "interpolation",
    "crop_pct",
    "margin",
    "alignment",
    "face_size",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "mine"
    AffectModel("cvnet", image_size=48).save_pretrained(folder / "model")
    return folder


def test_paths_and_names(run: Path, tmp_path: Path) -> None:
    model = run / "model"
    for given in (run, str(run), model, model / "model.safetensors"):
        assert resolve_model(given) == model
    onnx = tmp_path / "m.onnx"
    onnx.touch()
    assert resolve_model(str(onnx)) == onnx
    assert resolve_model("owner/name") == "owner/name"


@pytest.mark.parametrize("name", ["nowhere", "/no/such/folder", "a/b/c", "", "a\0b", "x" * 5000])
def test_names_without_a_model(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"no model at|contains no config\.json"):
        resolve_model(name)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin", "last.ckpt", "model.pkl"])
def test_pickles_are_refused_unread_with_the_reason(name: str, tmp_path: Path) -> None:
    class Mine:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / name).write_bytes(pickle.dumps(Mine()))
    with pytest.raises(WeightsError, match="can run code"):
        resolve_model(tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="can run code"):
        AffectModel.from_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_shipped_name_is_the_shipped_model(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "WEIGHTS_FOLDER", tmp_path / "weights")
    for call in (resolve_model, lambda name: local_path(Path(name)), AffectModel.from_pretrained):
        with pytest.raises(WeightsError, match="contains no weights of 'cvnet'; give a model"):
            call("cvnet")
    AffectModel.from_pretrained(run).save_pretrained(tmp_path / "weights" / "cvnet")
    assert resolve_model("cvnet") == local_path(Path("cvnet")) == tmp_path / "weights" / "cvnet"
    assert AffectModel.from_pretrained("cvnet").classes
    # An existing path comes first.
    AffectModel.from_pretrained(run).save_pretrained(tmp_path / "cvnet")
    assert resolve_model("cvnet") == local_path(Path("cvnet")) == Path("cvnet")


def test_half_a_model_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((run / "model/model.safetensors").read_bytes())
    with pytest.raises(RunError, match=r"no config\.json; copy both"):
        resolve_model(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(RunError, match="is not a model"):
        resolve_model(tmp_path / "notes.txt")


def changed(name: str, value: object) -> str:
    """The config with one entry changed, wherever it is; left out where the value is `...`."""
    config = {**CONFIG, "preprocessing": dict(CONFIG["preprocessing"])}
    entries = config if name in config else config["preprocessing"]
    entries[name] = value
    if value is ...:
        del entries[name]
    return json.dumps(config)


def test_a_whole_config_is_read_and_written_the_same() -> None:
    config = parse_config(json.dumps(CONFIG), "it")
    assert json.loads(json.dumps(config.to_dict())) == CONFIG
    assert config.classes == EXPRESSIONS[:7]
    assert config.preprocessing.mean == (0.5, 0.5, 0.5)
    # Further entries, of later versions with the same format, change nothing.
    assert parse_config(json.dumps(CONFIG | {"later": [[]]}), "it") == config


@pytest.mark.parametrize("name", [*list(CONFIG)[1:-1], *CONFIG["preprocessing"]])
def test_every_entry_is_bounded(name: str) -> None:
    """No value of another kind or size is taken; each is refused in one short line."""
    for value in (*ODD, None, ..., "\x1b[2J" * 50, [["a"] * 1000] * 10):
        fine = value in FINE.get(name, ()) and not isinstance(value, bool)
        if fine or (value in (None, ...) and name in NULLABLE):
            assert parse_config(changed(name, value), "it")
        else:
            with pytest.raises(RunError, match=rf"^it .*\b{name}\b") as error:
                parse_config(changed(name, value), "it")
            assert str(error.value).isprintable()
            assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("dropout", value) for value in (-0.1, 1, 1.5)),
        *(("temperature", value) for value in (0, -1, 1e-9, 1e9)),
        *(("size", value) for value in (0, 100_000, 224.0)),
        *(("face_size", value) for value in (0, 100_000, 224.0)),
        *(("margin", value) for value in (-1, 200)),
        *(("mean", value) for value in ([0, 0], [0, 0, "0"], [0, 0, 1e30], [0, 0, None])),
        *(("std", value) for value in ([0, 1, 1], [1, 1, -1], [1, 1, 1, 1], 1)),
        *(("classes", value) for value in (["joy"], [*EXPRESSIONS][::-1], [1], [[]], [*"abc"] * 9)),
        *(("interpolation", value) for value in (3, "box", ["bilinear"])),
        *(("architecture", value) for value in ("../x y", "", "a" * 300, "https://x/?y")),
        *(("prior", value) for value in ([0.5] * 7, [2, -1, 0, 0, 0, 0, 0], [float("nan")] * 7)),
        *(("format", value) for value in (0, -1, 0.5)),
        ("crop_pct", 0.9),
        ("colour_order", "BGR"),
        ("alignment", "nose"),
        *(("preprocessing", value) for value in (5, [], "x")),
        ("hidden", 10**9),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(RunError, match=rf"incomplete or damaged: .*\b{name} is .*must be"):
        parse_config(changed(name, value), "it")


def test_everything_that_is_wrong_is_listed_at_once() -> None:
    wrong = CONFIG | {"dropout": 5, "temperature": "hot"}
    wrong["preprocessing"] = CONFIG["preprocessing"] | {"size": 48.5, "gamma": 2}
    del wrong["backbone"]
    with pytest.raises(RunError) as error:
        parse_config(json.dumps(wrong), "it")
    for part in ("backbone is missing", "dropout is 5", "temperature is 'hot'", "size is 48.5"):
        assert part in str(error.value)
    assert "'gamma' is not known" in str(error.value)


def test_a_fraction_for_each_class() -> None:
    with pytest.raises(RunError, match="prior has 2 values for 7 classes"):
        parse_config(changed("prior", [0.5, 0.5]), "it")


def test_a_newer_config_asks_for_an_upgrade() -> None:
    with pytest.raises(RunError, match=r"affectnet 7\.0, which is newer.*upgrade"):
        parse_config(json.dumps({"format": 99, "affectnet_version": "7.0"}), "it")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "1", '"format"', '{"format": "x"}', '{"format": []}', "NaN"),
        *("[" * 1000, "[" * 60_000, '{"a":' * 9000, '{"format": 1' + "0" * 5000 + "}"),
        '{"format": 1, "a": "' + "x" * 100_000 + '"}',
    ],
)
def test_what_is_not_a_config(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    for read in (
        lambda: parse_config(text, "it"),
        lambda: read_config(tmp_path / "config.json"),
    ):
        with pytest.raises(RunError, match="not the config of an affectnet model"):
            read()


def test_a_config_file_is_read_at_most_to_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(2**40)  # takes no space on the disk
    with pytest.raises(RunError, match="longer than 65,536 bytes"):
        read_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_bytes(b"\x00\xff")
    with pytest.raises(RunError, match="not the config of an affectnet model"):
        read_config(tmp_path / "config.json")


def test_the_names_are_those_of_the_preprocessing() -> None:
    assert set(shipped.INTERPOLATIONS) == set(INTERPOLATIONS)
    assert shipped.ALIGNMENTS == (ALIGNMENT,)
