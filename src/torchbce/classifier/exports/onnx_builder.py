"""Nodes and constants of an ONNX graph, named as they are made."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """An ONNX graph under construction.

    Args:
        reserved: the names of the inputs, which nothing else may have.
    """

    def __init__(self, reserved: set[str]) -> None:
        self._reserved = reserved
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._count = 0

    def constant(self, value: Any, dtype: Any = None) -> str:
        """A constant; strings are of dtype object."""
        array = np.asarray(value, dtype=dtype)
        name = self._name("constant")
        if array.dtype == object:
            encoded = [text.encode() for text in array.ravel().tolist()]
            tensor = helper.make_tensor(name, TensorProto.STRING, array.shape, encoded)
        else:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
        self._constants.append(tensor)
        return name

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """The output of a new node."""
        output = self._name(operator)
        made = helper.make_node(operator, list(inputs), [output], domain=domain, **attributes)
        self._nodes.append(made)
        return output

    def cast(self, value: str, dtype: int) -> str:
        """A value as another type, one of `TensorProto`."""
        return self.node("Cast", value, to=dtype)

    def name(self, value: str, wanted: str) -> str:
        """The same value under another name, as an output of the graph."""
        self._nodes.append(helper.make_node("Identity", [value], [wanted]))
        return wanted

    def model(
        self, inputs: list[Any], outputs: list[Any], opsets: dict[str, int], about: str
    ) -> bytes:
        """The whole model as bytes, checked."""
        nodes, constants = self._used({output.name for output in outputs})
        graph = helper.make_graph(nodes, "classifier", inputs, outputs, constants)
        imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        # The oldest version of the format that has these operators, so that older runtimes read it.
        model = helper.make_model(
            graph,
            opset_imports=imports,
            ir_version=helper.find_min_ir_version_for(imports),
            producer_name="torchbce",
            doc_string=about,
        )
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString()
        return content

    def _used(self, needed: set[str]) -> tuple[list[Any], list[Any]]:
        """The nodes and the constants that some values are computed from."""
        nodes = []
        for node in reversed(self._nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                nodes.append(node)
        return nodes[::-1], [one for one in self._constants if one.name in needed]

    def _name(self, operator: str) -> str:
        while True:
            self._count += 1
            name = f"{operator.lower()}_{self._count}"
            if name not in self._reserved:
                return name
