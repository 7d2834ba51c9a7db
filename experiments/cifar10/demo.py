"""`make demo`: learning rates up to where plain Adam suffers, and two warmups, on digits.

b2 is 0.98 here: rectification is over a third of the way through a run of 184 steps
(r_t passes 0.9 at step 96, and the untuned warmup ends at step 100). At the default of
0.999 either would take the first 2,000 steps, and nothing but warmup would be seen.
"""

import sys

from experiments.cifar10 import experiment
from experiments.cifar10.config import Arm, Config

CONFIG = Config(
    optimizers=("adam", "radam"),
    schedules=("constant", "untuned-linear-warmup"),
    learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
    b2=0.98,
    seeds=(0, 1),
    epochs=8,
    overwrite=True,
)
# RAdam has its warmup built in: it is not put under another.
ARMS = (
    Arm("adam", "constant"),
    Arm("radam", "constant"),
    Arm("adam", "untuned-linear-warmup"),
)

if __name__ == "__main__":
    experiment.run_experiment(CONFIG, ARMS, command="make demo")
    sys.exit()
