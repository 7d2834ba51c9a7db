"""Schedule-free RAdam: no warmup, no schedule and no step count.

Defazio et al. 2024, "The Road Less Scheduled" (https://arxiv.org/abs/2405.15682). There
are three sequences: z takes the steps, x averages it, and gradients are taken at y
between them. Optax has the averaging. This module adds the step and the step's weight
in the average, both with the rectified learning rate.
"""

import optax
from jax.typing import ArrayLike

from optax_radam import _arguments, _moments, _rectify, _schedules, _weight_decay


def schedule_free_radam(
    learning_rate: optax.ScalarOrSchedule = 0.0025,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    threshold: ArrayLike = 4.0,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """RAdam that averages its weights instead of using momentum and a schedule.

    Step t = 1, 2, ... with gradient g at y and second moment v::

        rate = learning_rate * r_t if rho_t >= threshold, else 0
        z = z - rate * (g / (sqrt(v / (1 - b2^t)) + eps) + weight_decay * y)
        w_t = (largest rate so far)^2
        c = w_t / (w_1 + ... + w_t)
        x = (1 - c) x + c z
        y = b1 x + (1 - b1) z

    The trained parameters are y. Evaluate and save x:
    `optax.contrib.schedule_free_eval_params(state, params)`. If a model has BatchNorm,
    its running statistics belong to y: before evaluating, update them by running some
    batches of training data through the model with x.

    Args:
      learning_rate: a finite number >= 0, or a schedule from the count of updates,
        which is not needed.
      b1: weight of the average x in y, in place of momentum; a number in [2**-24, 1).
        x is not stored but recovered from y and z by a division by b1, which magnifies
        rounding errors; below 2**-24, 1 - b1 is 1 in float32, y is z, and x is lost.
      b2: decay rate of the second moment, a number in
        ((threshold - 1) / (threshold + 1), 1): above 0.6 at the default threshold. An
        array is treated as a constant. A schedule is refused, because the weights in
        the average are functions of the count.
      eps: added to the denominator, beside the square root; a finite number >= 0.
      threshold: smallest rho_t at which steps are taken, a number >= 4.
      weight_decay: decay at y, multiplied by the rectified learning rate: a finite
        number >= 0, or a schedule from the count of updates.

    Returns:
      An `optax.GradientTransformationExtraArgs`, that of `optax.contrib.schedule_free`,
      whose `update` needs `params`. Updates have the gradients' structure and shapes.
      The sums of weights are kept in the lowest dtype of the parameters: keep those in
      float32 at least.

    Raises:
      TypeError: if an argument is of the wrong kind; from `init` and `update`, if a
        leaf is an integer or a boolean.
      ValueError: if an argument is outside its range; from `update`, if the trees of
        gradients and state differ.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, optax_radam
      >>> optimizer = optax_radam.schedule_free_radam(learning_rate=0.1)
      >>> params = jnp.array([1.0, 2.0])
      >>> state = optimizer.init(params)
      >>> for _ in range(300):
      ...     gradients = jax.grad(lambda x: jnp.sum(x**2))(params)
      ...     updates, state = optimizer.update(gradients, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> average = optax.contrib.schedule_free_eval_params(state, params)
      >>> print(bool(jnp.all(jnp.abs(average) < 0.2)))
      True

    References:
      Defazio et al. 2024 (https://arxiv.org/abs/2405.15682); `RAdamScheduleFree`, with
      its silent phase, of https://github.com/facebookresearch/schedule_free.
    """
    _arguments.check_number_or_schedule("learning_rate", learning_rate)
    _arguments.check_positive_rate("b1", b1)
    factor = _schedules.rectification_schedule(b2, threshold)
    rectified_rate = _schedules.multiply_schedules(learning_rate, factor)
    base = optax.chain(
        _moments.scale_by_moments(0.0, b2, eps, threshold=threshold),
        _weight_decay.add_decayed_weights(weight_decay, mask=None),
        _rectify.scale_by_rectification(b2, threshold),
        optax.scale_by_learning_rate(learning_rate),
    )
    return optax.contrib.schedule_free(
        base,
        # It counts from 1; its base, like the rest of Optax, counts from 0.
        lambda count: rectified_rate(count - 1),
        b1=b1,
    )
