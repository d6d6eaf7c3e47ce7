"""A model file that refers to other files is refused before ONNX Runtime sees it; all others pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import write_model
from onnx import TensorProto, helper, numpy_helper

from structpose_ros.contract import ModelFileError
from structpose_ros.network import OnnxNetwork
from structpose_ros.onnx_files import has_external_data
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
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
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


@given(content=st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        has_external_data(content)
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
    except ValueError as error:
        assert str(error).startswith("expected ")
