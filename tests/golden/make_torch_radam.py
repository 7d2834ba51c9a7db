"""Makes torch_radam.npz: float64 trajectories of `torch.optim.RAdam`.

Run it from anywhere: `python tests/golden/make_torch_radam.py`. The file was made with
PyTorch 2.13.0 on CPU; tests need no PyTorch.
"""

import pathlib
import sys

import numpy as np
import torch

sys.path.append(str(pathlib.Path(__file__).parent.parent))

import torch_cases


def torch_trajectory(case, gradients):
    """Parameters after each step, and the moments after step `MOMENTS_AT`.

    Args:
      case: a `torch_cases.TorchCase`.
      gradients: a tree of float64 arrays, each (steps, *shape).

    Returns:
      An array (steps, size), and a dict of arrays (size,), named as in PyTorch's state.
    """
    params = [
        torch.full(g.shape[1:], case.start, dtype=torch.float64, requires_grad=True)
        for g in gradients.values()
    ]
    optimizer = torch.optim.RAdam(params, **case.torch)
    trajectory = []
    for step in range(1, torch_cases.STEPS + 1):
        for param, gradient in zip(params, gradients.values(), strict=True):
            param.grad = torch.tensor(gradient[step - 1])
        optimizer.step()
        trajectory.append(_flat(params))
        if step == torch_cases.MOMENTS_AT:
            moments = {
                name: _flat([optimizer.state[p][name] for p in params])
                for name in ("exp_avg", "exp_avg_sq")
            }
    return np.stack(trajectory), moments


def _flat(tensors):
    return np.concatenate([t.detach().numpy().reshape(-1) for t in tensors])


if __name__ == "__main__":
    arrays = {}
    kept = np.array(torch_cases.KEPT_STEPS) - 1
    for name, case in torch_cases.CASES.items():
        gradients = torch_cases.gradients(case, seed=0)
        trajectory, moments = torch_trajectory(case, gradients)
        arrays[name] = trajectory[kept]
        if name == "defaults":
            arrays["gradients"] = torch_cases.flatten(gradients)
            arrays |= moments
    path = pathlib.Path(__file__).with_name("torch_radam.npz")
    np.savez_compressed(path, **arrays)
