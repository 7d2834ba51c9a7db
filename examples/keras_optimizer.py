"""Any Optax transformation as an optimizer of Keras 3 on the JAX backend.

Keras saves an optimizer's configuration and variables. A transformation holds closures,
which no file can store, so the optimizer receives the function that makes it and Keras
stores the function's name. Register the function with
`keras.saving.register_keras_serializable()`. docs/keras.md shows the optimizer in use.
"""

from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import keras
import optax


@keras.saving.register_keras_serializable("optax")
class OptaxOptimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Takes the steps of `make()`, multiplied by its `learning_rate`, which is 1."""

    def __init__(self, make: Callable[[], optax.GradientTransformation]) -> None:
        if not callable(make):
            raise TypeError(f"`make` must be a function without arguments, got {make}.")
        super().__init__(learning_rate=1.0)
        self.make, self.transformation = make, make()

    def build(self, variables: list[Any]) -> None:
        """Makes a Keras variable of each leaf of Optax's state."""
        super().build(variables)
        state = self.transformation.init([v.value for v in variables])
        leaves, self._structure = jax.tree.flatten(state)
        self._leaves = [
            self.add_variable(x.shape, lambda *_, x=x, **__: x, x.dtype)
            for x in map(jnp.array, leaves)  # copies, since `fit` donates parameters
        ]

    @property
    def state(self) -> optax.OptState:
        """Optax's state."""
        return jax.tree.unflatten(self._structure, [v.value for v in self._leaves])

    def _backend_update_step(self, grads: Any, variables: Any, rate: Any) -> None:
        params = [v.value for v in variables]
        updates, state = self.transformation.update(list(grads), self.state, params)
        updates = jax.tree.map(lambda u: u * jnp.asarray(rate, u.dtype), updates)
        new = [*optax.apply_updates(params, updates), *jax.tree.leaves(state)]
        for variable, value in zip([*variables, *self._leaves], new, strict=True):
            variable.assign(value)

    def get_config(self) -> dict[str, Any]:
        """Returns the name under which Keras knows `make`."""
        return {"make": keras.saving.serialize_keras_object(self.make)}

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> Self:
        """Makes the optimizer of a configuration."""
        make = keras.saving.deserialize_keras_object(config["make"], custom_objects)
        return cls(make)
