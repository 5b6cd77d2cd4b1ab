import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resadapt import layers


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

    @pytest.mark.parametrize("resolutions", [(), (32, 32), (0,), (-4, 8), (8.5,)])
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


@pytest.mark.parametrize("new_size", [24, 16, 15, 48])
def test_resizing_is_antialiased_bilinear(new_size):
    x = features((2, 32, 32, 3))
    expected = tf.image.resize(x, (new_size, new_size), antialias=True)
    np.testing.assert_allclose(layers.resize_bilinear(x, new_size), expected, atol=1e-4)


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
