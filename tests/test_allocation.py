import ctypes
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import allocation, main
from experiments.cifar10.config import Flags
from experiments.config import DataError, Session

# Page faults of twenty calls with 36 MB of temporaries, after twenty others.
_PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from experiments import allocation
if "keep" in sys.argv:
    allocation.keep_freed_memory()
function = jax.jit(lambda x: jnp.outer(x, x) @ x)
x = jnp.ones(3000)
faults = []
for call in range(41):
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    function(x).block_until_ready()
print(faults[40] - faults[20])
"""


def _page_faults(*arguments):
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments],
        cwd=pathlib.Path(__file__).parent.parent,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return int(result.stdout)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="of glibc's malloc"
)
def test_steps_get_their_memory_again_without_page_faults():
    """A call needs 36 MB: without it, nearly every page would be a fault."""
    assert _page_faults("keep") < 20 * (36e6 / 4096) / 5


def test_nothing_is_done_without_glibc(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    allocation.keep_freed_memory()


def test_an_experiment_keeps_it_before_it_reads_data(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(allocation, "keep_freed_memory", lambda: called.append(1))

    def stop(_):
        assert called == [1]
        raise DataError("none")

    monkeypatch.setattr(Flags, "load", stop)
    assert main.run(Flags(session=Session(out=tmp_path / "out")), "") == 1
