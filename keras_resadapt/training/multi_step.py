"""A learning rate schedule that divides the rate by ten at given steps."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_resadapt.number_checks import check_number


@keras.saving.register_keras_serializable("keras_resadapt")
class MultiStepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Divides the learning rate by ten at each milestone.

    Args:
        learning_rate: The rate before the first milestone, at least 0.
        milestones: Numbers of steps, in increasing order.
        warmup_steps: The number of steps in which the rate rises linearly
            from zero, at least 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        learning_rate: float,
        milestones: Sequence[int],
        warmup_steps: int = 0,
    ):
        super().__init__()
        check_number(learning_rate, "learning_rate", minimum=0)
        check_number(warmup_steps, "warmup_steps", minimum=0)
        self.learning_rate = learning_rate
        self.milestones = tuple(milestones)
        self.warmup_steps = warmup_steps
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(
                "`milestones` must be in increasing order. "
                f"Received: milestones={self.milestones}"
            )

    def __call__(self, step):
        step = ops.cast(step, "float32")
        passed = sum(ops.cast(step >= m, "float32") for m in self.milestones)
        rate = self.learning_rate * ops.power(0.1, passed)
        if self.warmup_steps:
            rate = rate * ops.minimum(step / self.warmup_steps, 1.0)
        return rate

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "milestones": self.milestones,
            "warmup_steps": self.warmup_steps,
        }
