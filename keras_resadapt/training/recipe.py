"""The papers' training recipes as optimizers."""

import dataclasses

import keras

from keras_resadapt.training.multi_step import MultiStepDecay
from keras_resadapt.training.sgd import SGD


@dataclasses.dataclass(frozen=True)
class Recipe:
    """SGD with momentum, its rate annealed by a cosine or in steps.

    Attributes:
        epochs: Length of the training.
        learning_rate: Initial rate for `batch_size` pictures a step.
        weight_decay: L2 factor on every variable (coupled; see `SGD`).
        momentum: In [0, 1].
        batch_size: Pictures a step that the rate is meant for.
        warmup_epochs: The rate rises linearly from zero this long.
        nesterov: Use Nesterov's momentum.
        decay_kernels_only: As for `SGD`.
        milestones: Shares of the epochs, in (0, 1), after which the rate is
            divided by ten; None for a cosine to zero.
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
        if not all(0 < share < 1 for share in self.milestones or ()):
            raise ValueError(
                "`milestones` must be shares of the epochs, in (0, 1). "
                f"Received: milestones={self.milestones}"
            )

    def optimizer(self, steps_per_epoch: int, batch_size: int, **kwargs) -> SGD:
        """The optimizer, its rate scaled linearly to another batch size.

        Args:
            steps_per_epoch: Steps an epoch.
            batch_size: Pictures a step, over all replicas.
            **kwargs: Further arguments of `SGD`, such as `use_ema`.
        """
        accumulation = kwargs.get("gradient_accumulation_steps") or 1
        rate = self.learning_rate * batch_size * accumulation / self.batch_size
        # Keras gives schedules the number of steps, not of updates.
        warmup = round(self.warmup_epochs * steps_per_epoch)
        steps = self.epochs * steps_per_epoch
        if self.milestones is None:
            schedule = keras.optimizers.schedules.CosineDecay(
                0.0 if warmup else rate,
                decay_steps=max(1, steps - warmup),
                warmup_target=rate if warmup else None,
                warmup_steps=warmup,
            )
        else:
            schedule = MultiStepDecay(
                rate,
                [round(share * steps) for share in self.milestones],
                warmup,
            )
        return SGD(
            schedule,
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
# RANet, section 4 ("Training policy"); MSDNet's authors have the same
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
# MSNet, section 4. The paper names no weight decay; this is the usual one.
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
