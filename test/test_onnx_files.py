"""A model file that refers to other files, or claims what it has not, is refused before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import write_model
from onnx import TensorProto, helper, numpy_helper

from structpose_ros.contract import ModelFileError
from structpose_ros.network import OnnxNetwork
from structpose_ros.onnx_files import expect_loadable, has_external_data
from structpose_ros.resources import share_path

VALUES = np.arange(8, dtype=np.float32)


def tensor(external: bool, name: str = "w") -> TensorProto:
    made = numpy_helper.from_array(VALUES, name)
    if external:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value="secret.bin")
    return made


def info(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [8])


def model_of(graph: onnx.GraphProto, functions: list[onnx.FunctionProto] | None = None) -> onnx.ModelProto:
    domains = [helper.make_opsetid("", 17), *([helper.make_opsetid("own", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=domains, functions=functions or [])


def in_initializer(external: bool) -> onnx.ModelProto:
    add = helper.make_node("Add", ["x", "w"], ["y"])
    return model_of(helper.make_graph([add], "g", [info("x")], [info("y")], [tensor(external)]))


def in_constant(external: bool) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor(external)),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    return model_of(helper.make_graph(nodes, "g", [info("x")], [info("y")]))


def in_branch(external: bool) -> onnx.ModelProto:
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["z"])], "b", [], [info("z")], [tensor(external)]
    )
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    flag = numpy_helper.from_array(np.array(True), "c")
    return model_of(helper.make_graph([choice], "g", [info("x")], [info("y")], [flag]))


def in_function(external: bool) -> onnx.ModelProto:
    body = [
        helper.make_node("Constant", [], ["w"], value=tensor(external)),
        helper.make_node("Add", ["a", "w"], ["b"]),
    ]
    function = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    call = helper.make_node("F", ["x"], ["y"], domain="own")
    return model_of(helper.make_graph([call], "g", [info("x")], [info("y")]), [function])


def in_sparse(external: bool) -> onnx.ModelProto:
    made = in_initializer(False)
    indices = numpy_helper.from_array(np.arange(8, dtype=np.int64), "i")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor(external, "s"), indices, [8]))
    return made


places = pytest.mark.parametrize("place", [in_initializer, in_constant, in_branch, in_function, in_sparse])
Place = Callable[[bool], onnx.ModelProto]


@places
def test_a_reference_is_found_wherever_it_lies(place: Place) -> None:
    assert has_external_data(place(True).SerializeToString())
    assert not has_external_data(place(False).SerializeToString())


def test_a_place_alone_or_a_flag_alone_is_a_reference() -> None:
    for field in ("external_data", "data_location"):
        made = in_initializer(True)
        made.graph.initializer[0].ClearField(field)
        assert has_external_data(made.SerializeToString())


def test_the_shipped_model_holds_all_its_tensors() -> None:
    assert not has_external_data(share_path("models", "demo_room.onnx").read_bytes())


def test_a_robots_own_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check ONNX Runtime would take the file's bytes for the tensor's."""
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    monkeypatch.chdir(tmp_path)
    path = write_model(tmp_path / "model.onnx", np.eye(4))
    OnnxNetwork(path, "cpu")
    model = onnx.load(path)
    model.graph.initializer.append(tensor(True, "unused"))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="expected a model file that holds all .* got ref"):
        OnnxNetwork(path, "cpu")


# --- what a model claims ---


def tensors_of(model: onnx.ModelProto) -> list[TensorProto]:
    """Return all tensors of a model made here, wherever they lie."""
    graph = model.graph
    graphs = [graph, *(item.g for node in graph.node for item in node.attribute if item.HasField("g"))]
    nodes = [node for item in graphs for node in item.node]
    nodes += [node for function in model.functions for node in function.node]
    constants = [item.t for node in nodes for item in node.attribute if item.HasField("t")]
    sparse = [item.values for item in graph.sparse_initializer]
    return [*(value for item in graphs for value in item.initializer), *constants, *sparse]


@places
@pytest.mark.parametrize("sides", [[10**12], [2**40, 2**40], [-1], [2**31, 2**33], [8, 8, 8, 8]])
def test_a_tensor_that_claims_more_than_it_holds_is_refused_wherever_it_lies(
    place: Place, sides: list[int]
) -> None:
    model = place(False)
    if place is not in_function:
        expect_loadable(model.SerializeToString())
    values = next(item for item in tensors_of(model) if item.name in ("w", "s"))
    values.ClearField("dims")
    values.dims.extend(sides)
    with pytest.raises(ValueError, match=r"expected a tensor of at most \d+ numbers in its bytes, got \d+"):
        expect_loadable(model.SerializeToString())


def test_what_is_sparse_unpacks_to_no_more_than_a_file_of_its_size_could_hold() -> None:
    model = in_sparse(False)
    expect_loadable(model.SerializeToString())
    model.graph.sparse_initializer[0].dims[0] = 10**12
    with pytest.raises(ValueError, match="expected a tensor of at most .* got 1000000000000"):
        expect_loadable(model.SerializeToString())


def test_sides_packed_or_one_by_one_are_counted() -> None:
    """Either is the same to a protocol buffer; ONNX itself writes them one by one."""

    def model(sides: bytes) -> bytes:
        held = sides + b"\x10\x01"  # data_type FLOAT
        initializer = b"\x2a" + bytes([len(held)]) + held
        return b"\x3a" + bytes([len(initializer)]) + initializer

    thousand = b"\xe8\x07"
    for sides in (b"\x08" + thousand + b"\x08\x01", b"\x0a\x03" + thousand + b"\x01"):
        assert list(onnx.load_from_string(model(sides)).graph.initializer[0].dims) == [1000, 1]
        with pytest.raises(ValueError, match="at most (56|64) numbers in its bytes, got 1000"):
            expect_loadable(model(sides))


@pytest.mark.parametrize(
    "values",
    [
        np.float32(1.0),
        np.zeros((0, 10**12), np.float32),
        np.zeros((3, 5, 7), np.float64),
        np.zeros(10_000, np.bool_),
        np.zeros(10_001, np.int8),
    ],
)
def test_tensors_that_hold_what_they_claim_pass(values: np.ndarray) -> None:
    made = in_initializer(False)
    made.graph.initializer.append(numpy_helper.from_array(np.asarray(values), "more"))
    packed = helper.make_tensor("small", TensorProto.INT4, [1001], np.zeros(1001, np.int8), raw=False)
    made.graph.initializer.append(packed)
    expect_loadable(made.SerializeToString())


def test_the_shipped_model_is_loadable() -> None:
    expect_loadable(share_path("models", "demo_room.onnx").read_bytes())


@pytest.mark.parametrize("domain", ["com.example", "ai.onnx.contrib", "../x.so", "own", "é"])
def test_operators_of_a_library_are_refused_by_name(domain: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx", np.eye(4))
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path.write_bytes(model.SerializeToString())
    OnnxNetwork(path, "cpu")
    model.opset_import.append(helper.make_opsetid(domain, 1))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=f"expected operators of ONNX or com.microsoft, got '{domain}'"):
        OnnxNetwork(path, "cpu")


def test_a_false_claim_does_not_reach_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "model.onnx", np.eye(4))
    model = onnx.load(path)
    model.graph.initializer.append(tensor(False, "unused"))
    model.graph.initializer[-1].dims[0] = 2**50
    path.write_bytes(model.SerializeToString())
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("it saw the file"))
    with pytest.raises(ModelFileError, match="expected an ONNX model at .* don't load: expected a tensor of"):
        OnnxNetwork(path, "cpu")


@given(content=st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        has_external_data(content)
        expect_loadable(content)
    except ValueError as error:
        assert str(error).startswith("expected ")


@places
@given(data=st.data())
@settings(max_examples=30)
def test_a_cut_off_or_changed_file_is_read_or_refused(place: Place, data: st.DataObject) -> None:
    content = bytearray(place(True).SerializeToString())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        has_external_data(cut)
        expect_loadable(cut)
    except ValueError as error:
        assert str(error).startswith("expected ")
