"""Layers: values against NumPy and TensorFlow, configurations, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resadapt import layers
from keras_resadapt.layers import resize


def features(shape=(4, 6, 6, 3), seed=0):
    return np.random.default_rng(seed).normal(1, 2, shape).astype("float32")


def batch_norm(x, mean, variance, gamma, beta):
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def set_vectors(bn, seed):
    rng = np.random.default_rng(seed)
    bn.gamma.assign(rng.uniform(0.5, 1.5, 3))
    bn.beta.assign(rng.normal(size=3))
    bn.moving_mean.assign(rng.normal(size=3))
    bn.moving_variance.assign(rng.uniform(0.5, 1.5, 3))


def vectors(bn):
    return [v.numpy() for v in (bn.moving_mean, bn.moving_variance, bn.gamma, bn.beta)]


class TestBatchNormalization:
    def test_inference_uses_the_running_statistics(self):
        bn = layers.BatchNormalization()
        x = features()
        bn.build(x.shape)
        set_vectors(bn, 1)
        np.testing.assert_allclose(bn(x), batch_norm(x, *vectors(bn)), atol=1e-5)

    def test_training_uses_the_batch_and_the_unbiased_variance(self):
        bn = layers.BatchNormalization(momentum=0.75)
        x = features()
        bn.build(x.shape)
        set_vectors(bn, 1)
        mean, variance, gamma, beta = vectors(bn)
        y = bn(x, training=True)
        m, v = x.mean((0, 1, 2)), x.var((0, 1, 2))
        np.testing.assert_allclose(y, batch_norm(x, m, v, gamma, beta), atol=1e-5)
        n = x[..., 0].size
        new_mean, new_variance, *_ = vectors(bn)
        np.testing.assert_allclose(new_mean, 0.75 * mean + 0.25 * m, rtol=1e-5)
        np.testing.assert_allclose(
            new_variance, 0.75 * variance + 0.25 * v * n / (n - 1), rtol=1e-5
        )

    def test_frozen_layer_neither_uses_nor_updates_the_batch(self):
        bn = layers.BatchNormalization(trainable=False)
        x = features()
        np.testing.assert_allclose(bn(x, training=True), x, rtol=1e-4)
        np.testing.assert_array_equal(bn.moving_mean, 0)

    def test_bad_momentum(self):
        with pytest.raises(ValueError, match="`momentum`.*momentum=2"):
            layers.BatchNormalization(momentum=2)


class TestSwitchableBatchNormalization:
    def make(self, **kwargs):
        bn = layers.SwitchableBatchNormalization((64, 32, 16), **kwargs)
        bn.build((None, 6, 6, 3))
        for i, branch in enumerate(bn.branches):
            set_vectors(branch, i)
        return bn

    def test_each_resolution_has_its_own_vectors(self):
        bn, x = self.make(), features()
        for resolution, branch in zip((64, 32, 16), bn.branches):
            np.testing.assert_allclose(
                bn(x, resolution=resolution),
                batch_norm(x, *vectors(branch)),
                atol=1e-5,
            )

    def test_training_changes_one_branch_alone(self):
        bn = self.make()
        before = [vectors(b) for b in bn.branches]
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(bn(features(), resolution=32, training=True) ** 3)
        gradients = tape.gradient(y, bn.trainable_variables)
        moved = [
            v.path.split("/")[-2]
            for v, g in zip(bn.trainable_variables, gradients)
            if g is not None
        ]
        assert moved == ["r32", "r32"]
        after = [vectors(b) for b in bn.branches]
        changed = [not np.allclose(a[0], b[0]) for a, b in zip(before, after)]
        assert changed == [False, True, False]

    @pytest.mark.parametrize(
        "resolution, upper, lower, share",
        [
            (48, 0, 1, 0.5),
            (20, 1, 2, 0.25),
        ],
    )
    def test_between_two_resolutions_vectors_are_interpolated(
        self, resolution, upper, lower, share
    ):
        bn, x = self.make(), features()
        mixed = [
            share * u + (1 - share) * v
            for u, v in zip(vectors(bn.branches[upper]), vectors(bn.branches[lower]))
        ]
        np.testing.assert_allclose(
            bn(x, resolution=resolution), batch_norm(x, *mixed), atol=1e-5
        )

    def test_outside_the_range_only_when_asked_for(self):
        x = features()
        with pytest.raises(ValueError, match="16 to 64.*resolution=80"):
            self.make()(x, resolution=80)
        bn = self.make(extrapolate=True)
        for resolution, branch in ((80, bn.branches[0]), (8, bn.branches[2])):
            np.testing.assert_allclose(
                bn(x, resolution=resolution),
                batch_norm(x, *vectors(branch)),
                atol=1e-5,
            )

    def test_an_untrained_resolution_cannot_be_trained(self):
        with pytest.raises(ValueError, match="resolution=48"):
            self.make()(features(), resolution=48, training=True)

    def test_config_and_functional_use(self):
        inputs = keras.Input((6, 6, 3))
        bn = self.make()
        model = keras.Model(inputs, bn(inputs, resolution=32))
        copy = keras.Model.from_config(model.get_config())
        copy.set_weights(model.get_weights())
        x = features()
        np.testing.assert_allclose(copy(x), bn(x, resolution=32), atol=1e-6)

    @pytest.mark.parametrize("resolutions", [(), (32, 32, 24), (0,), (-4, 8), (8.5,)])
    def test_bad_resolutions(self, resolutions):
        with pytest.raises(ValueError, match="`resolutions`"):
            layers.SwitchableBatchNormalization(resolutions)


class TestConvolution:
    @pytest.mark.parametrize("size", [7, 8])
    @pytest.mark.parametrize("kernel_size", [1, 3, 7])
    @pytest.mark.parametrize("strides", [1, 2])
    def test_pads_every_side_alike(self, size, kernel_size, strides):
        conv = layers.Conv2D(4, kernel_size, strides=strides)
        x = features((2, size, size, 3))
        pad = (kernel_size - 1) // 2
        padded = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
        y = conv(x)
        expected = tf.nn.conv2d(padded, conv.kernel.value, strides, "VALID")
        np.testing.assert_allclose(y, expected, atol=1e-5)
        assert conv.compute_output_shape(x.shape) == tuple(y.shape)

    @pytest.mark.parametrize("channels", [1, 4, 7, 8])
    def test_few_channels(self, channels):
        conv = layers.Conv2D(5, 3)
        x = features((2, 8, 8, channels))
        y = conv(x)
        expected = tf.nn.conv2d(x, conv.kernel.value, 1, "SAME")
        np.testing.assert_allclose(y, expected, atol=1e-5)

    def test_depthwise_pads_every_side_alike(self):
        conv = layers.DepthwiseConv2D(3, strides=2)
        x = features((2, 8, 8, 3))
        padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        expected = tf.nn.depthwise_conv2d(
            padded,
            conv(x) is not None and conv.kernel.value,
            (1, 2, 2, 1),
            "VALID",
        )
        np.testing.assert_allclose(conv(x), expected, atol=1e-5)

    def test_config_round_trip(self):
        conv = layers.Conv2D(4, 3, strides=2, use_bias=False)
        copy = layers.Conv2D.from_config(conv.get_config())
        assert copy.get_config() == conv.get_config()

    def test_even_kernels_are_refused(self):
        with pytest.raises(ValueError, match="`kernel_size`.*4"):
            layers.Conv2D(4, 4)

    def test_only_symmetric_padding(self):
        assert layers.Conv2D(4, 3, padding="same").filters == 4
        for layer in (layers.Conv2D, layers.DepthwiseConv2D):
            with pytest.raises(ValueError, match="`padding`.*padding='valid'"):
                layer(kernel_size=3, filters=4, padding="valid")

    @pytest.mark.parametrize("channels, groups", [(4, 2), (6, 2), (6, 3), (16, 4)])
    @pytest.mark.parametrize("kernel_size", [1, 3])
    @pytest.mark.parametrize("strides", [1, 2])
    def test_groups(self, channels, groups, kernel_size, strides):
        conv = layers.Conv2D(12, kernel_size, strides, groups=groups)
        x = tf.constant(features((2, 8, 8, channels)))
        conv.build(x.shape)
        with tf.GradientTape() as tape:
            y = conv(x)
        gradient = tape.gradient(y, conv.kernel.value)
        parts = zip(tf.split(x, groups, -1), tf.split(conv.kernel.value, groups, -1))
        pad = (kernel_size - 1) // 2
        paddings = [(0, 0), (pad, pad), (pad, pad), (0, 0)]
        expected = [
            tf.nn.conv2d(tf.pad(part, paddings), kernel, strides, "VALID")
            for part, kernel in parts
        ]
        np.testing.assert_allclose(y, tf.concat(expected, -1), atol=1e-5)
        assert gradient.shape == conv.kernel.shape

    def test_folded_normalization(self):
        rng = np.random.default_rng(0)
        scale, offset = rng.normal(size=(2, 6)).astype("float32")
        x = features((2, 8, 8, 3))
        for conv in (
            layers.Conv2D(6, 3, use_bias=True, bias_initializer="random_normal"),
            layers.Conv2D(6, 1, 2, use_bias=True, bias_initializer="random_normal"),
            layers.DepthwiseConv2D(3, depth_multiplier=2),
        ):
            np.testing.assert_allclose(
                conv(x, scale=scale, offset=offset),
                scale * np.array(conv(x)) + offset,
                atol=1e-4,
            )


class TestResizing:
    @pytest.mark.parametrize("size", [(32, 32), (32, 24), (15, 40)])
    @pytest.mark.parametrize("new_size", [24, 15, (48, 20), (16, 32), (1, 50)])
    def test_antialiased_bilinear(self, size, new_size):
        x = features((2, *size, 3))
        pair = (new_size,) * 2 if isinstance(new_size, int) else new_size
        expected = tf.image.resize(x, pair, antialias=True)
        y = layers.resize_bilinear(x, new_size)
        assert y.shape == (2, *pair, 3)
        np.testing.assert_allclose(y, expected, atol=1e-4)

    def test_bilinear_has_a_gradient(self):
        x = tf.constant(features((1, 9, 6, 2)))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(layers.resize_bilinear(x, (18, 3)))
        # Enlarged twice, and halved: each pixel counts for one in sum.
        np.testing.assert_allclose(tf.reduce_sum(tape.gradient(y, x)), 2 * 18 * 3)

    def test_bad_arguments(self):
        x = features()
        for new_size in (0, (8, 0), (8, 8, 8), 8.5):
            with pytest.raises(ValueError, match="`new_size` must be"):
                layers.resize_bilinear(x, new_size)
        with pytest.raises(ValueError, match="`images` must have a known height"):
            layers.resize_bilinear(keras.KerasTensor((None, None, 8, 3)), 4)

    @pytest.mark.parametrize("size", [(7, 9), (8, 5), (1, 6)])
    @pytest.mark.parametrize("new_size", [(15, 4), (3, 17), (1, 1), (8, 1)])
    def test_corners_of_pytorch(self, size, new_size):
        torch = pytest.importorskip("torch")
        x = features((2, *size, 3))
        expected = torch.nn.functional.interpolate(
            torch.tensor(x).permute(0, 3, 1, 2),
            new_size,
            mode="bilinear",
            align_corners=True,
        ).permute(0, 2, 3, 1)
        y = layers.resize_to_corners(x, new_size)
        np.testing.assert_allclose(y, expected, atol=2e-6)
        matrices = resize._resize(tf.constant(x), new_size, resize._corner_matrix)
        np.testing.assert_allclose(matrices, expected, atol=2e-6)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
    def test_dtypes(self, dtype):
        x = features((2, 7, 9, 3))
        for function in (layers.resize_to_corners, layers.resize_bilinear):
            expected = function(x, (13, 4))
            y = function(tf.cast(x, dtype), (13, 4))
            assert y.dtype == dtype
            y = tf.cast(y, "float32")
            tolerance = 1e-5 if dtype == "float64" else 0.1
            np.testing.assert_allclose(y, expected, atol=tolerance)

    def test_corners_of_an_unknown_size(self):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
        def resized(x):
            height, width = resize.spatial_size(x)
            return layers.resize_to_corners(x, (2 * height - 1, 5)), width

        x = features((2, 4, 7, 3))
        y, width = resized(x)
        np.testing.assert_allclose(y, layers.resize_to_corners(x, (7, 5)), atol=1e-5)
        assert int(width) == 7


class TestPreprocessing:
    def test_modes(self):
        x = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), "uint8")
        unit = x.astype("float32") / 255
        mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        for mode, expected in (
            ("unit", unit),
            ("imagenet", (unit - mean) / deviation),
            (None, x.astype("float32")),
        ):
            np.testing.assert_allclose(
                layers.Preprocessing(mode)(x), expected, rtol=1e-5, atol=1e-6
            )

    @pytest.mark.parametrize("mode", ["unit", "imagenet", None])
    @pytest.mark.parametrize("channels", [1, 2, 4])
    def test_images_must_be_rgb(self, mode, channels):
        x = np.zeros((2, 4, 4, channels), "float32")
        with pytest.raises(ValueError, match="`images` must have 3 channels"):
            layers.Preprocessing(mode)(x)
        with pytest.raises(ValueError, match="`images` must have 3 channels"):
            layers.Preprocessing(mode)(keras.KerasTensor(x.shape))

    def test_unknown_mode(self):
        with pytest.raises(ValueError, match="`preprocessing`.*'torch'"):
            layers.Preprocessing("torch")


def test_padded_max_pooling():
    x = np.random.default_rng(0).uniform(0, 1, (2, 7, 8, 3)).astype("float32")
    pool = layers.PaddedMaxPooling2D()
    padded = np.pad(x, [(0, 0), (1, 1), (1, 2), (0, 0)])
    expected = np.stack(
        [
            np.stack(
                [
                    padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
                    for j in range(4)
                ],
                axis=1,
            )
            for i in range(4)
        ],
        axis=1,
    )
    np.testing.assert_array_equal(pool(x), expected)
    spec = pool(keras.KerasTensor((None, 7, 8, 3)))
    assert tuple(spec.shape) == (None, 4, 4, 3)
    assert isinstance(
        layers.PaddedMaxPooling2D.from_config(pool.get_config()),
        layers.PaddedMaxPooling2D,
    )
