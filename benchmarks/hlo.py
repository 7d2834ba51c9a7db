"""Instructions and kernels of a compiled program, read from its HLO text.

compiled = jax.jit(f).lower(*arguments).compile()
hlo.kernels(compiled.as_text())
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?(?P<name>%[\w.-]+) .*\{$")
# `%name = shape operation(%operand, ...), attribute=...`, perhaps with ROOT before it.
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?(?P<name>%[\w.-]+) = (?P<shape>\(.*?\)|\S+) "
    r"(?P<operation>[a-z-]+)\((?P<operands>[^()]*(?:\([^()]*\)[^()]*)*)\)"
    r"(?P<attributes>.*)"
)
_ARRAY = re.compile(r"\b(?P<kind>[a-z]+)(?P<bits>\d*)\w*\[(?P<sizes>[\d,]*)\]")
# They move nothing, or move a kernel's data between a TPU's memories: those bytes are
# counted at the kernel.
_FREE = {"bitcast", "constant", "get-tuple-element", "parameter", "tuple"}
_FREE |= {"copy-done", "copy-start", "slice-done", "slice-start"}
_JOINED_SLICES = 'custom_call_target="ConcatBitcast"'


class Instruction(NamedTuple):
    """One line of a computation."""

    computation: str  # name of the computation that it is part of
    is_entry: bool  # True if that is the program's entry, not one that it calls
    name: str
    shape: str  # of its result, as written: "f32[2,3]{1,0}", or a tuple of such
    operation: str
    operands: tuple[str, ...]  # their names
    attributes: str  # text after the operands


class Kernel(NamedTuple):
    """One operation of the program, after fusion."""

    operation: str  # "fusion", "copy", ...
    read: int  # bytes of its input arrays, without scalars
    written: int  # bytes of its output arrays

    @property
    def is_scalar(self) -> bool:
        """Returns True if all its inputs and outputs are scalars."""
        return self.read == self.written == 0


def num_bytes(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple, without padding."""
    total = 0
    for array in _ARRAY.finditer(shape):
        bits = 8 if array["kind"] == "pred" else int(array["bits"] or 0)
        sizes = re.findall(r"\d+", array["sizes"])
        total += math.ceil(bits * math.prod(map(int, sizes)) / 8)
    return total


def instructions(text: str) -> Iterator[Instruction]:
    """Yields the instructions of all computations of `compiled.as_text()`, in order."""
    computation, is_entry = "", False
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            computation, is_entry = header["name"], header["entry"] is not None
        elif found := _INSTRUCTION.match(line):
            name, shape, operation, operands, attributes = found.groups()
            names = tuple(re.findall(r"%[\w.-]+", operands))
            yield Instruction(
                computation, is_entry, name, shape, operation, names, attributes
            )


def kernels(text: str) -> list[Kernel]:
    """The kernels of `compiled.as_text()`, in the order in which they run.

    Bytes follow from the shapes, without the padding of TPUs.
    """
    found = []
    bytes_of: dict[str, int] = {}
    for line in instructions(text):
        if not line.is_entry:
            continue
        bytes_of[line.name] = num_bytes(line.shape.replace("[]", ""))  # no scalars
        if line.operation not in _FREE and _JOINED_SLICES not in line.attributes:
            read = sum(bytes_of[name] for name in set(line.operands))
            found.append(Kernel(line.operation, read, bytes_of[line.name]))
    return found
