"""The signatures of a SavedModel that take encoded images."""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from keras_resadapt.data import preprocess_encoded
from keras_resadapt.export.signature import Signature, signature_of
from keras_resadapt.number_checks import check_integer


@dataclasses.dataclass(frozen=True)
class Decoding:
    """The preprocessing of encoded images.

    Args:
        crop_fraction: Resolution divided by the short side before the center
            crop, in (0, 1].
        max_pixels: The largest accepted height times width of an encoded
            image.

    Raises:
        ValueError: If an argument is outside its range.
    """

    crop_fraction: float
    max_pixels: int

    def __post_init__(self):
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(
                "`crop_fraction` must be in (0, 1]. "
                f"Received: crop_fraction={self.crop_fraction!r}"
            )
        object.__setattr__(self, "crop_fraction", float(self.crop_fraction))
        object.__setattr__(
            self, "max_pixels", check_integer(self.max_pixels, "max_pixels")
        )


def add_encoded_signatures(
    signatures: Mapping[str, Signature], decoding: Decoding
) -> dict[str, Signature]:
    """Returns signatures, each followed by its variant for encoded images.

    The variant has the name of the signature and the suffix `"_encoded"`.
    """
    variants = {
        id(signature): _encoded_signature(signature, decoding)
        for signature in signatures.values()
    }
    result = {}
    for name, signature in signatures.items():
        result[name] = signature
        result[f"{name}_encoded"] = variants[id(signature)]
    return result


def _encoded_signature(signature: Signature, decoding: Decoding) -> Signature:
    """Returns a signature that decodes images and calls another signature.

    The file stores the graph of the other signature only once.
    """
    pixels, *others = signature.specs
    resolution = pixels.shape[1]
    decoded = tf.TensorSpec((resolution, resolution, 3), tf.float32)

    def preprocess(encoded):
        return preprocess_encoded(
            encoded, resolution, decoding.crop_fraction, decoding.max_pixels
        )

    def run(images, *tensors):
        images = tf.map_fn(preprocess, images, fn_output_signature=decoded)
        return signature.function(images, *tensors)

    return signature_of(
        run, [tf.TensorSpec((None,), tf.string, name="images"), *others]
    )
