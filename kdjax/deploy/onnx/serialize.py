"""The ONNX file of a finished graph."""

from collections.abc import Mapping

from kdjax.deploy.onnx.graph import INPUT, OUTPUT, Graph, UnsupportedError

# Old enough for the runtimes in use, and new enough for every operator that is written.
_OPERATOR_SET = 17
_IR_VERSION = 8


def serialize(graph: Graph, output: str, classes: int, producer: Mapping[str, str]) -> bytes:
    """Returns the graph as an ONNX file, checked by the package onnx.

    Args:
      graph: the finished graph.
      output: name of its result, which the file calls OUTPUT.
      classes: number of logits.
      producer: ``producer_name`` and ``producer_version``.

    Raises:
      UnsupportedError: if an operator of ONNX does not take what it is given, such as a dtype.
    """
    import onnx
    from onnx import helper, numpy_helper

    def renamed(name: str) -> str:
        return OUTPUT if name == output else name

    nodes = [
        helper.make_node(
            node.operator,
            [renamed(name) for name in node.inputs],
            [renamed(node.output)],
            name=node.output,
            **node.attributes,
        )
        for node in graph.nodes
    ]
    used = {name for node in graph.nodes for name in node.inputs}
    kinds = onnx.TensorProto
    images = helper.make_tensor_value_info(INPUT, kinds.UINT8, ["batch", *graph.image_shape])
    logits = helper.make_tensor_value_info(OUTPUT, kinds.FLOAT, ["batch", classes])
    constants = [
        numpy_helper.from_array(array, name)
        for name, array in graph.constants.items()
        if name in used
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "kdjax", [images], [logits], constants),
        opset_imports=[helper.make_opsetid("", _OPERATOR_SET)],
        ir_version=_IR_VERSION,
        **producer,
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UnsupportedError(f"an operator that does not take this: {reason}") from error
    return bytes(model.SerializeToString())
