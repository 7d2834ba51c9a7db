"""Checks shared by every transform and schedule: argument, value, what is allowed.

Each check reads concrete values only: a traced number (under `jax.jit`, or from
`optax.inject_hyperparams`) has no value to compare, so only its shape is checked.
"""

import math
import numbers
from collections.abc import Iterable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import optax

# Classes listed by `jax.typing.ArrayLike`, for `isinstance`.
_NUMBERS = get_args(jax.typing.ArrayLike)


def _dtype_of(value: Any) -> jnp.dtype | None:
    """The dtype of a number or an array; None for anything else."""
    if not isinstance(value, _NUMBERS):
        return None
    try:
        return jnp.result_type(value)
    except OverflowError:  # an integer too large for an array
        return jnp.dtype(float)
    except TypeError:  # an array of strings or objects
        return None


def _is_real(dtype: jnp.dtype | None) -> bool:
    kinds = (jnp.floating, jnp.integer)
    return dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in kinds)


def _is_boolean(value: Any) -> bool:
    """Returns True for a single True or False, NumPy's included."""
    return _dtype_of(value) == jnp.bool_ and jnp.ndim(value) == 0


def _read_number(name: str, value: Any, allowed: str) -> float | None:
    """The value as a Python float; None if it is traced and cannot be read."""
    dtype = _dtype_of(value)
    if not _is_real(dtype) or (not isinstance(value, int) and jnp.ndim(value)):
        kind = (
            "" if dtype is None else f" of shape {jnp.shape(value)} and dtype {dtype}"
        )
        raise TypeError(f"`{name}` must be {allowed}, got {value!r}{kind}.")
    if isinstance(value, jax.core.Tracer):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _check_range(name: str, value: Any, low: float, high: float, allowed: str) -> None:
    """Refuses a number outside [low, high)."""
    number = _read_number(name, value, allowed)
    if number is not None and not low <= number < high:  # refuses NaN too
        raise ValueError(f"`{name}` must be {allowed}, got {value!r}.")


def check_decay_rate(name: str, value: Any) -> None:
    """Refuses a decay rate outside [0, 1), and a schedule."""
    if _is_function(value):
        raise TypeError(
            f"`{name}` must be a number in [0, 1), got {value!r}. A schedule makes r_t "
            "depend on more than the count: `scale_by_moments`, "
            "`scale_by_rectification`, `rectify` and `radam` follow it."
        )
    _check_range(name, value, 0.0, 1.0, "a number in [0, 1)")


def check_positive_rate(name: str, value: Any) -> None:
    """Refuses a rate outside [2**-24, 1): 1 minus a smaller one is 1 in float32."""
    _check_range(name, value, 2.0**-24, 1.0, "a number in [2**-24, 1)")


def check_proportion(name: str, value: Any) -> None:
    """Refuses a proportion outside [0, 1)."""
    _check_range(name, value, 0.0, 1.0, "a proportion in [0, 1)")


def check_non_negative(name: str, value: Any) -> None:
    """Refuses a number that is negative or not finite."""
    _check_range(name, value, 0.0, math.inf, "a finite number >= 0")


def check_finite(name: str, value: Any) -> None:
    """Refuses an infinite number or NaN."""
    number = _read_number(name, value, "a finite number")
    if number is not None and not math.isfinite(number):
        raise ValueError(f"`{name}` must be a finite number, got {value!r}.")


def _is_function(value: Any) -> bool:
    """Returns True for a callable that is not a class such as `float`."""
    return callable(value) and not isinstance(value, type)


def check_number_or_schedule(name: str, value: optax.ScalarOrSchedule) -> None:
    """Refuses anything but a finite number >= 0 or a schedule."""
    if not _is_function(value):
        allowed = "a finite number >= 0 or a schedule (count -> number)"
        _check_range(name, value, 0.0, math.inf, allowed)


def check_rate_or_schedule(name: str, value: optax.ScalarOrSchedule) -> None:
    """Refuses anything but a decay rate in [0, 1) or a schedule."""
    if not _is_function(value):
        check_decay_rate(name, value)


def check_count(name: str, value: Any, *, at_least: int) -> None:
    """Refuses a number of steps below `at_least`."""
    _check_range(name, value, at_least, math.inf, f"a finite number >= {at_least}")


def check_integer(name: str, value: Any, *, at_least: int) -> None:
    """Refuses anything but an integer >= `at_least`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an integer >= {at_least}, got {value!r}.")
    check_count(name, value, at_least=at_least)


def check_function(name: str, value: Any) -> None:
    """Refuses classes, and values that cannot be called."""
    if not _is_function(value):
        raise TypeError(f"`{name}` must be a function, got {value!r}.")


def check_steps(step: Any) -> None:
    """Refuses anything but a real number or array, and Python numbers below 1.

    Values of arrays are not read: that would wait for the device.
    """
    if isinstance(step, numbers.Real):
        check_count("step", step, at_least=1)
    elif not _is_real(_dtype_of(step)):
        raise TypeError(f"`step` must be a real number or an array, got {step!r}.")


def _check_threshold_alone(threshold: Any) -> None:
    _check_range("threshold", threshold, 4.0, math.inf, "a finite number >= 4")


def check_threshold_of_stage(threshold: Any, b2: Any) -> None:
    """Checks both; a `b2` that is an array or a schedule may lie in all of [0, 1)."""
    if isinstance(b2, numbers.Real):
        check_threshold(threshold, b2)
    else:
        _check_threshold_alone(threshold)
        check_rate_or_schedule("b2", b2)


def check_threshold(threshold: Any, b2: Any) -> None:
    """Refuses a threshold below 4, and a `b2` whose rho never exceeds it."""
    _check_threshold_alone(threshold)
    check_decay_rate("b2", b2)
    if isinstance(threshold, jax.core.Tracer) or isinstance(b2, jax.core.Tracer):
        return
    smallest = (float(threshold) - 1.0) / (float(threshold) + 1.0)
    if not float(b2) > smallest:
        raise ValueError(
            f"`b2` must be in ({smallest:.9g}, 1) for threshold {threshold!r}, got "
            f"{b2!r}: rho_inf = 2 / (1 - b2) - 1 must exceed the threshold, or the "
            "steps are never rectified."
        )


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuses a value that is not one of the strings listed."""
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")


def _static(name: str) -> str:
    """Advice for an argument that `optax.inject_hyperparams` made a number."""
    return (
        f"Under `optax.inject_hyperparams`, pass `static_args=({name!r},)`, or it is "
        "treated as a schedule or a number."
    )


def check_flag(name: str, value: Any) -> None:
    """Refuses anything but True or False, and a traced boolean."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"`{name}` must be True or False, got {value!r}, whose value is not known "
            "while it is traced. Under `jax.jit`, make it a static argument. "
            f"{_static(name)}"
        )
    if not _is_boolean(value):
        raise TypeError(f"`{name}` must be True or False, got {value!r}.")


_WRONG_MASK = (
    "`mask{}` is {!r}; `mask` must be None, a tree of booleans (True where weights "
    "decay), or a function from the parameters to such a tree. {}"
)


def check_moment_dtype(name: str, value: Any, *, bits: int) -> None:
    """Refuses anything but None or a real floating dtype of at least `bits` bits."""
    if value is None:
        return
    allowed = f"None or a real floating dtype of at least {bits} bits"
    try:
        if isinstance(value, _NUMBERS):  # an array would be read as its dtype
            raise TypeError
        dtype = jnp.dtype(value)
    except (TypeError, ValueError):
        message = f"`{name}` must be {allowed}, got {value!r}. {_static(name)}"
        raise TypeError(message) from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"`{name}` must be {allowed}, got {value!r}, which is {dtype}. Complex "
            "leaves get the complex dtype of the same precision."
        )
    if 8 * dtype.itemsize < bits:
        raise ValueError(
            f"`{name}` must be {allowed}, got {dtype}: an average of fewer bits stops "
            "moving, as a 16-bit second moment does at b2 = 0.999."
        )
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"`{name}` is {dtype}, which needs `jax_enable_x64`.")


def is_function_for_mask(mask: Any) -> bool:
    """Returns True for a function that makes masks; a callable model is a tree."""
    return _is_function(mask) and all(callable(leaf) for leaf in jax.tree.leaves(mask))


def check_mask_tree(mask: Any) -> None:
    """Refuses a single leaf, and a tree with leaves that are not booleans."""
    # A bare boolean is more likely a mistake, or made from a mask by Optax, than a
    # mask for parameters that are one leaf.
    if isinstance(mask, _NUMBERS):
        raise TypeError(_WRONG_MASK.format("", mask, _static("mask")))
    check_boolean_leaves(mask)


def check_boolean_leaves(mask: Any) -> None:
    """Refuses a mask with leaves that are not scalar booleans, or are traced."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
        if isinstance(leaf, jax.core.Tracer) or not _is_boolean(leaf):
            where = jax.tree_util.keystr(path)
            raise TypeError(_WRONG_MASK.format(where, leaf, _static("mask")))


def check_state(state: Any, kind: type) -> None:
    """Refuses a state of another class, such as a checkpoint's dictionary."""
    if not isinstance(state, kind):
        raise TypeError(
            f"`state` must be a {kind.__name__}, got one of type "
            f"`{type(state).__name__}`. Restore a checkpoint with the state of a new "
            "`init` as its target, or states are dictionaries. If it is a state of "
            "Optax, convert it by `optax_radam.from_optax_state`."
        )


def _leaf_dtype(leaf: Any) -> jnp.dtype | None:
    """The dtype of an array or of its stand-in; None for anything else."""
    try:
        return jnp.result_type(leaf)
    except TypeError:
        return None


def _is_inexact(dtype: jnp.dtype | None) -> bool:
    """Returns True for floating and complex dtypes of at least 16 bits."""
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        return False
    return dtype.itemsize >= 2


def check_inexact_leaves(name: str, tree: optax.Params) -> None:
    """Refuses integer and boolean leaves, naming the first one by its path."""
    if all(_is_inexact(_leaf_dtype(leaf)) for leaf in jax.tree.leaves(tree)):
        return  # without paths: making them takes longer than tracing the update
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = _leaf_dtype(leaf)
        if not _is_inexact(dtype):
            what = f"dtype {dtype}" if dtype is not None else f"the value {leaf!r}"
            raise TypeError(
                f"`{name}{jax.tree_util.keystr(path)}` has {what}; it must be "
                "floating or complex, of 16 bits at least. To skip such leaves, wrap "
                "the transformation in `optax.masked`."
            )
