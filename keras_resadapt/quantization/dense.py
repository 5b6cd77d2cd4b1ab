"""Dense layers with quantized weights, inputs and outputs."""

import keras
from keras import ops

from keras_resadapt.layers.dense import Dense
from keras_resadapt.layers.slimmable import SlimmableDense
from keras_resadapt.quantization.integer_offset import adds_integers, integer_offset
from keras_resadapt.quantization.quantizers import (
    WeightQuantizer,
    quantizer_config,
    with_quantizers,
)


@keras.saving.register_keras_serializable("keras_resadapt")
class QuantizedDense(Dense):
    """`layers.Dense` of (batch, features) with a quantized kernel.

    It is a 1x1 convolution of a single pixel, because LiteRT's dense layers
    have no scale per output channel.

    Args:
        units: Number of outputs.
        weight_quantizer: The quantizer of the kernel.
        input_quantizer, output_quantizer: The quantizers of the inputs and of
            the outputs, as for `QuantizedConvolution`; None for no rounding.
        **kwargs: As for `layers.Dense`.

    Call arguments:
        inputs: Tensor of shape (batch, features).
        point: The operating point; needed by the two quantizers.

    Attributes:
        input_step: As for `QuantizedConvolution`.
    """

    depends_on = ("point",)
    is_packed = False

    def __init__(
        self,
        units: int,
        *,
        weight_quantizer: WeightQuantizer,
        input_quantizer: keras.layers.Layer | None = None,
        output_quantizer: keras.layers.Layer | None = None,
        **kwargs,
    ):
        super().__init__(units, **kwargs)
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer
        self.output_quantizer = output_quantizer
        self.input_step = None

    def build(self, input_shape):
        super().build(input_shape)
        self.weight_quantizer.build((1, 1, *self.kernel.shape))
        if self.input_quantizer is not None:
            self.input_quantizer.build(input_shape)
        if self.output_quantizer is not None:
            self.output_quantizer.build((*input_shape[:-1], self.units))

    def call(self, inputs, point=None, training=None):
        if self.input_quantizer is not None:
            inputs = point.call(self.input_quantizer, inputs)
        kernel = self.weight_quantizer(
            self.kernel_for(inputs)[None, None], self.kernel[None, None]
        )
        outputs = ops.conv(inputs[:, None, None], kernel, padding="valid")
        if self.use_bias:
            bias = self.bias
            if not training and adds_integers(self, point):
                step = self.weight_quantizer.step(self.units)
                bias = integer_offset(bias, self.input_step(point), step)
            outputs = outputs + ops.cast(bias, outputs.dtype)
        outputs = ops.reshape(self.activation(outputs), (-1, self.units))
        if self.output_quantizer is not None:
            outputs = point.call(self.output_quantizer, outputs)
        return outputs

    def compute_output_spec(self, inputs, point=None, training=None):
        return keras.KerasTensor(
            (*inputs.shape[:-1], self.units), dtype=self.compute_dtype
        )

    def start_weight_quantizer(self) -> None:
        """Sets the levels of the weights for training from scratch."""
        self.weight_quantizer.start(self.kernel[None, None])

    def fit_weight_quantizer(self) -> None:
        """Fits the levels of the weights to their current values."""
        self.weight_quantizer.fit(self.kernel[None, None])

    def get_config(self):
        names = ("weight_quantizer", "input_quantizer", "output_quantizer")
        return {**super().get_config(), **quantizer_config(self, *names)}

    @classmethod
    def from_config(cls, config):
        return super().from_config(with_quantizers(config))


@keras.saving.register_keras_serializable("keras_resadapt")
class QuantizedSlimmableDense(QuantizedDense, SlimmableDense):
    """`layers.SlimmableDense` with a quantized kernel."""
