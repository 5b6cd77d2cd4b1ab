import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import RESOLUTIONS, make_tiny, randomize

import keras_resadapt
from keras_resadapt import OperatingPoint, layers, losses, training


def pyramid(images):
    return tuple(layers.resize_bilinear(images, r) for r in RESOLUTIONS)


class TestForward:
    def test_operating_points_have_the_largest_first(self):
        model = make_tiny(resolutions=list(np.array([16, 32, 24])))
        json.dumps(model.get_config())
        assert [p.name for p in model.operating_points] == ["r32", "r24", "r16"]

    def test_a_call_is_one_pass_at_the_images_resolution(self, tiny, batch):
        for point, images in zip(tiny.operating_points, pyramid(batch[0])):
            calls = []

            class Counting(OperatingPoint):
                def call(self, layer, inputs, **kwargs):
                    if layer.weights:
                        calls.append(id(layer))
                    return super().call(layer, inputs, **kwargs)

            tiny(images, point=Counting(resolution=point.resolution))
            # 6 convolutions, which take over a BatchNormalization each, and
            # the classifier
            assert len(calls) == len(set(calls)) == 7
            np.testing.assert_allclose(
                tiny(images), tiny.logits(images, point), rtol=1e-5
            )

    def test_a_tuple_gives_every_point_and_the_ensemble(self, tiny, batch):
        images = pyramid(batch[0])
        outputs = tiny(images)
        assert list(outputs) == ["r32", "r24", "r16", "ensemble"]
        for point, x in zip(tiny.operating_points, images):
            np.testing.assert_allclose(
                outputs[point.name], tiny.logits(x, point), rtol=1e-5
            )
        expected = sum(
            w * outputs[p.name].numpy()
            for w, p in zip(tiny.ensemble_weights, tiny.operating_points)
        )
        np.testing.assert_allclose(outputs["ensemble"], expected, rtol=1e-4)

    def test_ensemble_weights_are_the_softmax_of_alpha(self, tiny):
        alpha = tiny.alpha.numpy()
        np.testing.assert_allclose(
            tiny.ensemble_weights,
            np.exp(alpha) / np.exp(alpha).sum(),
            rtol=1e-5,
        )
        np.testing.assert_allclose(make_tiny().ensemble_weights, [1 / 3] * 3)

    def test_between_trained_resolutions(self, tiny, batch):
        images = layers.resize_bilinear(batch[0], 20)
        logits = tiny(images)
        point = OperatingPoint(resolution=20)
        np.testing.assert_allclose(logits, tiny.logits(images, point))
        assert np.isfinite(logits).all()

    def test_outside_the_trained_range(self, batch):
        images = layers.resize_bilinear(batch[0], 40)
        with pytest.raises(ValueError, match="from 16 to 32.*resolution=40"):
            make_tiny()(images)
        assert make_tiny(extrapolate=True)(images).shape == (8, 5)

    def test_predict_at_one_resolution_after_the_other(self, tiny, batch):
        for resolution in (32, 16, 24, 16):
            images = np.array(layers.resize_bilinear(batch[0], resolution))
            logits = tiny.predict(images, batch_size=5, verbose=0)
            np.testing.assert_allclose(logits, tiny(images), atol=1e-5)

    def test_uint8_images(self, tiny, batch):
        images = batch[0].astype("uint8")
        np.testing.assert_allclose(
            tiny(images), tiny(images.astype("float32")), rtol=1e-5
        )

    def test_profile(self, tiny):
        first, *_, last = tiny.profile()
        # 3x3 stem, block of two 3x3, block of two 3x3 and a 1x1, classifier
        expected = (
            32 * 32 * (27 * 8 + 2 * 72 * 8)
            + 16 * 16 * (72 * 16 + 144 * 16 + 8 * 16)
            + 16 * 5
        )
        assert first.madds == expected
        assert first.point == tiny.operating_points[0]
        assert last.madds == (expected - 80) // 4 + 80
        trainable = sum(np.prod(v.shape) for v in tiny.trainable_variables)
        norms = 2 * (3 * 8 + 3 * 16)
        assert first.params == trainable - 2 * norms - 3  # alpha


class TestLoss:
    @pytest.mark.parametrize("distillation", losses.DISTILLATIONS)
    def test_the_loss_is_equation_9(self, batch, distillation):
        model = randomize(make_tiny(distillation=distillation))
        images, labels = pyramid(batch[0]), batch[1]
        logits = model(images)
        terms = model.loss_terms(labels, logits)
        entropy = losses.CrossEntropy()
        points = [logits[p.name] for p in model.operating_points]
        np.testing.assert_allclose(
            terms["classification"], sum(entropy(labels, z) for z in points)
        )
        np.testing.assert_allclose(
            terms["ensemble"], entropy(labels, logits["ensemble"])
        )
        if distillation == "none":
            assert "distillation" not in terms
        else:
            np.testing.assert_allclose(
                terms["distillation"],
                losses.distillation_loss(points, logits["ensemble"], distillation),
            )
        np.testing.assert_allclose(
            model.compute_loss(y=labels, y_pred=logits),
            sum(terms.values()),
            rtol=1e-6,
        )

    def test_which_variables_each_term_moves(self, tiny, batch):
        images, labels = pyramid(batch[0]), batch[1]
        with tf.GradientTape(persistent=True) as tape:
            terms = tiny.loss_terms(labels, tiny(images, training=True))
        moved = {
            name: {
                v.path
                for v in tiny.trainable_variables
                if tape.gradient(term, v.value) is not None
            }
            for name, term in terms.items()
        }
        everything = {v.path for v in tiny.trainable_variables}
        alpha = {v.path for v in tiny.trainable_variables if "alpha" in v.path}
        assert len(alpha) == 1
        assert moved["ensemble"] == alpha
        assert moved["classification"] == everything - alpha
        assert moved["distillation"] == everything - alpha

    def test_one_resolution_is_an_ordinary_network(self, batch):
        model = make_tiny(resolutions=32)
        images, labels = batch
        model.compile(metrics=["accuracy"])
        logs = model.evaluate(images, labels, verbose=0, return_dict=True)
        assert set(logs) == {"loss", "accuracy", "r32_accuracy"}
        np.testing.assert_allclose(
            logs["loss"],
            losses.CrossEntropy()(labels, model(images)),
            rtol=1e-5,
        )
        assert not any("alpha" in v.path for v in model.variables)
        np.testing.assert_array_equal(model.ensemble_weights, [1])


class TestFit:
    def test_one_metric_a_point(self, tiny, batch):
        images, labels = batch
        tiny.compile(
            training.SGD(0.05),
            metrics=[
                "accuracy",
                keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2"),
            ],
        )
        history = tiny.fit(
            images,
            labels,
            epochs=2,
            batch_size=4,
            verbose=0,
            validation_data=batch,
        ).history
        names = ["r32", "r24", "r16", "ensemble"]
        metrics = {f"{n}_{m}" for n in names for m in ("accuracy", "top2")}
        # The headline point, the largest, also under the plain name
        expected = metrics | {"loss", "accuracy", "top2"}
        assert set(history) == expected | {f"val_{name}" for name in expected}

        logs = tiny.evaluate(images, labels, verbose=0, return_dict=True)
        outputs = tiny(pyramid(images))
        for name in names:
            z = outputs[name].numpy()
            np.testing.assert_allclose(
                logs[f"{name}_accuracy"], (z.argmax(-1) == labels).mean()
            )
            top2 = (np.argsort(z)[:, -2:] == labels[:, None]).any(1).mean()
            np.testing.assert_allclose(logs[f"{name}_top2"], top2)

    def test_a_tuple_of_images_is_the_same_as_the_largest(self, tiny, batch):
        images, labels = batch
        tiny.compile()
        made = [np.array(x) for x in pyramid(images)]
        given = tf.data.Dataset.from_tensors((tuple(made), labels))
        np.testing.assert_allclose(
            tiny.evaluate(given, verbose=0),
            tiny.evaluate(images, labels, verbose=0),
            rtol=1e-5,
        )

    def test_training_learns(self, batch):
        keras.utils.set_random_seed(0)
        model = make_tiny()
        model.compile(training.SGD(0.05))
        history = model.fit(*batch, epochs=40, verbose=0).history["loss"]
        assert history[-1] < 0.5 * history[0]

    def test_soft_labels_and_sample_weights(self, tiny, batch):
        images, labels = batch
        weights = np.array([1, 0] * 4, "float32")
        tiny.compile()
        soft = np.eye(5, dtype="float32")[labels]
        np.testing.assert_allclose(
            tiny.evaluate(images, soft, sample_weight=weights, verbose=0),
            tiny.evaluate(images[::2], labels[::2], verbose=0) / 2,
            rtol=1e-4,
        )

    def test_gradient_accumulation(self, batch):
        model = make_tiny()
        model.compile(training.SGD(0.1, gradient_accumulation_steps=2))
        kernel = model.head.classifier.kernel
        before = kernel.numpy()
        model.train_on_batch(*batch)
        np.testing.assert_array_equal(kernel, before)
        model.train_on_batch(*batch)
        assert np.abs(kernel - before).max() > 0

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
    @pytest.mark.slow
    def test_mixed_precision(self, tiny, batch, policy):
        weights = tiny.get_weights()
        expected = tiny(batch[0])
        keras.config.set_dtype_policy(policy)
        try:
            model = make_tiny()
        finally:
            keras.config.set_dtype_policy("float32")
        model.set_weights(weights)
        logits = model(batch[0])
        assert logits.dtype == "float32"
        np.testing.assert_allclose(logits, expected, atol=0.1)
        assert model.backbone.stages[0][0].conv1.compute_dtype == policy[6:]
        assert model.alpha.dtype == "float32"
        losses = []
        for network in (model, tiny):
            network.compile(training.SGD(0.01), run_eagerly=True)
            losses.append(network.train_on_batch(*batch))
        np.testing.assert_allclose(*losses, rtol=0.02)

    @pytest.mark.slow
    def test_xla_gives_the_same_step(self, batch):
        losses = []
        for mode in ({"jit_compile": True}, {"run_eagerly": True}):
            keras.utils.set_random_seed(1)
            model = randomize(make_tiny(resolutions=(32, 16)))
            model.compile(training.SGD(0.01), **mode)
            assert model.jit_compile == ("jit_compile" in mode)
            losses.append(model.train_on_batch(*batch))
        np.testing.assert_allclose(*losses, rtol=1e-4)

    @pytest.mark.slow
    def test_callbacks_class_weights_and_steps_per_execution(
        self, tiny, batch, tmp_path
    ):
        path = str(tmp_path / "best.keras")
        tiny.compile("adam", metrics=["accuracy"], steps_per_execution=2)
        tiny.fit(
            *batch,
            batch_size=2,
            epochs=2,
            validation_split=0.25,
            verbose=0,
            class_weight={i: 1.0 for i in range(5)},
            callbacks=[
                keras.callbacks.EarlyStopping("val_r16_accuracy", mode="max"),
                keras.callbacks.ModelCheckpoint(path, save_best_only=True),
            ],
        )
        assert "loss" in keras.saving.load_model(path).evaluate(
            *batch, verbose=0, return_dict=True
        )

    def test_frozen_backbone(self, tiny, batch):
        tiny.backbone.trainable = False
        tiny.compile(training.SGD(0.1), run_eagerly=True)
        before = [v.numpy() for v in tiny.backbone.variables]
        tiny.train_on_batch(*batch)
        for value, variable in zip(before, tiny.backbone.variables):
            np.testing.assert_array_equal(value, variable)

    def test_auto_does_not_compile_on_a_cpu(self, tiny):
        tiny.compile()
        on_cpu = not tf.config.list_logical_devices("GPU")
        assert tiny.jit_compile == (not on_cpu)


class TestSaving:
    @pytest.mark.slow
    def test_save_and_load(self, tiny, batch, tmp_path):
        tiny.compile(
            training.SGD(0.05, weight_decay=1e-3),
            loss=losses.CrossEntropy(0.1),
            metrics=["accuracy"],
            run_eagerly=True,
        )
        tiny.fit(*batch, verbose=0)
        tiny.save(tmp_path / "model.keras")
        copy = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(copy(batch[0]), tiny(batch[0]), atol=1e-6)
        assert copy.get_config() == tiny.get_config()
        assert copy.task_loss.label_smoothing == 0.1
        for model in (tiny, copy):  # goes on alike, momentum included
            keras.utils.set_random_seed(0)
            model.fit(*batch, verbose=0, shuffle=False)
        for a, b in zip(tiny.get_weights(), copy.get_weights()):
            np.testing.assert_allclose(a, b, atol=1e-6)

    def test_config_round_trip_and_clone(self, batch):
        model = make_tiny(
            distillation="vanilla", preprocessing="unit", extrapolate=True
        )
        for copy in (
            keras_resadapt.RSNet.from_config(model.get_config()),
            keras.models.clone_model(model),
        ):
            assert copy.get_config() == model.get_config()
            copy.set_weights(model.get_weights())
            np.testing.assert_allclose(copy(batch[0]), model(batch[0]))

    def test_weights_argument(self, tiny, batch, tmp_path):
        path = str(tmp_path / "tiny.weights.h5")
        tiny.save_weights(path)
        copy = make_tiny(weights=path)
        np.testing.assert_allclose(copy(batch[0]), tiny(batch[0]))
        with pytest.raises(ValueError, match="`weights`.*net.pth"):
            make_tiny(weights="net.pth")


class TestBadInput:
    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"resolutions": ()}, "`resolutions`"),
            ({"resolutions": (32, 32, 16)}, "`resolutions` must not repeat"),
            ({"resolutions": (32, -8)}, "`resolutions`.*-8"),
            ({"resolutions": (32, 1)}, "at least 2 pixels"),
            ({"distillation": "all"}, "`distillation`.*'all'"),
            ({"preprocessing": "caffe"}, "`preprocessing`.*'caffe'"),
            ({"num_classes": 0}, "`num_classes`.*0"),
        ],
    )
    def test_constructor(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            make_tiny(**arguments)

    @pytest.mark.parametrize("shape", [(32, 32, 3), (1, 32, 24, 3)])
    def test_images_of_an_unknown_size_or_rank(self, tiny, shape):
        with pytest.raises(ValueError, match="shape"):
            tiny(np.zeros(shape, "float32"))

    def test_images_of_unknown_size_in_a_graph(self, tiny):
        spec = tf.TensorSpec((None, None, None, 3))
        with pytest.raises(ValueError, match="known resolution"):
            tf.function(tiny).get_concrete_function(spec)

    def test_images_of_another_resolution_than_the_point(self, tiny, batch):
        point = OperatingPoint(resolution=16)
        with pytest.raises(ValueError, match="'r16'.*16 x 16.*32 x 32"):
            tiny.logits(batch[0], point)

    def test_training_images_must_have_the_largest_resolution(self, tiny, batch):
        tiny.compile()
        images = np.array(layers.resize_bilinear(batch[0], 24))
        with pytest.raises(ValueError, match="largest resolution, 32"):
            tiny.train_on_batch(images, batch[1])

    @pytest.mark.parametrize("label", [-1, 5])
    def test_labels_out_of_range(self, tiny, batch, label):
        labels = batch[1].copy()
        labels[3] = label
        tiny.compile()
        with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 to 4"):
            tiny.evaluate(batch[0], labels, verbose=0)

    def test_losses_of_probabilities_become_those_of_logits(self, tiny, batch):
        images, labels = batch
        expected = None
        for loss in (
            None,
            "sparse_categorical_crossentropy",
            keras.losses.sparse_categorical_crossentropy,
            keras.losses.SparseCategoricalCrossentropy(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ):
            tiny.compile(loss=loss)
            value = tiny.evaluate(images, labels, verbose=0)
            expected = value if expected is None else expected
            np.testing.assert_allclose(value, expected, rtol=1e-5)

    @pytest.mark.parametrize(
        "loss", ["hinge", keras.losses.hinge, lambda y, p: 0.0, 3.0]
    )
    def test_losses_that_cannot_be_taken(self, tiny, loss):
        with pytest.raises(ValueError, match="`loss`.*takes logits"):
            tiny.compile(loss=loss)
