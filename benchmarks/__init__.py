r"""Measurements: ``python -m benchmarks NAME``; results are JSON files beside the code."""
