"""Expected numbers, written from the paper; nothing here imports `optax_radam`.

Equations of Liu et al. 2020 (https://arxiv.org/abs/1908.03265), as printed: rho and r
in 60-digit decimal arithmetic, trajectories in NumPy's float64.
"""

import decimal
import functools

import numpy as np
import scipy.integrate
import scipy.special

_CONTEXT = decimal.Context(prec=60)


def sma_length_limit(b2):
    with decimal.localcontext(_CONTEXT):
        return 2 / (1 - decimal.Decimal(b2)) - 1


def sma_length(step, b2):
    with decimal.localcontext(_CONTEXT):
        power = decimal.Decimal(b2) ** step
        return sma_length_limit(b2) - 2 * step * power / (1 - power)


def rectification(step, b2):
    with decimal.localcontext(_CONTEXT):
        rho, limit = sma_length(step, b2), sma_length_limit(b2)
        if rho <= 4 or limit <= 4:
            return decimal.Decimal(0)
        numerator = (rho - 4) * (rho - 2) * limit
        return (numerator / ((limit - 4) * (limit - 2) * rho)).sqrt()


def relative_error(actual, expected):
    """|actual / expected - 1|, without rounding the expected number first."""
    with decimal.localcontext(_CONTEXT):
        return float(abs(decimal.Decimal(float(actual)) / expected - 1))


def radam_trajectory(
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    threshold=5.0,
    nesterov=False,
    amsgrad=False,
    fallback="momentum",
    weight_decay=0.0,
    start=0.0,
):
    """Parameters after each step of Algorithm 2, in float64.

    Args:
      gradients: shape (steps, n), possibly complex.
      learning_rate: a number, or a function of the 0-based count; `weight_decay` too.
    """
    dtype = np.result_type(gradients, np.float64)
    theta = np.full(gradients.shape[1:], start, dtype)
    m = np.zeros(gradients.shape[1:], dtype)
    v = np.zeros(gradients.shape[1:], np.float64)
    v_max = v
    # Number of steps by which the rectification is ahead of the moments.
    ahead = 0
    while fallback == "shifted" and sma_length(ahead + 1, b2) < threshold:
        ahead += 1
    trajectory = []
    for count, g in enumerate(gradients.astype(dtype)):
        t = count + 1
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        decay = weight_decay(count) if callable(weight_decay) else weight_decay
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        v_max = np.maximum(v_max, v)
        direction = m / (1 - b1**t)
        if nesterov:
            next_m = m / (1 - b1 ** (t + 1))
            direction = b1 * next_m + (1 - b1) * g / (1 - b1**t)
        if sma_length(t + ahead, b2) >= threshold:
            v_hat = (v_max if amsgrad else v) / (1 - b2**t)
            direction = direction / (np.sqrt(v_hat + eps_root) + eps)
            direction = direction * float(rectification(t + ahead, b2))
        elif fallback == "skip":
            direction = 0 * direction
        theta = theta - rate * (direction + decay * theta)
        trajectory.append(theta)
    return np.stack(trajectory)


def authors_trajectory(gradients, learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """Parameters, from 0, after each step of the authors' code, in float64.

    The `RAdam` of https://github.com/LiyuanLucasLiu/RAdam without decay and with
    `degenerated_to_sgd=False`: its step size has both bias corrections, so eps is added
    to the root of the uncorrected second moment.
    """
    m = v = theta = np.zeros(gradients.shape[1:])
    longest = 2 / (1 - b2) - 1
    trajectory = []
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        remaining = 1 - b2**t
        length = longest - 2 * t * b2**t / remaining
        if length >= 5:
            ratio = (length - 4) / (longest - 4) * (length - 2) / (longest - 2)
            step_size = np.sqrt(remaining * ratio * longest / length) / (1 - b1**t)
            theta = theta - learning_rate * step_size * m / (np.sqrt(v) + eps)
        trajectory.append(theta)
    return np.stack(trajectory)


def variance_of_rate(weights, visits=1.0):
    """Variance of 1 / sqrt(S), where S is a weighted sum of squared standard normals.

    Each square is in the sum with probability `visits`. By the Laplace transform of S,
    E[S^-p] = integral of s^(p-1) E[exp(-s S)] ds / Gamma(p); here over log(s).
    """
    mean = visits * weights.sum()

    def integrand(log_s):
        s = np.exp(log_s)
        of_squares = 1 / np.sqrt(1 + 2 * s * weights / mean)
        laplace = np.prod(1 - visits + visits * of_squares)
        return np.array([s, s**0.5]) * laplace / scipy.special.gamma([1, 0.5])

    (square, root), _ = scipy.integrate.quad_vec(integrand, -50, 50, epsrel=1e-8)
    return (square - root**2) / mean


@functools.cache
def variance_limit(b2):
    """Long-run variance of Adam's rate."""
    return variance_of_rate((1 - b2) * b2 ** np.arange(20 / (1 - b2)))
