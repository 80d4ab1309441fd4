"""ONNX files from strangers: refused in one line before anything is read or run."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from affectnet.errors import AffectNetError
from affectnet.inference.classifiers import CONFIG_KEY, EXPORT_KEY, OnnxClassifier
from affectnet.inference.onnx_file import refused_content
from affectnet.labels import EXPRESSIONS

SECRET = b"the content of another file of this machine"
CONFIG = {
    "format": 1,
    "affectnet_version": "0.1.0",
    "backbone": "cvnet",
    "architecture": "cvnet",
    "classes": list(EXPRESSIONS),
    "dropout": 0.0,
    "temperature": None,
    "preprocessing": {"colour_order": "RGB", "size": 48, "mean": [0, 0, 0], "std": [1, 1, 1]},
}


def constant(name: str, values: object, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def outside(location: str = "secret.bin", length: int = len(SECRET)) -> TensorProto:
    """A tensor whose bytes are those of another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[length])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def model(
    p: object = (0.125,) * 8,
    valence: object = 0.5,
    arousal: object = -0.5,
    *,
    faces: tuple[object, ...] = ("n", 48, 48, 3),
    kind: int = TensorProto.UINT8,
    config: object = CONFIG,
    export: object = '{"preprocessing_inside": true}',
) -> onnx.ModelProto:
    """A model that predicts the same numbers for each face."""
    nodes = [
        helper.make_node("Shape", ["faces"], ["count"], start=0, end=1),
        helper.make_node("Concat", ["count", "eight"], ["wide"], axis=0),
        helper.make_node("Expand", ["p", "wide"], ["probabilities"]),
        helper.make_node("Expand", ["v", "count"], ["valence"]),
        helper.make_node("Expand", ["a", "count"], ["arousal"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("faces", kind, faces)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in ("probabilities", "valence", "arousal")
        ],
        [
            constant("p", p),
            constant("v", [valence]),
            constant("a", [arousal]),
            constant("eight", [len(np.atleast_1d(p))], np.int64),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    config = config if isinstance(config, str) else json.dumps(config)
    helper.set_model_props(made, {CONFIG_KEY: config, EXPORT_KEY: export})
    return made


def opened(made: onnx.ModelProto | bytes, folder: Path) -> OnnxClassifier:
    path = folder / "m.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    return OnnxClassifier(path, "cpu")


def refused(made: onnx.ModelProto | bytes, folder: Path, message: str) -> None:
    """The file is refused, on loading or on the first face, in one line."""
    with pytest.raises(AffectNetError, match=message) as error:
        opened(made, folder)(np.zeros((1, 48, 48, 3), np.uint8))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


def test_a_plain_model_is_read(tmp_path: Path) -> None:
    made = opened(model(), tmp_path)(np.zeros((3, 48, 48, 3), np.uint8))
    assert made.probabilities.shape == (3, 8)
    assert made.valence.tolist() == [0.5] * 3


def node_with(**attributes: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["x"], **attributes)


def sparse(outer: bool) -> onnx.SparseTensorProto:
    other = constant("i", [0], np.int64)
    return helper.make_sparse_tensor(*((outside(), other) if outer else (other, outside())), [9])


def tensors_of(made: onnx.ModelProto, attribute: str, value: object) -> None:
    node = made.graph.node.add(op_type="Constant", output=["x"])
    held = node.attribute.add(name="value")
    field = getattr(held, attribute)
    field.CopyFrom(value) if attribute[-1] != "s" else field.append(value)


PLACES = {
    "initializer": lambda m: m.graph.initializer.append(outside()),
    "absolute path": lambda m: m.graph.initializer.append(outside("/etc/passwd", 9)),
    "climbing path": lambda m: m.graph.initializer.append(outside("../../etc/passwd", 9)),
    "memory": lambda m: m.graph.initializer.append(outside("*/_ORT_MEM_ADDR_/*")),
    "sparse values": lambda m: m.graph.sparse_initializer.append(sparse(True)),
    "sparse indices": lambda m: m.graph.sparse_initializer.append(sparse(False)),
    "attribute": lambda m: tensors_of(m, "t", outside()),
    "attributes": lambda m: tensors_of(m, "tensors", outside()),
    "sparse attribute": lambda m: tensors_of(m, "sparse_tensor", sparse(True)),
    "sparse attributes": lambda m: tensors_of(m, "sparse_tensors", sparse(False)),
    "training": lambda m: m.training_info.add().algorithm.initializer.append(outside()),
    "initialization": lambda m: m.training_info.add().initialization.initializer.append(outside()),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_other_file_is_read(place: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(SECRET)
    made = model()
    PLACES[place](made)
    refused(made, tmp_path, "contains weights in other files")


def test_weights_beside_the_file_are_not_read(tmp_path: Path) -> None:
    path, options = str(tmp_path / "m.onnx"), {"location": "w.bin", "size_threshold": 0}
    onnx.save(model(), path, save_as_external_data=True, **options)
    assert (tmp_path / "w.bin").is_file()
    refused((tmp_path / "m.onnx").read_bytes(), tmp_path, "contains weights in other files")


def test_odd_spellings_of_the_same_tag_are_seen() -> None:
    """Protobuf takes numbers with superfluous bytes, and messages in several pieces."""

    def piece(tag: bytes, inside: bytes) -> bytes:
        return tag + bytes([len(inside)]) + inside

    location = piece(b"\x6a", piece(b"\x0a", b"location") + piece(b"\x12", b"secret.bin"))
    wide = b"\xea\x80\x80\x80\x00" + location[1:]  # field 13 in five bytes
    for inside in (location, wide, b"\x70\x01", b"\xf0\x80\x00\x81\x80\x00"):
        for tensor in (b"\x2a", b"\xaa\x80\x00"):
            data = model().SerializeToString() + piece(b"\x3a", piece(tensor, inside))
            assert onnx.ModelProto.FromString(data).graph.initializer[-1].ByteSize()
            assert "other files" in str(refused_content(data))
    # A tag of more than 32 bits, which readers understand differently.
    with pytest.raises(ValueError, match="out of range"):
        refused_content(b"\xba\x80\x80\x80\x70\x00")


def branch(op: str) -> onnx.ModelProto:
    made = model()
    body = helper.make_graph([], "b", [], [], [outside()])
    made.graph.node.append(helper.make_node(op, ["count"], ["x"], body=body))
    return made


def with_function() -> onnx.ModelProto:
    made = model()
    call = helper.make_node("F", ["x"], ["y"], domain="own")
    function = helper.make_function("own", "F", ["x"], ["y"], [call], made.opset_import)
    made.functions.append(function)
    made.opset_import.append(helper.make_opsetid("own", 1))
    made.graph.node.append(helper.make_node("F", ["valence"], ["z"], domain="own"))
    return made


HUGE = "[" * 50_000


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: branch("Loop"), "loops or branches"),
        (lambda: branch("If"), "loops or branches"),
        (with_function, "functions of its own"),
        (lambda: model(config=HUGE), "not the config"),
        (lambda: model(config=CONFIG | {"classes": list(EXPRESSIONS[:5])}), "shape .1, 8. instead"),
        (lambda: model(config=CONFIG | {"classes": 5}), "classes is 5"),
        (lambda: model(config=CONFIG | {"dropout": 7}), "dropout is 7"),
        (lambda: model(export=HUGE), "incomplete or damaged"),
        (lambda: model(export="[]"), "incomplete or damaged"),
        (lambda: model(export='{"preprocessing_inside": 5}'), "incomplete or damaged"),
        (lambda: model(export='{"preprocessing_inside": false}'), "cannot be run"),
        (lambda: model(faces=("n", 64, 64, 3)), "cannot be run"),
        (lambda: model(faces=("n", 48, 48)), "cannot be run"),
        (lambda: model(faces=(5, 48, 48, 3)), "cannot be run"),
        (lambda: model(kind=TensorProto.FLOAT), "cannot be run"),
        (lambda: model(p=(0.2,) * 5), "probabilities of shape .1, 5. instead of .1, 8."),
        (lambda: model(p=[(0.125,) * 8] * 5), "cannot be run|probabilities of shape"),
        (lambda: model(p=(1e30,) * 8), "do not add up to 1"),
        (lambda: model(p=(np.nan,) * 8), "do not add up to 1"),
        (lambda: model(p=(0.1,) * 8), "do not add up to 1"),
        (lambda: model(p=(2, -1, 0, 0, 0, 0, 0, 0)), "do not add up to 1"),
        (lambda: model(p=(np.inf, -np.inf, 0, 0, 0, 0, 0, 0)), "do not add up to 1"),
        (lambda: model(valence=np.nan), "valence or arousal outside"),
        (lambda: model(valence=[0.5, 0.5]), "cannot be run|shape|not a whole"),
        (lambda: model(arousal=3), "valence or arousal outside"),
        (lambda: model(arousal=np.inf), "valence or arousal outside"),
        (lambda: model(valence=np.nan, p=(1e30,) * 8), "add up to 1 and valence"),
        (lambda: b"\x08\x09" * 1_000_001, "over 1,000,000 fields"),
        (lambda: b"\x0b\x0c", "not a whole ONNX model"),
        (lambda: b"\x12\x10\0\0ORTM" + bytes(100), "not a whole ONNX model"),
        (lambda: model().SerializeToString()[:-3], "not a whole ONNX model"),
        (lambda: b"\x80" * 30, "not a whole ONNX model"),
    ],
)
def test_what_a_stranger_may_send(made, message: str, tmp_path: Path) -> None:
    refused(made(), tmp_path, message)


@pytest.mark.parametrize("size", [10**13, 2**62])
def test_a_tensor_larger_than_memory_is_refused(size: int, tmp_path: Path) -> None:
    made = model()
    made.graph.initializer.append(constant("size", [size], np.int64))
    made.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["zeros"]))
    made.graph.node.insert(1, helper.make_node("ReduceMax", ["zeros"], ["most"], keepdims=0))
    made.graph.node[-1].output[0] = "a0"
    made.graph.node.append(helper.make_node("Add", ["a0", "most"], ["arousal"]))
    refused(made, tmp_path, "not a whole ONNX model|cannot be run")


def test_a_wrong_tensor_name_reaches_the_terminal_escaped(tmp_path: Path) -> None:
    made = model()
    made.graph.input[0].name = "\x1b[2Jfaces"
    made.graph.node[0].input[0] = "\x1b[2Jfaces"
    refused(made, tmp_path, r"\\x1b")


def test_mutated_files_are_run_or_refused(tmp_path: Path, capfd) -> None:
    """Bytes changed, cut out and doubled; metadata that is not text, among others."""
    rng, whole, refusals = np.random.default_rng(1), model().SerializeToString(), []
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at, length = int(rng.integers(len(data))), int(rng.integers(1, 20))
            match rng.integers(4):
                case 0:
                    data[at : at + 1] = rng.bytes(1)
                case 1:
                    del data[at : at + length]
                case 2:
                    data[at:at] = data[at : at + length]
                case 3:
                    data[at] ^= 0x80
        try:
            opened(bytes(data), tmp_path)(np.zeros((2, 48, 48, 3), np.uint8))
        except AffectNetError as error:
            refusals.append(str(error))
    assert refusals
    assert all(map(str.isprintable, refusals))
    assert "".join(capfd.readouterr()) == ""
