"""Makes torch_radam.npz: `torch.optim.RAdam`'s float64 trajectory at its defaults.

Run it from anywhere: `python tests/golden/make_torch_radam.py`. The file was made with
PyTorch 2.13.0 on CPU; tests need no PyTorch.
"""

import pathlib

import numpy as np
import torch

STEPS, PARAMETERS = 300, 4


def torch_trajectory(gradients: np.ndarray) -> np.ndarray:
    """Parameters, from 0, after each step of `torch.optim.RAdam` at its defaults."""
    theta = torch.zeros(gradients.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.RAdam([theta])
    trajectory = []
    for gradient in gradients:
        theta.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        trajectory.append(theta.detach().numpy().copy())
    return np.stack(trajectory)


if __name__ == "__main__":
    gradients = np.random.default_rng(0).standard_normal((STEPS, PARAMETERS))
    path = pathlib.Path(__file__).with_name("torch_radam.npz")
    np.savez_compressed(
        path, gradients=gradients, trajectory=torch_trajectory(gradients)
    )
