"""PyTorch's optimizers as ways to update, where PyTorch is installed."""

import importlib
import importlib.util
from typing import Any

import jax
import numpy as np

from benchmarks import trees
from benchmarks.measuring import Way, repeated

_RATE = 1e-3


def _variants(torch: Any, cuda: bool) -> dict[str, Any]:
    """Makers of optimizers, from parameters."""

    def radam(**options: bool) -> Any:
        return lambda params: torch.optim.RAdam(params, _RATE, **options)

    variants = {
        "torch RAdam, for-loop": radam(foreach=False),
        "torch RAdam, foreach": radam(foreach=True),
        "torch RAdam, compiled": radam(foreach=True, capturable=cuda),
        "torch Adam, fused": lambda params: torch.optim.Adam(params, _RATE, fused=True),
    }
    if cuda:  # refused on a CPU
        variants["torch RAdam, capturable"] = radam(foreach=True, capturable=True)
    return variants


def ways(shapes: trees.Shapes, dtype: Any, compile_leaves: int) -> dict[str, Way]:
    """By name; none without PyTorch, or where JAX's device is none of PyTorch's.

    Args:
      shapes: of the parameters.
      dtype: of the parameters, and so of PyTorch's moments.
      compile_leaves: for more leaves than these, nothing is compiled.
    """
    cuda = jax.default_backend() == "gpu"
    if importlib.util.find_spec("torch") is None:
        return {}
    torch: Any = importlib.import_module("torch")
    if cuda and not torch.cuda.is_available():
        return {}
    device = "cuda" if cuda else "cpu"
    torch_dtype = getattr(torch, np.dtype(dtype).name)
    random = torch.Generator().manual_seed(0)
    gradients = [
        (1e-2 * torch.randn(shape, generator=random)).to(device, torch_dtype)
        for shape in shapes
    ]
    wait = torch.cuda.synchronize if cuda else lambda: None

    def way(name: str, make: Any) -> Way:
        params = [torch.ones_like(g, requires_grad=True) for g in gradients]
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient  # one for all ways: steps only read it
        step = make(params).step
        if name.endswith("compiled"):
            torch.compiler.reset()
            step = torch.compile(step)
            for _ in range(10):  # past the first five, which are not rectified
                step()
        return repeated(step, wait)

    return {
        name: way(name, make)
        for name, make in _variants(torch, cuda).items()
        if not name.endswith("compiled") or len(shapes) <= compile_leaves
    }
