"""Settings of schedule_free's RAdamScheduleFree, and the problem that it solves."""

import numpy as np
import problems

STEPS = 200
# Every step around the threshold, then some later ones.
KEPT_STEPS = [*range(1, 13), *range(20, STEPS + 1, 20)]
SIZE = 6
START = np.linspace(-1.0, 2.0, SIZE)
CURVATURE = np.geomspace(0.1, 10.0, SIZE)
CASES = {
    "defaults": {},
    "other_betas": {"lr": 0.02, "betas": (0.95, 0.98)},
    "large_b2": {"lr": 0.1, "betas": (0.9, 0.9999)},
    "decay": {"lr": 0.02, "weight_decay": 0.1},
}


def noise(seed):
    """Noise added to the gradients of each step, (STEPS, SIZE)."""
    return 0.3 * problems.normal_gradients(STEPS, SIZE, seed=seed)
