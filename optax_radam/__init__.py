"""Rectified Adam (Liu et al., ICLR 2020) as a chain of Optax transformations."""

from optax_radam._describe import describe
from optax_radam._moments import ScaleByMomentsState, scale_by_moments
from optax_radam._radam import radam
from optax_radam._rectify import (
    ScaleByRectificationState,
    rectify,
    scale_by_rectification,
)
from optax_radam._schedule_free import schedule_free_radam
from optax_radam._schedules import (
    effective_warmup_period,
    multiply_schedules,
    rectification_schedule,
    untuned_exponential_warmup_schedule,
    untuned_linear_warmup_schedule,
    warmup_linear_decay_schedule,
)
from optax_radam._sma import rectification, sma_length, sma_length_limit
from optax_radam._state_conversion import from_optax_state, to_optax_state

__version__ = "0.1.0"

__all__ = [
    "ScaleByMomentsState",
    "ScaleByRectificationState",
    "describe",
    "effective_warmup_period",
    "from_optax_state",
    "multiply_schedules",
    "radam",
    "rectification",
    "rectification_schedule",
    "rectify",
    "scale_by_moments",
    "scale_by_rectification",
    "schedule_free_radam",
    "sma_length",
    "sma_length_limit",
    "to_optax_state",
    "untuned_exponential_warmup_schedule",
    "untuned_linear_warmup_schedule",
    "warmup_linear_decay_schedule",
]
