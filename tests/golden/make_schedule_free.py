"""Makes schedule_free.npz: float64 trajectories of `schedulefree.RAdamScheduleFree`.

Run it from anywhere: `python tests/golden/make_schedule_free.py`. The file was made
with schedulefree 1.4.1 and PyTorch 2.13.0 on CPU; tests need neither.
"""

import pathlib
import sys

import numpy as np
import schedulefree
import torch

sys.path.append(str(pathlib.Path(__file__).parent.parent))

import schedule_free_cases


def trajectories(settings, noise):
    """Weights for training, and those for evaluation, after each step."""
    curvature = torch.tensor(schedule_free_cases.CURVATURE)
    params = torch.tensor(schedule_free_cases.START, requires_grad=True)
    optimizer = schedulefree.RAdamScheduleFree([params], **settings)
    training, evaluation = [], []
    for step_noise in noise:
        optimizer.train()
        params.grad = curvature * params.detach() + torch.tensor(step_noise)
        optimizer.step()
        training.append(params.detach().numpy().copy())
        optimizer.eval()
        evaluation.append(params.detach().numpy().copy())
    return np.stack(training), np.stack(evaluation)


if __name__ == "__main__":
    arrays = {"noise": schedule_free_cases.noise(seed=0)}
    kept = np.array(schedule_free_cases.KEPT_STEPS) - 1
    for name, settings in schedule_free_cases.CASES.items():
        training, evaluation = trajectories(settings, arrays["noise"])
        arrays[f"{name}/training"] = training[kept]
        arrays[f"{name}/evaluation"] = evaluation[kept]
    path = pathlib.Path(__file__).with_name("schedule_free.npz")
    np.savez_compressed(path, **arrays)
