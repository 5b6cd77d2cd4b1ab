"""The signatures of a SavedModel that return detections."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_resadapt.boxes import paste_masks
from keras_resadapt.data.augmentation import resize
from keras_resadapt.data.decoding import decode
from keras_resadapt.data.detection_augmentation import resized_size
from keras_resadapt.data.detection_pipeline import STRIDE
from keras_resadapt.export.encoded_signatures import Decoding
from keras_resadapt.export.signature import Signature, signature_of
from keras_resadapt.layers.preprocessing import MEAN_COLOR
from keras_resadapt.models.network import Network
from keras_resadapt.points import OperatingPoint

# Height and width of the image that takes the place of an empty request
_LEAST_SIZE = 32

Respond = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]


def detection_signatures(
    model: Network,
    points: Sequence[OperatingPoint],
    respond: Respond,
    decoding: Decoding | None,
    full_masks: bool = False,
) -> dict[str, Signature]:
    """Returns the signatures of a network with detections, by name.

    - `<point.name>` takes `images`, float32 of shape (batch, height, width, 3) with any
      height and width: images that were resized to the resolution of the point and
      padded. Boxes are in pixels of these images.
    - `<point.name>_encoded` takes `images`, the bytes of files, strings of shape
      (batch,). Images of any sizes are decoded, resized and padded in the graph, and
      run as one batch. Boxes are in pixels of each original image. It also returns
      `sizes`, int32 of shape (batch, 2): height and width of each image.

    Args:
        model: A network with detections.
        points: Its operating points.
        respond: A function from detections to the outputs; see `tasks.Task.response`.
        decoding: Limits of the encoded images; None for no such signatures.
        full_masks: Whether the outputs have `full_masks`, uint8 of shape
            (batch, detections, height, width), zeros and ones at the size of the
            images, or of the largest image for encoded images.
    """
    signatures = {}
    for point in points:
        signatures[point.name] = _pixel_signature(model, point, respond, full_masks)
        if decoding is not None:
            signatures[f"{point.name}_encoded"] = _encoded_signature(
                model, point, respond, decoding, full_masks
            )
    return signatures


def _pixel_signature(model, point, respond, full_masks) -> Signature:
    def run(images):
        rows = tf.shape(images)[0]
        tf.debugging.assert_positive(
            tf.shape(images)[1:3],
            "`images` must have a height and a width of at least one pixel",
        )
        images = tf.debugging.assert_all_finite(
            tf.ensure_shape(images, (None, None, None, 3)),
            "`images` must hold finite pixel values",
        )
        # oneDNN's convolutions fail with an empty batch.
        shape = (tf.maximum(1 - rows, 0), *tf.unstack(tf.shape(images)[1:]))
        images = tf.concat([images, tf.zeros(tf.stack(shape))], axis=0)
        size = tf.shape(images)[1:3]
        sizes = tf.tile(size[tf.newaxis], [tf.shape(images)[0], 1])
        outputs = _detect(model, point, images, sizes)
        if full_masks:
            outputs["full_masks"] = _paste(outputs, sizes)
        return _first(rows, respond(outputs))

    spec = tf.TensorSpec((None, None, None, 3), tf.float32, name="images")
    return signature_of(run, [spec])


def _encoded_signature(model, point, respond, decoding, full_masks) -> Signature:
    _, limit = model.task.image_size(point.resolution)
    gray = tf.fill((_LEAST_SIZE, _LEAST_SIZE, 3), tf.constant(128, tf.uint8))
    gray = tf.io.encode_png(gray).numpy()

    def one_image(encoded):
        image = decode(encoded, decoding.max_pixels)
        size = tf.shape(image)[:2]
        new = resized_size(size, point.resolution, (limit, limit))
        view = resize(image, new[0], new[1]) - MEAN_COLOR
        return tf.RaggedTensor.from_tensor(view, ragged_rank=2), new, size

    def run(images):
        rows = tf.shape(images)[0]
        missing = tf.fill([tf.maximum(1 - rows, 0)], tf.constant(gray))
        sizes_spec = tf.TensorSpec((2,), tf.int32)
        views, new, sizes = tf.map_fn(
            one_image,
            tf.concat([images, missing], axis=0),
            fn_output_signature=(
                tf.RaggedTensorSpec((None, None, 3), tf.float32, ragged_rank=2),
                sizes_spec,
                sizes_spec,
            ),
        )
        canvases = _canvases(views)
        outputs = _detect(model, point, canvases, new)
        scale = tf.cast(sizes, tf.float32) / tf.cast(new, tf.float32)
        limits = tf.cast(sizes, tf.float32)[:, ::-1]
        boxes = outputs["boxes"] * tf.tile(scale[:, ::-1], [1, 2])[:, tf.newaxis]
        boxes = tf.minimum(boxes, tf.tile(limits, [1, 2])[:, tf.newaxis])
        outputs = {**outputs, "boxes": boxes}
        if full_masks:
            outputs["full_masks"] = _paste(outputs, sizes)
        return _first(rows, {**respond(outputs), "sizes": sizes})

    return signature_of(run, [tf.TensorSpec((None,), tf.string, name="images")])


def _canvases(views: tf.RaggedTensor) -> tf.Tensor:
    """Returns images without `MEAN_COLOR` as canvases like those of the data."""
    canvases = views.to_tensor(shape=(None, None, None, 3))
    size = tf.shape(canvases)[1:3]
    height, width = tf.unstack(-size % STRIDE)
    canvases = tf.pad(canvases, [[0, 0], [0, height], [0, width], [0, 0]])
    return canvases + MEAN_COLOR


def _detect(model, point, images, sizes) -> dict[str, tf.Tensor]:
    return dict(model({"images": images, "targets": {"size": sizes}}, point=point))


def _paste(outputs, sizes):
    """Returns the masks of all detections at the largest of some sizes."""
    height, width = tf.unstack(tf.reduce_max(sizes, axis=0))
    probabilities = tf.sigmoid(outputs["masks"])
    pasted = paste_masks(probabilities, outputs["boxes"], (height, width)) >= 0.5
    exists = outputs["classes"][..., tf.newaxis, tf.newaxis] >= 0
    return tf.cast(pasted & exists, tf.uint8)


def _first(rows, outputs):
    return {name: output[:rows] for name, output in outputs.items()}
