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
    SwitchableBatchNormalization,
)
from keras_resadapt.layers.resize import spatial_size
from keras_resadapt.layers.switchable_batch_normalization import neighbours
from keras_resadapt.models.switchable import (
    SMALL_NORMAL,
    SwitchableNetwork,
    headless_task,
)
from keras_resadapt.models.weights import load_weights_file
from keras_resadapt.points import OperatingPoint
from keras_resadapt.quantization.learned import LearnedQuantization
from keras_resadapt.quantization.per_point import SwitchableQuantizer
from keras_resadapt.quantization.quantizers import rounding_kernels_once
from keras_resadapt.tasks import Task


@keras.saving.register_keras_serializable("keras_resadapt")
class RSNet(SwitchableNetwork):
    """A resolution switchable network.

    All resolutions share every convolution and the head; each has its own
    BatchNormalization (section 3.1). In training, every image runs at every
    resolution, and the outputs learn from their ensemble and from those at larger
    resolutions (section 3.3). Inference is a single pass at the image's own
    resolution.

    `model(images)` returns the outputs at the images' own resolution.
    `model((images_224, images_192, ...))`, one tensor per trained resolution,
    returns a dict of outputs, one entry per operating point (`"r224"`, ...) and
    `"ensemble"`. `fit` and `evaluate` take either; from a single tensor at the
    largest resolution they make the smaller ones on the device, by antialiased
    bilinear resizing.

    Args:
        backbone: A backbone. The network is made anew from its architecture.
        task: The task. An integer is short for `tasks.Classification(integer)`.
        resolutions: Resolutions to train, in pixels. A single one gives an
            individually trained network without an ensemble. Equal ones give as
            many branches of one resolution (table 6, "Single-resolution"), which
            train on one crop, or on a tuple with a crop for each branch.
        distillation: `"full"`, `"vanilla"`, `"no_ensemble"`, `"largest_only"` or
            `"none"`; see `losses.distillation_loss`.
        preprocessing: `"imagenet"`, `"unit"` or `None`; see `layers.Preprocessing`.
        extrapolate: Outside the trained range, run with the BatchNormalization of
            the nearest resolution instead of raising an error. Between trained
            resolutions, BatchNormalization is interpolated (section 4.3).
        private_bn: Whether each resolution has its own BatchNormalization. Without
            it, the network is the one of parallel training with shared
            BatchNormalization (figure 4, left).
        **kwargs: `num_classes`, `frozen_bn`, `quantization`, `name` and `dtype`; see
            `SwitchableNetwork`.

    Attributes:
        operating_points: The trained resolutions, the largest first.

    Reference:
        Resolution Switchable Networks for Runtime Efficient Image
        Recognition (https://arxiv.org/abs/2007.09558).
    """

    def __init__(
        self,
        backbone: Backbone,
        task: Task | int | None = None,
        resolutions: Sequence[int] = (224, 192, 160, 128, 96),
        distillation: str = "full",
        preprocessing: str | None = "imagenet",
        extrapolate: bool = False,
        private_bn: bool = True,
        **kwargs,
    ):
        super().__init__(backbone, task, resolutions, preprocessing, **kwargs)
        if distillation not in losses.DISTILLATIONS:
            raise ValueError(
                f"`distillation` must be one of {losses.DISTILLATIONS}. "
                f"Received: distillation={distillation!r}"
            )
        self.distillation = distillation
        self.extrapolate = bool(extrapolate)
        self.private_bn = bool(private_bn)

        # === Layers ===
        axis = {"resolutions": self.resolutions, "extrapolate": self.extrapolate}
        repeats = len(set(self.resolutions)) < len(self.resolutions)
        layers, private = LayerSet(), None
        if self.private_bn:
            norm = functools.partial(SwitchableBatchNormalization, **axis)
            layers = LayerSet(norm=norm)
            if not repeats:  # branches of one resolution share their ranges
                private = functools.partial(SwitchableQuantizer, **axis)
        self.make_layers(backbone, layers, private)
        if self.has_ensemble:
            # Scores of the resolutions in the ensemble, before the softmax.
            self.alpha = self.add_weight(
                shape=(len(self.resolutions),),
                initializer="ones",
                autocast=False,
                name="alpha",
            )

        # === Operating points ===
        self.operating_points = tuple(
            OperatingPoint(resolution=r, branch=i if repeats else None)
            for i, r in enumerate(self.resolutions)
        )
        self.build_from_point(self.operating_points[0])

    @property
    def has_ensemble(self) -> bool:
        """Whether there are several outputs to average."""
        return len(self.resolutions) > 1 and bool(self.task.divergences)

    def check_point(self, point: OperatingPoint) -> None:
        """Raises a `ValueError` unless the network can run at a point."""
        if (point.width, point.exit) != (None, None) or point.resolution is None:
            raise ValueError(
                f"`point` must have a resolution, and neither a width nor an exit: "
                f"{self.name!r} switches resolutions. Received: point={point}"
            )
        if point.branch is not None and point not in self.operating_points:
            raise ValueError(
                f"`point` must be one of {self.operating_points}. "
                f"Received: point={point}"
            )
        if self.private_bn:
            neighbours(self.resolutions, point.resolution, self.extrapolate)

    # === Forward ===

    def call(self, inputs, point: OperatingPoint | None = None, training=None):
        inputs, targets, size = self.split_targets(inputs)
        if not isinstance(inputs, (list, tuple)):
            if point is None:
                point = self.point_at(inputs)
            self.check_point(point)
            self.check_size(inputs, point)
            return self.outputs_at(inputs, point, training, targets)
        self._check_views(inputs)
        with rounding_kernels_once():
            outputs = {
                point.name: self.outputs_at(
                    images, point, training, self._targets_of(targets, inputs, images)
                )
                for point, images in zip(self.operating_points, inputs)
            }
        return self.with_ensemble(outputs, size or spatial_size(inputs[0]))

    def _targets_of(self, targets, views, view):
        """Returns the targets at the resolution of one of several tensors."""
        if not self.task.takes_targets or targets is None:
            return targets
        sizes = spatial_size(views[0]), spatial_size(view)
        return self.task.scale_targets(targets, *sizes)

    def with_ensemble(self, outputs: dict, size) -> dict:
        """Returns aligned outputs and their ensemble (equation 5).

        Args:
            outputs: Outputs by the name of the operating point.
            size: Height and width in pixels that outputs are aligned to.
        """
        outputs = {name: self.task.align(z, size) for name, z in outputs.items()}
        if self.has_ensemble:
            outputs["ensemble"] = losses.ensemble_logits(
                list(outputs.values()), ops.softmax(self.alpha)
            )
        return outputs

    def point_at(self, images) -> OperatingPoint:
        return OperatingPoint(resolution=self.resolution_of_images(images))

    @property
    def ensemble_weights(self) -> np.ndarray:
        """Weight of each resolution in the ensemble (equation 5), sum 1."""
        if not self.has_ensemble:
            return np.ones(1, "float32")
        return ops.convert_to_numpy(ops.softmax(self.alpha))

    # === Training ===

    @property
    def output_names(self) -> list[str]:
        names = [point.name for point in self.operating_points]
        return names + ["ensemble"] if self.has_ensemble else names

    @output_names.setter
    def output_names(self, value):
        pass  # as in the base class

    def prepare_inputs(self, images):
        """Returns one tensor per resolution, made from the largest (section 3.3)."""
        if isinstance(images, (list, tuple)):
            if self.task.takes_targets:  # which belong to the largest images alone
                raise ValueError(
                    "`fit` takes images with objects as one tensor at the largest "
                    f"resolution. Received: a tuple of {len(images)} tensors"
                )
            return tuple(images)
        size = tuple(images.shape[1:3])
        if self.task.padded:
            pass  # The resolution is that of the image on the canvas.
        elif self.task.any_shape and None not in size and size[0] != size[1]:
            self.check_size(images, self.operating_points[0])
        elif self.resolution_of_images(images) != self.resolutions[0]:
            raise ValueError(
                "`fit` and `evaluate` take images at the largest resolution, "
                f"{self.resolutions[0]} pixels, or a tuple with one tensor per "
                f"resolution, {self.resolutions}. "
                f"Received: images of {size[0]} pixels"
            )
        images = ops.cast(images, "float32")
        return tuple(self.resized(images, None, r)[0] for r in self.resolutions)

    def _check_views(self, inputs):
        if self.task.any_shape and len(inputs) == len(self.resolutions):
            for images, point in zip(inputs, self.operating_points):
                self.check_size(images, point)
            return
        sizes = [tuple(x.shape[1:3]) for x in inputs]
        if sizes != [(r, r) for r in self.resolutions]:
            raise ValueError(
                "A tuple of images must have one tensor per resolution, the "
                f"largest first: {self.resolutions}. Received: sizes {sizes}"
            )

    def loss_terms(self, y, outputs: dict, sample_weight=None) -> dict:
        """Returns the terms of equation 9, whose sum is the loss.

        Args:
            y: Targets, as the compiled loss takes them.
            outputs: The dict that the model returns for a tuple of images.
            sample_weight: Optional weights, as `fit` takes them.

        Returns:
            A dict with the task's loss at all resolutions, under the name
            `"classification"` (equation 2), and, for more than one resolution,
            `"ensemble"` (equation 6), whose gradient reaches nothing but alpha, and
            `"distillation"` (equation 8 or 10), unless it is `"none"`.
        """
        loss = self.task_loss
        per_point = [outputs[point.name] for point in self.operating_points]
        terms = {"classification": sum(loss(y, z, sample_weight) for z in per_point)}
        if self.has_ensemble:
            ensemble = outputs["ensemble"]
            terms["ensemble"] = loss(y, ensemble, sample_weight)
            if self.distillation != "none":
                terms["distillation"] = losses.distillation_loss(
                    per_point,
                    ensemble,
                    self.distillation,
                    self.task.divergence_weights(y, sample_weight),
                    self.task.divergence(self.task.divergences[0]),
                )
        return terms

    # === Config ===

    def identity(self):
        return {**super().identity(), "private_bn": self.private_bn}

    def get_config(self):
        return {
            **super().get_config(),
            "distillation": self.distillation,
            "extrapolate": self.extrapolate,
            "private_bn": self.private_bn,
        }


RESOLUTIONS = (224, 192, 160, 128, 96)

# Uniform in +-1 / sqrt(fan_in), as the published networks start.
_UNIFORM = keras.initializers.VarianceScaling(
    1 / 3, mode="fan_in", distribution="uniform"
)


def _resnet(
    quantization,
    zero_init_residual: bool | None = None,
    pre_activation: bool | None = None,
    **architecture,
) -> ResNet:
    """Returns the ResNet that suits a quantization, as LQ-Nets chooses it."""
    learned = isinstance(quantization, LearnedQuantization)
    if pre_activation is None:
        pre_activation = learned and quantization.activation_bits < 32
    if zero_init_residual is None:
        zero_init_residual = learned and not pre_activation
    return ResNet(
        zero_init_residual=zero_init_residual,
        pre_activation=pre_activation,
        name="backbone",
        **architecture,
    )


def _rs_resnet(
    num_classes,
    resolutions,
    distillation,
    preprocessing,
    weights,
    *,
    name,
    depths,
    filters=(64, 128, 256, 512),
    bottleneck=False,
    stem="imagenet",
    zero_init_residual=None,
    pre_activation=None,
    include_top=True,
    pooling=None,
    **kwargs,
) -> RSNet:
    backbone = _resnet(
        kwargs.get("quantization"),
        zero_init_residual,
        pre_activation,
        depths=depths,
        filters=filters,
        bottleneck=bottleneck,
        stem=stem,
    )
    task = headless_task(num_classes, _UNIFORM, include_top, pooling)
    model = RSNet(
        backbone, task, resolutions, distillation, preprocessing, name=name, **kwargs
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
        weights: `None` for random weights, or the path of a `.weights.h5` file of a
            model with the same arguments.
        depths: Residual blocks of each stage.
        **kwargs: `filters`, `stem`, `zero_init_residual` and `pre_activation` of
            `backbones.ResNet`, and further arguments of `RSNet`. For images of 32
            or 64 pixels: `stem="small"`. With
            `quantization=LearnedQuantization(...)`, the defaults of
            `zero_init_residual` and `pre_activation` are those of LQ-Nets.
            `include_top=False` leaves out the classifier: the network returns
            features, pooled according to `pooling`: None, `"avg"` or `"max"`.
    """
    return _rs_resnet(
        num_classes,
        resolutions,
        distillation,
        preprocessing,
        weights,
        depths=depths,
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
        depths=depths,
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
        depths=depths,
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
        depths=depths,
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
    include_top: bool = True,
    pooling: str | None = None,
    name: str = "rsmobilenetv2",
    **kwargs,
) -> RSNet:
    """RS-Net on MobileNetV2 (RS-Net, table 2).

    Args:
        alpha: Width multiplier.
        num_classes, resolutions, distillation, preprocessing, weights, stem,
            include_top, pooling, **kwargs: As for `RSNet18`.
    """
    model = RSNet(
        MobileNetV2(alpha=alpha, stem=stem, name="backbone"),
        headless_task(num_classes, SMALL_NORMAL, include_top, pooling),
        resolutions,
        distillation,
        preprocessing,
        name=name,
        **kwargs,
    )
    return load_weights_file(model, weights)
