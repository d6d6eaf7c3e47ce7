"""The demonstration: a recording played as a real camera into the real node, and a report of the outcome."""

RECORDER_READY = "demo_recorder: listening"  # what it prints once somebody publishes poses
