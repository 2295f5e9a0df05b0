"""Writes a network as an ONNX graph, by following its jaxpr."""

from kdjax.deploy.onnx.graph import INPUT, OUTPUT, UnsupportedError
from kdjax.deploy.onnx.jaxpr import translate

__all__ = ["INPUT", "OUTPUT", "UnsupportedError", "translate"]
