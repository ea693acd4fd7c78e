"""How much of a `.tflite` XNNPACK takes over, and what the Edge TPU's and the GPU delegate's published lists lack of it.

A file of its own, since who shows latencies needs the value and neither LiteRT nor numpy.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_mnasnet.export.file import GraphFacts

# coral.ai/docs/edgetpu/models-intro/#supported-operations, which asks for 8 bits throughout and one image at a time; read in
# copies of the page, that RSQRT, SQUARED_DIFFERENCE, SUM, TRANSPOSE and TRANSPOSE_CONV are on it was not
EDGE_TPU = (
    "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED L2_NORMALIZATION LOGISTIC LSTM "
    "MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE "
    "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE "
    "SUB SUM TANH TRANSPOSE TRANSPOSE_CONV"
)
# github.com/tensorflow/tensorflow, tensorflow/lite/tools/versioning/gpu_compatibility.cc, by which the delegate itself decides
GPU = (
    "ABS ADD ADD_N ATAN2 AVERAGE_POOL_2D BATCH_MATMUL CAST CEIL CONCATENATION CONV_2D COS CUMSUM DENSIFY DEPTHWISE_CONV_2D "
    "DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP FLOOR FLOOR_DIV FLOOR_MOD "
    "FULLY_CONNECTED GATHER GELU GREATER GREATER_EQUAL HARD_SWISH LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGISTIC LSTM "
    "MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL ONE_HOT PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_MAX "
    "REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SELECT SELECT_V2 "
    "SIGN SIN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE STABLEHLO_CLAMP STRIDED_SLICE SUB SUM "
    "TANH TILE TRANSPOSE TRANSPOSE_CONV"
)


def accelerators(facts: GraphFacts) -> dict[str, str]:
    """What the published lists say of a `.tflite`: a line each. Whether an accelerator takes a graph, its compiler decides."""
    found = {}
    for name, known in (("Edge TPU", EDGE_TPU), ("GPU delegate", GPU)):
        outside = [f"{kind} {count}" for kind, count in facts.operators.items() if kind not in known.split()]
        said = f"its list lacks {', '.join(outside)}" if outside else "every operator is on its list"
        if name == "Edge TPU":
            if not {"int8", "uint8"} & set(facts.output_types):
                said = "takes 8 bits throughout, as of --quantize int8"
            elif facts.floating:
                said += f"; it does not compute in floats, as here {', '.join(facts.floating)}"
            if facts.inputs and facts.inputs[0].shape[:1] != (1,):
                said += "; it takes one image at a time"
        found[name] = said
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Partitions:
    """`delegates` parts of the graph run in XNNPACK; `outside` counts the operators, by kind, that LiteRT's own kernels run."""

    delegates: int
    outside: dict[str, int]

    @property
    def whole(self) -> bool:
        """Whether the whole graph is one part."""
        return self.delegates == 1 and not self.outside


def partitions_of(interpreter: Any, *, until: str | None = None) -> Partitions:
    """Of a LiteRT interpreter with allocated tensors; with `until`, an operator's name, of what that one's inputs depend on."""
    nodes = _nodes(interpreter)
    delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
    producer = {int(tensor): node for node in (*nodes, *delegates) for tensor in node["outputs"]}
    kinds: collections.Counter[str] = collections.Counter()
    seen: set[int] = set()
    ends = [node for node in nodes if node["op_name"] == until]
    if until is not None and not ends:
        raise ValueError(f"The graph must have the operator `until`. Received: until={until!r}")
    outputs = [output["index"] for output in interpreter.get_output_details()]
    waiting = [int(tensor) for tensor in (ends[0]["inputs"] if ends else outputs) if tensor >= 0]
    while waiting:  # what the outputs depend on; a delegate stands for the operators it replaced
        node = producer.get(waiting.pop())
        if node is not None and node["index"] not in seen:
            seen.add(node["index"])
            kinds[node["op_name"]] += 1
            waiting += [int(tensor) for tensor in node["inputs"] if tensor >= 0]
    taken = kinds.pop("DELEGATE", 0) if ends else len(delegates)
    kinds.pop("DELEGATE", None)
    return Partitions(taken, dict(sorted(kinds.items())))


def _nodes(interpreter: Any) -> list[dict[str, Any]]:
    """Every node of the graph: LiteRT says which ones a delegate took only through this call, which is not public."""
    return interpreter._get_ops_details()
