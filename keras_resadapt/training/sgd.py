"""SGD with coupled weight decay, as the published recipes mean it."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_resadapt")
class SGD(keras.optimizers.SGD):
    """Momentum SGD whose weight decay is an L2 term of the gradient.

        g <- g + weight_decay * w
        v <- momentum * v + g
        w <- w - learning_rate * v

    (with `nesterov`, w <- w - learning_rate * (g + momentum * v)). This is how
    the papers' framework decays, and what their numbers mean; the
    `weight_decay` of Keras's own optimizers shrinks the weights beside the
    gradient, so that momentum never sees it. Every variable is decayed,
    BatchNormalization and biases included, unless `decay_kernels_only` or
    `exclude_from_weight_decay` spare it.

    Args:
        learning_rate: Float or a schedule.
        momentum: In [0, 1].
        nesterov: Use Nesterov's momentum.
        weight_decay: The L2 factor, 0 for none.
        decay_kernels_only: Decay the kernels of convolutions and dense
            layers only: no depthwise kernels, no vectors (MutualNet).
        **kwargs: As for `keras.optimizers.SGD`.
    """

    def __init__(
        self,
        learning_rate=0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decay_kernels_only: bool = False,
        name: str = "sgd",
        **kwargs,
    ):
        if not weight_decay >= 0:
            raise ValueError(
                "`weight_decay` must not be negative. "
                f"Received: weight_decay={weight_decay}"
            )
        super().__init__(
            learning_rate=learning_rate,
            momentum=float(momentum),
            nesterov=nesterov,
            name=name,
            **kwargs,
        )
        # `weight_decay` of the base class is the decoupled one: stays None.
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
