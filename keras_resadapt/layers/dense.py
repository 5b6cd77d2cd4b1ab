"""The dense layer of a classifier."""

import keras
from keras import ops

from keras_resadapt.number_checks import check_integer


@keras.saving.register_keras_serializable("keras_resadapt")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` whose variants can use a part of the kernel.

    Args:
        units: Number of outputs.
        **kwargs: Further arguments of `keras.layers.Dense`.
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(check_integer(units, "units"), **kwargs)

    def call(self, inputs, training=None):
        outputs = ops.matmul(inputs, self.kernel_for(inputs))
        if self.use_bias:
            outputs = outputs + ops.cast(self.bias, outputs.dtype)
        return self.activation(outputs)

    def kernel_for(self, inputs):
        """Returns the kernel for these inputs."""
        return self.kernel
