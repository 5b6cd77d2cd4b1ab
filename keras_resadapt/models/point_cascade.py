"""A switchable network as a cascade of its operating points."""

import dataclasses
from collections.abc import Sequence

import keras
from keras import ops

from keras_resadapt.layers import resize_bilinear
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.points import OperatingPoint
from keras_resadapt.tasks import Classification


@keras.saving.register_keras_serializable("keras_resadapt")
class PointCascade(Cascade):
    """A cascade whose exits are operating points of another network.

    The exits are resolutions of an `RSNet`, or widths and resolutions of a
    `MutualNet`, the cheapest first. All exits share the weights, but an exit reuses
    no features of an earlier one: an image that goes on costs both. Everything for
    cascades works: `AdaptivePredictor`, `calibrate`, and exports with an `adaptive`
    signature.

    Train the network itself. Calibrate the points of a `MutualNet` first.

    Args:
        network: An `RSNet` or a `MutualNet` with the task `Classification`. Its
            weights are shared, not copied.
        points: Its operating points, in any order; by default all of them. More than
            three or four points rarely reduce the cost further.
        **kwargs: Arguments of `Cascade`.

    Attributes:
        points: The operating points, the cheapest first.
        resolution: The largest resolution of the points. Smaller images are made
            from it.
    """

    def __init__(
        self,
        network: Network,
        points: Sequence[OperatingPoint] | None = None,
        **kwargs,
    ):
        if not isinstance(network, Network) or isinstance(network, Cascade):
            raise TypeError(
                "`network` must be an `RSNet` or a `MutualNet`. "
                f"Received: {network!r} of type {type(network).__name__}"
            )
        if not isinstance(network.task, Classification):
            raise ValueError(
                "`network` must be a classifier, whose confidence decides which image "
                f"exits. Received: a network with task={network.task}"
            )
        super().__init__(network.num_classes, **kwargs)
        if self.quantization is not None:
            raise ValueError(
                "`quantization` must be None: quantize the network of a "
                f"`PointCascade`. Received: quantization={self.quantization}"
            )
        points = tuple(network.operating_points if points is None else points)
        if not points or len({point.name for point in points}) < len(points):
            raise ValueError(
                "`points` must name at least one operating point, and none "
                f"twice. Received: points={points}"
            )
        if hasattr(network, "points_without_statistics") and (
            missing := network.points_without_statistics(points)
        ):
            raise ValueError(
                "All `points` need BatchNormalization statistics: call "
                "`keras_resadapt.inference.calibrate_batch_norm(network, "
                f"data, points)` first. Missing: {missing}"
            )
        self.network = network
        rows = sorted(network.profile(points), key=lambda row: row.madds)
        self.points = tuple(row.point for row in rows)
        self.num_exits = len(self.points)
        resolution = max(point.resolution for point in self.points)
        self.resolution = resolution  # type: ignore[assignment]
        self.preprocessing = network.preprocessing
        self.build_from_point()

    @property
    def scheme(self):
        return self.network.quantization

    def inner_network(self):
        return self.network

    def rebuilt(self, change):
        return type(self).from_config(self.get_config(), self.network.rebuilt(change))

    def points_to_calibrate(self, points=None):
        return self.network.points_to_calibrate(
            self.points if points is None else points
        )

    def check_images(self, images) -> None:
        super().check_images(images)
        if tuple(images.shape[1:3]) != (self.resolution, self.resolution):
            raise ValueError(
                f"Images must have {self.resolution} x {self.resolution} "
                "pixels, the largest resolution of the points. "
                f"Received: {images.shape[1]} x {images.shape[2]}"
            )

    def begin(self, images, point, training=None):
        return {"images": images}

    def extend(self, features, exit, point, training=None):
        return features

    def exit_features(self, features, exit):
        point = self.points[exit]
        images = self._images_at(features, point)
        return self.network.features(images, point, pooling=None)

    def classify(self, features, exit, point, training=None):
        chosen = self.points[exit]
        images = self._images_at(features, chosen)
        point = dataclasses.replace(point, **chosen.axes())
        return self.network(images, point=point, training=training)

    @staticmethod
    def _images_at(features, point):
        return resize_bilinear(
            ops.cast(features["images"], "float32"), point.resolution
        )

    def get_config(self):
        config = super().get_config()
        del config["num_classes"]  # the network's
        return {
            **config,
            "network": keras.saving.serialize_keras_object(self.network),
            "points": [point.axes() for point in self.points],
        }

    @classmethod
    def from_config(cls, config, network: Network | None = None):
        if network is None:
            network = keras.saving.deserialize_keras_object(config["network"])
        points = [OperatingPoint(**point) for point in config["points"]]
        return cls(**{**config, "network": network, "points": points})
