"""Where a network's values pass from one layer to the next."""

from collections.abc import Callable

import keras


@keras.saving.register_keras_serializable("keras_resadapt")
class Activation(keras.layers.Layer):
    """An activation after which convolutions may follow.

    Args:
        function: `"relu"`, `"relu6"`, or None to change nothing.
        quantizer: A layer that rounds the result to few values, with the
            parts of the operating point in its `depends_on`; None for none.

    Call arguments:
        inputs: Tensor of any shape.
        point: The operating point, where there is a quantizer.
    """

    def __init__(
        self,
        function: str | Callable | None = None,
        quantizer: keras.layers.Layer | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.function = keras.activations.get(function)
        self.quantizer = quantizer
        if quantizer is not None:
            self.depends_on = ("point",)

    def build(self, input_shape):
        if self.quantizer is not None:
            self.quantizer.build(input_shape)
        self.built = True

    def call(self, inputs, point=None):
        outputs = self.function(inputs)
        if self.quantizer is not None:
            outputs = point.call(self.quantizer, outputs)
        return outputs

    def compute_output_spec(self, inputs, point=None):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "function": keras.activations.serialize(self.function),
            "quantizer": keras.saving.serialize_keras_object(self.quantizer),
        }

    @classmethod
    def from_config(cls, config):
        quantizer = keras.saving.deserialize_keras_object(config["quantizer"])
        return cls(**{**config, "quantizer": quantizer})
