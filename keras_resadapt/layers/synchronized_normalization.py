"""Normalization by the statistics of a batch that several replicas share."""

from keras_resadapt.layers.replicas import sum_over_replicas


def normalize_over_replicas(inputs, gamma, beta, shift, epsilon: float):
    r"""Normalizes the share of a replica by the statistics of the whole batch.

    TensorFlow's fused kernels of a single device compute the local sums, in both
    directions, and one sum over the replicas in each direction makes them global.
    A replica may have a share of any size, or none.

    With :math:`\hat{x} = (x - \mu) r`, :math:`r = 1 / \sqrt{\sigma^2 + \epsilon}` and
    :math:`N` values per channel, the gradient is

    .. math:: \frac{\partial L}{\partial x} = \gamma r \left(g - \frac{1}{N} \sum g
        - \frac{\hat{x}}{N} \sum g \hat{x}\right), \quad
        g = \frac{\partial L}{\partial y}

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
        channels = x.shape[-1]
        ones, zeros, none = tf.ones(channels), tf.zeros(channels), tf.zeros(0)
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
        rate = tf.math.rsqrt(variance + epsilon)
        outputs = _affine(x, gamma * rate, beta - mean * gamma * rate)
        unbiased = variance * total / tf.maximum(total - 1, 1)

        def gradient(upstream, *_):
            of_kernel = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=x,
                scale=ones,
                reserve_space_1=local.reserve_space_1,
                reserve_space_2=local.reserve_space_2,
                reserve_space_3=local.reserve_space_3,
                epsilon=epsilon,
            )
            local_rate = tf.math.rsqrt(local_variance + epsilon)
            # The sums of the upstream gradient, and of its products with the locally
            # and with the globally normalized inputs
            plain, with_local = of_kernel.offset_backprop, of_kernel.scale_backprop
            with_global = rate * (with_local / local_rate + (local_mean - mean) * plain)
            sums = sum_over_replicas(tf.concat([plain, with_global], 0))
            mean_plain, mean_product = sums[:channels] / total, sums[channels:] / total
            # The kernel has subtracted the local means instead of the global ones.
            local_slope = local_rate * with_local / tf.maximum(count, 1)
            global_slope = rate * mean_product
            slope = local_slope - global_slope
            offset = plain / tf.maximum(count, 1) - mean_plain
            offset += mean * global_slope - local_mean * local_slope
            scale = gamma * rate
            of_x = _affine(of_kernel.x_backprop, scale / local_rate)
            of_x += _affine(x, scale * slope, scale * offset)
            return of_x, with_global, plain

        return (outputs, mean, unbiased), gradient

    return normalize(inputs, gamma, beta)


def _affine(x, scale, offset=None):
    """Returns `scale * x + offset` in the type of `x`, computed in float32."""
    import tensorflow as tf

    outputs = tf.cast(x, tf.float32) * scale
    return tf.cast(outputs if offset is None else outputs + offset, x.dtype)
