"""What a compiled program reads and writes, kernel by kernel, from its HLO text.

compiled = jax.jit(f).lower(*arguments).compile()
kernels.of(compiled.as_text())
"""

from typing import NamedTuple

from benchmarks import hlo

# They move nothing, or what a kernel reads or writes, between TPU's memories: those
# bytes are counted at the kernel.
_FREE = {
    "bitcast",
    "constant",
    "copy-done",
    "copy-start",
    "get-tuple-element",
    "parameter",
    "slice-done",
    "slice-start",
    "tuple",
}
_JOINED_SLICES = 'custom_call_target="ConcatBitcast"'


class Kernel(NamedTuple):
    """One operation of the program, after fusion."""

    operation: str  # "fusion", "copy", ...
    read: int  # bytes of the arrays that it takes; of scalars, none
    written: int  # bytes of the arrays that it makes

    @property
    def is_scalar(self) -> bool:
        """Whether it takes and makes nothing but scalars."""
        return self.read == self.written == 0


def _num_bytes(shape: str) -> int:
    """Bytes of the arrays in a shape, without its scalars."""
    return hlo.num_bytes(shape.replace("[]", ""))


def of(text: str) -> list[Kernel]:
    """The kernels of a program, in the order in which they run.

    Args:
      text: what `as_text()` of a compiled program returns.

    Returns:
      One `Kernel` for each. Bytes are those of shapes, without the padding of TPUs.
    """
    found = []
    shapes: dict[str, str] = {}
    for instruction in hlo.instructions(text):
        if not instruction.is_entry:
            continue
        shapes[instruction.name] = instruction.shape
        is_free = instruction.operation in _FREE
        if is_free or _JOINED_SLICES in instruction.attributes:
            continue
        read = sum(_num_bytes(shapes[name]) for name in set(instruction.operands))
        written = _num_bytes(instruction.shape)
        found.append(Kernel(instruction.operation, read, written))
    return found
