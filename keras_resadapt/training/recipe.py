"""The papers' training recipes as optimizers."""

import dataclasses

import keras

from keras_resadapt.number_checks import check_number
from keras_resadapt.training.multi_step import MultiStepDecay
from keras_resadapt.training.sgd import SGD


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training recipe: SGD with momentum, and a cosine or step schedule.

    Attributes:
        epochs: The number of epochs, at least 1.
        learning_rate: The initial rate for `batch_size` images per step, at
            least 0.
        weight_decay: The L2 factor of every variable (coupled; see `SGD`), at
            least 0.
        momentum: In [0, 1].
        batch_size: The number of images per step for which `learning_rate` is
            given, at least 1.
        warmup_epochs: The number of epochs in which the rate rises linearly
            from zero, at least 0.
        nesterov: Whether to use Nesterov's momentum.
        decay_kernels_only: See `SGD`.
        milestones: Fractions of the epochs, in (0, 1), after which the rate is
            divided by ten; None for a cosine to zero.

    Raises:
        ValueError: If an attribute is out of range.
    """

    epochs: int
    learning_rate: float
    weight_decay: float
    momentum: float = 0.9
    batch_size: int = 256
    warmup_epochs: float = 0.0
    nesterov: bool = False
    decay_kernels_only: bool = False
    milestones: tuple[float, ...] | None = None

    def __post_init__(self):
        check_number(self.epochs, "epochs", minimum=1)
        check_number(self.learning_rate, "learning_rate", minimum=0)
        check_number(self.weight_decay, "weight_decay", minimum=0)
        check_number(self.momentum, "momentum", minimum=0, maximum=1)
        check_number(self.batch_size, "batch_size", minimum=1)
        check_number(self.warmup_epochs, "warmup_epochs", minimum=0)
        if not all(0 < fraction < 1 for fraction in self.milestones or ()):
            raise ValueError(
                "`milestones` must be fractions of the epochs, in (0, 1). "
                f"Received: milestones={self.milestones}"
            )

    def schedule(
        self, steps_per_epoch: int, batch_size: int, accumulation_steps: int = 1
    ) -> keras.optimizers.schedules.LearningRateSchedule:
        """Returns the schedule, with the rate scaled linearly to a batch size.

        Args:
            steps_per_epoch: The number of steps per epoch, at least 1.
            batch_size: The number of images per step, over all replicas, at
                least 1.
            accumulation_steps: The number of steps per weight update, at
                least 1.

        Raises:
            ValueError: If an argument is out of range.
        """
        check_number(steps_per_epoch, "steps_per_epoch", minimum=1)
        check_number(batch_size, "batch_size", minimum=1)
        check_number(accumulation_steps, "accumulation_steps", minimum=1)
        rate = self.learning_rate * batch_size * accumulation_steps / self.batch_size
        # Keras passes the number of steps to schedules, not of updates.
        warmup = round(self.warmup_epochs * steps_per_epoch)
        steps = self.epochs * steps_per_epoch
        if self.milestones is None:
            return keras.optimizers.schedules.CosineDecay(
                0.0 if warmup else rate,
                decay_steps=max(1, steps - warmup),
                warmup_target=rate if warmup else None,
                warmup_steps=warmup,
            )
        milestones = [round(fraction * steps) for fraction in self.milestones]
        return MultiStepDecay(rate, milestones, warmup)

    def optimizer(self, steps_per_epoch: int, batch_size: int, **kwargs) -> SGD:
        """Returns the optimizer, with the learning rate of `schedule`.

        The learning rate is a schedule, which callbacks such as
        `keras.callbacks.LearningRateScheduler` cannot set. For these, use
        `SGD` with a number as `learning_rate`.

        Args:
            steps_per_epoch: The number of steps per epoch, at least 1.
            batch_size: The number of images per step, over all replicas, at
                least 1.
            **kwargs: Further arguments of `SGD`, such as `use_ema`.

        Raises:
            ValueError: If an argument is out of range.
        """
        accumulation_steps = kwargs.get("gradient_accumulation_steps") or 1
        return SGD(
            self.schedule(steps_per_epoch, batch_size, accumulation_steps),
            self.momentum,
            self.nesterov,
            self.weight_decay,
            self.decay_kernels_only,
            **kwargs,
        )


# RS-Net, section 4.1
RSNET_RESNET = Recipe(epochs=120, learning_rate=0.1, weight_decay=1e-4)
RSNET_MOBILENET_V2 = Recipe(epochs=150, learning_rate=0.05, weight_decay=4e-5)
# With `quantization.LearnedQuantization`: RS-Net, section 4.1, after LQ-Nets
RSNET_LEARNED = Recipe(
    epochs=120,
    learning_rate=0.1,
    weight_decay=5e-5,
    milestones=(30 / 120, 60 / 120, 85 / 120, 95 / 120, 105 / 120),
)
# RANet, section 4 ("Training policy"); MSDNet's authors use the same
RANET_CIFAR = Recipe(
    epochs=300,
    learning_rate=0.1,
    weight_decay=1e-4,
    batch_size=64,
    milestones=(1 / 2, 3 / 4),
)
RANET_IMAGENET = Recipe(
    epochs=90, learning_rate=0.1, weight_decay=1e-4, milestones=(1 / 3, 2 / 3)
)
# MSNet, section 4. The paper does not give the weight decay.
MSNET = Recipe(
    epochs=120,
    learning_rate=0.1,
    weight_decay=1e-4,
    milestones=(1 / 4, 1 / 2, 3 / 4),
)
# MutualNet, appendix A.1; A.2 for VGG-16
MUTUALNET = Recipe(
    epochs=250,
    learning_rate=0.5,
    weight_decay=1e-4,
    batch_size=1024,
    nesterov=True,
    decay_kernels_only=True,
)
MUTUALNET_VGG = dataclasses.replace(
    MUTUALNET, epochs=100, learning_rate=0.01, batch_size=512
)
