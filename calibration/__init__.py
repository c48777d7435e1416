"""Calibration: analyses held against simulated truths. `python -m calibration --help`; see docs/statistics.md."""
