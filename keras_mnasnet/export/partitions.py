"""How much of a `.tflite` XNNPACK takes over: the number of its partitions, and the operators outside of them.

A file of its own, since who shows latencies needs the value and neither LiteRT nor numpy.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any


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
