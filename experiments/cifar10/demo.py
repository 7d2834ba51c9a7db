"""`make demo`: learning rates up to where plain Adam gets worse, on digits.

b2 is 0.98 here, so that the warmup fits a run of 184 steps: r_t reaches 0.9 at step 140
and the untuned warmup ends at step 100. At the usual 0.999 that takes 2,737 and 2,000
steps, and the demo would show only warmup.
"""

import pathlib
import sys

from experiments import main
from experiments.cifar10.config import Flags, ImageSession, ImageTraining
from experiments.config import Grid

FLAGS = Flags(
    grid=Grid(
        # RAdam has its warmup built in and needs no other.
        optimizers=("adam", "radam", "adam:untuned-linear-warmup"),
        learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
        seeds=(0, 1),
    ),
    training=ImageTraining(b2=0.98, epochs=8),
    session=ImageSession(out=pathlib.Path("runs/demo"), overwrite=True),
)

if __name__ == "__main__":
    # Its batches are small, and its figures are from one device.
    sys.exit(main.run(FLAGS, "make demo", max_devices=1))
