"""The demonstration: a recording played as a real camera into the real node, and a report of the outcome."""

from __future__ import annotations

import argparse
import math

RECORDER_READY = "demo_recorder: listening"  # what it prints once somebody publishes poses


def positive(text: str) -> float:
    """Read a number above 0, for argparse."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value
