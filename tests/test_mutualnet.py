"""MutualNet: slicing, the sandwich, statistics a point, the query table."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_resadapt
from keras_resadapt import (
    OperatingPoint,
    analysis,
    export,
    inference,
    layers,
    losses,
    training,
)
from keras_resadapt.models import sandwich
from keras_resadapt.points.operating_point import DrawnWidth

RESOLUTIONS = (32, 24, 16)


def make_mutual(num_classes=5, **kwargs):
    """A MutualNet of two separable blocks."""
    return keras_resadapt.MutualMobileNetV1(
        num_classes,
        resolutions=RESOLUTIONS,
        depths=(1, 1),
        filters=(32, 64),
        **kwargs,
    )


def drawn(width):
    return OperatingPoint(width=DrawnWidth(tf.constant(width, tf.float64)))


def spread_out(model, seed=0):
    """Weights whose logits differ between images and widths."""
    rng = np.random.default_rng(seed)
    for v in model.trainable_variables:
        if v.path.endswith("gamma"):
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        else:
            v.assign(v + rng.normal(0, 0.2, v.shape))
    return model


def count_calls(model, name):
    """A list whose number grows when Python runs a method, once a trace."""
    method, calls = getattr(model, name), [0]

    def counted(*args):
        calls[0] += 1
        return method(*args)

    object.__setattr__(model, name, counted)
    return calls


@pytest.fixture
def mutual():
    keras.utils.set_random_seed(1)
    return spread_out(make_mutual())


@pytest.fixture
def batches(batch):
    images, labels = batch
    return [(images[:5], labels[:5]), (images[5:], labels[5:])]


# === Channels ===


def test_drawn_widths_round_as_numbers_do():
    widths = np.random.default_rng(0).uniform(0.25, 2, 200).tolist()
    widths += [0.25, 0.3, 0.35, 0.5, 0.7, 0.75, 0.9, 0.95, 1.0, 1.5]
    for filters, ratio in (
        (32, 1.0),
        (1000, 1.0),
        (64, 0.25),
        (144, 6),
        (3, 1.0),
    ):
        for width in widths:
            number = layers.slim_channels(filters, width, ratio)
            tensor = layers.slim_channels(
                filters, DrawnWidth(tf.constant(width, tf.float64)), ratio
            )
            assert int(tensor) == number, (filters, ratio, width)
    assert layers.slim_channels(1280, 0.3, None) == 1280


def slim_layers():
    conv = layers.SlimmableConv2D(16, 3, strides=2, use_bias=True)
    depthwise = layers.SlimmableDepthwiseConv2D(3)
    norm = layers.SlimmableBatchNormalization(32, 1.0)
    dense = layers.SlimmableDense(4)
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 8)).astype("float32")

    def full(mask):
        y = conv(x, width=1.0) * mask
        y = norm(depthwise(y), resolution=0, width=1.0, training=True) * mask
        return dense(ops.mean(y, axis=(1, 2)))

    def slim(width):
        y = conv(x, width=width)
        y = norm(depthwise(y), resolution=0, width=width, training=True)
        return dense(ops.mean(y, axis=(1, 2)))

    full(1.0)  # builds
    variables = [
        v for layer in (conv, depthwise, norm, dense) for v in layer.trainable_variables
    ]
    rng = np.random.default_rng(1)
    for v in variables:
        v.assign(rng.normal(0, 1, v.shape))
    return full, slim, variables


def test_slicing_is_masking():
    """Same outputs and gradients as the full layers with a mask."""
    full, slim, variables = slim_layers()
    width, channels = 0.5, 8
    mask = (np.arange(16) < channels).astype("float32")
    results = []
    for forward in (
        lambda: full(mask),
        lambda: slim(width),
        lambda: slim(DrawnWidth(tf.constant(width, tf.float64))),
        tf.function(lambda: slim(DrawnWidth(tf.constant(width, tf.float64)))),
    ):
        with tf.GradientTape() as tape:
            outputs = forward()
            loss = tf.reduce_sum(outputs**2)
        gradients = tape.gradient(
            loss, [v.value for v in variables], unconnected_gradients="zero"
        )
        results.append([outputs, *map(tf.convert_to_tensor, gradients)])
    for other in results[1:]:
        for expected, value in zip(results[0], other, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)
    # Beyond the width nothing moves
    kernel_gradient = results[1][1].numpy()
    assert kernel_gradient[..., :channels].any()
    assert not kernel_gradient[..., channels:].any()


# === Network ===


@pytest.mark.parametrize(
    "make, expected",
    [
        (
            lambda: keras_resadapt.MutualMobileNetV2(
                7, resolutions=(64, 32), stem="small"
            ),
            {1.0: 1280, 0.25: 1280},
        ),
        (
            lambda: keras_resadapt.MutualMobileNetV2(
                7, (1.0, 2.0), resolutions=(64, 32), stem="small"
            ),
            {2.0: 2560, 1.0: 2560},
        ),
        (
            lambda: keras_resadapt.MutualResNet50(
                7,
                resolutions=(64, 32),
                depths=(1, 1),
                filters=(32, 64),
                stem="small",
            ),
            {1.0: 256, 0.5: 128},
        ),
        (
            lambda: keras_resadapt.MutualVGG16(
                7,
                resolutions=(64, 32),
                depths=(1, 2),
                filters=(16, 32),
                stem="small",
            ),
            {1.0: 32, 0.5: 16},
        ),
        (lambda: make_mutual(7, width_range=(1.0, 2.0)), {2.0: 128, 1.5: 96}),
    ],
    ids=["mobilenet_v2", "mobilenet_v2_wide", "resnet", "vgg", "wide"],
)
def test_every_backbone_slims(make, expected):
    model = make()
    size = model.resolutions[-1]
    images = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3))
    madds = []
    for width, channels in expected.items():
        point = OperatingPoint(size, width)
        assert model.features(images, point, training=True).shape[-1] == channels
        logits = model.logits(images, point, training=True)
        assert logits.shape == (2, 7)
        np.testing.assert_allclose(
            model(images, point=drawn(width), training=True), logits, atol=1e-4
        )
        madds.append(model.profile([point])[0].madds)
    assert madds[0] > madds[1]


def test_profile_counts_the_slices(mutual):
    point = OperatingPoint(16, 0.5)
    (row,) = mutual.profile([point])
    # 16 px, stride 2: a stem of 8 channels, then 16 at stride 1, 32 at 2
    assert row.madds == (
        8 * 8 * 8 * 27
        + 8 * 8 * 8 * 9
        + 8 * 8 * 8 * 16
        + 4 * 4 * 16 * 9
        + 4 * 4 * 16 * 32
        + 32 * 5
    )
    assert row.params == (
        8 * 27
        + 2 * 8
        + 8 * 9
        + 2 * 8
        + 8 * 16
        + 2 * 16
        + 16 * 9
        + 2 * 16
        + 16 * 32
        + 2 * 32
        + 32 * 5
        + 5
    )


# === Training ===


def sub_networks():
    return [
        (OperatingPoint(width=0.25), 16),
        (drawn(0.7), 24),
        (drawn(0.45), 32),
    ]


def test_one_after_the_other_is_all_at_once(mutual, batch):
    """Gradients of equations 2 to 4, taken of their sum."""
    images, labels = (tf.constant(x) for x in batch)
    mutual.compile(training.SGD(0.1))
    mutual.optimizer.build(mutual.trainable_variables)
    loss, logits, gradients = tf.function(
        lambda: sandwich.sandwich_gradients(
            mutual, images, labels, None, sub_networks()
        )
    )()
    with tf.GradientTape() as tape:
        full = mutual.logits(images, mutual.full_point, training=True)
        expected = losses.CrossEntropy()(labels, full)
        for point, resolution in sub_networks():
            small = layers.resize_to_corners(images, (resolution, resolution))
            expected += losses.Distillation()(
                full, mutual(small, point=point, training=True)
            )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(logits, full, atol=1e-4)
    for one, other in zip(
        gradients, tape.gradient(expected, mutual.trainable_variables)
    ):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, atol=2e-4 * scale)


def test_draws():
    def draw(step, seed=3):
        drawn = sandwich.draw_sub_networks(
            tf.constant(step), seed, (0.25, 1.0), RESOLUTIONS, 2
        )
        (smallest, _), *random = drawn
        assert smallest == 0.25
        return [float(w.value) for w, _ in random], [int(r) for _, r in drawn]

    assert draw(7) == draw(7) != draw(8)
    assert draw(7) != draw(7, seed=4)
    widths, sizes = zip(*(draw(step) for step in range(300)))
    widths, sizes = np.concatenate(widths), np.concatenate(sizes)
    assert 0.25 <= widths.min() < 0.28 and 0.97 < widths.max() <= 1.0
    np.testing.assert_allclose(widths.mean(), 0.625, atol=0.03)
    shares = [np.mean(sizes == size) for size in RESOLUTIONS]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.06)


@pytest.mark.slow
def test_fit_compiles_one_graph_and_learns(tmp_path):
    keras.utils.set_random_seed(0)
    mutual = make_mutual()
    mutual.compile(training.SGD(0.05), metrics=["accuracy"])
    rng = np.random.default_rng(0)  # a brightness a class
    labels = rng.integers(0, 5, 40)
    images = rng.uniform(0, 50, (40, 32, 32, 3)) + 40 * labels[:, None, None, None]
    batch = images.astype("float32"), labels
    traces = count_calls(mutual, "train_step")
    history = mutual.fit(*batch, epochs=12, batch_size=20, verbose=0).history
    assert set(history) == {"loss", "accuracy", "r32_w100_accuracy"}
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert history["r32_w100_accuracy"][-1] > 0.9
    # Widths and resolutions were drawn anew in every step.
    assert traces == [1]
    # A resumed run draws and steps as if nothing had happened.
    mutual.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    for model in (mutual, copy):
        model.fit(*batch, batch_size=20, shuffle=False, verbose=0)
    for a, b in zip(mutual.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_two_replicas_train_as_one(batch):
    dataset = tf.data.Dataset.from_tensors(batch)
    updates, reported = [], []
    for name in ("none", "mirrored"):
        with training.strategy_scope(name):
            keras.utils.set_random_seed(0)
            model = make_mutual(seed=5)
            # Running a step eagerly takes less time than tracing it.
            model.compile(training.SGD(0.01), run_eagerly=name == "none")
        before = model.get_weights()
        reported.append(model.fit(dataset, verbose=0).history["loss"])
        updates.append([a - b for a, b in zip(model.get_weights(), before)])
    np.testing.assert_allclose(*reported, rtol=1e-4)
    for one, two in zip(*updates):
        assert np.linalg.norm(one - two) <= 1e-3 * np.linalg.norm(one) + 1e-7


def test_loss_scaling(mutual, batch):
    """A scaled loss gives scaled gradients of every sub-network."""
    images, labels = (tf.constant(x) for x in batch)
    gradients = []
    for optimizer in (
        training.SGD(0.1),
        keras.optimizers.LossScaleOptimizer(training.SGD(0.1), initial_scale=64.0),
    ):
        mutual.compile(optimizer)
        optimizer.build(mutual.trainable_variables)
        gradients.append(
            sandwich.sandwich_gradients(
                mutual, images, labels, None, sub_networks()[:2]
            )[2]
        )
    for plain, scaled in zip(*gradients):
        scale = np.abs(scaled).max() + 1e-6
        np.testing.assert_allclose(64 * plain, scaled, atol=1e-4 * scale)


@pytest.mark.slow
def test_mixed_precision(batch):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_mutual()
        model.compile(training.SGD(0.05), run_eagerly=True)
        loss = model.train_on_batch(*batch)
        assert np.isfinite(loss)
        assert model.logits(batch[0], model.full_point).dtype == tf.float32
    finally:
        keras.config.set_dtype_policy("float32")


def test_us_net_draws_one_resolution(batch):
    model = make_mutual(train_resolutions=(32,))
    assert model.train_resolutions == (32,)
    sizes = [
        int(resolution)
        for _, resolution in sandwich.draw_sub_networks(
            tf.constant(0), 0, (0.25, 1.0), model.train_resolutions, 2
        )
    ]
    assert sizes == [32, 32, 32]
    # A single width at a single resolution is an ordinary network.
    assert not sandwich.draw_sub_networks(tf.constant(0), 0, (1, 1), (32,), 2)
    # US-Net+: it can still be calibrated and run at the others.
    inference.calibrate_batch_norm(
        model, [batch], [OperatingPoint(16, 0.5)], verbose=False
    )
    assert model.logits(batch[0][:, ::2, ::2], OperatingPoint(16, 0.5)).shape


def test_alpha_divergence_is_its_formula():
    rng = np.random.default_rng(0)
    p_logits, q_logits = rng.normal(0, 1.5, (2, 6, 5))
    p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (p_logits, q_logits))
    kl = (p * np.log(p / q)).sum(-1)
    # alpha = -1: f(r) = (1/r - 1) / 2, with 1/r at most 5
    reverse = (q * (np.minimum(q / p, 5) - 1) / 2).sum(-1)
    loss = losses.AlphaDivergence(reduction=None)
    np.testing.assert_allclose(
        loss(p_logits, q_logits), np.maximum(kl, reverse), rtol=1e-5
    )
    assert float(
        losses.AlphaDivergence()([[0.0, -100.0]], [[-100.0, 0.0]])
    ) == pytest.approx(100)
    # The gradient of the larger one: -sum of q weight d(log q)
    z = tf.Variable(q_logits.astype("float32"))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(loss(p_logits, z))
    weight = np.where((kl > reverse)[:, None], p / q, -np.minimum(q / p, 5))
    blame = q * weight
    expected = q * blame.sum(-1, keepdims=True) - blame
    np.testing.assert_allclose(tape.gradient(value, z), expected, rtol=1e-4)
    assert {type(make_mutual(distillation=d).divergence) for d in ("kl", "alpha")} == {
        losses.Distillation,
        losses.AlphaDivergence,
    }


def test_decay_of_kernels_only(mutual):
    optimizer = training.SGD(1.0, 0.0, weight_decay=0.5, decay_kernels_only=True)
    optimizer.build(mutual.trainable_variables)
    before = {v.path: v.numpy() for v in mutual.trainable_variables}
    optimizer.apply_gradients(
        (tf.zeros(v.shape), v) for v in mutual.trainable_variables
    )
    for v in mutual.trainable_variables:
        decayed = v.path.endswith("kernel") and "depthwise/" not in v.path
        np.testing.assert_allclose(v, before[v.path] * (0.5 if decayed else 1))
    copy = training.SGD.from_config(optimizer.get_config())
    assert copy.decay_kernels_only and copy.l2 == 0.5


# === Statistics ===


def stem_statistics(model, images, resolution, channels):
    """Mean and unbiased variance behind the first convolution, in NumPy."""
    x = np.array(layers.resize_bilinear(ops.convert_to_tensor(images), resolution))
    y = model.backbone.stages[0][0].conv(
        model.preprocessing(x), width=model.full_point.width
    )
    y = np.array(y, "float64")[..., :channels].reshape(-1, channels)
    return y.mean(0), y.var(0, ddof=1)


def test_calibration_is_the_exact_average(mutual, batches, tmp_path):
    point = OperatingPoint(24, 0.5)
    images = batches[0][0]
    with pytest.raises(ValueError, match="calibrate_batch_norm"):
        mutual.logits(layers.resize_bilinear(ops.array(images), 24), point)
    inference.calibrate_batch_norm(
        mutual, batches, [point, mutual.full_point], num_images=7, verbose=False
    )
    first, second = batches[0][0], batches[1][0][:2]
    norm = mutual.backbone.stages[0][0].bn
    for p, channels in ((point, 8), (mutual.full_point, 16)):
        expected = [
            5 / 7 * np.array(a) + 2 / 7 * np.array(b)
            for a, b in zip(
                stem_statistics(mutual, first, p.resolution, channels),
                stem_statistics(mutual, second, p.resolution, channels),
            )
        ]
        for variable, value in zip(p.statistics(norm), expected):
            np.testing.assert_allclose(variable, value, rtol=2e-4, atol=1e-5)

    # Kept with the model
    assert mutual.operating_points == (mutual.full_point, point)
    x = layers.resize_bilinear(ops.array(images), 24)
    logits = mutual.logits(x, point)
    mutual.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert copy.operating_points == mutual.operating_points
    np.testing.assert_array_equal(copy.logits(x, point), logits)
    # and with another classifier on top of it
    head = copy.with_classes(3)
    assert head.logits(x, point).shape == (5, 3)
    np.testing.assert_array_equal(head.features(x, point), copy.features(x, point))


def test_logits_are_those_of_the_whole_batch(mutual, batch):
    """With statistics from one batch, inference is training on it."""
    images = batch[0]
    n = images.shape[0]
    points = [OperatingPoint(16, w) for w in (1.0, 0.6, 0.25)]
    inference.calibrate_batch_norm(mutual, [batch], points, verbose=False)
    x = layers.resize_bilinear(ops.array(images), 16)
    for point in points:
        with_batch = np.array(mutual.logits(x, point, training=True))
        alone = np.array(mutual.logits(x[: n // 2], point))
        # The variance is unbiased in one and biased in the other.
        np.testing.assert_allclose(alone, with_batch[: n // 2], rtol=0.1, atol=0.1)


def test_other_families_are_calibrated_too(tiny, tiny_cascade, batch):
    tiny.trainable = False
    inference.calibrate_batch_norm(tiny, [batch], verbose=False)
    x = layers.resize_bilinear(ops.array(batch[0]), 24)
    y = np.array(tiny.backbone.stages[0][0].conv1(tiny.preprocessing(x)), "float64")
    branch = tiny.backbone.stages[0][0].bn1.branches[1]
    np.testing.assert_allclose(
        branch.moving_mean, y.mean((0, 1, 2)), rtol=1e-3, atol=1e-5
    )
    inference.calibrate_batch_norm(tiny_cascade, [batch], verbose=False)
    conv = tiny_cascade.base_features.convs[0]
    y = np.array(conv.conv(tiny_cascade.preprocessing(batch[0])), "float64")
    np.testing.assert_allclose(
        conv.bn.moving_mean, y.mean((0, 1, 2)), rtol=1e-3, atol=1e-4
    )


# === Query table ===


@pytest.fixture
def table_rows():
    def row(name, accuracy, madds, ms, resolution=None):
        return inference.QueryRow(name, accuracy, madds, {1: ms, 8: ms / 2}, resolution)

    return (
        row("r32_w100", 0.8, 10e6, 4.0, 32),
        row("r32_w050", 0.7, 4e6, 2.0, 32),
        row("r16_w100", 0.75, 3e6, 2.5, 16),
        row("r16_w050", 0.7, 1e6, 1.0, 16),
    )


def test_best_and_front(table_rows, tmp_path):
    table = inference.QueryTable(table_rows, "abc")
    assert table.best(max_madds=20e6).name == "r32_w100"
    assert table.best(max_madds=3e6).name == "r16_w100"
    assert table.best(max_ms=2.0).name == "r16_w050"
    assert table.best(max_ms=2.0, batch=8).name == "r32_w100"
    assert [r.name for r in table.front()] == [
        "r16_w050",
        "r16_w100",
        "r32_w100",
    ]
    with pytest.raises(ValueError, match="'r16_w050', costs 1e[+]06"):
        table.best(max_madds=5e5)
    with pytest.raises(ValueError, match="Give one of"):
        table.best()
    with pytest.raises(ValueError, match="`batch` must be one of"):
        table.best(max_ms=1, batch=4)
    table.save(tmp_path / "table.json")
    assert inference.QueryTable.load(tmp_path / "table.json") == table
    fronts = analysis.plot_query_table(
        {"a": table, "b": table}, tmp_path / "plot.png", "ms"
    )
    assert [r.name for r in fronts["b"]][-1] == "r32_w100"
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_measure_goes_on_where_it_was(mutual, batch, tmp_path, capsys):
    points = mutual.grid([1.0, 0.5], (32, 16))
    inference.calibrate_batch_norm(mutual, [batch], points, verbose=False)
    path = tmp_path / "table.json"

    def measure(**kwargs):
        return inference.QueryTable.measure(
            mutual, [batch], [1.0, 0.5], repeats=2, path=path, **kwargs
        )

    part = measure(resolutions=(16,), verbose=False)
    assert [row.name for row in part.rows] == ["r16_w100", "r16_w050"]
    table = measure(resolutions=(32, 16))
    printed = capsys.readouterr().out
    assert "32 pixels, 2 operating" in printed and "16 pixels" not in printed
    assert {row.name for row in table.rows} == {p.name for p in points}
    assert {row.point for row in table.rows} == set(points)
    assert all(row in table.rows for row in part.rows)
    collected = inference.collect_logits(mutual, [batch], points, verbose=False)
    accuracy = dict(zip(collected.names, collected.correct.mean(1)))
    for row in table.rows:
        assert row.accuracy == accuracy[row.name]
        assert 0 < row.ms[1] < 1e4

    # More batch sizes join what was measured
    more = measure(resolutions=(16,), batch_sizes=(4,), verbose=False)
    assert set(more.rows[0].ms) == {1, 4}
    whole = inference.QueryTable.load(path, mutual)
    assert whole.best(max_ms=1e4).ms[1] > 0
    with pytest.raises(ValueError, match="must be one of .1., measured"):
        whole.best(max_ms=1e4, batch=4)

    # A table of another model is refused
    mutual.classifier.bias.assign_add([1.0] * 5)
    with pytest.raises(ValueError, match="another model"):
        inference.QueryTable.load(path, mutual)
    with pytest.raises(ValueError, match="another model"):
        measure()


@pytest.mark.slow
def test_rows_of_the_other_families(tiny, tiny_cascade, batch):
    data = [batch]
    table = inference.QueryTable.measure(tiny, data, repeats=1, verbose=False)
    assert [row.name for row in table.rows] == ["r32", "r24", "r16"]
    held_out = inference.collect_logits(tiny_cascade, data, verbose=False)
    table = inference.QueryTable.measure(
        tiny_cascade,
        data,
        held_out=held_out,
        budgets=3,
        repeats=1,
        verbose=False,
    )
    names = [row.name for row in table.rows]
    assert names[:3] == ["exit0", "exit1", "exit2"] and len(names) == 6
    cheap = table.rows[3]
    assert cheap.madds == table.rows[0].madds
    assert cheap.ms == table.rows[0].ms
    assert len(cheap.thresholds) == 2


# === Widths and resolutions as exits, export ===


@pytest.mark.slow
def test_points_as_exits_and_signatures(mutual, batch, tmp_path):
    points = [
        mutual.full_point,
        OperatingPoint(16, 0.25),
        OperatingPoint(24, 0.5),
    ]
    inference.calibrate_batch_norm(mutual, [batch], points, verbose=False)
    cascade = keras_resadapt.PointCascade(mutual, points)
    assert [p.name for p in cascade.points] == [
        "r16_w025",
        "r24_w050",
        "r32_w100",
    ]
    images = batch[0]
    answer = inference.AdaptivePredictor(cascade, [0.5, 0.5]).predict(images)
    for image, exit, probabilities in zip(images, answer.exits, answer.probabilities):
        point = cascade.points[exit]
        x = layers.resize_bilinear(ops.array(image[None]), point.resolution)
        expected = ops.softmax(mutual.logits(x, point))[0]
        np.testing.assert_allclose(probabilities, expected, atol=1e-4)

    export.export_saved_model(
        mutual, tmp_path / "1", encoded=False, warmup_batch_sizes=()
    )
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    assert set(signatures) == {p.name for p in points} | {"serving_default"}
    x = layers.resize_bilinear(ops.array(images), 24)
    np.testing.assert_allclose(
        signatures["r24_w050"](images=x)["logits"],
        mutual.logits(x, points[2]),
        atol=1e-4,
    )


# === Bad input ===


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"width_range": (0, 1)}, "`width_range` must be"),
        ({"width_range": (1.0, 0.5)}, "`width_range` must be"),
        ({"width_range": 0.5}, "`width_range` must be"),
        ({"width_range": (0.5, float("inf"))}, "`width_range` must be"),
        ({"seed": None}, "`seed` must be an integer"),
        ({"train_resolutions": (48,)}, "`train_resolutions` must be among"),
        ({"train_resolutions": (16,)}, "the largest one"),
        ({"num_random_widths": -1}, "`num_random_widths` must be an integer"),
        ({"distillation": "l2"}, "`distillation` must be one of"),
        ({"num_classes": 0}, "`num_classes` must be an integer"),
        ({"calibrated": [(32, 3.0)]}, "width must be from 0.25 to 1.0"),
    ],
)
def test_mutualnet_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_mutual(**{"num_classes": 5, **arguments})


def test_points_that_it_does_not_have(mutual, batch):
    images = batch[0]
    for point, message in (
        (OperatingPoint(32, 0.2), "width must be from 0.25 to 1.0"),
        (OperatingPoint(32), "width must be"),
        (OperatingPoint(20, 0.5), "resolution must be one of"),
        (OperatingPoint(width=0.5), "resolution must be one of"),
        (OperatingPoint(32, 0.5, 1), "no exits"),
    ):
        with pytest.raises(ValueError, match=message):
            mutual.logits(images, point, training=True)
        with pytest.raises(ValueError, match=message):
            mutual.profile([point])
        with pytest.raises(ValueError, match=message):
            inference.calibrate_batch_norm(mutual, [batch], [point])
    with pytest.raises(ValueError, match="24 x 24|32 x 32"):
        mutual.logits(images, OperatingPoint(24, 0.5))
    # Nothing is kept of a calibration that could not be finished
    clash = [OperatingPoint(32, 0.5), OperatingPoint(32, 0.501)]
    with pytest.raises(ValueError, match="two digits"):
        inference.calibrate_batch_norm(mutual, [batch], clash, verbose=False)
    assert mutual.operating_points == (mutual.full_point,)
    with pytest.raises(ValueError, match="two digits"):
        mutual.grid([0.5, 0.501])
    with pytest.raises(ValueError, match="at least one width"):
        mutual.grid([])
    with pytest.raises(ValueError, match="Missing: .*width=0.5"):
        keras_resadapt.PointCascade(mutual, clash[:1])
    with pytest.raises(ValueError, match="positive step"):
        mutual.grid(0)
    with pytest.raises(ValueError, match="`num_images` must be a positive"):
        inference.calibrate_batch_norm(mutual, [batch], num_images=0)
    with pytest.raises(ValueError, match="at least one operating point"):
        inference.calibrate_batch_norm(mutual, [batch], [])
    mutual.compile(training.SGD(0.1))
    with pytest.raises(ValueError, match="largest resolution"):
        mutual.train_on_batch(images[:, :16, :16], batch[1])


def test_statistics_of_another_model_do_not_fit(mutual, batch, tmp_path):
    point = OperatingPoint(16, 0.5)
    inference.calibrate_batch_norm(mutual, [batch], [point], verbose=False)
    path = str(tmp_path / "model.weights.h5")
    mutual.save_weights(path)
    for calibrated in ((), [(24, 0.5)], [(16, 0.501)]):
        with pytest.raises(ValueError, match="`calibrated`"):
            make_mutual(calibrated=calibrated).load_weights(path)
    copy = make_mutual(calibrated=[(16, 0.5)])
    x = batch[0][:, ::2, ::2]
    assert np.isnan(copy.logits(x, point)).all()  # not filled yet
    copy.load_weights(path)
    np.testing.assert_array_equal(copy.logits(x, point), mutual.logits(x, point))
    # A width of the same name is another width
    with pytest.raises(ValueError, match="no BatchNormalization statistics"):
        copy.logits(x, OperatingPoint(16, 0.501))


@pytest.mark.slow
def test_training_forgets_statistics(mutual, batch, tmp_path):
    point = OperatingPoint(16, 0.5)
    count = len(mutual.variables)
    inference.calibrate_batch_norm(mutual, [batch], [point], verbose=False)
    assert len(mutual.variables) > count
    head = mutual.with_classes(5)
    head.backbone.trainable = False  # they stay true
    x = batch[0]
    before = head.logits(x, head.full_point)
    np.testing.assert_allclose(  # the full network's, also in training
        head.logits(x, head.full_point, training=True), before, atol=1e-5
    )
    for model in (mutual, head):
        model.compile(training.SGD(0.1), run_eagerly=True)
        model.fit(*batch, verbose=0)
    assert head.operating_points == (head.full_point, point)
    assert mutual.operating_points == (mutual.full_point,)
    assert len(mutual.variables) == count
    with pytest.raises(ValueError, match="calibrate_batch_norm"):
        mutual.logits(x[:, ::2, ::2], point)
    inference.calibrate_batch_norm(mutual, [batch], [point], verbose=False)
    mutual.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        copy.logits(x[:, ::2, ::2], point), mutual.logits(x[:, ::2, ::2], point)
    )
