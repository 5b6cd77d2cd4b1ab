"""RS-Net: one network for several resolutions (Wang et al., ECCV 2020)."""

import functools
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_resadapt import losses
from keras_resadapt.backbones import Backbone, MobileNetV2, ResNet
from keras_resadapt.layers import (
    LayerSet,
    Preprocessing,
    SwitchableBatchNormalization,
    resize_bilinear,
)
from keras_resadapt.layers.switchable_batch_normalization import (
    check_resolutions,
)
from keras_resadapt.models.classifier import Classifier
from keras_resadapt.models.weights import load_weights_file
from keras_resadapt.points.operating_point import OperatingPoint
from keras_resadapt.quantization.learned import LearnedQuantization
from keras_resadapt.quantization.per_point import SwitchableQuantizer
from keras_resadapt.quantization.quantizers import rounding_kernels_once


@keras.saving.register_keras_serializable("keras_resadapt")
class RSNet(Classifier):
    """A resolution switchable network.

    All resolutions share every convolution and the classifier; each has its
    own BatchNormalization (section 3.1). In training, every image runs at
    every resolution, and the predictions learn from their ensemble and from
    those at larger resolutions (section 3.3). At inference one pass at the
    image's own resolution is all.

    `model(images)` gives the logits at the images' own resolution.
    `model((images_224, images_192, ...))`, one tensor a trained resolution,
    gives a dict of logits, one entry an operating point (`"r224"`, ...) and
    `"ensemble"`. `fit` and `evaluate` take either; from a single tensor at
    the largest resolution they make the smaller ones on the device, by
    antialiased bilinear resizing.

    Args:
        backbone: A backbone; the network is made anew from its architecture.
        num_classes: Number of classes.
        resolutions: Resolutions to train, in pixels. A single one gives an
            individually trained network, without ensemble.
        distillation: `"full"`, `"vanilla"`, `"no_ensemble"`,
            `"largest_only"` or `"none"`; see `losses.distillation_loss`.
        preprocessing: `"imagenet"`, `"unit"` or `None`; see
            `layers.Preprocessing`.
        extrapolate: Outside the trained range, run with the BatchNormalization
            of the nearest resolution instead of raising an error. In between,
            it is interpolated (section 4.3).
        classifier_initializer: Initializer of the classifier's kernel.
        **kwargs: `quantization` of `Classifier`.

    Attributes:
        operating_points: The trained resolutions, the largest first.

    Reference:
        Resolution Switchable Networks for Runtime Efficient Image
        Recognition (https://arxiv.org/abs/2007.09558).
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 1000,
        resolutions: Sequence[int] = (224, 192, 160, 128, 96),
        distillation: str = "full",
        preprocessing: str | None = "imagenet",
        extrapolate: bool = False,
        classifier_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not hasattr(num_classes, "__index__") or num_classes < 1:
            raise ValueError(
                "`num_classes` must be a positive integer. "
                f"Received: num_classes={num_classes!r}"
            )
        if distillation not in losses.DISTILLATIONS:
            raise ValueError(
                f"`distillation` must be one of {losses.DISTILLATIONS}. "
                f"Received: distillation={distillation!r}"
            )
        self.resolutions = check_resolutions(resolutions)
        if self.resolutions[-1] < backbone.stride:
            raise ValueError(
                f"`resolutions` must be at least {backbone.stride} pixels, "
                "the stride of the backbone. "
                f"Received: resolutions={self.resolutions}"
            )
        self.num_classes = int(num_classes)
        self.distillation = distillation
        self.extrapolate = extrapolate
        self.classifier_initializer = keras.initializers.get(classifier_initializer)

        # === Layers ===
        layers = self.layer_set(
            LayerSet(
                norm=functools.partial(
                    SwitchableBatchNormalization,
                    self.resolutions,
                    extrapolate=extrapolate,
                )
            ),
            functools.partial(
                SwitchableQuantizer,
                resolutions=self.resolutions,
                extrapolate=extrapolate,
            ),
        )
        self.preprocessing = Preprocessing(preprocessing, name="preprocessing")
        self.backbone = backbone.with_layers(layers)
        self.pool = keras.layers.GlobalAveragePooling2D(name="pool")
        self.classifier = layers.dense(
            self.num_classes,
            kernel_initializer=self.classifier_initializer,
            name="classifier",
        )
        if len(self.resolutions) > 1:
            # Scores of the resolutions in the ensemble, before the softmax.
            self.alpha = self.add_weight(
                shape=(len(self.resolutions),),
                initializer="ones",
                autocast=False,
                name="alpha",
            )

        # === Operating points ===
        self.operating_points = tuple(
            OperatingPoint(resolution=r) for r in self.resolutions
        )
        self.build_from_point(self.operating_points[0])

    # === Forward ===

    def call(self, inputs, point: OperatingPoint | None = None, training=None):
        if not isinstance(inputs, (list, tuple)):
            point = point or self._point_of(inputs)
            return self._logits(inputs, point, training)
        self._check_pyramid(inputs)
        with rounding_kernels_once():
            logits = {
                point.name: self._logits(images, point, training)
                for point, images in zip(self.operating_points, inputs)
            }
        if len(logits) > 1:
            logits["ensemble"] = losses.ensemble_logits(
                list(logits.values()), ops.softmax(self.alpha)
            )
        return logits

    def _logits(self, images, point, training):
        x = self.preprocessing(images)
        # JAX calls `call` itself, so that `training` reaches no inner layer
        # unless it is passed on.
        x = self.pool(self.backbone(x, point=point, training=training))
        # Probabilities and losses want more than 16 bits.
        return ops.cast(point.call(self.classifier, x), "float32")

    def _point_of(self, images):
        """The operating point at the images' own resolution."""
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] is None or shape[1] != shape[2]:
            raise ValueError(
                "Images must have shape (batch, resolution, resolution, 3) "
                "with a known resolution: resize and batch them first, or "
                "name the operating point: `model.logits(images, point)`. "
                f"Received: shape {shape}"
            )
        return OperatingPoint(resolution=shape[1])

    @property
    def ensemble_weights(self) -> np.ndarray:
        """Weight of each resolution in the ensemble (equation 5), sum 1."""
        if len(self.resolutions) == 1:
            return np.ones(1, "float32")
        return ops.convert_to_numpy(ops.softmax(self.alpha))

    # === Training ===

    @property
    def output_names(self) -> list[str]:
        names = [point.name for point in self.operating_points]
        return names + ["ensemble"] if len(names) > 1 else names

    @output_names.setter
    def output_names(self, value):
        pass  # as in the base class

    def prepare_inputs(self, images):
        """One tensor a resolution, made from the largest (section 3.3)."""
        if isinstance(images, (list, tuple)):
            return tuple(images)
        size = self._point_of(images).resolution
        if size != self.resolutions[0]:
            raise ValueError(
                "`fit` and `evaluate` take images at the largest resolution, "
                f"{self.resolutions[0]} pixels, or a tuple with one tensor a "
                f"resolution, {self.resolutions}. "
                f"Received: images of {size} pixels"
            )
        images = ops.cast(images, "float32")
        return tuple(resize_bilinear(images, r) for r in self.resolutions)

    def _check_pyramid(self, inputs):
        sizes = [tuple(x.shape[1:3]) for x in inputs]
        if sizes != [(r, r) for r in self.resolutions]:
            raise ValueError(
                "A tuple of images must have one tensor a resolution, the "
                f"largest first: {self.resolutions}. Received: sizes {sizes}"
            )

    def loss_terms(self, y, logits: dict, sample_weight=None) -> dict:
        """The terms of equation 9, whose sum is the loss.

        Args:
            y: Labels, as the compiled loss takes them.
            logits: The dict that the model gives for a tuple of images.
            sample_weight: Optional weights of shape (batch,).

        Returns:
            A dict with `"classification"` (equation 2) and, for more than one
            resolution, `"ensemble"` (equation 6), which moves nothing but
            alpha, and `"distillation"` (equation 8 or 10), unless it is
            `"none"`.
        """
        cross_entropy = self.classification_loss
        per_point = [logits[point.name] for point in self.operating_points]
        terms = {
            "classification": sum(cross_entropy(y, z, sample_weight) for z in per_point)
        }
        if len(per_point) > 1:
            ensemble = logits["ensemble"]
            terms["ensemble"] = cross_entropy(y, ensemble, sample_weight)
            if self.distillation != "none":
                terms["distillation"] = losses.distillation_loss(
                    per_point, ensemble, self.distillation, sample_weight
                )
        return terms

    # === Config ===

    def get_config(self):
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_classes": self.num_classes,
            "resolutions": self.resolutions,
            "distillation": self.distillation,
            "preprocessing": self.preprocessing.mode,
            "extrapolate": self.extrapolate,
            "classifier_initializer": keras.initializers.serialize(
                self.classifier_initializer
            ),
        }

    @classmethod
    def from_config(cls, config):
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})


RESOLUTIONS = (224, 192, 160, 128, 96)


def _rs_resnet(
    num_classes,
    resolutions,
    distillation,
    preprocessing,
    weights,
    depths,
    bottleneck,
    filters=(64, 128, 256, 512),
    stem="imagenet",
    zero_init_residual=None,
    pre_activation=None,
    quantization=None,
    **kwargs,
) -> RSNet:
    # As LQ-Nets quantizes ResNets
    learned = isinstance(quantization, LearnedQuantization)
    quantized_activations = learned and quantization.activation_bits < 32
    if pre_activation is None:
        pre_activation = quantized_activations
    if zero_init_residual is None:
        zero_init_residual = learned and not pre_activation
    backbone = ResNet(
        depths,
        filters,
        bottleneck,
        stem,
        zero_init_residual,
        pre_activation,
        name="backbone",
    )
    model = RSNet(
        backbone,
        num_classes,
        resolutions,
        distillation,
        preprocessing,
        # Uniform in +-1 / sqrt(fan_in), as the published networks start.
        classifier_initializer=keras.initializers.VarianceScaling(
            1 / 3, mode="fan_in", distribution="uniform"
        ),
        quantization=quantization,
        **kwargs,
    )
    return load_weights_file(model, weights)


def RSNet18(
    num_classes: int = 1000,
    resolutions: Sequence[int] = RESOLUTIONS,
    distillation: str = "full",
    preprocessing: str | None = "imagenet",
    weights: str | None = None,
    depths: Sequence[int] = (2, 2, 2, 2),
    name: str = "rsnet18",
    **kwargs,
) -> RSNet:
    """RS-Net on ResNet-18 (RS-Net, table 2).

    Args:
        num_classes: Number of classes.
        resolutions: Resolutions to train, in pixels; see `RSNet`.
        distillation: See `RSNet`.
        preprocessing: `"imagenet"`, `"unit"` or `None`; see `RSNet`.
        weights: `None` for random weights, or the path of a `.weights.h5`
            file of a model with the same arguments.
        depths: Residual blocks a stage.
        **kwargs: `filters`, `stem`, `zero_init_residual` and
            `pre_activation` of `backbones.ResNet`, and further arguments of
            `RSNet`. For 32 or 64 pixel pictures: `stem="small"`. With
            `quantization=LearnedQuantization(...)`, the defaults of the
            middle two are what LQ-Nets uses.
    """
    return _rs_resnet(
        num_classes,
        resolutions,
        distillation,
        preprocessing,
        weights,
        depths,
        bottleneck=False,
        name=name,
        **kwargs,
    )


def RSNet34(
    num_classes: int = 1000,
    resolutions: Sequence[int] = RESOLUTIONS,
    distillation: str = "full",
    preprocessing: str | None = "imagenet",
    weights: str | None = None,
    depths: Sequence[int] = (3, 4, 6, 3),
    name: str = "rsnet34",
    **kwargs,
) -> RSNet:
    """RS-Net on ResNet-34; arguments as for `RSNet18`."""
    return _rs_resnet(
        num_classes,
        resolutions,
        distillation,
        preprocessing,
        weights,
        depths,
        bottleneck=False,
        name=name,
        **kwargs,
    )


def RSNet50(
    num_classes: int = 1000,
    resolutions: Sequence[int] = RESOLUTIONS,
    distillation: str = "full",
    preprocessing: str | None = "imagenet",
    weights: str | None = None,
    depths: Sequence[int] = (3, 4, 6, 3),
    name: str = "rsnet50",
    **kwargs,
) -> RSNet:
    """RS-Net on ResNet-50; arguments as for `RSNet18`."""
    return _rs_resnet(
        num_classes,
        resolutions,
        distillation,
        preprocessing,
        weights,
        depths,
        bottleneck=True,
        name=name,
        **kwargs,
    )


def RSNet101(
    num_classes: int = 1000,
    resolutions: Sequence[int] = RESOLUTIONS,
    distillation: str = "full",
    preprocessing: str | None = "imagenet",
    weights: str | None = None,
    depths: Sequence[int] = (3, 4, 23, 3),
    name: str = "rsnet101",
    **kwargs,
) -> RSNet:
    """RS-Net on ResNet-101; arguments as for `RSNet18`."""
    return _rs_resnet(
        num_classes,
        resolutions,
        distillation,
        preprocessing,
        weights,
        depths,
        bottleneck=True,
        name=name,
        **kwargs,
    )


def RSMobileNetV2(
    num_classes: int = 1000,
    resolutions: Sequence[int] = RESOLUTIONS,
    distillation: str = "full",
    preprocessing: str | None = "imagenet",
    weights: str | None = None,
    alpha: float = 1.0,
    stem: str = "imagenet",
    name: str = "rsmobilenetv2",
    **kwargs,
) -> RSNet:
    """RS-Net on MobileNetV2 (RS-Net, table 2).

    Args:
        num_classes: Number of classes.
        resolutions: Resolutions to train, in pixels; see `RSNet`.
        distillation: See `RSNet`.
        preprocessing: `"imagenet"`, `"unit"` or `None`; see `RSNet`.
        weights: `None` for random weights, or the path of a `.weights.h5`
            file of a model with the same arguments.
        alpha: Width multiplier.
        stem: `"small"` for 32 or 64 pixel pictures.
        **kwargs: Further arguments of `RSNet`.
    """
    model = RSNet(
        MobileNetV2(alpha=alpha, stem=stem, name="backbone"),
        num_classes,
        resolutions,
        distillation,
        preprocessing,
        classifier_initializer=keras.initializers.RandomNormal(stddev=0.01),
        name=name,
        **kwargs,
    )
    return load_weights_file(model, weights)
