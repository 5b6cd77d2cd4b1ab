import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomize

import keras_resadapt
from keras_resadapt import OperatingPoint, backbones, layers, losses
from keras_resadapt.profile import profile_point

EXITS = [OperatingPoint(exit=k) for k in range(2)]


def make_msnet(num_classes=5, resolutions=(32, 16), **kwargs):
    """An MSNet on a ResNet of two blocks."""
    arguments = dict(depths=(1, 1), filters=(8, 16), stem="small")
    return keras_resadapt.MSResNet18(
        num_classes, resolutions, **{**arguments, **kwargs}
    )


def make_other(kind, **kwargs):
    """An MSNet on a small MobileNet or DenseNet."""
    backbone = {
        "mobilenet": lambda: backbones.MobileNetV1(
            (1, 2), (16, 32), alpha=0.5, stem="small"
        ),
        "densenet": lambda: backbones.DenseNet((1, 2), 8, stem="small"),
    }[kind]()
    return keras_resadapt.MSNet(backbone, 5, **kwargs)


@pytest.fixture
def msnet():
    keras.utils.set_random_seed(1)
    return randomize(make_msnet())


@pytest.fixture
def images(batch):
    return batch[0]


def features(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, height, width, 3)).astype("float32")


def repeated(low, scale=2):
    return np.kron(low, np.ones((1, scale, scale, 1), "float32"))


class TestHighFrequencyResidual:
    @pytest.mark.parametrize("scale", [1, 2, 3])
    def test_nearest(self, scale):
        low = features(4, 3)
        high = features(4 * scale, 3 * scale, seed=1)
        outputs = layers.HighFrequencyResidual(scale)(high, low)
        np.testing.assert_allclose(outputs, high + repeated(low, scale))

    def test_what_is_too_large_is_cropped(self):
        high, low = features(5, 3, seed=1), features(3, 2)
        outputs = layers.HighFrequencyResidual()(high, low)
        expected = high + repeated(low)[:, :5, :3]
        np.testing.assert_allclose(outputs, expected)

    def test_what_is_too_small_gets_zeros(self):
        high, low = features(7, 5, seed=1), features(3, 3)  # 6 x 6 upsampled
        outputs = layers.HighFrequencyResidual()(high, low)
        expected = high.copy()
        expected[:, :6] += repeated(low)[:, :, :5]
        np.testing.assert_allclose(outputs, expected)

    def test_bilinear(self):
        high, low = features(8, 8, seed=1), features(4, 4)
        layer = layers.HighFrequencyResidual(upsampling="bilinear")
        expected = high + tf.image.resize(low, (8, 8))
        np.testing.assert_allclose(layer(high, low), expected, atol=1e-6)
        cropped = layer(high[:, :7, :7], low)
        np.testing.assert_allclose(cropped, expected[:, :7, :7], atol=1e-6)

    def test_config(self):
        layer = layers.HighFrequencyResidual(3, "bilinear")
        copy = layers.HighFrequencyResidual.from_config(layer.get_config())
        assert (copy.scale, copy.upsampling) == (3, "bilinear")

    @pytest.mark.parametrize("scale", [0, 1.5])
    def test_scale_must_be_a_positive_integer(self, scale):
        with pytest.raises(ValueError, match=f"positive integer.*{scale}"):
            layers.HighFrequencyResidual(scale)


class TestBackbones:
    @pytest.mark.slow
    def test_densenet_is_that_of_keras(self):
        theirs = keras.applications.DenseNet121(
            include_top=False, weights=None, input_shape=(32, 32, 3)
        )
        ours = backbones.DenseNet()
        x = features(32, 32)
        assert ours(x, point=OperatingPoint()).shape == (2, 1, 1, 1024)
        copy_weights(theirs, ours)
        np.testing.assert_allclose(
            ours(x, point=OperatingPoint()), theirs(x), atol=1e-4
        )

    def test_mobilenet_is_that_of_keras_turned_around(self):
        # Keras pads strided layers at the bottom and on the right alone: what
        # ours does with pictures and kernels rotated by 180 degrees.
        theirs = keras.applications.MobileNet(
            input_shape=(32, 32, 3), alpha=0.25, include_top=False, weights=None
        )
        ours = backbones.MobileNetV1(alpha=0.25)
        x = features(32, 32)
        assert ours(x, point=OperatingPoint()).shape == (2, 1, 1, 256)
        copy_weights(theirs, ours)
        for v in ours.variables:
            if v.path.endswith("kernel"):
                v.assign(v[::-1, ::-1])
        expected = theirs(x)
        assert 0 < np.max(expected) < 6  # theirs has ReLU6
        np.testing.assert_allclose(
            ours(x[:, ::-1, ::-1], point=OperatingPoint()), expected, atol=1e-5
        )

    @pytest.mark.parametrize(
        "backbone",
        [
            backbones.MobileNetV1((1, 2), (16, 24), 0.5, "small"),
            backbones.DenseNet((1, 2), 8, 2, 0.4, "small"),
        ],
    )
    def test_config_and_stride(self, backbone):
        config = keras.saving.serialize_keras_object(backbone)
        copy = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
        assert copy.get_config() == backbone.get_config()
        x, sizes = features(8, 8), []
        for i in range(len(copy.stages)):
            x = copy.run_stage(i, x, OperatingPoint())
            sizes.append(x.shape[1])
        assert sizes == [8, 8, 4]
        assert copy.stride == 2

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"alpha": 0}, "`alpha` must be positive.*alpha=0"),
            ({"stem": "large"}, "'imagenet' or 'small'.*'large'"),
            ({"depths": (1, 2)}, "one positive entry per stage.*depths"),
        ],
    )
    def test_mobilenet_says_what_is_wrong(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            backbones.MobileNetV1(**arguments)

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"depths": (0,)}, "positive entry per dense block.*0"),
            ({"growth_rate": 0}, "`growth_rate` must be a positive.*0"),
            ({"bottleneck_factor": 1.5}, "`bottleneck_factor`.*1.5"),
            ({"compression": 0}, r"`compression` must be in \(0, 1\].*0"),
            ({"stem": "large"}, "'imagenet' or 'small'.*'large'"),
        ],
    )
    def test_densenet_says_what_is_wrong(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            backbones.DenseNet(**arguments)


def copy_weights(theirs, ours):
    """Copies a network of keras.applications, of other BatchNormalizations,
    into one of ours."""
    rng = np.random.default_rng(0)
    pairs = [(layer, v) for layer in theirs.layers for v in layer.weights]
    assert len(pairs) == len(ours.variables)
    for (layer, source), target in zip(pairs, ours.variables):
        assert source.path.split("/")[-1] == target.path.split("/")[-1]
        if not source.path.endswith("kernel"):
            source.assign(source + rng.normal(0, 0.1, source.shape))
        if source.path.endswith("moving_variance"):
            source.assign(np.abs(source))
            target.assign(source + layer.epsilon - 1e-5)
        else:
            target.assign(source)


class TestForward:
    def test_the_networks_are_equations_1_and_2(self, msnet, images):
        point = OperatingPoint()
        low = msnet.preprocessing(layers.resize_bilinear(images, 16))
        high = msnet.preprocessing(images)
        for i in range(3):
            low = msnet.low.backbone.run_stage(i, low, point)
            high = msnet.high.backbone.run_stage(i, high, point)
            high = high + repeated(low.numpy())
        logits = msnet(images)
        for exit, x in enumerate((low, high)):
            x = msnet.classifiers[exit](np.mean(x, axis=(1, 2)))
            np.testing.assert_allclose(logits[f"exit{exit}"], x, atol=1e-5)

    @pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
    def test_static_exits_and_rows_give_the_same_logits(self, images, upsampling):
        model = randomize(make_msnet(upsampling=upsampling))
        logits = model(images)
        assert list(logits) == ["exit0", "exit1"]
        for point in EXITS:
            np.testing.assert_allclose(
                model.logits(images, point), logits[point.name], atol=1e-5
            )
        first, state = model.advance(model.start(images))
        np.testing.assert_allclose(first, logits["exit0"], atol=1e-5)
        rows = np.array([6, 1, 2])
        second, state = model.advance(state.take(rows))
        np.testing.assert_allclose(second, np.array(logits["exit1"])[rows], atol=1e-5)
        with pytest.raises(ValueError, match="after the last exit"):
            model.advance(state)

    def test_nothing_is_computed_twice_or_in_vain(self, msnet, images):
        def count(run, exit=None):
            """Convolutions of L and H, and classifiers, that are called."""
            calls = []

            class Noting(OperatingPoint):
                def call(self, layer, inputs, **kwargs):
                    if isinstance(layer, (layers.Conv2D, keras.layers.Dense)):
                        calls.append(layer.path)
                    return super().call(layer, inputs, **kwargs)

            run(Noting(exit=exit))
            assert len(calls) == len(set(calls))
            return [
                sum(part in path for path in calls)
                for part in ("/low/", "/high/", "classifier0", "classifier1")
            ]

        def logits(point):
            return msnet.logits(images, point)

        def advance_twice(point):
            msnet.advance(msnet.advance(msnet.start(images, point))[1])

        assert count(logits, exit=0) == [6, 0, 1, 0]
        assert count(logits, exit=1) == [6, 6, 0, 1]
        assert count(logits) == [6, 6, 1, 1]
        assert count(advance_twice) == [6, 6, 1, 1]

    def test_uint8_images(self, msnet, images):
        images = images.astype("uint8")
        wanted = msnet(images.astype("float32"))
        for name, logits in msnet(images).items():
            np.testing.assert_allclose(logits, wanted[name], rtol=1e-5)

    @pytest.mark.parametrize(
        "kind, resolutions",
        [("mobilenet", (16, 8)), ("densenet", (14, 7)), ("densenet", (15, 5))],
    )
    def test_other_backbones(self, kind, resolutions):
        model = make_other(kind, resolutions=resolutions)
        size = model.resolution + 1  # downsampled by the same factor
        logits = model(features(size, size))
        assert [z.shape for z in logits.values()] == [(2, 5), (2, 5)]
        assert np.isfinite(list(logits.values())).all()

    def test_mixed_precision(self, images):
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = make_msnet()
        finally:
            keras.config.set_dtype_policy("float32")
        exact = make_msnet()
        exact.set_weights(model.get_weights())
        for name, logits in model(images).items():
            assert logits.dtype == "float32"
            np.testing.assert_allclose(logits, exact(images)[name], atol=0.1)


class TestCost:
    @pytest.mark.slow
    def test_resnet18(self):
        rows = keras_resadapt.MSResNet18().profile()
        assert [row.madds for row in rows] == [592_695_296, 2_961_940_480]
        # Without the first classifier
        assert rows[1].standalone_madds == rows[1].madds - 512_000
        assert [row.params for row in rows] == [11_689_512, 2 * 11_689_512]

    def test_mobilenet(self):
        rows = keras_resadapt.MSMobileNet().profile()
        assert [row.madds for row in rows] == [186_400_768, 928_931_840]
        assert rows[0].params == 4_231_976

    @pytest.mark.parametrize(
        "alpha, resolution, millions",  # table 2
        [(1.0, 224, 569), (0.75, 256, 425), (0.5, 256, 195), (0.25, 256, 54)],
    )
    def test_narrow_mobilenets(self, alpha, resolution, millions):
        backbone = backbones.MobileNetV1(alpha=alpha)
        row = profile_backbone(backbone, resolution)
        madds = row.madds + round(1024 * alpha) * 1000
        assert madds == pytest.approx(millions * 1e6, rel=0.01)

    def test_densenet121(self):
        backbone = backbones.DenseNet()
        low, high = (profile_backbone(backbone, size) for size in (112, 224))
        classifier = 1024 * 1000
        assert low.madds + classifier == 702_386_176
        assert high.madds + classifier == 2_834_161_664  # 2.8B in table 3
        assert high.params + classifier + 1000 == 7_978_856

    @pytest.mark.parametrize("kind", ["mobilenet", "densenet"])
    def test_all_parameters_are_variables(self, kind):
        model = make_other(kind, resolutions=(16, 8))
        sizes = [np.prod(v.shape) for v in model.trainable_variables]
        assert sum(sizes) == model.profile()[1].params


def profile_backbone(backbone, resolution):
    return profile_point(
        lambda x, point: backbone(x, point=point),
        (resolution, resolution, 3),
        OperatingPoint(),
    )


class TestTraining:
    def test_which_variables_each_exit_moves(self, msnet, batch):
        images, labels = batch
        with tf.GradientTape(persistent=True) as tape:
            terms = msnet.loss_terms(labels, msnet(images, training=True))
        first, second = msnet.classifiers
        for term, parts in (
            (terms["exit0"], [msnet.low, first]),
            (terms["exit1"], [msnet.low, msnet.high, second]),
        ):
            paths = {
                v.path
                for v in msnet.trainable_variables
                if tape.gradient(term, v.value) is not None
            }
            assert paths == {v.path for part in parts for v in part.trainable_variables}
        names = {v.path for v in msnet.variables}
        assert len(names) == len(msnet.variables)

    def test_call_alone_passes_training_on(self, msnet, images):
        # As JAX calls it, without the layers' `__call__` around it
        statistics = [v for v in msnet.non_trainable_variables if "moving" in v.path]
        before = [v.numpy() for v in statistics]
        assert len(before) == 2 * 2 * 6
        msnet.call(images, training=True)
        for v, old in zip(statistics, before):
            assert not np.allclose(v, old)

    @pytest.mark.slow
    def test_fit_evaluate_predict(self, msnet, batch):
        images, labels = batch
        msnet.compile(keras.optimizers.SGD(0.05), metrics=["accuracy"])
        history = msnet.fit(images, labels, epochs=6, verbose=0).history
        assert history["loss"][-1] < history["loss"][0]
        logs = msnet.evaluate(images, labels, verbose=0, return_dict=True)
        assert {"loss", "exit0_accuracy", "exit1_accuracy"} <= set(logs)
        logits = msnet.predict(images, verbose=0)
        expected = sum(losses.CrossEntropy()(labels, z) for z in logits.values())
        np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)


class TestConfig:
    def test_a_saved_model_gives_the_same_logits(self, msnet, images, tmp_path):
        msnet.save(tmp_path / "model.keras")
        copy = keras.saving.load_model(tmp_path / "model.keras")
        assert copy.get_config() == msnet.get_config()
        msnet.save_weights(tmp_path / "model.weights.h5")
        for other in (
            copy,
            make_msnet(weights=str(tmp_path / "model.weights.h5")),
        ):
            for name, logits in msnet(images).items():
                np.testing.assert_allclose(other(images)[name], logits)

    def test_config_of_every_argument(self):
        model = make_msnet(
            preprocessing="unit",
            upsampling="bilinear",
            resolutions=[16, 32],
            gradient_equilibrium=True,
        )
        config = json.loads(json.dumps(model.get_config()))
        copy = keras_resadapt.MSNet.from_config(config)
        assert copy.get_config() == model.get_config()
        assert copy.resolutions == (32, 16)
        assert copy.high.residual.upsampling == "bilinear"
        assert copy.gradient_equilibrium

    def test_named_networks_pass_their_arguments_on(self):
        model = keras_resadapt.MSMobileNet(
            5, (64, 32), alpha=0.125, upsampling="bilinear"
        )
        assert model.low.backbone.alpha == 0.125
        model = keras_resadapt.MSDenseNet121(
            5, (16, 8), depths=(1, 1), growth_rate=8, stem="small", name="small"
        )
        assert model.name == "small"
        assert model.low.backbone.depths == (1, 1)

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"resolutions": (32,)}, "`resolutions` must be two.*32"),
            ({"resolutions": (32, 16, 8)}, "`resolutions` must be two"),
            ({"resolutions": (32, 24)}, "multiple of the smaller.*24"),
            ({"resolutions": (2, 1)}, "at least 2 pixels.*2, 1"),
            ({"num_classes": 0}, "`num_classes` must be an integer of at least 2.*0"),
            ({"upsampling": "cubic"}, "'nearest', 'bilinear'.*'cubic'"),
            ({"preprocessing": "none"}, "`preprocessing` must be one of"),
            ({"weights": "model.pth"}, "`.weights.h5` file.*model.pth"),
        ],
    )
    def test_says_what_is_wrong(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            make_msnet(**arguments)

    @pytest.mark.parametrize("shape", [(2, 32, 16, 3), (2, 2, 2, 3)])
    def test_images_it_cannot_take(self, msnet, shape):
        with pytest.raises(ValueError, match="square and at least 4 pixels"):
            msnet(np.zeros(shape, "float32"))
