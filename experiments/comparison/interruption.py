"""Ctrl-C and SIGTERM, noted at once and obeyed where nothing gets lost."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818 # nothing is wrong
    """Somebody has asked to stop.

    Args:
      number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


@contextlib.contextmanager
def noted() -> Iterator[Callable[[], int | None]]:
    """Within it, a signal to stop is only noted; a second one stops at once.

    Yields:
      A function that returns the number of the signal that has come, or None.
    """
    received: list[int] = []
    before = {
        number: handler
        for number in _SIGNALS
        if (handler := signal.getsignal(number)) != signal.SIG_IGN  # as under nohup
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: received[0] if received else None
    finally:
        restore()
