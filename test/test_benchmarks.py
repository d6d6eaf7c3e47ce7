"""The benchmarks' arithmetic: what they compare gives the same pose, and ratios are of what they say."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.end_to_end import IN_TURN, LOOKED_AT, OVERLOADED, Bench, Phase, summary_of
from benchmarks.frame import contents, spread_of_medians
from benchmarks.solvers import MAP_FROM_CAMERA, bench_solvers, points, solvers
from benchmarks.timing import percentiles, timed, timed_in_turn
from structpose_ros.geometry import pose_error


def test_percentiles_are_those_of_the_samples() -> None:
    found = percentiles([float(value) for value in range(101)])
    assert found == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "samples": 101}
    assert math.isnan(percentiles([])["p50"])


def test_calls_that_warm_up_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    durations = iter([100.0] * 3 + [2.0] * 5)
    now = [0.0]

    def action() -> None:
        now[0] += next(durations)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0] + 0.0 * next(clock))
    assert timed(action, repeats=5, warm_up=3, seconds=1e9) == {
        **{"p50": 2000.0, "p95": 2000.0, "p99": 2000.0},
        "samples": 5,
    }


def test_what_is_slow_is_called_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def slow() -> None:
        now[0] += 3.0

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert timed_in_turn({"a": slow, "b": lambda: None}, 100, warm_up=1, seconds=10.0)["a"] == [3000.0] * 3


@pytest.mark.parametrize("name", sorted(solvers()))
def test_every_solver_finds_the_pose_of_right_points(name: str) -> None:
    position, rotation = pose_error(solvers()[name](points(1200, 0.0, seed=3)), MAP_FROM_CAMERA)
    assert position < 0.05
    assert rotation < 0.6


def test_scipys_answer_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy")
    monkeypatch.setattr("benchmarks.solvers.DRAWS", 1)
    monkeypatch.setattr("benchmarks.solvers.COUNTS", (4800,))
    monkeypatch.setattr("benchmarks.solvers.timed", lambda *_, **__: percentiles([2.0]))
    summary = bench_solvers()
    assert summary["scipy_differs_by"] < 1e-9
    assert summary["scipy_over_align"] == 1.0
    assert summary["pnp_ransac_over_align"] == 1.0


def test_the_spread_of_medians_is_that_of_the_rows() -> None:
    """In turn, a machine that slows for some rounds slows all rows alike, and is divided out."""
    rounds = np.array([1.0, 1.0, 1.0, 2.0, 2.0])
    times = np.array([[1.0], [1.02], [0.98]]) * rounds
    assert spread_of_medians(times) == pytest.approx(1.02 / 0.98 - 1.0)
    times[0, 2] = 1.9  # the machine slowed down in the middle of a round
    assert spread_of_medians(times) == pytest.approx(1.9 / 0.98 - 1.0)
    assert spread_of_medians(times / times.mean(axis=0)) == pytest.approx(1.02 / 0.98 - 1.0)


def test_contents_differ_in_what_they_show() -> None:
    image = np.full((4, 6, 3), 7, dtype=np.uint8)
    shown = contents(image)
    assert {name: (value.shape, value.dtype) for name, value in shown.items()} == dict.fromkeys(
        ("textured", "blank", "noise", "dark"), ((4, 6, 3), np.dtype(np.uint8))
    )
    assert shown["textured"] is image
    assert shown["noise"].std() > 50


def test_ratios_are_of_the_phases_that_they_name() -> None:
    bench = Bench(Path(), Path(), None, started=100.0)
    latency = {"first": 40.0, "10 Hz": 24.0, "30 Hz": 25.0, IN_TURN: 24.0, OVERLOADED: 36.0, LOOKED_AT: 27.0}
    latency["memory"] = 24.0
    poses: list[dict[str, Any]] = []
    for number, (name, milliseconds) in enumerate(latency.items()):
        stamps = [(101 + number) * 10**9 + index for index in range(4)]
        network_ms = [21.0, 20.0, 18.0, 13.0, 1.0]  # the last frame gives no pose
        bench.phases[name] = Phase(name, 10.0, [*stamps, 5], 0.25 + 0.125 * number, 1000 + number, network_ms)
        poses += [{"stamp_ns": stamp, "latency_ms": milliseconds} for stamp in stamps]
    overloaded = bench.phases[OVERLOADED].stamps
    bench.overloads = [
        (overloaded[:1], {"p50": 18.0, "p99": 30.0}),
        (overloaded[1:], {"p50": 24.0, "p99": 24.0}),
    ]
    summary = summary_of(bench, poses, {"p50": 20.0, "p99": 26.0})
    assert summary["end_to_end"]["10 Hz"]["poses"] == 4
    assert summary["end_to_end"]["10 Hz"]["frames"] == 5
    assert summary["end_to_end_over_network_p50"] == 1.2
    assert summary["end_to_end_minus_network_ms"] == 4.0
    assert summary["end_to_end_over_network_p50_at_30_hz"] == 1.25
    assert summary["end_to_end_minus_network_ms_at_30_hz"] == 5.0
    in_turn = summary["end_to_end_minus_network_in_turn_ms"]
    assert (in_turn["p50"], in_turn["samples"]) == (5.0, 4)
    assert summary["p99_over_p50"] == summary["p99_over_p50_at_30_hz"] == 1.0
    assert summary["overload_age_over_network_p50"] == 1.5
    assert summary["overload_age_over_network_p95"] == pytest.approx(1.925)
    assert summary["overload_age_over_network_p99"] == pytest.approx(2.0, abs=0.02)
    assert summary["overload_age_p99_over_network_p99"] == 1.5
    assert summary["network_p99_over_p50"] == 1.3
    assert summary["pictures_ms"] == 3.0
    assert summary["pictures_cpu_share"] == 0.25
    assert summary["first_pose_s"] == pytest.approx(1.04)
    assert summary["rss_growth"] == pytest.approx(0.006)
