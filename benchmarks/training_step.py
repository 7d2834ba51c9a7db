"""The CNN's training step beside the same CNN in Keras and PyTorch."""

import math

import jax

from benchmarks import cnn
from benchmarks.measuring import interleave
from benchmarks.results import Table, rows

_ALONE = "one device"
# Multiplications and additions of a forward pass for one 32x32x3 image; the gradients
# cost it twice more, but for that of the images.
_FORWARD = 2 * 9 * (32**2 * (3 + 32) * 32 + 16**2 * (32 + 64) * 64 + 8**2 * 192 * 128)
FLOATING_POINT_OPERATIONS = 3 * (_FORWARD + 2 * (2048 * 128 + 128 * 10))


def training_steps(rounds: int) -> Table:
    """Images per second of one run at batch 64.

    Args:
      rounds: of 8 batches each.
    """
    ours = {_ALONE: cnn.ours()}
    devices = math.gcd(jax.device_count(), cnn.BATCH_SIZE)
    if devices > 1:
        ours[f"{devices} devices share batches"] = cnn.ours(devices=devices)
    if jax.default_backend() == "gpu":
        ours[f"{_ALONE}, bfloat16"] = cnn.ours(compute_dtype="bfloat16")
    times = interleave({**ours, **cnn.peers()}, rounds)
    case = "one image, batch 64, float32"
    found = rows(case, times, "Keras" if "Keras" in times else _ALONE)
    speeds = {(case, row.way): f"{1 / row.seconds.median:,.0f}" for row in found}
    rates = {
        (case, row.way): f"{FLOATING_POINT_OPERATIONS / row.seconds.median / 1e9:,.0f}"
        for row in found
    }
    note = (
        "Training the experiment's CNN on random 32x32x3 images, forward, backward and "
        "update; ours gathers its batches on the device. Ratios are of the times to "
        f"{found[0].reference}'s."
    )
    columns = {"images/s": speeds, "GFLOP/s": rates}
    return Table("Training step of the CNN", note, found, columns)
