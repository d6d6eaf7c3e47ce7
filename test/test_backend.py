"""Where a network runs: what ONNX Runtime is told, what is warned of, and what is an error."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from model_files import write_model
from stand_in_runtime import CPU, CUDA, ENGINE, OPENVINO, TENSORRT, StandIn, StandInRuntime
from test_mixed_precision import write_convolutions

from structpose_ros import backend, cores, sessions
from structpose_ros.cores import CoresError, bind_thread, bound_to, one_each, parse_cores
from structpose_ros.geometry import transform
from structpose_ros.gpu import UNKNOWN, Gpu, first_gpu, tensorrt_version
from structpose_ros.network import OnnxNetwork
from structpose_ros.sessions import BackendOptions, ProviderError, provider_chain

ALL = [TENSORRT, CUDA, OPENVINO, CPU]
WHERE = Path("engine"), Path("timing")
DEADLINE = 10.0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "scene.onnx", transform([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 0]))


def load(path: Path, said: list[str] | None = None, **options: Any) -> OnnxNetwork:
    lines: list[str] = [] if said is None else said
    return OnnxNetwork(path, options=BackendOptions(**options), say=lines.append)


def engines_of(runtime: StandInRuntime) -> Path:
    return Path(runtime.told[-1][TENSORRT]["trt_engine_cache_path"])


# What ONNX Runtime is told: the names are those of its documentation.


def test_the_cpu_is_told_threads_and_whether_they_spin(model: Path, stand_in: StandIn) -> None:
    runtime = stand_in(ALL, ALL)
    loaded = load(model, provider="cpu", threads=3, spinning="always")
    assert runtime.told == [{CPU: {}}]
    assert runtime.settings[0].intra_op_num_threads == 3
    assert runtime.settings[0].get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert runtime.settings[0].get_session_config_entry("session.force_spinning_stop") == "0"
    assert loaded.backend.notes == {
        "provider": "cpu",
        "precision": "fp32",
        "threads": "3",
        "engine": "",
        "backend_warnings": "",
    }
    load(model, provider="cpu", threads=1)
    assert runtime.settings[1].get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert runtime.settings[1].get_session_config_entry("session.force_spinning_stop") == "1"
    assert runtime.settings[1].intra_op_num_threads == 1
    load(model, provider="cpu", spinning="never")
    assert runtime.settings[2].get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_cuda_multiplies_in_tf32_unless_it_is_to_be_exact(model: Path, stand_in: StandIn) -> None:
    runtime = stand_in(ALL, ALL)
    assert load(model, provider="cuda").backend.precision == "tf32"
    assert runtime.told[-1] == {CUDA: {"device_id": 0}, CPU: {}}
    assert load(model, provider="cuda", precision="fp32").backend.precision == "fp32"
    assert runtime.told[-1] == {CUDA: {"device_id": 0, "use_tf32": 0}, CPU: {}}


def test_openvino_is_told_its_device_precision_and_threads(model: Path, stand_in: StandIn) -> None:
    runtime = stand_in(ALL, ALL)
    assert load(model, provider="openvino").backend.precision == "fp32"
    assert runtime.told[-1] == {OPENVINO: {"device_type": "CPU", "precision": "FP32"}, CPU: {}}
    load(model, provider="openvino", threads=2)
    assert runtime.told[-1][OPENVINO]["num_of_threads"] == "2"


def test_auto_leaves_openvino_to_those_who_ask_for_it(model: Path, stand_in: StandIn) -> None:
    stand_in([OPENVINO, CPU], [OPENVINO, CPU])
    assert load(model).provider == "cpu"


def test_tensorrt_is_told_where_its_caches_are_and_nothing_of_fp16(model: Path, stand_in: StandIn) -> None:
    runtime = stand_in(ALL, ALL)
    load(model, provider="tensorrt")
    told = runtime.told[-1]
    assert list(told) == [TENSORRT, CUDA, CPU]
    assert told[CUDA] == {"device_id": 0}
    assert set(told[TENSORRT]) == {
        *("device_id", "trt_engine_cache_enable", "trt_engine_cache_path"),
        *("trt_timing_cache_enable", "trt_timing_cache_path"),
    }
    assert told[TENSORRT]["trt_engine_cache_enable"] is True
    assert told[TENSORRT]["trt_timing_cache_enable"] is True
    without = provider_chain("tensorrt", BackendOptions())
    assert without[0] == (TENSORRT, {"device_id": 0})


@pytest.mark.parametrize(
    ("precision", "override", "expected"),
    [("auto", "", "tf32"), ("fp32", "", "tf32"), ("fp32", "0", "fp32"), ("auto", "0", "fp32")],
)
def test_tensorrt_promises_float32_only_where_tf32_is_off(
    model: Path,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    override: str,
    expected: str,
) -> None:
    stand_in(ALL, ALL)
    monkeypatch.setenv(backend.TF32_VARIABLE, override)
    assert load(model, provider="tensorrt", precision=precision).backend.precision == expected


# Fall-back.


def test_a_provider_that_is_not_there_is_an_error_unless_another_is_allowed(
    model: Path, stand_in: StandIn
) -> None:
    stand_in([CPU], [CPU])
    with pytest.raises(ProviderError, match=r"expected provider 'openvino', .*structpose_ros\[openvino\]"):
        load(model, provider="openvino")
    loaded = load(model, provider="openvino", allow_fallback=True)
    assert loaded.provider == "cpu"
    (warning,) = loaded.backend.warnings
    assert warning.startswith("asked for openvino, runs on cpu: expected provider 'openvino', but this ONNX")
    assert loaded.backend.notes["backend_warnings"] == warning


@pytest.mark.parametrize(
    ("asked", "working", "runs"),
    [("tensorrt", [CUDA, CPU], "cuda"), ("tensorrt", [CPU], "cpu"), ("cuda", [TENSORRT, CPU], "cpu")],
)
def test_what_is_fallen_back_to_is_the_next_fastest(
    model: Path, stand_in: StandIn, asked: str, working: list[str], runs: str
) -> None:
    """And never TensorRT, whose engine would take minutes that nobody asked for."""
    stand_in(ALL, working)
    loaded = load(model, provider=asked, allow_fallback=True)
    assert loaded.provider == runs
    assert loaded.backend.warnings[0].startswith(f"asked for {asked}, runs on {runs}: ")


def test_auto_says_what_it_passes_over_and_warns_of_nothing(model: Path, stand_in: StandIn) -> None:
    stand_in([TENSORRT, CUDA, CPU], [CPU], (CUDA,))
    said: list[str] = []
    loaded = load(model, said)
    assert (loaded.provider, loaded.backend.warnings) == ("cpu", ())
    passed = [line for line in said if line.startswith("passed over: ")]
    assert len(passed) == 2
    assert "fell back to CPUExecutionProvider" in passed[0]
    assert "CUDAExecutionProvider is broken" in passed[1]


@pytest.mark.parametrize(
    ("lacking", "message"),
    [("first_gpu", "GPU that its driver knows"), ("tensorrt_version", "libnvinfer")],
)
def test_without_gpu_or_tensorrt_no_engine_is_begun(
    model: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, lacking: str, message: str
) -> None:
    runtime = stand_in(ALL, ALL)
    found = UNKNOWN if lacking == "tensorrt_version" else Gpu(UNKNOWN, UNKNOWN)
    monkeypatch.setattr(backend, lacking, lambda: found)
    said: list[str] = []
    with pytest.raises(ProviderError, match=f"expected provider 'tensorrt' to run, got no .*{message}"):
        load(model, said, provider="tensorrt")
    assert said == []
    assert runtime.asked == [[CPU]]
    assert load(model, provider="auto").provider == "cuda"


# Precision.


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_fp16_is_in_the_graph_that_a_gpu_is_given(tmp_path: Path, stand_in: StandIn, provider: str) -> None:
    runtime = stand_in(ALL, ALL)
    path = write_convolutions(tmp_path / "net.onnx")
    loaded = load(path, provider=provider, precision="fp16")
    rest = "tf32" if provider == "tensorrt" else "fp32"
    assert loaded.backend.precision == f"fp16 convolutions, the rest {rest}"
    assert runtime.given[0] == path.read_bytes()  # the CPU reads the file as it is
    assert b"_fp16" in runtime.given[-1]
    assert all("fp16" not in name for told in runtime.told[-1].values() for name in told)


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_fp16_where_there_is_none_is_an_error_or_a_warning(
    tmp_path: Path, stand_in: StandIn, provider: str
) -> None:
    stand_in(ALL, ALL)
    path = write_convolutions(tmp_path / "net.onnx")
    message = f"expected tensorrt or cuda for precision fp16, got {provider}, which computes in fp32"
    with pytest.raises(ProviderError, match=message):
        load(path, provider=provider, precision="fp16")
    loaded = load(path, provider=provider, precision="fp16", allow_fallback=True)
    assert (loaded.provider, loaded.backend.precision) == (provider, "fp32")
    assert loaded.backend.warnings == (message,)


def test_auto_with_fp16_wants_a_gpu(tmp_path: Path, stand_in: StandIn) -> None:
    path = write_convolutions(tmp_path / "net.onnx")
    stand_in([CPU], [CPU])
    with pytest.raises(ProviderError, match="expected tensorrt or cuda for precision fp16, got cpu"):
        load(path, precision="fp16")
    assert load(path, precision="fp16", allow_fallback=True).backend.precision == "fp32"
    stand_in([CUDA, CPU], [CUDA, CPU])
    assert load(path, precision="fp16").provider == "cuda"


def test_fp16_without_the_package_onnx_is_an_error_in_one_line(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(ALL, ALL)
    path = write_convolutions(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ProviderError, match="expected the package onnx, which fp16 .*pip install onnx"):
        load(path, provider="cuda", precision="fp16")


def test_fp16_of_a_model_without_convolutions_is_an_error(model: Path, stand_in: StandIn) -> None:
    stand_in(ALL, ALL)
    with pytest.raises(ProviderError, match=r"precision fp16 of .*scene\.onnx: expected a model with conv"):
        load(model, provider="cuda", precision="fp16")


def test_a_tensorrt_that_obeys_no_types_has_no_fp16(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(ALL, ALL)
    path = write_convolutions(tmp_path / "net.onnx")
    monkeypatch.setattr(backend, "tensorrt_version", lambda: "8601")
    assert load(path, provider="tensorrt").provider == "tensorrt"
    with pytest.raises(
        ProviderError, match="expected TensorRT 10 or later for precision fp16, got version 86"
    ):
        load(path, provider="tensorrt", precision="fp16")
    assert load(path, provider="auto", precision="fp16").provider == "cuda"


def test_a_look_up_in_bytes_is_warned_of_on_a_gpu_alone(stand_in: StandIn) -> None:
    stand_in(ALL, ALL)
    demo = Path(__file__).resolve().parent.parent / "models" / "demo_room.onnx"
    assert load(demo, provider="cpu").backend.warnings == ()
    for provider in ("cuda", "tensorrt"):
        (warning,) = load(demo, provider=provider).backend.warnings
        assert "the model is in int8" in warning
        assert "export it again without --int8" in warning


# Engines.


def test_the_first_start_builds_an_engine_aloud_and_the_second_loads_it(
    model: Path, stand_in: StandIn, tmp_path: Path
) -> None:
    runtime = stand_in(ALL, ALL)
    said: list[str] = []
    built = load(model, said, provider="tensorrt")
    root = tmp_path / "cache" / "structpose_ros" / "tensorrt"
    (line,) = said
    assert line.startswith(f"building a TensorRT engine, which takes minutes: there is none in {root} for")
    assert line.endswith("ros2 run structpose_ros build_engine MODEL")
    assert built.backend.engine.startswith("built in 0 s, kept in ")
    assert built.backend.warnings == ()
    assert engines_of(runtime).parent.name.startswith(".building-")
    again = load(model, said, provider="tensorrt")
    assert len(said) == 1
    folder = engines_of(runtime)
    assert again.backend.engine == f"loaded from {folder}"
    assert (folder / ENGINE).read_bytes() == b"code"
    assert folder.parent == root
    assert not list(root.glob(".building-*"))


@pytest.mark.parametrize("changed", ["model", "onnxruntime", "tensorrt", "gpu", "capability", "precision"])
def test_another_of_anything_is_another_engine(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    runtime = stand_in(ALL, ALL)
    said: list[str] = []
    path = write_convolutions(tmp_path / "net.onnx")
    load(path, said, provider="tensorrt")
    precision = "auto"
    if changed == "model":
        path = write_convolutions(tmp_path / "other.onnx", seed=1)
    elif changed == "onnxruntime":
        monkeypatch.setattr(runtime, "__version__", "1.23.0")
    elif changed == "tensorrt":
        monkeypatch.setattr(backend, "tensorrt_version", lambda: "100400")
    elif changed in ("gpu", "capability"):
        gpu = Gpu("Thor" if changed == "gpu" else "Orin", "8.7" if changed == "gpu" else "11.0")
        monkeypatch.setattr(backend, "first_gpu", lambda: gpu)
    else:
        precision = "fp16"
    load(path, said, provider="tensorrt", precision=precision)
    assert len(said) == 2
    load(path, said, provider="tensorrt", precision=precision)
    assert len(said) == 2


def test_an_engine_is_kept_where_one_is_told_to(model: Path, stand_in: StandIn, tmp_path: Path) -> None:
    stand_in(ALL, ALL)
    folder = tmp_path / "engines"
    assert f"kept in {folder}/" in load(model, provider="tensorrt", cache=folder).backend.engine
    assert folder.stat().st_mode & 0o777 == 0o700


# Cores.


@pytest.mark.parametrize(
    ("text", "cores"),
    [("", ()), ("0", (0,)), ("0-2", (0, 1, 2)), ("3, 0-1", (0, 1, 3)), ("2,2", (2,)), ("5-5", (5,))],
)
def test_cores_are_read(text: str, cores: tuple[int, ...]) -> None:
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "0,,1", "0-9999", "1.5", "²"])
def test_no_cores_are_refused(text: str) -> None:
    with pytest.raises(CoresError, match="expected cores such as '0-1,3', got '"):
        parse_cores(text)


def test_a_session_is_made_by_a_thread_on_these_cores_and_leaves_it_as_it_was(
    model: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = stand_in(ALL, ALL)
    before = os.sched_getaffinity(0)
    core = min(before)
    during: list[set[int]] = []
    monkeypatch.setattr(runtime, "write_engine", lambda told: during.append(os.sched_getaffinity(0)))
    loaded = load(model, provider="cpu", cores=(core,))
    assert during == [{core}]
    assert os.sched_getaffinity(0) == before
    assert runtime.settings[0].intra_op_num_threads == 1
    assert loaded.backend.threads == f"1 on cores {core}"


@pytest.mark.parametrize(
    ("threads", "asked", "smt", "own"),
    [
        (0, (), "0", (2, 5, 6)),
        (3, (), "0", (2, 5, 6)),
        (2, (), "0", ()),
        (4, (), "0", ()),
        (0, (), "1", ()),
        (0, (5, 6), "1", (5, 6)),
        (2, (5, 6), "0", (5, 6)),
        (3, (5, 6), "0", ()),
    ],
)
def test_threads_have_a_core_each_where_they_are_as_many(
    threads: int,
    asked: tuple[int, ...],
    smt: str,
    own: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Hyper-threads that nobody asked for are left to ONNX Runtime, which takes one of two."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 2, 6})
    monkeypatch.setattr(cores, "SMT", tmp_path / "smt")
    (tmp_path / "smt").write_text(f"{smt}\n")
    assert one_each(threads, asked) == own


def test_where_nobody_knows_of_hyper_threads_there_are_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cores, "SMT", tmp_path / "none")
    assert one_each(0, ()) == tuple(sorted(os.sched_getaffinity(0)))


def test_each_thread_is_told_its_core(
    model: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime counts cores from 1; the first one's thread is the one that calls the network."""
    runtime = stand_in(ALL, ALL)
    monkeypatch.setattr(sessions, "one_each", lambda threads, asked: (0, 1))
    loaded = load(model, provider="cpu")
    assert runtime.settings[0].intra_op_num_threads == 2
    assert runtime.settings[0].get_session_config_entry("session.intra_op_thread_affinities") == "2"
    assert loaded.backend.threads == "2, one on each of the cores 0,1"
    assert loaded.backend.cores == (0,)


def test_each_thread_is_on_its_core(model: Path) -> None:
    own = tuple(sorted(os.sched_getaffinity(0)))
    if len(own) < 2:
        pytest.skip("one core only: nothing to tell apart")
    others = set(os.listdir("/proc/self/task"))
    loaded = OnnxNetwork(model, options=BackendOptions("cpu", cores=own))
    started = set(os.listdir("/proc/self/task")) - others

    def bound() -> list[list[int]]:
        return sorted(sorted(os.sched_getaffinity(int(thread))) for thread in started)

    expected, until = [[core] for core in own[1:]], time.monotonic() + DEADLINE
    while bound() != expected and time.monotonic() < until:  # each thread binds itself once it runs
        os.sched_yield()
    assert bound() == expected
    assert loaded.backend.cores == own[:1]


def test_the_threads_of_onnx_runtime_stay_on_their_cores(model: Path) -> None:
    """Those that a session starts are on these cores alone."""
    core = max(os.sched_getaffinity(0))
    others = set(os.listdir("/proc/self/task"))
    loaded = OnnxNetwork(model, options=BackendOptions("cpu", threads=3, cores=(core,)))
    started = set(os.listdir("/proc/self/task")) - others
    assert len(started) >= 2
    assert all(os.sched_getaffinity(int(thread)) == {core} for thread in started)
    assert loaded.provider == "cpu"


def test_cores_that_are_not_there_are_an_error(model: Path) -> None:
    with pytest.raises(ProviderError, match=r"expected cores among 0-\d+, got 4000"):
        load(model, provider="cpu", cores=(4000,))
    before = os.sched_getaffinity(0)
    with pytest.raises(CoresError), bound_to((min(before), 4000)):
        pass
    assert os.sched_getaffinity(0) == before
    bind_thread(())
    assert os.sched_getaffinity(0) == before


# The GPU and TensorRT, as their libraries say.


class Driver:
    """CUDA's driver with one GPU; `fails` names the call that does not work."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def _result(self, call: str) -> int:
        return 100 if call == self.fails else 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._result("cuInit")

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = 3
        return self._result("cuDeviceGet")

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802
        assert (length, device.value) == (256, 3)
        name.value = b"NVIDIA Orin"
        return self._result("cuDeviceGetName")

    def cuDeviceGetAttribute(self, number: Any, attribute: int, device: Any) -> int:  # noqa: N802
        assert device.value == 3
        number._obj.value = {75: 8, 76: 7}[attribute]
        return self._result("cuDeviceGetAttribute")


def missing(library: str) -> Any:
    raise OSError(f"{library}: cannot open shared object file")


def test_a_gpu_is_known_by_its_name_and_capability() -> None:
    asked: list[str] = []

    def load(library: str) -> Driver:
        asked.append(library)
        return Driver()

    assert first_gpu(load) == Gpu("NVIDIA Orin", "8.7")
    assert asked == ["libcuda.so.1"]
    assert first_gpu(missing) == Gpu(UNKNOWN, UNKNOWN)


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute"])
def test_a_driver_that_fails_knows_no_gpu(call: str) -> None:
    assert first_gpu(lambda library: Driver(call)) == Gpu(UNKNOWN, UNKNOWN)


def test_tensorrt_is_known_by_its_version() -> None:
    class TensorRt:
        def getInferLibVersion(self) -> int:  # noqa: N802
            return 100300

    def load(library: str) -> Any:
        return TensorRt() if library == "libnvinfer.so.10" else missing(library)

    assert tensorrt_version(load) == "100300"
    assert tensorrt_version(missing) == UNKNOWN
    assert tensorrt_version(lambda library: object()) == UNKNOWN
