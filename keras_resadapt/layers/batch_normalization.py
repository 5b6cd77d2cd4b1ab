"""BatchNormalization as the published networks use it."""

import keras
from keras import ops

from keras_resadapt.layers.arguments import as_share
from keras_resadapt.layers.replicas import in_replica, num_replicas, sum_over_replicas
from keras_resadapt.layers.synchronized_normalization import normalize_over_replicas


def affine(mean, variance, gamma, beta, epsilon: float):
    """Returns the scale and offset of a normalization in inference.

    They are those of `gamma (x - mean) / sqrt(variance + epsilon) + beta`,
    vectors with one entry per channel.
    """
    scale = gamma * ops.rsqrt(variance + epsilon)
    return scale, beta - mean * scale


def normalize(inputs, scale, offset):
    """Returns `scale * inputs + offset`, in the dtype of `inputs`."""
    # Not TensorFlow's fused kernel: oneDNN merges it into the convolution, and
    # the merged kernel is several times slower for a single image.
    outputs = ops.cast(inputs, scale.dtype) * scale + offset
    return ops.cast(outputs, inputs.dtype)


def batch_moments(x, shift):
    """Returns the mean, the variance and the number of values per channel.

    They are those of the whole batch over all replicas, which may have shares
    of different sizes, or none. A single sum over the replicas holds the sums,
    the sums of squares and the counts.

    Args:
        x: Float tensor of shape (batch, height, width, channels).
        shift: Vector near the means, subtracted from `x` so that the difference
            of squares keeps its precision.
    """
    axes = (0, 1, 2)
    count = ops.cast(ops.prod(ops.shape(x)[:-1]), x.dtype)
    if num_replicas() == 1:
        return *ops.moments(x, axes=axes), count
    shift = ops.stop_gradient(shift)
    shifted = x - shift
    sums = [
        ops.sum(shifted, axis=axes),
        ops.sum(ops.square(shifted), axis=axes),
        ops.reshape(count, (1,)),
    ]
    sums = sum_over_replicas(ops.concatenate(sums))
    channels = ops.shape(x)[-1]
    count = ops.stop_gradient(sums[-1])
    mean = sums[:channels] / count
    variance = sums[channels:-1] / count - ops.square(mean)
    return mean + shift, ops.maximum(variance, 0.0), count


@keras.saving.register_keras_serializable("keras_resadapt")
class BatchNormalization(keras.layers.Layer):
    """BatchNormalization over the last axis of a (batch, H, W, C) tensor.

    It differs from `keras.layers.BatchNormalization` in three ways. On
    TensorFlow, training is one fused kernel. The running variance averages the
    *unbiased* batch variance, with which the published checkpoints were
    trained. Under `tf.distribute`, the statistics are those of the whole batch
    over all replicas, so that the number of replicas changes nothing; see
    `normalize_over_replicas`.

    Args:
        momentum: Share of the running statistics that a training step keeps,
            in [0, 1].
        epsilon: Added to the variance.
        gamma_initializer: Initializer of the scale.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        training: Whether to normalize with the statistics of the batch and to
            update the running ones. A layer with `trainable=False` never does.

    Raises:
        ValueError: If `momentum` is outside [0, 1].
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        gamma_initializer: str | dict | keras.Initializer = "ones",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.momentum = as_share("momentum", momentum)
        self.epsilon = float(epsilon)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)

    def build(self, input_shape):
        channels = input_shape[-1]

        def vector(name, initializer, trainable):
            return self.add_weight(
                shape=self.affine_shape(channels) if trainable else (channels,),
                name=name,
                initializer=initializer,
                trainable=trainable,
                dtype=self.vector_dtype,
                autocast=False,
            )

        self.gamma = vector("gamma", self.gamma_initializer, True)
        self.beta = vector("beta", "zeros", True)
        self.moving_mean = vector("moving_mean", "zeros", False)
        self.moving_variance = vector("moving_variance", "ones", False)

    def affine_shape(self, channels: int) -> tuple[int, ...]:
        """Returns the shape of `gamma` and `beta`."""
        return (channels,)

    @property
    def vector_dtype(self) -> str:
        """The dtype of the parameters and statistics, at least float32."""
        # Statistics of 16 bits would lose their updates.
        return keras.backend.result_type(self.variable_dtype, "float32")

    def call(self, inputs, training=None):
        if not (training and self.trainable):
            return normalize(inputs, *self.affine())
        outputs, mean, variance = self.normalize_by_batch(inputs)
        self.update_statistics(mean, variance)
        return outputs

    def update_statistics(self, mean, variance):
        """Moves the running statistics towards the statistics of a batch."""
        for moving, batch in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))

    def statistics(self):
        """Returns the running mean and variance."""
        return self.moving_mean, self.moving_variance

    def affine(self):
        """Returns the scale and the offset of each channel in inference.

        A convolution before the normalization can take them over.
        """
        return affine(*self.statistics(), self.gamma, self.beta, self.epsilon)

    def normalize_by_batch(self, inputs):
        """Returns the outputs, the batch's mean and its unbiased variance."""
        return self.normalize_with(inputs, self.gamma, self.beta, self.moving_mean)

    def normalize_with(self, inputs, gamma, beta, shift):
        """Normalizes by the batch, with these parameters.

        Args:
            inputs: Tensor of shape (batch, height, width, channels).
            gamma, beta: Scale and offset of its channels.
            shift: Estimate of the means; see `batch_moments`.

        Returns:
            The outputs, the batch's mean and its unbiased variance.
        """
        gamma, beta, shift = map(ops.convert_to_tensor, (gamma, beta, shift))
        if keras.backend.backend() == "tensorflow" and gamma.dtype == "float32":
            import tensorflow as tf

            if in_replica():
                return normalize_over_replicas(inputs, gamma, beta, shift, self.epsilon)
            return tf.compat.v1.nn.fused_batch_norm(
                inputs, gamma, beta, epsilon=self.epsilon, is_training=True
            )
        x = ops.cast(inputs, gamma.dtype)
        mean, variance, count = batch_moments(x, shift)
        scale, offset = affine(mean, variance, gamma, beta, self.epsilon)
        unbiased = variance * count / ops.maximum(count - 1, 1)
        return ops.cast(x * scale + offset, inputs.dtype), mean, unbiased

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
        }
