"""What a compiled program sends between devices, read from its HLO text.

compiled = jax.jit(f).lower(*arguments).compile()
collectives.of(compiled.as_text())
"""

import math
import re
from typing import NamedTuple

OPERATIONS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
    "send",
    "recv",
)


class Collective(NamedTuple):
    """One exchange between devices."""

    operation: str  # of `OPERATIONS`
    # What a device puts in or gets out, whichever is more: the whole of a gathered
    # array, of one that is summed, and of one that is summed and then scattered.
    num_bytes: int


# `%name = shape operation(%operand, ...)`, perhaps with ROOT before it.
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?(?P<name>%[\w.-]+) = (?P<shape>\(.*?\)|\S+) "
    r"(?P<operation>[a-z-]+)\((?P<operands>[^()]*(?:\([^()]*\)[^()]*)*)\)"
)
_ARRAY = re.compile(r"\b(?P<kind>[a-z]+)(?P<bits>\d*)\w*\[(?P<sizes>[\d,]*)\]")


def _num_bytes(shape: str) -> int:
    """Of an array, or of all in a tuple."""
    total = 0
    for array in _ARRAY.finditer(shape):
        bits = 8 if array["kind"] == "pred" else int(array["bits"] or 0)
        sizes = re.findall(r"\d+", array["sizes"])
        total += math.ceil(bits * math.prod(map(int, sizes)) / 8)
    return total


def of(hlo: str) -> list[Collective]:
    """The collectives of a program, in the order of its text.

    Args:
      hlo: what `as_text()` of a compiled program returns.

    Returns:
      One `Collective` for each: a tuple's arrays are summed, an asynchronous one
      counts where it starts. What a loop repeats counts once.
    """
    found = []
    bytes_of: dict[str, int] = {}  # an operand's shape stands where it is defined
    for line in hlo.splitlines():
        instruction = _INSTRUCTION.match(line)
        if instruction is None:
            continue
        got = _num_bytes(instruction["shape"])
        bytes_of[instruction["name"]] = got
        operation = instruction["operation"].removesuffix("-start")
        if operation not in OPERATIONS:
            continue
        names = re.findall(r"%[\w.-]+", instruction["operands"])
        put = sum(bytes_of.get(name, 0) for name in names)
        if instruction["operation"].endswith("-start"):
            got -= put  # its tuple holds the operands beside the results
        found.append(Collective(operation, max(put, got)))
    return found
