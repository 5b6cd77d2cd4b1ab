"""An RS-Net as a cascade: its resolutions, tried from low to high."""

import dataclasses

import keras
from keras import ops

from keras_resadapt.layers import resize_bilinear
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.rsnet import RSNet


@keras.saving.register_keras_serializable("keras_resadapt")
class ResolutionCascade(Cascade):
    """A cascade whose exits are the resolutions of an `RSNet`, low to high.

    Nothing of a lower resolution is used again at a higher one, so that an
    image that goes on pays for both; but all exits share the convolutions.
    What is made for cascades works for it: `AdaptivePredictor`, `calibrate`,
    export with an `adaptive` signature.

    Train the RS-Net itself: its own loss knows of the ensemble.

    Args:
        rsnet: The network, whose weights are shared and not copied.
        **kwargs: Arguments of `Cascade`.

    Attributes:
        resolution: The network's largest. Lower ones are made from it, as in
            the network's own training.
    """

    def __init__(self, rsnet: RSNet, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(rsnet, RSNet):
            raise TypeError(
                "`rsnet` must be an `RSNet`. "
                f"Received: {rsnet!r} of type {type(rsnet).__name__}"
            )
        self.rsnet = rsnet
        self.resolutions = rsnet.resolutions[::-1]
        self.num_classes = rsnet.num_classes
        self.num_exits = len(self.resolutions)
        self.resolution = self.resolutions[-1]
        self.preprocessing = rsnet.preprocessing
        self.build_from_point()

    def check_images(self, images) -> None:
        super().check_images(images)
        if tuple(images.shape[1:3]) != (self.resolution, self.resolution):
            raise ValueError(
                f"Images must have {self.resolution} x {self.resolution} "
                "pixels, the network's largest resolution. "
                f"Received: {images.shape[1]} x {images.shape[2]}"
            )

    def begin(self, images, point, training=None):
        return {"images": images}

    def extend(self, features, exit, point, training=None):
        return features

    def classify(self, features, exit, point, training=None):
        resolution = self.resolutions[exit]
        images = resize_bilinear(
            ops.cast(features["images"], "float32"), resolution
        )
        point = dataclasses.replace(point, resolution=resolution, exit=None)
        return self.rsnet(images, point=point, training=training)

    def get_config(self):
        return {
            **super().get_config(),
            "rsnet": keras.saving.serialize_keras_object(self.rsnet),
        }

    @classmethod
    def from_config(cls, config):
        rsnet = keras.saving.deserialize_keras_object(config["rsnet"])
        return cls(**{**config, "rsnet": rsnet})
