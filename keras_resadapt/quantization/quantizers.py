"""Base classes of quantizers: layers that round tensors to few values."""

import contextlib
import contextvars

import keras
from keras import ops

# The rounded kernels of the current pass, by quantizer and shape
_rounded_kernels = contextvars.ContextVar("rounded_kernels", default=None)


@contextlib.contextmanager
def rounding_kernels_once():
    """Rounds a kernel once for all branches within the context.

    Its levels are updated once, too. The branches must be parts of one pass
    whose gradients are computed together.
    """
    token = _rounded_kernels.set({})
    try:
        yield
    finally:
        _rounded_kernels.reset(token)


class WeightQuantizer(keras.layers.Layer):
    """Rounds kernels that have the output channels in the last axis.

    A subclass defines `train`, `rounded`, `start` and `fit`.

    Call arguments:
        kernel: The part of the kernel that is used: its first output channels,
            and any input channels.
        whole: The whole kernel.
        training: Whether to update the levels from the whole kernel. They are
            updated only where all output channels are used, so that a step of
            a slimmable network updates them once. A layer with
            `trainable=False` never does.
    """

    def call(self, kernel, whole, training=None):
        known = _rounded_kernels.get()
        key = (id(self), kernel.shape)
        if known is not None and key in known:
            return known[key]
        kernel = ops.cast(kernel, "float32")
        all_channels = None not in kernel.shape and kernel.shape[-1] == whole.shape[-1]
        if training and self.trainable and all_channels:
            outputs = self.train(kernel, ops.cast(whole, "float32"))
        else:
            outputs = self.rounded(kernel)
        outputs = ops.cast(outputs, self.compute_dtype)
        if known is not None:
            known[key] = outputs
        return outputs

    def train(self, kernel, whole):
        """Rounds a float32 kernel, and updates the levels from the whole one."""
        raise NotImplementedError

    def rounded(self, kernel):
        """Returns the float32 kernel, or its first channels, rounded."""
        raise NotImplementedError

    def start(self, kernel) -> None:
        """Sets the levels for training from the initial values of a kernel."""
        raise NotImplementedError

    def fit(self, kernel) -> None:
        """Fits the levels to a kernel that was trained in float."""
        raise NotImplementedError

    def compute_output_spec(self, kernel, whole, training=None):
        return keras.KerasTensor(kernel.shape, dtype=self.compute_dtype)


class ActivationQuantizer(keras.layers.Layer):
    """Rounds activations to levels that follow from its `state`.

    A subclass defines `new_state`, `train`, `estimate` and `rounded`. The
    layers in `per_point` hold several states and use one quantizer for all.

    Call arguments:
        inputs: Float tensor of any shape.
        training: Whether to update the state. A layer with `trainable=False`
            never does.

    Attributes:
        state: Tuple of the variables that define the levels.
        batches: Variable with the number of batches that the state was
            computed from; 0 before any training or calibration.
    """

    def build(self, input_shape=None):
        self.state = self.new_state(self, "")
        self.batches = new_counter(self, "batches")

    def call(self, inputs, training=None):
        x = ops.cast(inputs, "float32")
        if training and self.trainable:
            outputs = self.train(x)
            self.batches.assign_add(1)
        else:
            outputs = self.rounded(x, *self.state)
        return ops.cast(outputs, inputs.dtype)

    def new_state(self, owner: keras.layers.Layer, prefix: str) -> tuple:
        """Returns the variables of another state, which `owner` owns."""
        raise NotImplementedError

    def train(self, inputs):
        """Rounds a training batch and updates the state."""
        raise NotImplementedError

    def estimate(self, inputs, *state) -> tuple:
        """Returns a state that fits a batch, starting from another state."""
        raise NotImplementedError

    def fitted(self, inputs, *state) -> tuple:
        """Returns the state that fits a batch best."""
        return self.estimate(inputs, *state)

    def rounded(self, inputs, *state):
        """Returns the float32 inputs, rounded."""
        raise NotImplementedError

    def quantize_by_batch(self, inputs):
        """Rounds inputs to levels that fit them, and leaves the state unchanged."""
        x = ops.cast(inputs, "float32")
        state = self.estimate(x, *self.state)
        return ops.cast(self.rounded(x, *state), inputs.dtype)

    def calibrate(self, inputs, state=None, batches=None):
        """Averages the state over all batches since `batches` was 0.

        Args:
            inputs: A batch.
            state, batches: Variables; by default the layer's own.
        """
        state = self.state if state is None else state
        batches = self.batches if batches is None else batches
        count = ops.cast(batches, "float32")
        estimates = self.fitted(ops.cast(inputs, "float32"), *state)
        for variable, value in zip(state, estimates):
            variable.assign((variable * count + value) / (count + 1))
        batches.assign_add(1)

    def counter(self):
        """Returns `batches`."""
        return self.batches

    def counters(self) -> list:
        """Returns `batches`, in a list."""
        return [self.batches]

    def compute_output_spec(self, inputs, training=None):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)


def new_counter(owner: keras.layers.Layer, name: str):
    """Returns a variable that counts batches."""
    return owner.add_weight(
        shape=(),
        initializer="zeros",
        dtype="int32",
        trainable=False,
        aggregation="only_first_replica",
        name=name,
    )


def quantizer_config(layer: keras.layers.Layer, *names: str) -> dict:
    """Returns the entries of `get_config` for a layer's quantizers.

    Args:
        layer: The layer.
        *names: The attributes that hold a quantizer or None.
    """
    config = {}
    for name in names:
        config[name] = keras.saving.serialize_keras_object(getattr(layer, name))
        if config[name] is not None:  # the layer itself builds its quantizers
            config[name].pop("build_config", None)
    return config


def with_quantizers(config: dict) -> dict:
    """Returns a configuration with its quantizers deserialized."""
    return {
        name: keras.saving.deserialize_keras_object(value)
        if name.endswith("quantizer")
        else value
        for name, value in config.items()
    }
