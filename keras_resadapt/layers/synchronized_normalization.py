"""Normalization by the statistics of a batch that several replicas share."""

from keras_resadapt.layers.replicas import sum_over_replicas


def normalize_over_replicas(inputs, gamma, beta, shift, epsilon: float):
    r"""Normalizes the share of a replica by the statistics of the whole batch.

    TensorFlow's fused kernels of a single device compute the local sums and apply the
    global ones, in both directions. One sum over the replicas in each direction lies
    between. A replica may have a share of any size, or none.

    With :math:`\hat{x} = (x - \mu) r`, :math:`r = 1 / \sqrt{\sigma^2 + \epsilon}` and
    :math:`N` values per channel, the gradient is

    .. math:: \frac{\partial L}{\partial x} = \gamma r g - \gamma r \left(
        \frac{\hat{x}}{N} \sum g \hat{x} + \frac{1}{N} \sum g\right), \quad
        g = \frac{\partial L}{\partial y}

    where the first term is that of given statistics.

    The statistics that are returned have no gradient, as those of the fused kernel.

    Args:
        inputs: Tensor of shape (batch, height, width, channels), of any float type.
        gamma, beta: Float32 scale and offset of the channels.
        shift: Float32 vector near the means. It is subtracted so that the difference
            of squares keeps its precision.
        epsilon: Added to the variance.

    Returns:
        The outputs, the mean of the batch and its unbiased variance.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        channels = tf.shape(x)[-1]  # unknown before the step at a drawn width
        ones, zeros, none = tf.ones([channels]), tf.zeros([channels]), tf.zeros(0)
        local = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=ones, offset=zeros, mean=none, variance=none, epsilon=epsilon
        )
        count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), tf.float32)
        # The kernel returns NaN for an empty share.
        local_mean, local_variance = (
            tf.where(count > 0, statistic, zeros)
            for statistic in (
                local.batch_mean,
                local.batch_variance * tf.maximum(count - 1, 1) / count,
            )
        )
        distance = local_mean - shift
        first = distance * count
        second = (local_variance + tf.square(distance)) * count
        sums = sum_over_replicas(tf.concat([first, second, [count]], 0))
        total = sums[-1]
        distance = sums[:channels] / total
        variance = tf.maximum(sums[channels:-1] / total - tf.square(distance), 0.0)
        mean = distance + shift

        def normalize_by_given(scale, offset):
            """Returns `scale * (x - mean) / sqrt(variance + epsilon) + offset`."""
            return tf.raw_ops.FusedBatchNormV3(
                x=x,
                scale=scale,
                offset=offset,
                mean=mean,
                variance=variance,
                epsilon=epsilon,
                is_training=False,
            ).y

        outputs = normalize_by_given(gamma, beta)
        unbiased = variance * total / tf.maximum(total - 1, 1)

        def gradient(upstream, *_):
            of_given = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=x,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=none,
                epsilon=epsilon,
                is_training=False,
            )
            of_gamma, of_beta = of_given.scale_backprop, of_given.offset_backprop
            means = sum_over_replicas(tf.concat([of_gamma, of_beta], 0)) / total
            factor = -gamma * tf.math.rsqrt(variance + epsilon)
            of_statistics = normalize_by_given(
                factor * means[:channels], factor * means[channels:]
            )
            return of_given.x_backprop + of_statistics, of_gamma, of_beta

        return (outputs, mean, unbiased), gradient

    # Run eagerly, `custom_gradient` does not convert variables to tensors.
    return normalize(inputs, tf.identity(gamma), tf.identity(beta))
