"""SGD with coupled weight decay, as in the published recipes."""

import numbers

import keras
from keras import ops

from keras_resadapt.number_checks import check_number


@keras.saving.register_keras_serializable("keras_resadapt")
class SGD(keras.optimizers.SGD):
    """Momentum SGD whose weight decay is an L2 term of the gradient.

        g <- g + weight_decay * w
        v <- momentum * v + g
        w <- w - learning_rate * v

    With `nesterov`, the last line is w <- w - learning_rate * (g + momentum * v).
    This is weight decay as PyTorch's SGD computes it, with which the papers'
    networks were trained. The `weight_decay` of Keras's own optimizers shrinks
    the weights separately from the gradient, so that it does not enter the
    momentum. Every variable is decayed, including those of BatchNormalization
    and biases, unless `decay_kernels_only` or `exclude_from_weight_decay`
    excludes it.

    Callbacks that set the learning rate, such as
    `keras.callbacks.LearningRateScheduler`, need a number as `learning_rate`,
    not a schedule.

    Args:
        learning_rate: A number of at least 0, or a schedule.
        momentum: In [0, 1].
        nesterov: Whether to use Nesterov's momentum.
        weight_decay: The L2 factor, at least 0; 0 disables weight decay.
        decay_kernels_only: Whether to decay only the kernels of convolutions
            and dense layers, and neither depthwise kernels nor vectors
            (MutualNet).
        **kwargs: Further arguments of `keras.optimizers.SGD`.

    Raises:
        ValueError: If `learning_rate` is negative or not finite, if
            `momentum` is not in [0, 1], or if `weight_decay` is negative.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decay_kernels_only: bool = False,
        name: str = "sgd",
        **kwargs,
    ):
        if isinstance(learning_rate, numbers.Real):
            check_number(learning_rate, "learning_rate", minimum=0)
        check_number(momentum, "momentum", minimum=0, maximum=1)
        check_number(weight_decay, "weight_decay", minimum=0)
        super().__init__(
            learning_rate=learning_rate,
            momentum=float(momentum),
            nesterov=nesterov,
            name=name,
            **kwargs,
        )
        # The base class's `weight_decay` is the decoupled one: it stays None.
        self.l2 = float(weight_decay)
        self.decay_kernels_only = decay_kernels_only

    def update_step(self, gradient, variable, learning_rate):
        gradient = ops.cast(gradient, variable.dtype)
        if self.l2 and self._is_decayed(variable):
            gradient = gradient + self.l2 * variable
        super().update_step(gradient, variable, learning_rate)

    def _is_decayed(self, variable) -> bool:
        if self.decay_kernels_only and (
            len(variable.shape) < 2
            # A depthwise kernel has shape (height, width, channels, 1).
            or (len(variable.shape) == 4 and variable.shape[-1] == 1)
        ):
            return False
        return self._use_weight_decay(variable)

    def get_config(self):
        return {
            **super().get_config(),
            "weight_decay": self.l2,
            "decay_kernels_only": self.decay_kernels_only,
        }
