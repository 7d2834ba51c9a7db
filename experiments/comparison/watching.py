"""A parent for each of many processes, which says what became of it.

Where a process dies, JAX ends the others: by an exception, or by aborting those that
wait for it, so that they cannot say a word. Hence each is the child of a small process
that waits for it, knows its last step, and says how to go on. They leave word of why
one ended in the directory of the results, where the others' parents look for it.
"""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

from experiments.comparison import files

Tell = Callable[[str], None]

_PIPE = "OPTAX_RADAM_WATCHER"  # environment: the pipe to the parent, if it has one
_CRASHED = 70  # exit status after an exception that nobody expected: EX_SOFTWARE
_AS_ASKED = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM)
_WORD_SECONDS = 5.0  # between a process's end and word of it, at most
_GRACE_SECONDS = 5.0  # for a process to end by itself after another; JAX may take 30


def is_watched() -> bool:
    """Whether this process has a parent that watches it."""
    return _PIPE in os.environ


def watch(out_dir: pathlib.Path) -> int:
    """Runs the same command as a child, and hands signals on to it.

    Where the child fails, or ends because another process has failed, a line on stderr
    names the process that did, the last step, and what to run.

    Args:
      out_dir: of the experiment; words for other processes' parents are left in it.

    Returns:
      The child's exit status, or 128 + N if it was killed by signal N; 1 if it ended
      because of another.
    """
    started = time.time()
    _forget_words(out_dir, started)
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env=os.environ | {_PIPE: str(writing)},
        pass_fds=[writing],
        stdin=subprocess.PIPE,  # is closed where this process ends
        start_new_session=True,  # Ctrl-C comes from here, once
    )
    os.close(writing)

    def hand_on(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    word = _Word()

    def end_after_another() -> None:
        word.wait_for(out_dir, started)
        time.sleep(_GRACE_SECONDS)
        child.kill()

    threading.Thread(target=end_after_another, daemon=True).start()
    with os.fdopen(reading) as told:
        name = next(told, "this process").strip()
        place = ""
        for line in told:  # until it has ended
            place = " in " + line.strip()
    status = child.wait()
    if status in _AS_ASKED:
        return status
    end = _ending(status)
    if status in (_CRASHED, -signal.SIGABRT):  # perhaps because of another
        word.found.wait(_WORD_SECONDS)
    if word.found.is_set():
        status, end = 1, f"ended, because {word.text},"
    elif status not in (_CRASHED, -signal.SIGABRT):
        _leave_word(out_dir, f"{name} {end}")
    if place or status not in (1, 2):  # those have said it themselves
        print(f"error: {name} {end}{place}.{_remedy(out_dir)}", file=sys.stderr)
    return status if status >= 0 else 128 - status


def _ending(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    if status == _CRASHED:
        return "ended by the exception above"
    return f"ended with status {status}"


def _remedy(out_dir: pathlib.Path) -> str:
    if not (out_dir / files.CONFIG_FILE).exists():
        return ""
    words = [word for word in sys.orig_argv[1:] if word != "--overwrite"]
    more = [] if "--resume" in words else ["--resume"]
    return " Go on by: " + shlex.join(["python", *words, *more])


def _forget_words(out_dir: pathlib.Path, before: float) -> None:
    for path in files.words_left(out_dir):
        if path.stat().st_mtime < before:
            path.unlink(missing_ok=True)


def _leave_word(out_dir: pathlib.Path, word: str) -> None:
    """Has the others' parents know why this process has ended."""
    if out_dir.is_dir():
        path = files.new_word_path(out_dir)
        files.write_whole(path, lambda file: file.write(word.encode()))


class _Word:
    """Why another process has ended, once that is known."""

    def __init__(self) -> None:
        self.text = ""
        self.found = threading.Event()

    def wait_for(self, out_dir: pathlib.Path, since: float) -> None:
        """Looks for it from time to time."""
        while not self.found.is_set():
            time.sleep(0.2)
            for path in files.words_left(out_dir):
                if path.stat().st_mtime >= since:
                    self.text = path.read_text()
                    self.found.set()


def as_child(out_dir: pathlib.Path, run: Callable[[Tell], int]) -> int:
    """Does the work of a process that is watched.

    Args:
      out_dir: of the experiment.
      run: returns an exit status; is given what tells the parent, on a line each, the
        name of this process, and then where it is.

    Returns:
      The exit status, if the others end too. If not, the process ends here: JAX would
      wait for them.
    """
    pipe = int(os.environ[_PIPE])
    name = "a process"

    def tell(line: str) -> None:
        nonlocal name
        if line.startswith("process"):
            name = line
        os.write(pipe, f"{line}\n".encode())

    def end_with_parent() -> None:
        os.read(sys.stdin.fileno(), 1)  # which is closed; nothing is ever written
        _leave_word(out_dir, f"{name} lost its parent")
        os._exit(_CRASHED)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        status = run(tell)
    except Exception:
        traceback.print_exc()
        status = _CRASHED
    sys.stdout.flush()
    sys.stderr.flush()
    if status not in _AS_ASKED:
        os._exit(status)
    return status
