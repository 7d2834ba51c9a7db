"""`make demo`: where plain Adam suffers, and what the two warmups change, in digits.

b2 is 0.99 here. The second moment then averages over about 200 steps, so rectification
is over early in a run of 230 steps; at 0.999 it would still be warming up at the end.
"""

import sys

from experiments.cifar10 import experiment
from experiments.cifar10.config import Arm, Config

CONFIG = Config(
    optimizers=("adam", "radam"),
    schedules=("constant", "untuned-linear-warmup"),
    learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
    b2=0.99,
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
