"""Plots of what a network does: their numbers against NumPy."""

import matplotlib.image
import numpy as np
import pytest
from conftest import RESOLUTIONS, make_tiny, randomize

import keras_resadapt
from keras_resadapt import OperatingPoint, analysis, inference
from keras_resadapt.analysis.heat_table import draw_heat_table
from keras_resadapt.analysis.text import plain
from keras_resadapt.batches import images_at, labelled_batches
from keras_resadapt.layers import SwitchableBatchNormalization


@pytest.fixture(scope="module")
def tiny(tiny_to_read):
    """One network for all plots, which leave it as it is."""
    return tiny_to_read


@pytest.fixture(scope="module")
def tiny_cascade(tiny_cascade_to_read):
    return tiny_cascade_to_read


@pytest.fixture
def plot_file(tmp_path):
    """Yields a path whose file must be an image with many colors."""
    path = tmp_path / "plot.png"
    yield path
    pixels = matplotlib.image.imread(path)[..., :3]
    assert min(pixels.shape[:2]) > 100
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


@pytest.fixture
def data(batch):
    """Two batches of different sizes."""
    images, labels = batch
    return [(images[:5], labels[:5]), (images[5:], labels[5:])]


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# === Data ===


def test_images_at(batch):
    images, _ = batch
    small = images[:, :16, :16]
    assert images_at(images, 32) is images
    assert images_at((images, small), 16) is small
    resized = images_at((images, small), 24)
    assert resized.shape == (8, 24, 24, 3)
    np.testing.assert_allclose(np.mean(resized), images.mean(), rtol=0.01)
    with pytest.raises(ValueError, match="at least 48 pixels.*32 x 32"):
        images_at((small, images), 48)
    with pytest.raises(ValueError, match="square.*32 x 16"):
        images_at(images[:, :, :16], 8)


def test_bad_data(batch):
    images, labels = batch
    for bad, message in [
        ([], "no batches"),
        ([images], "batches \\(images, labels\\)"),
        ([(images, np.eye(5)[labels])], "class indices"),
        ([(images, labels / 1.0)], "class indices"),
    ]:
        with pytest.raises(ValueError, match=message):
            list(labelled_batches(bad, verbose=False))


def test_progress_is_shown(data, capsys):
    assert len(list(labelled_batches(data))) == 2
    assert "2/2" in capsys.readouterr().out
    assert len(list(labelled_batches(iter(data)))) == 2  # of unknown length
    assert "2/Unknown" in capsys.readouterr().out
    list(labelled_batches(data, verbose=False))
    assert not capsys.readouterr().out


# === Accuracy and cost ===


def test_accuracy_cost(plot_file, tmp_path):
    points = [("exit0", 1e6, 0.5), ("exit1", 5e6, 0.7)]
    sweep = [(1e6 * c, 0.5 + 0.05 * c) for c in range(1, 6)]
    analysis.plot_accuracy_cost(
        {"ranet": points, "msdnet": points},
        plot_file,
        "title",
        sweeps={"ranet": sweep, "other": sweep},
        log=True,
    )
    analysis.plot_accuracy_cost({}, tmp_path / "a.png", sweeps={"x": np.array(sweep)})
    for curves, sweeps, message in [
        ({}, {}, "`curves`"),
        ({"a": points}, {"a": []}, "`sweeps`"),
        ({"a": [("r32", 1e6, 57.0)]}, {}, r"\[0, 1\]"),
        ({}, {"a": [(1e6, float("nan"))]}, r"\[0, 1\]"),
        ({"a": [("r32", float("nan"), 0.5)]}, {}, "finite"),
        ({"a": np.zeros((0, 3))}, {}, "`curves`"),
    ]:
        with pytest.raises(ValueError, match=message):
            analysis.plot_accuracy_cost(curves, tmp_path / "b.png", sweeps=sweeps)


def test_names_are_drawn_literally(tmp_path):
    """Text between dollar signs is mathematics to matplotlib, and mostly fails."""
    from matplotlib.figure import Figure

    name = "_$\\frac$ 5$ a_b^"
    curves = {name: [("$^$", 1e6, 0.5), (name, 2e6, 0.6)]}
    sweeps = {"$x$_": [(1, 1)]}
    analysis.plot_accuracy_cost(curves, tmp_path / "a.png", name, sweeps=sweeps)
    axes = Figure().add_subplot()
    draw_heat_table(axes, np.ones((1, 2)), [name], ["$_", "$^$"])
    axes.plot([0, 1], label=plain("_hidden"))
    axes.legend()
    axes.figure.savefig(tmp_path / "b.png")
    assert len(axes.get_legend().get_texts()) == 1


# === Agreement ===


def test_predictions_of_resolutions(tiny, data, batch):
    images, labels = batch
    predictions = inference.collect_logits(tiny, data, verbose=False)
    assert predictions.names == ("r32", "r24", "r16")
    for point, classes, confidence in zip(
        tiny.operating_points, predictions.classes, predictions.confidence
    ):
        logits = tiny.logits(images_at(images, point.resolution), point)
        expected = softmax(np.array(logits))
        np.testing.assert_array_equal(classes, expected.argmax(-1))
        np.testing.assert_allclose(confidence, expected.max(-1), rtol=1e-4)
    np.testing.assert_array_equal(predictions.labels, labels)
    np.testing.assert_array_equal(predictions.correct, predictions.classes == labels)


def test_predictions_of_exits(tiny_cascade, data, batch):
    expected = tiny_cascade(batch[0])
    points = [OperatingPoint(exit=2), OperatingPoint(exit=0)]
    predictions = inference.collect_logits(tiny_cascade, data, points, verbose=False)
    for point, classes in zip(points, predictions.classes):
        np.testing.assert_array_equal(classes, np.argmax(expected[point.name], -1))
    with pytest.raises(ValueError, match="exits from 0 to 2"):
        inference.collect_logits(
            tiny_cascade, data, [OperatingPoint(exit=3)], verbose=False
        )


def test_predictions_refuse(tiny, batch):
    images, labels = batch
    with pytest.raises(ValueError, match="Labels must be from 0 to 4"):
        inference.collect_logits(tiny, [(images, labels + 1)], verbose=False)
    with pytest.raises(ValueError, match="finite pixel values"):
        inference.collect_logits(tiny, [(images * np.nan, labels)], verbose=False)
    with pytest.raises(TypeError, match="Received: list"):
        inference.collect_logits([], [(images, labels)])


def test_precision_and_coverage():
    rng = np.random.default_rng(0)
    # Rounded, so that some confidences equal thresholds
    confidence = rng.uniform(0.2, 0.95, 50).round(1)
    correct = rng.uniform(size=50) < confidence
    thresholds = np.linspace(0, 1, 11).round(1)
    precision, coverage = analysis.precision_and_coverage(
        confidence, correct, thresholds
    )
    for t, p, c in zip(thresholds, precision, coverage):
        confident = confidence >= t
        assert c == confident.mean()
        expected = correct[confident].mean() if confident.any() else np.nan
        np.testing.assert_allclose(p, expected)
    assert coverage[0] == 1 and coverage[-1] == 0 and np.isnan(precision[-1])
    lists = analysis.precision_and_coverage([0.5, 0.9], [False, True], [0.6])
    np.testing.assert_array_equal(lists, [[1.0], [0.5]])
    for bad in (([], [], [0.5]), ([0.5], [True, False], [0.5])):
        with pytest.raises(ValueError, match="same length, at least 1"):
            analysis.precision_and_coverage(*bad)


def test_agreement(tiny, data, plot_file):
    result = analysis.plot_agreement(tiny, data, plot_file, verbose=False)
    assert result.names == ("r16", "r32")
    predictions = inference.collect_logits(tiny, data, verbose=False)
    dear, cheap = predictions.correct[0], predictions.correct[2]
    assert result.both == np.mean(cheap & dear)
    assert result.only_cheap == np.mean(cheap & ~dear)
    assert result.only_dear == np.mean(dear & ~cheap)
    assert result.neither == np.mean(~dear & ~cheap)
    assert result.precision[0] == cheap.mean() and result.coverage[0] == 1


def test_agreement_of_exits(tiny_cascade, data, plot_file, batch):
    points = OperatingPoint(exit=0), OperatingPoint(exit=1)
    result = analysis.plot_agreement(
        tiny_cascade,
        data,
        plot_file,
        points,
        thresholds=[0.9, 0.1],
        verbose=False,
    )
    assert result.names == ("exit0", "exit1")
    probabilities = softmax(np.array(tiny_cascade(batch[0])["exit0"])).max(-1)
    np.testing.assert_allclose(
        result.coverage,
        [np.mean(probabilities >= 0.1), np.mean(probabilities >= 0.9)],
    )


def test_agreement_needs_two_points(data, tmp_path):
    path = tmp_path / "a.png"
    model = make_tiny(resolutions=(32,), extrapolate=True)
    with pytest.raises(ValueError, match="with 1 operating points"):
        analysis.plot_agreement(model, data, tmp_path / "a.png")
    # The figure of the paper: one network, tested at another resolution
    points = OperatingPoint(resolution=16), OperatingPoint(resolution=32)
    result = analysis.plot_agreement(
        model, data, tmp_path / "a.png", points, verbose=False
    )
    assert result.names == ("r16", "r32")
    with pytest.raises(ValueError, match="must be two"):
        analysis.plot_agreement(model, data, tmp_path / "b.png", points[:1])
    for thresholds in ((), 0.5):
        with pytest.raises(ValueError, match="`thresholds` must be"):
            analysis.plot_agreement(model, data, path, points, thresholds)


def test_complementarity(tiny, data, plot_file):
    shares = analysis.plot_complementarity(tiny, data, plot_file, verbose=False)
    correct = inference.collect_logits(tiny, data, verbose=False).correct
    for i in range(3):
        for j in range(3):
            np.testing.assert_allclose(shares[i, j], np.mean(~correct[i] & correct[j]))
    with pytest.raises(ValueError, match="at least one operating point"):
        analysis.plot_complementarity(tiny, data, plot_file, points=[])


def test_plots_of_a_single_class(tiny, batch, plot_file):
    """All images have one label, and one operating point is compared with itself."""
    data = [(batch[0], np.zeros(8, np.int64))]
    points = [OperatingPoint(resolution=np.int64(16))] * 2
    shares = analysis.plot_complementarity(tiny, data, plot_file, points, verbose=False)
    np.testing.assert_array_equal(shares, np.zeros((2, 2)))
    result = analysis.plot_agreement(tiny, data, plot_file, points, verbose=False)
    assert result.both + result.neither == 1


def test_resolution_table(tiny, data, plot_file, batch):
    images, labels = batch
    single = randomize(make_tiny(resolutions=(24,), extrapolate=True), 1)
    models = {"RS-Net": tiny, "I-24": single}
    accuracy = analysis.plot_resolution_table(models, data, plot_file, verbose=False)
    assert accuracy.shape == (2, 3)
    for row, model in zip(accuracy, models.values()):
        for value, resolution in zip(row, RESOLUTIONS):
            point = OperatingPoint(resolution=resolution)
            logits = model.logits(images_at(images, resolution), point)
            assert value == np.mean(np.argmax(logits, -1) == labels)


def test_resolution_table_refuses(tiny, tiny_cascade, data, tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match="at least one network"):
        analysis.plot_resolution_table({}, data, path)
    with pytest.raises(TypeError, match="'cascade', a RANet"):
        analysis.plot_resolution_table({"cascade": tiny_cascade}, data, path)
    with pytest.raises(ValueError, match="extrapolate=True"):
        analysis.plot_resolution_table({"tiny": tiny}, data, path, [8])
    with pytest.raises(ValueError, match="at least one resolution"):
        analysis.plot_resolution_table({"tiny": tiny}, data, path, np.array([], int))


# === Exits ===


@pytest.mark.slow
def test_exit_gallery(tiny_cascade, batch, plot_file):
    images, _ = batch
    logits = np.stack([np.array(x) for x in tiny_cascade(images).values()])
    confidences = softmax(logits).max(-1)
    thresholds = np.median(confidences, axis=1)[:2]
    exits = np.argmax(
        np.concatenate([confidences[:2] >= thresholds[:, None], np.ones((1, 8), bool)]),
        axis=0,
    )
    rows = np.arange(8)
    labels = logits.argmax(-1)[exits, rows]
    labels[0] = (labels[0] + 1) % 5  # one wrong prediction
    confidence = confidences[exits, rows]

    data = [(images[:5], labels[:5]), (images[5:], labels[5:])]
    gallery = analysis.plot_exit_gallery(
        tiny_cascade,
        thresholds,
        iter(data),
        plot_file,
        columns=2,
        verbose=False,
    )
    np.testing.assert_array_equal(gallery.exits, exits)
    np.testing.assert_array_equal(gallery.correct, rows != 0)
    np.testing.assert_allclose(gallery.confidence, confidence, rtol=1e-4)
    assert list(gallery.shown) == [None]
    for exit, shown in enumerate(gallery.shown[None]):
        there = rows[(exits == exit) & (rows != 0)]
        best = there[np.argsort(-confidence[there])][:2]
        assert shown == tuple(best)

    one = int(labels[1])
    gallery = analysis.plot_exit_gallery(
        tiny_cascade,
        thresholds,
        data,
        plot_file,
        classes=[one],
        class_names=list("abcde"),
        verbose=False,
    )
    assert all(labels[index] == one for row in gallery.shown[one] for index in row)
    assert any(gallery.shown[one])


def test_exit_gallery_refuses(tiny, tiny_cascade, batch, tmp_path):
    images, labels = batch
    path = tmp_path / "a.png"

    def plot(model=tiny_cascade, thresholds=(0.5, 0.5), **kwargs):
        analysis.plot_exit_gallery(
            model,
            thresholds,
            [(images, labels % 3)],
            path,
            verbose=False,
            **kwargs,
        )

    with pytest.raises(ValueError, match="classes \\[4\\].*has: \\[0, 1, 2\\]"):
        plot(classes=[0, 4])
    with pytest.raises(ValueError, match="at least one class"):
        plot(classes=[])
    with pytest.raises(ValueError, match="`columns`"):
        plot(columns=0)
    with pytest.raises(ValueError, match="2 names and class 2"):
        plot(classes=np.array([2]), class_names=["a", "b"])
    with pytest.raises(ValueError, match="needs 2 thresholds"):
        plot(thresholds=[0.5])
    with pytest.raises(TypeError, match="RSNet"):
        plot(model=tiny)
    assert not path.exists()


def test_exit_difficulty(plot_file, tmp_path):
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(size=200)
    exits = (difficulty * 3 + rng.uniform(-0.5, 0.5, 200)).clip(0, 2).astype(int)
    counts, edges = analysis.plot_exit_difficulty(
        exits, difficulty, plot_file, num_exits=4, bins=5
    )
    assert counts.shape == (4, 5) and counts.sum() == 200
    for exit in range(4):
        expected, _ = np.histogram(difficulty[exits == exit], edges)
        np.testing.assert_array_equal(counts[exit], expected)
    for bad in [
        (exits[:3], difficulty),
        (exits[:0], difficulty[:0]),
        (exits, difficulty * np.nan),
        (exits - 1, difficulty),
        (exits / 2, difficulty),
    ]:
        with pytest.raises(ValueError, match="exits|difficulty"):
            analysis.plot_exit_difficulty(*bad, tmp_path / "a.png")
    with pytest.raises(ValueError, match="from 0 to 1"):
        analysis.plot_exit_difficulty(
            exits, difficulty, tmp_path / "a.png", num_exits=2
        )


# === Spectra ===


def wave(size, down, right, amplitude=3.0):
    """Returns a wave of `down` and `right` cycles, in two channels with a phase."""
    rows, columns = np.indices((size, size)) / size
    phase = 2 * np.pi * (down * rows + right * columns)
    maps = amplitude * np.stack([np.cos(phase), np.sin(phase)], -1)
    return maps.astype("float32")


def test_spectrum_of_a_wave(data, plot_file):
    spectra = analysis.plot_feature_spectrum(
        {
            "wave": lambda x: np.stack([wave(8, 2, 1)] * len(x)),
            "low": lambda x: np.stack([wave(4, 0, 0)] * len(x)),
        },
        data,
        plot_file,
        verbose=False,
    )
    expected = np.zeros((8, 8))
    expected[4 + 2, 4 + 1] = expected[4 - 2, 4 - 1] = 1.5
    np.testing.assert_allclose(spectra["wave"].magnitude, expected, atol=1e-6)
    # Four cycles down are the same as four up.
    assert spectra["wave"].profile.shape == (5,)
    assert spectra["wave"].profile.argmax() == 2
    # The cosine is 3 everywhere and the sine 0.
    assert np.unravel_index(spectra["low"].magnitude.argmax(), (4, 4)) == (2, 2)
    np.testing.assert_allclose(spectra["low"].profile, [1.5, 0, 0], atol=1e-6)


def test_spectrum_is_the_mean(data):
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(8, 5, 6, 3)).astype("float32")
    rest = iter([maps[:5], maps[5:]])
    spectrum = analysis.feature_spectrum(
        {"noise": lambda x: next(rest)}, data, verbose=False
    )["noise"]
    expected = np.mean(
        [
            np.abs(np.fft.fftshift(np.fft.fft2(image[..., c]))) / 30
            for image in maps
            for c in range(3)
        ],
        axis=0,
    )
    np.testing.assert_allclose(spectrum.magnitude, expected, rtol=1e-4)
    assert spectrum.magnitude[2, 3] == pytest.approx(
        np.abs(maps.mean((1, 2))).mean(), rel=1e-4
    )
    y, x = np.mgrid[-2:3, -3:3]
    ring = np.rint(np.sqrt(x**2 + y**2))
    for r, value in enumerate(spectrum.profile):
        assert value == pytest.approx(expected[ring == r].mean(), rel=1e-4)


def test_last_features_of_rsnet(tiny, batch):
    features = analysis.last_features(tiny, batch[0])
    assert list(features) == ["r32", "r24", "r16"]
    for point in tiny.operating_points:
        maps = np.array(features[point.name])
        assert maps.shape[1] == point.resolution // tiny.backbone.stride
        logits = tiny.classifier(maps.mean((1, 2)))
        images = images_at(batch[0], point.resolution)
        np.testing.assert_allclose(logits, tiny.logits(images, point), atol=1e-4)


def test_last_features_of_msnet(batch, plot_file):
    model = randomize(
        keras_resadapt.MSResNet18(
            5, (32, 16), depths=(1, 1), filters=(8, 16), stem="small"
        )
    )
    features = analysis.last_features(model, batch[0])
    low, high = features["low, upsampled"], features["high"]
    assert low.shape == high.shape
    logits = model(batch[0])
    # The mean of the upsampled maps is that of the maps.
    for maps, exit in [(low, 0), (low + high, 1)]:
        np.testing.assert_allclose(
            model.classifiers[exit](np.array(maps).mean((1, 2))),
            logits[f"exit{exit}"],
            atol=1e-4,
        )
    spectra = analysis.plot_feature_spectrum(
        {"ms": model, "plain": make_tiny(resolutions=(32,))},
        [batch],
        plot_file,
        verbose=False,
    )
    assert list(spectra) == ["ms, low, upsampled", "ms, high", "plain"]


def test_spectrum_refuses(tiny_cascade, data):
    def spectrum(networks):
        analysis.feature_spectrum(networks, data, verbose=False)

    with pytest.raises(TypeError, match="RSNet or MSNet.*RANet"):
        spectrum(tiny_cascade)
    with pytest.raises(ValueError, match="at least one"):
        spectrum({})
    with pytest.raises(ValueError, match="must have shape.*from 'flat'"):
        spectrum({"flat": lambda x: np.zeros((len(x), 4))})
    with pytest.raises(ValueError, match="more than one pixel"):
        spectrum({"dot": lambda x: np.zeros((len(x), 1, 1, 4))})
    with pytest.raises(ValueError, match="one size in all batches"):
        spectrum({"odd": lambda x: np.zeros((1, len(x), 4, 4))})


# === BatchNormalization ===


def test_bn_statistics(tiny, plot_file):
    statistics = analysis.plot_bn_statistics(tiny, plot_file)
    assert statistics.resolutions == RESOLUTIONS
    assert statistics.layers[0] == "stem/bn1" and len(statistics.layers) == 6
    assert statistics.mean.shape == statistics.spread.shape == (4, 3, 6)
    layers = {
        layer.path.split("backbone/")[1]: layer
        for layer in tiny._flatten_layers()
        if isinstance(layer, SwitchableBatchNormalization)
    }
    assert set(statistics.layers) == set(layers)
    for i, name in enumerate(statistics.layers):
        for j, branch in enumerate(layers[name].branches):
            vectors = (
                branch.gamma,
                branch.beta,
                branch.moving_mean,
                branch.moving_variance,
            )
            for v, vector in enumerate(map(np.array, vectors)):
                np.testing.assert_allclose(
                    [statistics.mean[v, j, i], statistics.spread[v, j, i]],
                    [vector.mean(), vector.std()],
                    rtol=1e-4,
                )


def test_bn_statistics_of_some_layers(tiny, tiny_cascade):
    statistics = analysis.bn_statistics(tiny, layers="layer.*bn1$")
    assert statistics.layers == ("layer1_0/bn1", "layer2_0/bn1")
    with pytest.raises(ValueError, match="'bn7'.*stem/bn1"):
        analysis.bn_statistics(tiny, layers="bn7")
    with pytest.raises(TypeError, match="RANet without"):
        analysis.bn_statistics(tiny_cascade)


# === Segmentation ===


def test_class_colors():
    colors = analysis.class_colors(255)
    # Of the PASCAL VOC masks: background, aeroplane, bicycle, bird, boat, monitor
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    np.testing.assert_array_equal(colors[:5], expected)
    np.testing.assert_array_equal(colors[20], (0, 64, 128))
    assert len(np.unique(colors, axis=0)) == 255
    with pytest.raises(ValueError, match="`num_classes` .*=256"):
        analysis.class_colors(256)


def test_segmentation(plot_file):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (2, 24, 32, 3)).astype("f")
    masks = rng.integers(0, 3, (2, 24, 32)).astype("uint8")
    masks[:, :8] = 255
    predictions = {"r32": masks % 3, "$r_16$": [m % 2 for m in masks]}
    names = ["a", "$b", "_c"]
    analysis.plot_segmentation(images, masks, predictions, plot_file, names)
    pixels = matplotlib.image.imread(plot_file)[..., :3]
    shown = {tuple(pixel) for pixel in np.round(255 * pixels.reshape(-1, 3)).tolist()}
    assert {tuple(c) for c in analysis.class_colors(3).astype(float).tolist()} <= shown
    # Images of different sizes, and classes without names
    masks %= 3
    small = [images[0], images[1, :16]], [masks[0], masks[1, :16]]
    analysis.plot_segmentation(*small, {}, plot_file, ignore_class=None)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(images=np.zeros((0, 4, 4, 3)), masks=[]), "same length, at least 1"),
        (dict(predictions={"r": np.zeros((1, 4, 4), int)}), "same length.*'r': 1"),
        (dict(masks=np.zeros((2, 4, 4))), "must be integers.*float64 .*'ground truth'"),
        (dict(masks=np.full((2, 4, 4), 3)), "from 0 to 1, or ignore_class=255.*to 3"),
        (dict(masks=np.full((2, 4, 4), -1)), "labels from -1"),
    ],
)
def test_segmentation_refuses(changes, message, tmp_path):
    arguments = dict(
        images=np.zeros((2, 4, 4, 3)),
        masks=np.zeros((2, 4, 4), int),
        predictions={},
        path=tmp_path / "a.png",
        class_names=["a", "b"],
    )
    with pytest.raises(ValueError, match=message):
        analysis.plot_segmentation(**{**arguments, **changes})


def test_iou_per_class(plot_file, tmp_path):
    ious = {"r32": [0.5, 0.9, np.nan, 0.2], "r16": np.array([0.4, 0.7, np.nan, np.nan])}
    analysis.plot_iou_per_class(ious, plot_file, ["wall", "$floor$", "sky", "_x"])
    analysis.plot_iou_per_class(ious, plot_file)  # class 2 occurs nowhere
    for bad, names, message in [
        ({}, None, "one IoU per class"),
        ({"a": []}, None, "one IoU per class"),
        ({"a": [0.5], "b": [0.5, 0.5]}, None, "one IoU per class"),
        ({"a": [57.0]}, None, r"in \[0, 1\]"),
        ({"a": [np.nan]}, None, r"in \[0, 1\]"),
        ({"a": [0.5]}, ["a", "b"], "2 names for 1 classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            analysis.plot_iou_per_class(bad, tmp_path / "a.png", names)
