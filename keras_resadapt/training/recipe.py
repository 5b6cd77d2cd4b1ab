"""The papers' training recipes as optimizers."""

import dataclasses

import keras

from keras_resadapt.training.sgd import SGD


@dataclasses.dataclass(frozen=True)
class Recipe:
    """SGD with momentum, annealed to zero by a cosine.

    Attributes:
        epochs: Length of the training.
        learning_rate: Initial rate for `batch_size` pictures a step.
        weight_decay: L2 factor on every variable (coupled; see `SGD`).
        momentum: In [0, 1].
        batch_size: Pictures a step that the rate is meant for.
        warmup_epochs: The rate rises linearly from zero this long.
        nesterov: Use Nesterov's momentum.
    """

    epochs: int
    learning_rate: float
    weight_decay: float
    momentum: float = 0.9
    batch_size: int = 256
    warmup_epochs: float = 0.0
    nesterov: bool = False

    def optimizer(
        self, steps_per_epoch: int, batch_size: int, **kwargs
    ) -> SGD:
        """The optimizer, its rate scaled linearly to another batch size.

        Args:
            steps_per_epoch: Steps an epoch.
            batch_size: Pictures a step, over all replicas.
            **kwargs: Further arguments of `SGD`, such as `use_ema`.
        """
        accumulation = kwargs.get("gradient_accumulation_steps") or 1
        rate = self.learning_rate * batch_size * accumulation / self.batch_size
        updates_per_epoch = steps_per_epoch / accumulation
        warmup = round(self.warmup_epochs * updates_per_epoch)
        steps = max(1, round(self.epochs * updates_per_epoch) - warmup)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate,
            decay_steps=steps,
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
        return SGD(
            schedule,
            self.momentum,
            self.nesterov,
            self.weight_decay,
            **kwargs,
        )


# RS-Net, section 4.1
RSNET_RESNET = Recipe(epochs=120, learning_rate=0.1, weight_decay=1e-4)
RSNET_MOBILENET_V2 = Recipe(epochs=150, learning_rate=0.05, weight_decay=4e-5)
