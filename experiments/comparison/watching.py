"""A parent for each of many processes, which says what became of it.

Where a process dies, JAX ends the others: by an exception, or by aborting those that
wait for it, so that they cannot say a word. Hence each is the child of a small process
that waits for it, knows its last step, and says how to go on.
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
_WAIT_SECONDS = 5.0  # for word from another process, which may have ended first


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
    with os.fdopen(reading) as told:
        name = next(told, "this process").strip()
        place = ""
        for line in told:  # until it has ended
            place = " in " + line.strip()
    status = child.wait()
    if status in _AS_ASKED:
        return status
    end = _ending(status)
    if status in (_CRASHED, -signal.SIGABRT):
        word = _word_of_another(out_dir, started)
        if word:
            status, end = 1, f"ended, because {word},"
    else:
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
        path = files.word_path(out_dir, os.getpid())
        files.write_whole(path, lambda file: file.write(word.encode()))


def _word_of_another(out_dir: pathlib.Path, since: float) -> str | None:
    """Why a process has ended that this one's child may have ended with."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        for path in files.words_left(out_dir):
            if path.stat().st_mtime >= since:
                return path.read_text()
        time.sleep(0.1)
    return None


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
