"""RANet and MSDNet: the protocol, the losses, the errors."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny_cascade, randomize
from keras import ops

import keras_resadapt
from keras_resadapt import OperatingPoint, training
from keras_resadapt.models.cascade import scale_gradient


def make_tiny_msdnet(**kwargs):
    """Three exits; the finest of two scales is dropped before the last."""
    return keras_resadapt.MSDNet(
        5,
        num_blocks=3,
        base=2,
        step=1,
        channels=8,
        growth_rate=8,
        growth_factors=(1, 2),
        bottleneck_factors=(1, 2),
        **kwargs,
    )


FAMILIES = [make_tiny_cascade, make_tiny_msdnet]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    """A model for tests that leave it as it is."""
    keras.utils.set_random_seed(1)
    return randomize(request.param())


@pytest.fixture(params=FAMILIES)
def model_to_train(request):
    keras.utils.set_random_seed(1)
    return randomize(request.param())


# === The protocol ===


def test_one_exit_alone_gives_the_same_logits_for_less(model, batch):
    images, _ = batch
    everything = model(images)
    assert list(everything) == ["exit0", "exit1", "exit2"]
    rows = model.profile()
    assert [row.point for row in rows] == list(model.operating_points)
    for row in rows:
        np.testing.assert_allclose(
            model.logits(images, row.point),
            everything[row.point.name],
            atol=1e-5,
        )
    assert rows[0].madds < rows[1].madds < rows[2].madds
    for row in rows[1:]:
        assert row.standalone_madds < row.madds


def test_any_subset_of_images_can_go_on(model, batch):
    images, _ = batch
    expected = model(images)
    state = model.start(images)
    first, state = model.advance(state)
    np.testing.assert_allclose(first, expected["exit0"], atol=1e-5)
    state = state.take([6, 1])
    for x in keras.tree.flatten(state.features):
        assert x.shape[0] == 2
    _, state = model.advance(state)
    last, state = model.advance(state.take([1]))
    np.testing.assert_allclose(last, expected["exit2"][1:2], atol=1e-5)
    with pytest.raises(ValueError, match="after the last exit"):
        model.advance(state)


def test_a_state_belongs_to_its_model(tiny_cascade_to_read, batch):
    state = make_tiny_cascade().start(batch[0])
    with pytest.raises(ValueError, match="must come from this model"):
        tiny_cascade_to_read.advance(state)


def test_a_later_exit_does_not_classify_before(tiny_cascade, batch):
    called = []
    for k, classifier in enumerate(tiny_cascade.classifiers):
        call = classifier.call
        classifier.call = lambda *args, k=k, call=call, **kwargs: (
            called.append(k),
            call(*args, **kwargs),
        )[1]
    tiny_cascade.logits(batch[0], OperatingPoint(exit=1))
    assert called == [1]


def test_lazy_evaluation_leaves_out_the_fine_scales(batch):
    model = make_tiny_msdnet()
    sizes = []
    layer = model.blocks[0][-1]
    call = layer.call

    def counting_call(*args, **kwargs):
        outputs = call(*args, **kwargs)
        sizes.append(len(outputs))
        return outputs

    layer.call = counting_call
    model.logits(batch[0], OperatingPoint(exit=0))  # its last layer
    model.logits(batch[0], OperatingPoint(exit=1))
    model(batch[0])
    assert sizes == [1, 2, 2]


@pytest.mark.parametrize("size", [33, 47, 64])
def test_other_sizes(model, size):
    images = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3))
    logits = model(images.astype("float32"))
    assert logits["exit2"].shape == (2, 5)
    assert (
        model.profile([OperatingPoint(exit=0)], resolution=size)[0].madds
        > model.profile([OperatingPoint(exit=0)])[0].madds
    )


def test_too_small_images_and_missing_exits(model):
    with pytest.raises(ValueError, match="at least 9 pixels"):
        model(np.zeros((1, 8, 8, 3), "float32"))
    with pytest.raises(ValueError, match="from 0 to 2"):
        model.logits(np.zeros((1, 32, 32, 3), "float32"), OperatingPoint(exit=3))


# === Keras ===


@pytest.mark.slow
def test_save_and_load(model_to_train, batch, tmp_path):
    model = model_to_train
    images, labels = batch
    model.compile("sgd", metrics=["accuracy"], run_eagerly=True)
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.get_config() == model.get_config()
    for name, logits in model(images).items():
        np.testing.assert_allclose(loaded(images)[name], logits, atol=1e-5)
    assert loaded.evaluate(
        images, labels, verbose=0, return_dict=True
    ) == pytest.approx(
        model.evaluate(images, labels, verbose=0, return_dict=True), rel=1e-4
    )
    assert set(loaded.predict(images, verbose=0)) == set(model.output_names)


@pytest.mark.slow
def test_a_trained_model_loads_where_nothing_else_is_imported(
    tiny_cascade, batch, tmp_path
):
    tiny_cascade.compile(training.SGD(0.01))
    tiny_cascade.save(tmp_path / "m.keras")
    code = "import keras_resadapt, keras; keras.models.load_model('m.keras')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_mixed_precision(batch):
    model = make_tiny_cascade(dtype="mixed_bfloat16")
    logits = model(batch[0])
    assert all(z.dtype == "float32" for z in logits.values())
    model.compile("sgd", run_eagerly=True)
    assert np.isfinite(model.train_on_batch(*batch))


def test_training_reaches_every_layer(model_to_train, batch):
    """Also where `call` itself is called, as Keras does on JAX."""
    model = model_to_train
    images, _ = batch
    expected = model(images, training=True)
    inference = model(images)
    for name, logits in model.call(images, training=True).items():
        np.testing.assert_allclose(logits, expected[name], atol=1e-4)
        assert np.abs(logits - inference[name]).max() > 1e-2


# === Training ===


def test_the_loss_is_the_sum_over_exits(tiny_cascade_to_read, batch):
    images, labels = batch
    logits = tiny_cascade_to_read(images)
    terms = tiny_cascade_to_read.loss_terms(labels, logits)
    for name, z in logits.items():
        z = np.asarray(z, "float64")
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        expected = -log_p[np.arange(8), labels].mean()
        np.testing.assert_allclose(terms[name], expected, rtol=1e-5)


@pytest.mark.slow
def test_distillation_from_the_last_exit(batch):
    keras.utils.set_random_seed(1)
    model = make_tiny_cascade(distillation_weight=0.25, temperature=3.0)
    images, labels = batch

    def softmax(z):
        e = np.exp(np.asarray(z, "float64"))
        return e / e.sum(-1, keepdims=True)

    with tf.GradientTape() as tape:
        logits = model(images)
        tape.watch(logits)
        terms = model.loss_terms(labels, logits)
        distilled = terms["exit0"] + terms["exit1"]
    teacher = softmax(logits["exit2"] / 3.0)
    for name in ("exit0", "exit1"):
        student = softmax(logits[name] / 3.0)
        kl = (teacher * np.log(teacher / student)).sum(-1).mean()
        ce = -np.log(softmax(logits[name])[np.arange(8), labels]).mean()
        np.testing.assert_allclose(terms[name], 0.75 * ce + 0.25 * 9 * kl, rtol=1e-5)
    gradients = tape.gradient(distilled, logits)
    assert gradients["exit0"] is not None
    assert gradients["exit2"] is None  # the teacher is not taught


def test_scale_gradient():
    x = tf.Variable([3.0, -1e6])
    with tf.GradientTape() as tape:
        y = scale_gradient([x], 0.25)[0]
        loss = tf.reduce_sum(y * y)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_allclose(tape.gradient(loss, x), 0.25 * 2 * x)


@pytest.mark.slow
def test_gradient_equilibrium(batch):
    """Before exit k every one of the K - k later losses counts 1/(K - k)."""
    images, labels = batch

    def gradients(equilibrium, loss_of):
        keras.utils.set_random_seed(1)
        model = make_tiny_cascade(gradient_equilibrium=equilibrium)
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = loss_of(model.loss_terms(labels, logits))
        first = model.base_features.convs[0].conv.kernel
        second = model.sub_networks[0][1].convs[0].conv.conv.kernel
        classifier = model.classifiers[2].dense.kernel
        return tape.gradient(loss, [v.value for v in (first, second, classifier)])

    for term, second_share in (("exit1", 1 / 2), ("exit2", 1 / 2)):
        plain = gradients(False, lambda terms: terms[term])
        balanced = gradients(True, lambda terms: terms[term])
        np.testing.assert_allclose(balanced[0], plain[0] / 3, atol=1e-6, rtol=1e-3)
        np.testing.assert_allclose(
            balanced[1], plain[1] * second_share, atol=1e-6, rtol=1e-3
        )
    # A classifier's own gradient is that of its exit's features, which get
    # an equal share as well: the last exit's is whole.
    np.testing.assert_allclose(balanced[2], plain[2], atol=1e-6, rtol=1e-3)


def test_every_variable_learns(model_to_train, batch):
    model = model_to_train
    images, labels = batch
    with tf.GradientTape() as tape:
        loss = sum(model.loss_terms(labels, model(images, training=True)).values())
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert all(g is not None for g in gradients)


@pytest.mark.slow
def test_two_replicas_train_as_one(batch):
    dataset = tf.data.Dataset.from_tensors(batch)
    updates = []
    for name in ("none", "mirrored"):
        with training.strategy_scope(name):
            # Other seeds have a ReLU so near to zero that rounding flips it.
            keras.utils.set_random_seed(4)
            model = make_tiny_cascade()
            model.compile(
                training.SGD(0.01, weight_decay=1e-3),
                run_eagerly=name == "none",  # takes less time than tracing
            )
        before = model.get_weights()
        model.fit(dataset, verbose=0)
        updates.append([a - b for a, b in zip(model.get_weights(), before)])
    for one, two in zip(*updates):
        assert np.linalg.norm(one - two) <= 1e-3 * np.linalg.norm(one) + 1e-7


# === Arguments ===


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scale_list": (2, 3)}, "`scale_list` must start at 1"),
        ({"scale_list": (1, 3)}, "`scale_list` must start at 1"),
        ({"scale_list": (1, 2)}, "one entry per sub-network"),
        ({"growth_factors": (4, 2)}, "same number"),
        ({"step_mode": "lin_grow"}, "`step_mode` must be 'even' or 'lg'"),
        ({"compress_factor": 1.0}, "`compress_factor` must be in"),
        ({"growth_rate": 2}, "at least one channel"),
        ({"reduction": 0}, "`reduction` must be in"),
        ({"block_step": 0}, "`block_step` must be a positive"),
        ({"num_classes": 0}, "`num_classes` must be an integer of at least 2"),
        ({"stem": "small"}, "`stem` must be 'cifar' or 'imagenet'"),
        ({"preprocessing": "tiny"}, "`preprocessing` must be one of"),
        ({"distillation_weight": 2}, "`distillation_weight` must be in"),
        ({"temperature": 0}, "`temperature` must be positive"),
    ],
)
def test_ranet_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_resadapt.RANet(**{"num_classes": 10, **arguments})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"step_mode": "lg"}, "`step_mode` must be 'even' or 'lin_grow'"),
        (
            {"growth_rate": 3, "growth_factors": (1, 1, 2)},
            "`growth_rate` times every growth factor",
        ),
        ({"base": 0}, "`base` must be a positive"),
    ],
)
def test_msdnet_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_resadapt.MSDNet(10, **arguments)


def test_growing_blocks():
    """`lg` and `lin_grow`, the authors' other configurations."""
    model = keras_resadapt.RANet(
        4,
        step=1,
        step_mode="lg",
        scale_list=(1, 2),
        growth_factors=(2, 1),
        bottleneck_factors=(2, 1),
    )
    depths = [[len(b.convs) for b in flow] for flow in model.sub_networks]
    assert depths == [[1, 2], [1, 2, 3, 4]]
    model = keras_resadapt.MSDNet(
        4,
        num_blocks=3,
        base=1,
        step=1,
        step_mode="lin_grow",
        growth_factors=(1, 2),
        bottleneck_factors=(1, 2),
    )
    assert model._depths() == [1, 2, 3]


def test_folded_inference_is_batch_normalization():
    """A convolution that takes over its BatchNormalization."""
    rng = np.random.default_rng(0)
    point = OperatingPoint()
    for conv in (
        keras_resadapt.layers.Conv2D(5, 3, strides=2),
        keras_resadapt.layers.Conv2D(5, 1, use_bias=True),
        keras_resadapt.layers.DepthwiseConv2D(3),
    ):
        norm = keras_resadapt.layers.BatchNormalization()
        x = rng.normal(size=(2, 7, 7, 6)).astype("float32")
        expected = norm(conv(x))
        for v in norm.variables + conv.variables:
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        expected = norm(conv(x))
        folded = keras_resadapt.layers.conv_norm(conv, norm, x, point, False)
        np.testing.assert_allclose(folded, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("new_size", [(7, 11), (16, 16), (3, 5), (1, 1)])
def test_resize_to_corners(new_size):
    x = np.random.default_rng(0).normal(size=(2, 7, 11, 3)).astype("float32")
    rows = np.linspace(0, 6, new_size[0]) if new_size[0] > 1 else [0]
    columns = np.linspace(0, 10, new_size[1]) if new_size[1] > 1 else [0]

    def interpolate(values, axis, positions):
        low = np.floor(positions).astype(int)
        high = np.minimum(low + 1, values.shape[axis] - 1)
        share = np.reshape(positions - low, [-1 if i == axis else 1 for i in range(4)])
        return (1 - share) * values.take(low, axis) + share * values.take(high, axis)

    expected = interpolate(interpolate(x, 1, np.array(rows)), 2, np.array(columns))
    resized = keras_resadapt.layers.resize_to_corners(ops.array(x), new_size)
    np.testing.assert_allclose(resized, expected, atol=1e-5)
