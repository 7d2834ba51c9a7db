"""Expected numbers where decay rates change; nothing here imports `optax_radam`.

Computed from the definitions in float64 NumPy: a gradient's weight is a product, the
average's length follows from the weights, and no step uses the one before.
"""

import numpy as np


def weights(rates):
    """Weight of each gradient in the average after the last step, oldest first."""
    newer = np.append(np.cumprod(rates[:0:-1])[::-1], 1.0)
    return (1 - rates) * newer


def length(of_gradients):
    """n_t: from the center of mass, at most Kish's effective sample size."""
    shares = of_gradients / of_gradients.sum()
    ages = np.arange(len(shares), 0, -1)
    return min(2 * shares @ ages - 1, 1 / (shares @ shares))


def rectification(rates, threshold=5.0):
    """r_t after the last of the rates; 0 where it is not tractable."""
    n, limit = length(weights(rates)), 2 / (1 - rates[-1]) - 1
    if n < threshold or limit <= threshold:
        return 0.0
    ratio = (n - 4) * (n - 2) * limit / ((limit - 4) * (limit - 2) * n)
    return min(1.0, np.sqrt(ratio))


def radam_updates(
    gradients,
    b1,
    b2,
    *,
    eps=1e-8,
    threshold=5.0,
    nesterov=False,
    fallback="momentum",
):
    """Updates of each step at a learning rate of 1.

    Args:
      gradients: shape (steps, n).
      b1: the rate of each step, shape (steps,); with Nesterov, of one step more.
      b2: the rate of each step.
    """
    rectified, updates = False, []
    for count in range(len(gradients)):
        past = gradients[: count + 1]
        of_mu, of_nu = (weights(rates[: count + 1]) for rates in (b1, b2))
        momentum = of_mu @ past / of_mu.sum()
        if nesterov:
            # The momentum of the next step, less its gradient; and this step's.
            next_weights = weights(b1[: count + 2])
            momentum = next_weights[:-1] @ past / next_weights.sum()
            momentum += (1 - b1[count]) * past[-1] / of_mu.sum()
        r = rectification(b2[: count + 1], threshold)
        rectified |= r > 0
        if rectified:
            second = of_nu @ past**2 / of_nu.sum()
            updates.append(-r * momentum / (np.sqrt(second) + eps))
        else:
            updates.append(-momentum * (fallback == "momentum"))
    return np.stack(updates)
