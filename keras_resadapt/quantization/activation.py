"""Activations that are rounded to few values."""

import keras

from keras_resadapt.layers.activation import Activation
from keras_resadapt.quantization.quantizers import quantizer_config, with_quantizers


@keras.saving.register_keras_serializable("keras_resadapt")
class QuantizedActivation(Activation):
    """An `Activation` whose outputs are rounded.

    Args:
        function: As for `Activation`.
        quantizer: An `ActivationQuantizer`, or a layer that holds one state
            per operating point.
        **kwargs: As for `Activation`.

    Call arguments:
        inputs: Tensor of any shape.
        point: The operating point.
    """

    depends_on = ("point",)

    def __init__(self, function=None, *, quantizer: keras.layers.Layer, **kwargs):
        super().__init__(function, **kwargs)
        self.quantizer = quantizer
        self.built = False

    def build(self, input_shape):
        self.quantizer.build(input_shape)
        self.built = True

    def call(self, inputs, point, training=None):
        outputs = super().call(inputs, training=training)
        return point.call(self.quantizer, outputs)

    def compute_output_spec(self, inputs, point, training=None):
        return super().compute_output_spec(inputs)

    def get_config(self):
        return {**super().get_config(), **quantizer_config(self, "quantizer")}

    @classmethod
    def from_config(cls, config):
        return super().from_config(with_quantizers(config))
