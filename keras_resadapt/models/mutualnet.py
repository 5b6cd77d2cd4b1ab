"""MutualNet: any width at any of several resolutions (Yang et al., 2019)."""

import functools
import math
import numbers
from collections.abc import Sequence

import keras
from keras import ops

from keras_resadapt import losses
from keras_resadapt.backbones import (
    VGG,
    Backbone,
    MobileNetV1,
    MobileNetV2,
    ResNet,
)
from keras_resadapt.layers import (
    LayerSet,
    Preprocessing,
    SlimmableBatchNormalization,
    SlimmableConv2D,
    SlimmableDense,
    SlimmableDepthwiseConv2D,
)
from keras_resadapt.layers.switchable_batch_normalization import (
    check_resolutions,
)
from keras_resadapt.models.classifier import Classifier
from keras_resadapt.models.sandwich import draw_sub_networks, sandwich_gradients
from keras_resadapt.models.weights import load_weights_file
from keras_resadapt.points.operating_point import OperatingPoint
from keras_resadapt.profile import channels_of_norms
from keras_resadapt.quantization.per_point import SlimmableQuantizer

DISTILLATIONS = ("kl", "alpha")


@keras.saving.register_keras_serializable("keras_resadapt")
class MutualNet(Classifier):
    """A slimmable network, trained at many widths and resolutions at once.

    A narrow width uses the first channels of every layer, and computes
    nothing else. A training step runs the full network at the largest
    resolution with the labels, and the narrowest and some randomly drawn
    widths, each at a randomly drawn resolution, with the full network's
    predictions (section 3.2, equations 2 to 4).

    Of the BatchNormalization statistics, only the full network's are known
    after training. For every other operating point, call
    `inference.calibrate_batch_norm` first; further training forgets them.

    `model(images)` and `predict` run the full width at the images' own
    resolution; `fit` and `evaluate` take images at the largest resolution and
    report the full network's metrics. `inference.QueryTable` measures all
    points.

    US-Net is this with a single resolution; US-Net+, which is tested at more
    resolutions than it was trained at, is this with `train_resolutions`.

    Args:
        backbone: A backbone; the network is made anew from its architecture.
        num_classes: Number of classes.
        width_range: Smallest and largest width multiplier.
        resolutions: Resolutions at which it runs, in pixels.
        train_resolutions: Those drawn in training, by default all. The
            largest must be among them.
        num_random_widths: Widths drawn a step, beside smallest and largest.
        distillation: `"kl"` (equation 3), or `"alpha"` for the clipped
            divergence of `losses.AlphaDivergence`.
        seed: Of the draws, which depend on it and the step's number alone.
        preprocessing: `"imagenet"`, `"unit"` or `None`; see
            `layers.Preprocessing`.
        calibrated: The points that have statistics, as pairs (resolution,
            width): how a saved model remembers them. They are NaN until
            weights are loaded or they are calibrated.

    Attributes:
        operating_points: Those with statistics: the full network, and the
            calibrated ones.

    Reference:
        A Closer Look at Network Resolution for Efficient Network Design
        (https://arxiv.org/abs/1909.12978).
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 1000,
        width_range: tuple[float, float] = (0.25, 1.0),
        resolutions: Sequence[int] = (224, 192, 160, 128),
        train_resolutions: Sequence[int] | None = None,
        num_random_widths: int = 2,
        distillation: str = "kl",
        seed: int = 0,
        preprocessing: str | None = "imagenet",
        calibrated: Sequence[tuple[int, float]] = (),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(backbone, Backbone):
            raise TypeError(
                f"`backbone` must be a `backbones.Backbone`. Received: {backbone!r}"
            )
        for name, value, least in (
            ("num_classes", num_classes, 1),
            ("num_random_widths", num_random_widths, 0),
            ("seed", seed, 0),
        ):
            if not hasattr(value, "__index__") or value < least:
                raise ValueError(
                    f"`{name}` must be an integer, at least {least}. "
                    f"Received: {name}={value!r}"
                )
        self.width_range = _check_width_range(width_range)
        self.resolutions = check_resolutions(resolutions)
        if self.resolutions[-1] < backbone.stride:
            raise ValueError(
                f"`resolutions` must be at least {backbone.stride} pixels, "
                "the stride of the backbone. "
                f"Received: resolutions={self.resolutions}"
            )
        self.train_resolutions = check_resolutions(
            self.resolutions if train_resolutions is None else train_resolutions
        )
        if (
            not set(self.train_resolutions) <= set(self.resolutions)
            or self.train_resolutions[0] != self.resolutions[0]
        ):
            raise ValueError(
                "`train_resolutions` must be among the resolutions, "
                f"{self.resolutions}, and the largest one of them. "
                f"Received: train_resolutions={self.train_resolutions}"
            )
        if distillation not in DISTILLATIONS:
            raise ValueError(
                f"`distillation` must be one of {DISTILLATIONS}. "
                f"Received: distillation={distillation!r}"
            )
        self.num_classes = int(num_classes)
        self.num_random_widths = num_random_widths
        self.distillation = distillation
        self.divergence = (
            losses.Distillation() if distillation == "kl" else losses.AlphaDivergence()
        )
        self.seed = seed

        # === Layers ===
        self.full_point = OperatingPoint(self.resolutions[0], self.width_range[1])
        layers = LayerSet(
            conv=functools.partial(SlimmableConv2D, max_width=self.width_range[1]),
            depthwise=SlimmableDepthwiseConv2D,
            norm=functools.partial(
                SlimmableBatchNormalization,
                self.full_point.resolution,
                self.full_point.width,
            ),
            dense=SlimmableDense,
            slimmable=True,
        )
        layers = self.layer_set(
            layers,
            functools.partial(
                SlimmableQuantizer,
                full_resolution=self.full_point.resolution,
                full_width=self.full_point.width,
            ),
        )
        self.preprocessing = Preprocessing(preprocessing, name="preprocessing")
        self.backbone = backbone.with_layers(layers)
        self.pool = keras.layers.GlobalAveragePooling2D(name="pool")
        self.classifier = layers.dense(
            self.num_classes,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            name="classifier",
        )

        # === Operating points ===
        self.operating_points = (self.full_point,)
        self.build_from_point(self.full_point)
        self.add_statistics(
            OperatingPoint(resolution, width) for resolution, width in calibrated
        )

    # === Forward ===

    def call(self, inputs, point: OperatingPoint | None = None, training=None):
        if isinstance(inputs, (list, tuple)):  # in `fit` and `evaluate`
            return {
                self.full_point.name: self._logits(inputs[0], self.full_point, training)
            }
        if point is None:
            point = OperatingPoint(inputs.shape[1], self.width_range[1])
        if not training:
            self.check_point(point)
        return self._logits(inputs, point, training)

    def logits(self, images, point: OperatingPoint, training: bool = False):
        self.check_point(point)
        return super().logits(images, point, training)

    def _logits(self, images, point, training):
        features = self.features(images, point, training)
        return ops.cast(point.call(self.classifier, features), "float32")

    def features(self, images, point: OperatingPoint, training=None):
        """The pooled features that the classifier sees.

        Args:
            images: As for `logits`.
            point: Where to run.

        Returns:
            Tensor of shape (batch, channels), fewer channels in narrow widths.
        """
        x = self.preprocessing(images)
        return self.pool(self.backbone(x, point=point, training=training))

    def check_point(self, point: OperatingPoint) -> None:
        """Raises a `ValueError` unless the network can run there."""
        smallest, largest = self.width_range
        if point.width is None or not smallest <= point.width <= largest:
            raise ValueError(
                f"The width must be from {smallest} to {largest}, the "
                f"`width_range` of {self.name!r}. Received: {point}"
            )
        if point.resolution not in self.resolutions or point.exit is not None:
            raise ValueError(
                f"The resolution must be one of {self.resolutions}, the "
                f"`resolutions` of {self.name!r}, and there are no exits. "
                f"Received: {point}"
            )

    def resolution_of(self, point: OperatingPoint) -> int:
        self.check_point(point)
        return point.resolution

    def grid(
        self,
        widths: Sequence[float] | float = 0.05,
        resolutions: Sequence[int] | None = None,
    ) -> list[OperatingPoint]:
        """Operating points of all widths at all resolutions.

        Args:
            widths: A list, or the step from the largest to the smallest.
            resolutions: By default all.
        """
        if isinstance(widths, numbers.Real):
            smallest, largest = self.width_range
            if not widths > 0:
                raise ValueError(
                    f"`widths` must be a positive step. Received: {widths}"
                )
            steps = int((largest - smallest) / widths + 1e-6)
            widths = [round(largest - i * widths, 6) for i in range(steps + 1)]
            if widths[-1] > smallest:
                widths.append(smallest)
        points = [
            OperatingPoint(resolution, float(width))
            for resolution in (self.resolutions if resolutions is None else resolutions)
            for width in widths
        ]
        if not points:
            raise ValueError("`widths` must have at least one width.")
        for point in points:
            self.check_point(point)
        _check_names(points)
        return points

    # === Statistics ===

    def points_without_statistics(self, points) -> list[OperatingPoint]:
        """Those of some points that are not among `operating_points`.

        Raises:
            ValueError: A point that the network does not have, or two whose
                names are the same.
        """
        points = list(dict.fromkeys(points))
        for point in points:
            self.check_point(point)
        new = [point for point in points if point not in self.operating_points]
        _check_names((*self.operating_points, *new))
        return new

    def add_statistics(self, points) -> None:
        """Makes room for the BatchNormalization statistics of more points.

        `inference.calibrate_batch_norm` fills them.
        """
        for point in self.points_without_statistics(points):
            for norm, channels in channels_of_norms(self, point):
                norm.add_statistics(point.resolution, point.width, channels)
            for quantizer in self._quantizers():
                quantizer.add_statistics(point.resolution, point.width)
            self.operating_points += (point,)

    def forget_statistics(self) -> None:
        """Drops the statistics of all points but the full network, which
        training makes wrong."""
        if self.operating_points == (self.full_point,):
            return
        for norm, _ in channels_of_norms(self, self.full_point):
            norm.forget_statistics()
        for quantizer in self._quantizers():
            quantizer.forget_statistics()
        self.operating_points = (self.full_point,)

    def _quantizers(self) -> list[SlimmableQuantizer]:
        return [
            layer
            for layer in self._flatten_layers()
            if isinstance(layer, SlimmableQuantizer)
        ]

    # === Training ===

    @property
    def output_names(self) -> list[str]:
        return [self.full_point.name]

    @output_names.setter
    def output_names(self, value):
        pass  # as in the base class

    def prepare_inputs(self, images):
        """Images of the full network, in a tuple of one."""
        if isinstance(images, (list, tuple)):
            images = images[0]
        size = tuple(images.shape[1:3])
        if size != (self.resolutions[0],) * 2:
            raise ValueError(
                "`fit` and `evaluate` take images at the largest resolution, "
                f"{self.resolutions[0]} pixels. Received: {size}"
            )
        return (ops.cast(images, "float32"),)

    def loss_terms(self, y, logits: dict, sample_weight=None) -> dict:
        """The full network's loss (equation 2)."""
        return {
            "full": self.classification_loss(
                y, logits[self.full_point.name], sample_weight
            )
        }

    def compile(self, *args, jit_compile="auto", **kwargs):
        """As `Classifier.compile`; never with XLA, which needs to know every
        shape and would compile every width anew."""
        if jit_compile is True:
            raise ValueError(
                "A width that is drawn in the step cannot be compiled by XLA. "
                "Received: jit_compile=True"
            )
        super().compile(*args, jit_compile=False, **kwargs)

    def make_train_function(self, force=False):
        if keras.backend.backend() != "tensorflow":
            raise NotImplementedError(
                "Slimmable networks train on the TensorFlow backend, which "
                "can slice to a width that is drawn in the step. Elsewhere "
                "they run, save and load."
            )
        if self.backbone.trainable_variables:
            self.forget_statistics()
        return super().make_train_function(force)

    def train_step(self, *args):
        """The sandwich: one sub-network after the other, then one update."""
        (data,) = args
        (images,), y, sample_weight = self._prepare(data)
        drawn = draw_sub_networks(
            self.optimizer.iterations,
            self.seed,
            self.width_range,
            self.train_resolutions,
            self.num_random_widths,
        )
        points = [
            (OperatingPoint(width=width), resolution) for width, resolution in drawn
        ]
        loss, logits, gradients = sandwich_gradients(
            self, images, y, sample_weight, points
        )
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=ops.shape(images)[0])
        return self.compute_metrics(
            images, y, {self.full_point.name: logits}, sample_weight
        )

    # === Transfer ===

    def with_classes(self, num_classes: int) -> "MutualNet":
        """The same network with a new classifier, for fine-tuning (4.2).

        Weights and statistics of the rest are copied.
        """
        copy = type(self).from_config({**self.get_config(), "num_classes": num_classes})
        copy.backbone.set_weights(self.backbone.get_weights())
        return copy

    # === Config ===

    def get_config(self):
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_classes": self.num_classes,
            "width_range": self.width_range,
            "resolutions": self.resolutions,
            "train_resolutions": self.train_resolutions,
            "num_random_widths": self.num_random_widths,
            "distillation": self.distillation,
            "seed": self.seed,
            "preprocessing": self.preprocessing.mode,
            "calibrated": [
                (point.resolution, point.width) for point in self.operating_points[1:]
            ],
        }

    @classmethod
    def from_config(cls, config):
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})


def _check_names(points) -> None:
    """Raises a `ValueError` for different points of the same name."""
    named = {}
    for point in points:
        other = named.setdefault(point.name, point)
        if other != point:
            raise ValueError(
                "Widths must differ in the first two digits after the point. "
                f"Received: {other} and {point}"
            )


def _check_width_range(width_range) -> tuple[float, float]:
    try:
        smallest, largest = map(float, width_range)
    except (TypeError, ValueError):
        smallest, largest = 0.0, 0.0
    if not 0 < smallest <= largest < math.inf:
        raise ValueError(
            "`width_range` must be the smallest and the largest width "
            f"multiplier, both positive. Received: width_range={width_range!r}"
        )
    return smallest, largest


RESOLUTIONS = (224, 192, 160, 128)


def MutualMobileNetV1(
    num_classes: int = 1000,
    width_range: tuple[float, float] = (0.25, 1.0),
    resolutions: Sequence[int] = RESOLUTIONS,
    weights: str | None = None,
    depths: Sequence[int] = (1, 2, 2, 6, 2),
    filters: Sequence[int] = (64, 128, 256, 512, 1024),
    stem: str = "imagenet",
    name: str = "mutual_mobilenet_v1",
    **kwargs,
) -> MutualNet:
    """MutualNet on MobileNet (section 4.1).

    Args:
        num_classes: Number of classes.
        width_range: Smallest and largest width multiplier; section 4.1 also
            has (1.0, 2.0).
        resolutions: Resolutions at which it runs, in pixels.
        weights: `None` for random weights, or the path of a `.weights.h5`
            file of a model with the same arguments, `calibrated` included.
        depths, filters: As for `backbones.MobileNetV1`.
        stem: `"small"` for 32 or 64 pixel pictures.
        **kwargs: Further arguments of `MutualNet`.
    """
    backbone = MobileNetV1(
        depths, filters, stem=stem, activation="relu6", name="backbone"
    )
    model = MutualNet(
        backbone, num_classes, width_range, resolutions, name=name, **kwargs
    )
    return load_weights_file(model, weights)


def MutualMobileNetV2(
    num_classes: int = 1000,
    width_range: tuple[float, float] = (0.25, 1.0),
    resolutions: Sequence[int] = RESOLUTIONS,
    weights: str | None = None,
    stem: str = "imagenet",
    name: str = "mutual_mobilenet_v2",
    **kwargs,
) -> MutualNet:
    """MutualNet on MobileNetV2; arguments as for `MutualMobileNetV1`.

    Its last convolution has all its 1280 channels at every width.
    """
    # Above width 1 that layer is as wide as the largest width makes it.
    backbone = MobileNetV2(
        stem=stem, head_width=max(1.0, *width_range), name="backbone"
    )
    model = MutualNet(
        backbone, num_classes, width_range, resolutions, name=name, **kwargs
    )
    return load_weights_file(model, weights)


def MutualResNet50(
    num_classes: int = 1000,
    width_range: tuple[float, float] = (0.25, 1.0),
    resolutions: Sequence[int] = RESOLUTIONS,
    weights: str | None = None,
    depths: Sequence[int] = (3, 4, 6, 3),
    filters: Sequence[int] = (64, 128, 256, 512),
    stem: str = "imagenet",
    name: str = "mutual_resnet50",
    **kwargs,
) -> MutualNet:
    """MutualNet on ResNet-50; arguments as for `MutualMobileNetV1`.

    Its inner convolutions stay a quarter as wide as the blocks' outputs.
    """
    backbone = ResNet(depths, filters, True, stem, name="backbone")
    model = MutualNet(
        backbone, num_classes, width_range, resolutions, name=name, **kwargs
    )
    return load_weights_file(model, weights)


def MutualVGG16(
    num_classes: int = 1000,
    width_range: tuple[float, float] = (0.25, 1.0),
    resolutions: Sequence[int] = RESOLUTIONS,
    weights: str | None = None,
    depths: Sequence[int] = (2, 2, 3, 3, 3),
    filters: Sequence[int] = (64, 128, 256, 512, 512),
    stem: str = "imagenet",
    name: str = "mutual_vgg16",
    **kwargs,
) -> MutualNet:
    """MutualNet on VGG-16 (appendix A.2); arguments as for
    `MutualMobileNetV1`.

    With BatchNormalization, without which widths cannot share weights, and a
    pooling in place of the two dense layers before the classifier, which
    permit one resolution only.
    """
    backbone = VGG(depths, filters, stem, name="backbone")
    model = MutualNet(
        backbone, num_classes, width_range, resolutions, name=name, **kwargs
    )
    return load_weights_file(model, weights)
