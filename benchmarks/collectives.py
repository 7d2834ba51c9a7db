"""Exchanges of a compiled program between devices, read from its HLO text.

compiled = jax.jit(f).lower(*arguments).compile()
collectives.of(compiled.as_text())
"""

import re
from typing import NamedTuple

from benchmarks import hlo

OPERATIONS = {"all-gather", "all-reduce", "reduce-scatter", "send", "recv"}
OPERATIONS |= {"all-to-all", "ragged-all-to-all"}
OPERATIONS |= {"collective-permute", "collective-broadcast"}


class Collective(NamedTuple):
    """One exchange between devices."""

    operation: str  # of `OPERATIONS`
    # The larger of a device's input and output: the whole array, whether it is
    # gathered, summed, or summed and scattered.
    num_bytes: int


def of(text: str) -> list[Collective]:
    """The collectives of `compiled.as_text()`, in its order.

    Arrays of a tuple are summed. An asynchronous exchange counts where it starts. An
    exchange inside a loop counts once.
    """
    found = []
    computations: dict[tuple[str, str], str] = {}
    bytes_of: dict[str, int] = {}  # an operand's shape stands where it is defined
    for line in hlo.instructions(text):
        bytes_of[line.name] = got = hlo.num_bytes(line.shape)
        operation = line.operation.removesuffix("-start")
        # TPU programs spell a reduce-scatter as a fusion of a sum and a slice.
        if line.computation.startswith("%all-reduce-scatter"):
            operation = operation.replace("all-reduce", "reduce-scatter")
        if operation not in OPERATIONS:
            continue
        # TPU programs repeat an exchange in every fusion that runs beside it.
        if channel := re.search(r"channel_id=\d+", line.attributes):
            key = operation, channel[0]
            if computations.setdefault(key, line.computation) != line.computation:
                continue
        put = sum(bytes_of.get(name, 0) for name in line.operands)
        if line.operation.endswith("-start"):
            got -= put  # its tuple has the operands beside the results
        found.append(Collective(operation, max(put, got)))
    return found
