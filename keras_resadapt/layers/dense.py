"""The dense layer of a classifier."""

import keras
from keras import ops

from keras_resadapt.layers.convolution import (
    adds_integers,
    quantizer_config,
    with_quantizers,
)
from keras_resadapt.layers.integer_offset import integer_offset


@keras.saving.register_keras_serializable("keras_resadapt")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` of (batch, features), which can be quantized.

    Args:
        units: Number of outputs.
        weight_quantizer: As for `Conv2D`.
        input_quantizer, output_quantizer: Likewise, of what comes in and of
            what goes out.
        **kwargs: As for `keras.layers.Dense`.
    """

    def __init__(
        self,
        units: int,
        weight_quantizer: keras.layers.Layer | None = None,
        input_quantizer: keras.layers.Layer | None = None,
        output_quantizer: keras.layers.Layer | None = None,
        **kwargs,
    ):
        super().__init__(units, **kwargs)
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer
        self.output_quantizer = output_quantizer
        self.input_step = None  # as for `Conv2D`
        if input_quantizer is not None or output_quantizer is not None:
            self.depends_on = ("point",)

    def build(self, input_shape):
        super().build(input_shape)
        if self.weight_quantizer is not None:
            self.weight_quantizer.build((1, 1, *self.kernel.shape))
        if self.input_quantizer is not None:
            self.input_quantizer.build(input_shape)
        if self.output_quantizer is not None:
            self.output_quantizer.build((*input_shape[:-1], self.units))

    def call(self, inputs, point=None, training=None):
        if self.input_quantizer is not None:
            inputs = point.call(self.input_quantizer, inputs)
        if self.weight_quantizer is not None:
            inputs = inputs[:, None, None]
        outputs = self.product(inputs, self.kernel)
        if self.use_bias:
            bias = self.bias
            if not training and adds_integers(self, point):
                step = self.weight_quantizer.step(self.units)
                bias = integer_offset(bias, self.input_step(point), step)
            outputs = outputs + ops.cast(bias, outputs.dtype)
        outputs = self.activation(outputs)
        if self.weight_quantizer is not None:
            outputs = ops.reshape(outputs, (-1, self.units))
        if self.output_quantizer is not None:
            outputs = point.call(self.output_quantizer, outputs)
        return outputs

    def product(self, inputs, kernel):
        """`inputs @ kernel`; for a quantized kernel, inputs are pixels and it
        is a 1x1 convolution, which LiteRT knows with a scale a channel."""
        if self.weight_quantizer is None:
            return ops.matmul(inputs, kernel)
        kernel = self.weight_quantizer(kernel[None, None], self.kernel[None, None])
        return ops.conv(inputs, kernel, padding="valid")

    is_packed = False

    def start_weight_quantizer(self) -> None:
        """Sets the levels of the weights for training from the first."""
        self.weight_quantizer.start(self.kernel[None, None])

    def fit_weight_quantizer(self) -> None:
        """Fits the levels of the weights to the weights as they are."""
        self.weight_quantizer.fit(self.kernel[None, None])

    def compute_output_spec(self, inputs, point=None, training=None):
        return keras.KerasTensor(
            (*inputs.shape[:-1], self.units), dtype=self.compute_dtype
        )

    def get_config(self):
        return {
            **super().get_config(),
            **quantizer_config(self, "weight", "input", "output"),
        }

    @classmethod
    def from_config(cls, config):
        return super().from_config(with_quantizers(config))
