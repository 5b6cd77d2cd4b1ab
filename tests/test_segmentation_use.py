"""Segmentation in exports of encoded images and in query tables."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_segmentation import make_masks, make_mutual, make_rsnet

from keras_resadapt import OperatingPoint, data, export, inference
from keras_resadapt.data.preprocessing import resize_short_side


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return make_rsnet((32, 16))


def png(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return tf.io.encode_png(rng.integers(0, 255, (height, width, 3)).astype("uint8"))


def test_encoded_images_of_any_size(model, tmp_path):
    path = str(tmp_path / "scenes" / "1")
    export.export_saved_model(model, path, max_pixels=10_000)
    loaded = tf.saved_model.load(path)
    files = [png(40, 60, 1), png(50, 50, 2)]
    for point in model.operating_points:
        answer = loaded.signatures[f"{point.name}_encoded"](images=tf.stack(files))
        np.testing.assert_array_equal(answer["sizes"], [(40, 60), (50, 50)])
        classes = answer["classes"].numpy()
        assert classes.shape == (2, 50, 60)
        for file, (height, width), found in zip(files, answer["sizes"], classes):
            # As the evaluation has it
            image = data.decode(file)
            view = resize_short_side(image, point.resolution, model.backbone.stride)
            logits = model.logits(view[None], point)
            logits = model.task.align(logits, (int(height), int(width)))
            expected = np.argmax(logits[0], axis=-1)
            agreement = np.mean(found[:height, :width] == expected)
            assert agreement > 0.999
            assert (found[height:] == 255).all() and (found[:, width:] == 255).all()
    default = loaded.signatures["serving_default_encoded"](images=tf.stack(files))
    assert default["classes"].shape == (2, 50, 60)
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_pixels=10000"):
        loaded.signatures["r32_encoded"](images=tf.stack([png(101, 100)]))
    # Pixels: classes and probabilities at the size of the input
    images = make_masks()[0]
    answer = loaded.signatures["r32"](images=tf.constant(images))
    assert answer["classes"].shape == (8, 32, 32)
    np.testing.assert_allclose(
        tf.reduce_sum(answer["probabilities"], -1), np.ones((8, 32, 32)), rtol=1e-5
    )
    expected = model.task.align(model.logits(images, "r32"), (32, 32))
    np.testing.assert_array_equal(answer["classes"], np.argmax(expected, axis=-1))


@pytest.mark.slow
def test_query_table_of_mean_iou():
    keras.utils.set_random_seed(0)
    model = make_mutual((32, 16))
    images, masks = make_masks(16)
    point = OperatingPoint(16, 0.5)
    inference.calibrate_batch_norm(model, [images], [point], verbose=False)
    batches = [(images[:8], masks[:8]), (images[8:], masks[8:])]
    table = inference.QueryTable.measure(
        model, batches, (0.5,), (16,), repeats=1, verbose=False
    )
    (row,) = table.rows
    assert row.point == point
    # Against NumPy, over the whole set
    from keras_resadapt.layers import resize_bilinear

    logits = model.logits(resize_bilinear(images, 16), point)
    found = np.argmax(model.task.align(logits, (32, 32)), axis=-1)
    labelled = masks != 255
    ious = [
        np.sum(labelled & (masks == c) & (found == c))
        / np.sum(labelled & ((masks == c) | (found == c)))
        for c in range(3)
        if np.any(labelled & ((masks == c) | (found == c)))
    ]
    np.testing.assert_allclose(row.accuracy, np.mean(ious), atol=1e-6)
