"""The signatures of a SavedModel that answer at the size of encoded images."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from keras_resadapt.data.decoding import decode
from keras_resadapt.data.preprocessing import resize_short_side
from keras_resadapt.export.encoded_signatures import Decoding
from keras_resadapt.export.signature import Signature, signature_of
from keras_resadapt.models.network import Network
from keras_resadapt.points import OperatingPoint


def whole_image_signatures(
    model: Network, points: Sequence[OperatingPoint], decoding: Decoding
) -> Mapping[str, Signature]:
    """Returns one signature per operating point, by the point's name.

    Each image of a request is decoded, and resized so that its short side has the
    resolution of the point and its long side a multiple of the network's stride, as
    `data.segmentation_evaluation_batches` does. The classes are those of the image's
    own pixels. In a request with images of several sizes, they are padded at the bottom
    and on the right with the task's `ignore_class`, or 255.

    Args:
        model: A network with a class for each pixel.
        points: Its operating points.
        decoding: Limits of the encoded images.

    Returns:
        Signatures that take `images`, strings of shape (batch,). They return `classes`,
        int32 of shape (batch, height, width) for the largest height and width of the
        request, and `sizes`, int32 of shape (batch, 2): height and width of each image.
    """
    return {point.name: _signature(model, point, decoding) for point in points}


def _signature(model, point, decoding) -> Signature:
    task, stride = model.task, model.backbone.stride
    fill = 255 if task.ignore_class is None else task.ignore_class
    ragged = tf.RaggedTensorSpec((None, None), tf.int32, ragged_rank=1)

    def one_image(encoded):
        image = decode(encoded, decoding.max_pixels)
        size = tf.shape(image)[:2]
        view = resize_short_side(image, point.resolution, stride)
        outputs = model.logits(view[None], point)
        outputs = task.align(outputs, (size[0], size[1]))
        classes = tf.math.top_k(outputs[0], 1).indices[..., 0]
        return tf.RaggedTensor.from_tensor(classes), size

    def run(images):
        classes, sizes = tf.map_fn(
            one_image,
            images,
            fn_output_signature=(ragged, tf.TensorSpec((2,), tf.int32)),
        )
        return {"classes": classes.to_tensor(fill), "sizes": sizes}

    return signature_of(run, [tf.TensorSpec((None,), tf.string, name="images")])
