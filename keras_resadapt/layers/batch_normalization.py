"""BatchNormalization as the published networks use it, fused and in step."""

import keras
from keras import ops


def num_replicas() -> int:
    """Number of replicas that `tf.distribute` keeps in step; 1 elsewhere."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def affine(mean, variance, gamma, beta, epsilon: float):
    """The scale and offset of `gamma (x - mean) / sqrt(variance + epsilon) +
    beta`, float32 vectors of an entry a channel."""
    scale = gamma * ops.rsqrt(variance + epsilon)
    return scale, beta - mean * scale


def normalize(inputs, scale, offset):
    """`scale * inputs + offset`, in the dtype of `inputs`."""
    # Not TensorFlow's fused kernel: merged into the convolution by oneDNN it is
    # several times slower than this for a single image.
    outputs = ops.cast(inputs, "float32") * scale + offset
    return ops.cast(outputs, inputs.dtype)


@keras.saving.register_keras_serializable("keras_resadapt")
class BatchNormalization(keras.layers.Layer):
    """BatchNormalization over the last axis of a (batch, H, W, C) tensor.

    Against `keras.layers.BatchNormalization`: one fused kernel on TensorFlow;
    the running variance averages the *unbiased* batch variance, as the
    published checkpoints were trained; under `tf.distribute` the statistics
    are those of the whole batch over all replicas, so that the number of
    replicas changes nothing.

    Args:
        momentum: The running statistics keep this share of themselves in a
            training step, in [0, 1].
        epsilon: Added to the variance.
        gamma_initializer: Initializer of the scale.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        training: Normalize with the statistics of the batch, and update the
            running ones. A layer with `trainable=False` never does.
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        gamma_initializer="ones",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 <= momentum <= 1:
            raise ValueError(
                f"`momentum` must be in [0, 1]. Received: momentum={momentum}"
            )
        self.momentum = momentum
        self.epsilon = epsilon
        self.gamma_initializer = keras.initializers.get(gamma_initializer)

    def build(self, input_shape):
        def vector(name, initializer, trainable):
            return self.add_weight(
                shape=(input_shape[-1],),
                name=name,
                initializer=initializer,
                trainable=trainable,
                autocast=False,
            )

        self.gamma = vector("gamma", self.gamma_initializer, True)
        self.beta = vector("beta", "zeros", True)
        self.moving_mean = vector("moving_mean", "zeros", False)
        self.moving_variance = vector("moving_variance", "ones", False)

    def call(self, inputs, training=None):
        if not (training and self.trainable):
            return normalize(inputs, *self.affine())
        outputs, mean, variance = self.normalize_by_batch(inputs)
        self.update_statistics(mean, variance)
        return outputs

    def update_statistics(self, mean, variance):
        """Moves the running statistics towards those of a batch."""
        for moving, batch in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))

    def statistics(self):
        """The running mean and variance."""
        return self.moving_mean, self.moving_variance

    def affine(self):
        """The scale and the offset of each channel in inference, which a
        convolution before it can take over."""
        return affine(*self.statistics(), self.gamma, self.beta, self.epsilon)

    def normalize_by_batch(self, inputs, gamma=None, beta=None):
        """Returns the outputs, the batch's mean and its unbiased variance."""
        gamma = self.gamma if gamma is None else gamma
        beta = self.beta if beta is None else beta
        if keras.backend.backend() == "tensorflow" and num_replicas() == 1:
            import tensorflow as tf

            return tf.compat.v1.nn.fused_batch_norm(
                inputs,
                ops.convert_to_tensor(gamma),
                ops.convert_to_tensor(beta),
                epsilon=self.epsilon,
                is_training=True,
            )
        x = ops.cast(inputs, "float32")
        mean, variance = ops.moments(x, axes=(0, 1, 2), synchronized=num_replicas() > 1)
        scale, offset = affine(mean, variance, gamma, beta, self.epsilon)
        outputs = x * scale + offset
        count = ops.cast(ops.prod(ops.shape(x)[:-1]), "float32") * (num_replicas())
        unbiased = variance * count / ops.maximum(count - 1, 1)
        return ops.cast(outputs, inputs.dtype), mean, unbiased

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
        }
