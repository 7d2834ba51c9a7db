"""Presets: named flags, one question each."""

import functools

from experiments.cifar10.config import Flags, ImageTraining
from experiments.config import Grid

_ADAMS = ("adam", "radam", "radam-skip", "schedule-free-radam")
_WARMUPS = ("untuned-linear-warmup", "untuned-exponential-warmup")
_SCHEDULES = ("constant", "warmup-linear-decay-5000", "warmup-linear-decay")
_WARM_ADAMS = (f"adam:{w}+{length}" for w in _WARMUPS for length in _SCHEDULES[1:])
# The paper's network and settings, which others took over.
_RESNET = functools.partial(
    ImageTraining,
    dataset="cifar10",
    model="resnet20",
    augment=True,
    weight_decay=1e-4,
    batch_size=128,
)
_STEPPED = (f"adam:linear-warmup-{n}+step-decay" for n in (100, 200, 500, 1000))

PRESETS = {
    # The blog post's comparison: two optimizers under two schedules.
    "blog": Flags(
        preset="blog",
        grid=Grid(optimizers=("adam:constant", "radam:warmup-linear-decay")),
        training=ImageTraining(dataset="cifar10", schedule_steps=5000, epochs=100),
    ),
    # Its optimizers under its schedules, with five seeds.
    "blog-seeds": Flags(
        preset="blog-seeds",
        grid=Grid(
            optimizers=("adam", "radam"),
            schedules=("constant", "warmup-linear-decay"),
            seeds=tuple(range(5)),
        ),
        training=ImageTraining(
            dataset="cifar10", schedule_steps=5000, epochs=100, population=10
        ),
    ),
    # Every optimizer under every schedule, at its best rate, with ten seeds.
    "blog-fair": Flags(
        preset="blog-fair",
        grid=Grid(
            optimizers=(
                *(*_ADAMS, *(f"adam:{warmup}" for warmup in _WARMUPS), *_WARM_ADAMS),
                *("sgd", "adagrad", "rmsprop"),
            ),
            schedules=_SCHEDULES,
            learning_rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
            rates_of=tuple(
                f"{x}=0.001,0.003,0.01,0.03,0.1" for x in ("sgd", "adagrad")
            ),
            seeds=tuple(range(10)),
        ),
        training=ImageTraining(dataset="cifar10", epochs=100, validation=5000),
    ),
    # The paper's section on CIFAR-10, and Adam under warmups of four lengths.
    "paper": Flags(
        preset="paper",
        grid=Grid(
            optimizers=("sgd", "adam", "radam", *_STEPPED),
            schedules=("step-decay",),
            learning_rates=(0.1, 0.03, 0.01, 0.003),
            seeds=tuple(range(5)),
        ),
        training=_RESNET(step_decay_at=(81 / 164, 122 / 164), epochs=164),
    ),
    # pytorch_warmup's comparison of warmups for AdamW (examples/cifar10/README.md).
    "warmups": Flags(
        preset="warmups",
        grid=Grid(
            optimizers=(
                *("sgd", "adam", "radam", "radam-shifted"),
                "adam:untuned-linear-warmup+step-decay",
            ),
            schedules=("step-decay",),
            learning_rates=(0.1, 0.01),
            seeds=tuple(range(5)),
        ),
        training=_RESNET(
            step_decay_at=(81 / 186, 122 / 186), epochs=186, population=10
        ),
    ),
}
