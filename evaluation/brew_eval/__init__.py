"""Evaluation: from scored rows to metrics with intervals, slices, calibration, comparisons, reports and gates."""
