"""The forms in which a model leaves, by name, and how far their answers may lie from the model's."""

from __future__ import annotations

# How far log p may lie from the model's, relative to the largest of a text, by the form of the weights.
TOLERANCES = {"F32": 1e-4, "F16": 1e-2, "BF16": 3e-2, "Q8_0": 5e-2, "INT8": 0.25}
NUMPY, MERGED, FASTEST = "numpy", "merged", "fastest"
PROGRAMS = {"onnx": "F32", "int8": "INT8"}  # folders that ONNX Runtime computes, and the form of their weights
FOLDERS = (NUMPY, *PROGRAMS, FASTEST, MERGED)
