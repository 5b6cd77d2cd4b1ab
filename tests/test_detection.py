"""Networks for detection and instance segmentation: training to export."""

import detection_worker_script
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_resadapt
from keras_resadapt import (
    OperatingPoint,
    data,
    export,
    inference,
    layers,
    models,
    tasks,
)
from keras_resadapt.boxes import paste_masks
from keras_resadapt.data import detection_augmentation
from keras_resadapt.quantization import (
    Int8,
    LearnedQuantization,
    calibrate_ranges,
    check_calibrated,
    quantize,
)

SETTINGS = {
    **detection_worker_script.SMALL["settings"],
    "anchor_sizes": (12, 24, 48),
}
SMALL = {
    **detection_worker_script.SMALL,
    "depths": (1, 1),
    "filters": (16, 16),
    "settings": SETTINGS,
}
TINY = {**detection_worker_script.SMALL, "resolutions": (64,)}
TERMS = ("objectness", "rpn_box", "class", "box", "mask")
SCORES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def mutual(**kwargs):
    keras.utils.set_random_seed(0)
    options = {"width_range": (0.5, 1.0), "num_random_widths": 0, **SMALL, **kwargs}
    return keras_resadapt.MutualMaskRCNN(8, **options)


@pytest.fixture(scope="module")
def source():
    return data.demo_detection_source("train", 6)


def batches(source, **kwargs):
    return data.detection_training_batches(
        source, 2, 64, max_size=64, max_objects=4, seed=0, **kwargs
    )


def evaluation(source, resolutions=(64, 48)):
    return data.detection_evaluation_batches(source, 2, resolutions, max_size=64)


@pytest.fixture(scope="module")
def trained(source):
    """A MutualNet, and the history of its training."""
    model = mutual()
    model.compile(keras.optimizers.SGD(1e-3))
    history = model.fit(
        batches(source, scale_range=(0.5, 1.5)),
        steps_per_epoch=2,
        validation_data=evaluation(source, 64),
        verbose=0,
    )
    return model, history.history


def test_history_has_the_terms_of_the_loss(trained):
    """And COCO's scores of the validation."""
    model, history = trained
    (full,) = model.operating_points
    assert full.name == "r64_w100"
    for term in TERMS:
        (value,) = history[f"{term}_loss"]
        assert np.isfinite(value)
        assert history[f"{full.name}_{term}_loss"] == [value]
    total = sum(history[f"{term}_loss"][0] for term in TERMS)
    assert history["loss"][0] > total  # the narrow sub-network's loss is added
    for kind in ("box", "mask"):
        for score in SCORES:
            assert f"val_{kind}_{score}" in history
            assert f"val_{full.name}_{kind}_{score}" in history


def test_costs(trained):
    """Widths slice the backbone; the neck and the heads have all their channels."""
    model, _ = trained
    points = model.grid([1.0, 0.5])
    rows = {row.point.name: row for row in model.profile(points)}
    assert rows["r64_w100"].madds > rows["r64_w050"].madds > 0
    assert rows["r64_w100"].madds > rows["r48_w100"].madds
    # The box head counts once per proposal, the mask head once per detection.
    box_head = 7 * 7 * 8 * 8 + 8 * 8 + 8 * 5 * 9
    mask_head = 14 * 14 * (4 * 9 * 8 * 8 + 4 * 8 * 8) + 28 * 28 * 8 * 9
    (rpn, _), heads = model.head.settings.rpn_proposals, 16 * box_head + 6 * mask_head
    assert rpn == 20
    assert heads < rows["r48_w050"].madds < 1.5 * heads


def test_detections_are_in_pixels_of_the_images(trained):
    """Of images of any sizes, alone, in a list and padded."""
    model, _ = trained
    rng = np.random.default_rng(0)
    images = [
        rng.uniform(0, 255, (*size, 3)) for size in ((90, 120), (40, 33), (1, 300))
    ]
    found = model.detect(images, "r64_w100")
    assert found["boxes"].shape == (3, 6, 4)
    assert found["masks"].shape == (3, 6, 28, 28)
    for i, image in enumerate(images):
        limits = np.array(image.shape[:2])[[1, 0, 1, 0]]
        count = found["count"][i]
        assert (found["boxes"][i] >= 0).all() and (found["boxes"][i] <= limits).all()
        assert (found["classes"][i, :count] >= 0).all()
        assert (found["classes"][i, count:] == -1).all()
    assert found["count"].sum() > 0
    alone = model.detect(images[1:2])
    np.testing.assert_allclose(alone["scores"][0], found["scores"][1], atol=1e-4)
    padded = np.zeros((2, 90, 120, 3))
    for place, image in zip(padded, images):
        place[: image.shape[0], : image.shape[1]] = image
    again = model.detect(padded, sizes=[(90, 120), (40, 33)])
    np.testing.assert_allclose(again["boxes"], found["boxes"][:2], atol=0.1)


def test_prediction_takes_canvases(trained):
    """Of any shape; the boxes are in pixels of the canvas."""
    model, _ = trained
    images = np.random.default_rng(0).uniform(0, 255, (3, 50, 70, 3))
    found = model.predict(images, verbose=0)
    assert found["boxes"].shape == (3, 6, 4)
    assert (found["boxes"] <= [70, 50, 70, 50]).all()


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "at least one image"),
        (np.zeros((1, 8, 8, 4)), "shape \\(height, width, 3\\)"),
        (np.full((1, 8, 8, 3), np.nan), "finite"),
    ],
)
def test_images_without_detections(trained, images, message):
    with pytest.raises(ValueError, match=message):
        trained[0].detect(images)


def test_tasks_without_detections():
    model = keras_resadapt.RSNet18(2, (32,), depths=(1, 1, 1, 1), filters=(4, 4, 4, 4))
    with pytest.raises(ValueError, match="has no detections"):
        model.detect(np.zeros((1, 32, 32, 3)))
    with pytest.raises(ValueError, match="has no scores of points"):
        model.score_points([])


def test_targets_are_scaled_with_the_images():
    task = tasks.InstanceSegmentation(2)
    targets = {
        "boxes": np.array([[[8.0, 4.0, 40.0, 20.0]]]),
        "size": np.array([[24, 47]]),
        "masks": np.ones((1, 1, 32, 64), "uint8"),
    }
    scaled = task.scale_targets(targets, (32, 64), (16, 48))
    np.testing.assert_allclose(scaled["boxes"], [[[6, 2, 30, 10]]])
    np.testing.assert_array_equal(scaled["size"], [[12, 35]])
    assert scaled["masks"] is targets["masks"]


def test_masks_cover_the_images_without_padding():
    """They can have another size than the images."""
    task = tasks.InstanceSegmentation(2)
    targets = {"boxes": np.zeros((1, 1, 4)), "masks": np.ones((1, 1, 60, 60), "uint8")}
    images = np.zeros((1, 48, 30, 3), "float32")
    inputs = task.head_inputs(images, 32, targets, True)
    assert inputs["image_size"] == (64, 32)
    assert inputs["mask_extent"] == (48, 30)
    np.testing.assert_array_equal(inputs["sizes"], [[48, 30]])
    assert inputs["targets"]["masks"] is targets["masks"]
    assert task.pad(images, 32).shape == (1, 64, 32, 3)


@pytest.mark.parametrize(
    "targets, message",
    [
        (np.zeros(2), "must be a dict with the keys"),
        ({"boxes": np.zeros((1, 2, 4))}, "must be a dict with the keys"),
        (
            {
                "boxes": np.zeros((1, 2, 4)),
                "classes": np.zeros((1, 2)),
                "count": np.zeros(1),
                "masks": tf.constant([["a", "b"]]),
            },
            "`masks` of the targets must be numbers with 4 dimensions",
        ),
    ],
)
def test_targets_of_another_form(targets, message):
    with pytest.raises(ValueError, match=message):
        tasks.InstanceSegmentation(2).check_targets(targets)


def test_arguments():
    task = tasks.InstanceSegmentation(3, masks=False, nms_iou=0.4)
    assert task == tasks.InstanceSegmentation.from_config(task.get_config())
    assert task.image_size(600) == (600, 1000)
    with pytest.raises(ValueError, match="`aspect` must be at least 1"):
        tasks.InstanceSegmentation(3, aspect=0.5)
    with pytest.raises(TypeError, match="nms"):
        tasks.InstanceSegmentation(3, nms=0.4)
    with pytest.raises(ValueError, match="`metrics` must be None"):
        task.make_metrics(["accuracy"])
    with pytest.raises(ValueError, match="`loss` must be None"):
        task.make_loss("mse")
    with pytest.raises(ValueError, match="`rpn_beta` and the `box_beta` of the task"):
        task.make_loss(tasks.DetectionLoss(box_beta=1.0))
    with pytest.raises(ValueError, match="`max_size` must be at least"):
        mutual(max_size=32)
    with pytest.raises(ValueError, match="`backbone` must be one of"):
        mutual(backbone="vgg")


def test_perfect_detections_have_scores_of_one(source):
    """Boxes and masks are scaled from the canvas to the original image."""
    scorer = tasks.InstanceSegmentation(8).make_scorer()
    for _, targets in evaluation(source, 48):
        scorer.update_state(targets, perfect_detections(targets))
    scores = scorer.result()
    assert scores["box_ap"] == pytest.approx(1.0)
    assert scores["mask_ap50"] == pytest.approx(1.0)


def perfect_detections(targets):
    """The objects of a batch, as the head returns them for the resized images."""
    from pycocotools import mask

    boxes = targets["boxes"].numpy()
    scale = (targets["size"] / targets["original_size"]).numpy()
    found = {
        "boxes": boxes * np.tile(scale[:, ::-1], 2)[:, None],
        "classes": targets["classes"].numpy(),
        "scores": np.ones(boxes.shape[:2]),
        "count": targets["count"].numpy(),
        "masks": np.zeros((*boxes.shape[:2], 28, 28), "float32"),
    }
    for i, count in enumerate(found["count"]):
        size = targets["original_size"][i].numpy().tolist()
        for j in range(count):
            counts = targets["masks"][i, j].numpy()
            pixels = mask.decode({"size": size, "counts": counts})
            x1, y1, x2, y2 = boxes[i, j]
            crop = tf.image.crop_and_resize(
                pixels[None, ..., None].astype("float32"),
                [
                    [y1 / (size[0] - 1), x1 / (size[1] - 1)]
                    + [(y2 - 1) / (size[0] - 1), (x2 - 1) / (size[1] - 1)]
                ],
                [0],
                (28, 28),
            )
            found["masks"][i, j] = 20 * (crop.numpy()[0, ..., 0] - 0.5)
    return found


# === All the uses of a network ===


@pytest.fixture(scope="module")
def calibrated(trained, source):
    model, _ = trained
    points = [OperatingPoint(48, 0.5)]
    inference.calibrate_batch_norm(model, batches(source), points, 4, verbose=False)
    return model


@pytest.mark.slow
def test_evaluation_of_calibrated_points(calibrated, source):
    """Images of every resolution, or of the largest, which are resized."""
    results = calibrated.evaluate(evaluation(source), verbose=0, return_dict=True)
    for name in ("", "r64_w100_", "r48_w050_"):
        for kind in ("box", "mask"):
            assert 0 <= results[f"{name}{kind}_ap"] <= 1
    again = calibrated.evaluate(evaluation(source, 64), verbose=0, return_dict=True)
    assert again["r64_w100_box_ap"] == results["r64_w100_box_ap"]


@pytest.mark.slow
def test_objects_of_an_evaluation_are_not_scaled(calibrated, source, monkeypatch):
    """They are in pixels of the original images, whatever the point's resolution."""
    data = list(evaluation(source, 64))
    truths = iter([targets for _, targets in data])

    def perfect(point, images, targets):
        truth = next(truths)
        scale = np.array(targets["size"]) / np.array(truth["original_size"])
        boxes = np.array(truth["boxes"]) * np.tile(scale[:, ::-1], 2)[:, None]
        return {
            "boxes": boxes,
            "classes": truth["classes"],
            "scores": np.ones(boxes.shape[:2]),
            "masks": np.ones((*boxes.shape[:2], 28, 28)),
            "count": truth["count"],
        }

    monkeypatch.setattr(calibrated, "run_at", perfect)
    scores = calibrated.score_points(data, [OperatingPoint(48, 0.5)])
    assert scores["r48_w050"]["box_ap"] > 0.99
    with pytest.raises(ValueError, match="targets of `data.detection_evaluation_b"):
        calibrated.score_points(batches(source).take(1))


@pytest.mark.slow
def test_query_table(calibrated, source, tmp_path):
    path = tmp_path / "table.json"
    table = inference.QueryTable.measure(
        calibrated, evaluation(source), [0.5], [48], repeats=1, path=path, verbose=False
    )
    (row,) = table.rows
    assert row.accuracy == row.scores["mask_ap"]
    assert set(row.scores) <= {f"{k}_{s}" for k in ("box", "mask") for s in SCORES}
    assert inference.QueryTable.load(path, calibrated) == table


@pytest.mark.slow
def test_latency_is_measured_on_the_images(calibrated, source, monkeypatch):
    """The passes run other images in turn; those of a table are the evaluated ones."""
    point, data = OperatingPoint(48, 0.5), list(evaluation(source))
    seen = []
    run_at = calibrated.run_at

    def run(point, images, targets):
        seen.append((np.array(images), np.array(targets["size"])))
        return run_at(point, images, targets)

    monkeypatch.setattr(calibrated, "run_at", run)
    ms = inference.measure_latency(calibrated, [point], 1, 2, data[:2])
    assert list(ms) == ["r48_w050"] and ms["r48_w050"] > 0
    expected = np.concatenate([images[1] for images, _ in data[:2]])
    np.testing.assert_array_equal(np.concatenate([x for x, _ in seen]), expected)
    assert all(size.tolist() == [[48, 48]] for _, size in seen)

    seen.clear()  # a batch of three of two images, on a network with one batch
    inference.measure_latency(calibrated, [point], 3, 1, data[:1])
    np.testing.assert_array_equal(seen[0][0], data[0][0][1].numpy()[[0, 1, 0]])

    seen.clear()
    inference.QueryTable.measure(
        calibrated, iter(data), [0.5], [48], repeats=1, verbose=False
    )
    assert len(seen) == len(data) + 3 and all(x.max() > 0 for x, _ in seen)
    with pytest.raises(ValueError, match="`data` must have at least one batch"):
        inference.measure_latency(calibrated, [point], data=[])


@pytest.mark.slow
def test_saving(calibrated, tmp_path):
    calibrated.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3))
    for name, value in calibrated.detect(images, "r48_w050").items():
        np.testing.assert_allclose(
            loaded.detect(images, "r48_w050")[name], value, atol=1e-4
        )
    assert loaded.task == calibrated.task
    assert isinstance(loaded.task_loss, tasks.DetectionLoss)


@pytest.mark.slow
def test_saved_model(calibrated, tmp_path):
    """Signatures for images of any size, encoded or not, in one batch."""
    names = [f"class {i}" for i in range(8)]
    path = tmp_path / "export"
    export.export_saved_model(
        calibrated,
        path,
        names,
        points=[OperatingPoint(48, 0.5)],
        full_masks=True,
    )
    signatures = tf.saved_model.load(str(path)).signatures
    assert set(signatures) == {
        *("r48_w050", "r48_w050_encoded", "serving_default"),
        "serving_default_encoded",
    }
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 255, (*size, 3)).astype("uint8")
        for size in ((90, 120), (40, 33))
    ]
    files = [tf.io.encode_png(image).numpy() for image in images]
    found = signatures["r48_w050_encoded"](images=tf.constant(files))
    expected = calibrated.detect(images, "r48_w050")
    np.testing.assert_array_equal(found["sizes"], [[90, 120], [40, 33]])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-3)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.2)
    count = int(found["count"][0])
    label = int(expected["classes"][0, 0])
    assert found["classes"][0, 0].numpy().decode() == names[label]
    assert found["full_masks"].shape == (2, 6, 90, 120)
    pasted = paste_masks(
        tf.sigmoid(found["masks"][0, :count]), found["boxes"][0, :count], (90, 120)
    )
    np.testing.assert_array_equal(
        found["full_masks"][0, :count], np.array(pasted) >= 0.5
    )
    assert signatures["r48_w050_encoded"](images=tf.constant([], tf.string))[
        "boxes"
    ].shape == (0, 6, 4)
    pixels = signatures["r48_w050"](images=tf.zeros((3, 50, 70, 3)))
    assert pixels["boxes"].shape == (3, 6, 4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="finite"):
        signatures["r48_w050"](images=tf.fill((1, 32, 32, 3), np.nan))
    assert export.replay_warmup(path)


def test_exports_that_cannot_work(trained, tmp_path):
    model, _ = trained
    with pytest.raises(ValueError, match="`freeze` must be False"):
        export.export_saved_model(model, tmp_path / "a", freeze=True)
    with pytest.raises(ValueError, match="LiteRT has no operations for the non-max"):
        export.export_litert(model, tmp_path / "a.tflite")
    with pytest.raises(ValueError, match="`full_masks` must be False"):
        export.export_saved_model(mutual(masks=False), tmp_path / "a", full_masks=True)


def test_what_xla_and_other_backends_cannot_run(trained, monkeypatch):
    model, _ = trained
    message = "`jit_compile` must be False or 'auto' .* InstanceSegmentation"
    for network in (model, keras_resadapt.RSMaskRCNN(8, **TINY)):
        with pytest.raises(ValueError, match=message):
            network.compile(jit_compile=True)
    # As on a GPU, where "auto" otherwise compiles
    monkeypatch.setattr(models.network, "on_tensorflow_cpu", lambda: False)
    network.compile()
    assert network.jit_compile is False
    monkeypatch.setattr(models.network, "on_tpu", lambda: True)
    with pytest.raises(ValueError, match="a TPU cannot run"):
        network.compile()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="needs the TensorFlow backend.*'jax'"):
        network.task.head(layers.LayerSet(), {"P2": 4})


@pytest.mark.slow
def test_rsnet_trains_at_all_resolutions(source):
    """In mixed precision, and with frozen BatchNormalization."""
    keras.utils.set_random_seed(0)
    model = keras_resadapt.RSMaskRCNN(
        8, **{**SMALL, "masks": False}, dtype="mixed_float16", frozen_bn=True
    )
    model.compile(keras.optimizers.SGD(1e-3))
    before = [np.array(v) for v in model.backbone.variables if "bn" in v.path]
    history = model.fit(batches(source), steps_per_epoch=2, verbose=0).history
    terms = TERMS[:4]
    for term in terms:
        assert np.isfinite(history[f"r48_{term}_loss"][0])
        assert history[f"{term}_loss"] == history[f"r64_{term}_loss"]
    total = sum(history[f"r{r}_{term}_loss"][0] for term in terms for r in (64, 48))
    assert history["loss"][0] == pytest.approx(total, rel=1e-2)
    after = [np.array(v) for v in model.backbone.variables if "bn" in v.path]
    assert before and all(map(np.array_equal, before, after))
    scores = model.evaluate(evaluation(source), verbose=0, return_dict=True)
    assert {"box_ap", "r64_box_ap", "r48_box_ap"} <= set(scores)
    loaded = type(model).from_config(model.get_config())
    assert loaded.frozen_bn
    assert len(loaded.trainable_variables) == len(model.trainable_variables)


# === Quantization ===


@pytest.mark.slow
def test_int8(source, tmp_path):
    """Training, a saved model and a SavedModel agree."""
    model = keras_resadapt.RSMaskRCNN(8, **TINY, quantization=Int8())
    in_float = [
        layer.name
        for layer in model._flatten_layers()
        if getattr(layer, "stays_in_float", False)
    ]
    assert in_float == ["upsampling"]
    model.compile(keras.optimizers.SGD(1e-3))
    history = model.fit(batches(source), steps_per_epoch=1, verbose=0).history
    assert all(np.isfinite(history[f"{term}_loss"]) for term in TERMS)
    (point,) = model.operating_points
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    expected = model.run_at(point, images, {"size": np.full((2, 2), 64)})
    assert expected["count"].sum() > 0
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.scheme == Int8()
    # The export checks that all ranges are known.
    export.export_saved_model(loaded, tmp_path / "export", encoded=False)
    signatures = tf.saved_model.load(str(tmp_path / "export")).signatures
    for name, value in signatures[point.name](images=tf.constant(images)).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_learned_quantization_after_training(source):
    """A float MutualNet is quantized, and its ranges are calibrated."""
    options = {**TINY, "width_range": (0.5, 1.0), "masks": False}
    model = quantize(
        keras_resadapt.MutualMaskRCNN(8, **options), LearnedQuantization(2, 2)
    )
    calibrate_ranges(model, batches(source), num_images=2, verbose=False)
    check_calibrated(model, model.operating_points)


# === The pixels of every path ===


class Canvases:
    """A network that returns its canvases instead of detections."""

    task = tasks.InstanceSegmentation(2)

    def __call__(self, inputs, point):
        images = inputs["images"]
        return {"boxes": tf.zeros((tf.shape(images)[0], 1, 4)), "canvases": images}


# One side of the last two is 53.5 pixels before it is rounded.
SIZES = [(90, 120), (40, 33), (50, 120), (64, 64), (13, 26), (52, 26)]


@pytest.fixture(scope="module")
def prepared():
    """Images of several sizes; their canvases and sizes in `detect`."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (*size, 3)).astype("uint8") for size in SIZES]
    canvases, targets = Canvases.task.prepare_images(images, 64)
    return images, canvases, targets["size"]


def test_detect_and_exports_run_on_the_same_pixels(prepared):
    """A difference of 1e-5 turns into a step of a quantizer where it rounds."""
    images, canvases, _ = prepared
    files = tf.constant([tf.io.encode_png(image).numpy() for image in images])
    signatures = export.detection_signatures.detection_signatures(
        Canvases(),
        [OperatingPoint(64)],
        dict,
        export.encoded_signatures.Decoding(1.0, 10**6),
    )
    found = signatures["r64_encoded"].function(files)
    np.testing.assert_array_equal(found["canvases"], canvases)


def test_detect_and_evaluate_run_on_the_same_pixels(prepared):
    """Apart from the size of the canvas."""
    for image, canvas, size in zip(*prepared):
        new = detection_augmentation.resized_size(image.shape[:2], 64, (107, 107))
        np.testing.assert_array_equal(new, size)
        expected = detection_augmentation.place_image(
            tf.constant(image), detection_augmentation.whole_image(new), (107, 107)
        )
        height, width = size
        np.testing.assert_array_equal(
            canvas[:height, :width], expected[:height, :width]
        )


# === Targets of another rank ===


def test_targets_of_another_rank(trained, source):
    """After a training on targets of the right rank."""
    wrong = batches(source).map(
        lambda images, targets: (
            images,
            {**targets, "count": targets["count"][:, None]},
        )
    )
    message = r"`count` of the targets must be numbers with 1 dimension,.*\(2, 1\)"
    with pytest.raises(ValueError, match=message):
        trained[0].fit(wrong, steps_per_epoch=1, verbose=0)


def test_targets_of_unknown_rank():
    targets = {
        "boxes": tf.zeros((1, 2, 4)),
        "classes": tf.zeros((1, 2)),
    }

    @tf.function(input_signature=[tf.TensorSpec(None)])
    def check(count):
        tasks.InstanceSegmentation(2, masks=False).check_targets(
            {**targets, "count": count}
        )

    with pytest.raises(ValueError, match="`count` of the targets.*shape <unknown>"):
        check.get_concrete_function()
