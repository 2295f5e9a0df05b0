"""Imports parameters trained elsewhere: reads files, converts tensors to networks' variables."""

from kdjax.models.importing.files import read_tensors
from kdjax.models.importing.variables import import_torch, torch_shapes

__all__ = ["import_torch", "read_tensors", "torch_shapes"]
