"""The instructions of a compiled program, read from its HLO text.

compiled = jax.jit(f).lower(*arguments).compile()
list(hlo.instructions(compiled.as_text()))
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple


class Instruction(NamedTuple):
    """One line of a computation."""

    computation: str  # the name of the one it stands in
    is_entry: bool  # whether that is the program's own, not one that it calls
    name: str
    shape: str  # of its result, as written: "f32[2,3]{1,0}", or a tuple of such
    operation: str
    operands: tuple[str, ...]  # their names
    attributes: str  # what stands behind the operands


_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?(?P<name>%[\w.-]+) .*\{$")
# `%name = shape operation(%operand, ...), attribute=...`, perhaps with ROOT before it.
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?(?P<name>%[\w.-]+) = (?P<shape>\(.*?\)|\S+) "
    r"(?P<operation>[a-z-]+)\((?P<operands>[^()]*(?:\([^()]*\)[^()]*)*)\)"
    r"(?P<attributes>.*)"
)
_ARRAY = re.compile(r"\b(?P<kind>[a-z]+)(?P<bits>\d*)\w*\[(?P<sizes>[\d,]*)\]")


def num_bytes(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple, without padding."""
    total = 0
    for array in _ARRAY.finditer(shape):
        bits = 8 if array["kind"] == "pred" else int(array["bits"] or 0)
        sizes = re.findall(r"\d+", array["sizes"])
        total += math.ceil(bits * math.prod(map(int, sizes)) / 8)
    return total


def instructions(text: str) -> Iterator[Instruction]:
    """Yields the instructions of all computations, in the order of the text.

    Args:
      text: what `as_text()` of a compiled program returns.

    Yields:
      An `Instruction` for each.
    """
    computation, is_entry = "", False
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            computation, is_entry = header["name"], header["entry"] is not None
        elif found := _INSTRUCTION.match(line):
            yield Instruction(
                computation,
                is_entry,
                found["name"],
                found["shape"],
                found["operation"],
                tuple(re.findall(r"%[\w.-]+", found["operands"])),
                found["attributes"],
            )
