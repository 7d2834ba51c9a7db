"""What the Transformer experiment is told besides the flags of every comparison."""

import dataclasses
from typing import ClassVar

from experiments.comparison.config import ComparisonConfig

VALUES = 16  # a sequence has numbers below it
TRAINING_SEQUENCES = 2048


@dataclasses.dataclass(frozen=True)
class Config(ComparisonConfig):
    """Train a small post-LayerNorm Transformer to sort, and compare optimizers."""

    module: ClassVar[str] = "experiments.transformer"
    unit: ClassVar[str] = "sequences"
    classes: ClassVar[int] = VALUES

    optimizers: tuple[str, ...] = (
        "adam",
        "adam:untuned-linear-warmup",
        "radam",
        "radam-skip",
        "radam-shifted",
        "schedule-free-radam",
    )
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    b2: float = 0.98  # Vaswani et al.'s, whose warmup fits 256 steps
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 4
    batch_size: int = 32

    @property
    def name(self) -> str:
        """Of the task."""
        return "sorting"

    @property
    def train_examples(self) -> int:
        """Sequences that are drawn for training."""
        return TRAINING_SEQUENCES
