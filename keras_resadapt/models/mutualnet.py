"""MutualNet: any width at any of several resolutions (Yang et al., 2019)."""

import functools
import numbers
from collections.abc import Sequence

import keras
from keras import ops

from keras_resadapt.backbones import VGG, Backbone, MobileNetV1, MobileNetV2, ResNet
from keras_resadapt.backend import in_graph, on_tpu, require_tensorflow_or_jax
from keras_resadapt.layers import (
    LayerSet,
    PrivateSlimmableBatchNormalization,
    SlimmableBatchNormalization,
    SlimmableConv2D,
    SlimmableDense,
    SlimmableDepthwiseConv2D,
)
from keras_resadapt.layers.switchable_batch_normalization import check_resolutions
from keras_resadapt.models.masked_sandwich import jax_train_step, tensorflow_gradients
from keras_resadapt.models.sandwich import draw_sub_networks, sandwich_gradients
from keras_resadapt.models.switchable import (
    SMALL_NORMAL,
    SwitchableNetwork,
    check_width_range,
    headless_task,
)
from keras_resadapt.models.weights import load_weights_file
from keras_resadapt.number_checks import check_integer
from keras_resadapt.points import DrawnResolution, OperatingPoint
from keras_resadapt.profile import channels_of_norms
from keras_resadapt.quantization.per_point import SlimmableQuantizer
from keras_resadapt.tasks import Task


@keras.saving.register_keras_serializable("keras_resadapt")
class MutualNet(SwitchableNetwork):
    """A slimmable network, trained at many widths and resolutions at once.

    A narrow width uses the first channels of every layer of the backbone, and
    computes nothing else. A training step runs the full network at the largest
    resolution with the targets, and the narrowest and some randomly drawn widths,
    each at a randomly drawn resolution, with the full network's outputs
    (section 3.2, equations 2 to 4).

    Of the BatchNormalization statistics, only the full network's are known after
    training. For every other operating point, call
    `inference.calibrate_batch_norm` first; further training drops them.

    `model(images)` and `predict` run the full width at the images' own resolution;
    `fit` and `evaluate` take images at the largest resolution and report the full
    network's metrics. `inference.QueryTable` measures all points.

    US-Net is a MutualNet with a single resolution. US-Net+, which is tested at more
    resolutions than it was trained at, is a MutualNet with `train_resolutions`.

    Args:
        backbone: A backbone. The network is made anew from its architecture.
        task: The task. An integer is short for `tasks.Classification(integer)`.
        width_range: Smallest and largest width multiplier.
        resolutions: Resolutions at which the network runs, in pixels.
        train_resolutions: The resolutions drawn in training, by default all. The
            largest must be among them.
        num_random_widths: Widths drawn in each step, beside the smallest and the
            largest.
        distillation: How the full network teaches the others: a divergence of the
            task, for classification `"kl"` (equation 3) or `"alpha"` for the clipped
            divergence of `losses.AlphaDivergence`; or `"none"`, with which every
            sub-network learns from the targets.
        seed: Seed of the draws, which depend on it and on the step's number alone.
        preprocessing: `"imagenet"`, `"unit"` or `None`; see `layers.Preprocessing`.
        private_bn: Whether each resolution has its own BatchNormalization scale and
            bias, as in an `RSNet`. In no paper.
        calibrated: The points that have statistics, as pairs (resolution, width).
            A saved model stores them. Their statistics are NaN until weights are
            loaded or the points are calibrated.
        **kwargs: `num_classes`, `frozen_bn`, `quantization`, `name` and `dtype`; see
            `SwitchableNetwork`.

    Attributes:
        operating_points: The points with statistics: the full network, and the
            calibrated ones.

    Reference:
        A Closer Look at Network Resolution for Efficient Network Design
        (https://arxiv.org/abs/1909.12978).
    """

    def __init__(
        self,
        backbone: Backbone,
        task: Task | int | None = None,
        width_range: tuple[float, float] = (0.25, 1.0),
        resolutions: Sequence[int] = (224, 192, 160, 128),
        train_resolutions: Sequence[int] | None = None,
        num_random_widths: int = 2,
        distillation: str | None = None,
        seed: int = 0,
        preprocessing: str | None = "imagenet",
        calibrated: Sequence[tuple[int, float]] = (),
        private_bn: bool = False,
        **kwargs,
    ):
        super().__init__(backbone, task, resolutions, preprocessing, **kwargs)
        self.width_range = check_width_range(width_range)
        self.num_random_widths = check_integer(
            num_random_widths, "num_random_widths", minimum=0
        )
        self.seed = check_integer(seed, "seed", minimum=0)
        self.train_resolutions = self._check_train_resolutions(train_resolutions)
        self.distillation = self._check_distillation(distillation)
        if self.distillation != "none":
            self.divergence = self.task.divergence(self.distillation)

        # === Layers ===
        self.full_point = OperatingPoint(self.resolutions[0], self.width_range[1])
        full = {
            "full_resolution": self.full_point.resolution,
            "full_width": self.full_point.width,
        }
        self.private_bn = bool(private_bn)
        norm = functools.partial(SlimmableBatchNormalization, **full)
        if self.private_bn:
            norm = functools.partial(
                PrivateSlimmableBatchNormalization,
                self.resolutions,
                self.full_point.width,
            )
        layers = LayerSet(
            conv=functools.partial(SlimmableConv2D, max_width=self.width_range[1]),
            depthwise=SlimmableDepthwiseConv2D,
            norm=norm,
            dense=SlimmableDense,
            slimmable=True,
        )
        self.make_layers(
            backbone, layers, functools.partial(SlimmableQuantizer, **full)
        )

        # === Operating points ===
        self.operating_points = (self.full_point,)
        self.build_from_point(self.full_point)
        self.add_statistics(
            OperatingPoint(resolution, width) for resolution, width in calibrated
        )

    def _check_train_resolutions(self, train_resolutions) -> tuple[int, ...]:
        if train_resolutions is None:
            return self.resolutions
        checked = check_resolutions(train_resolutions)
        if (
            not set(checked) <= set(self.resolutions)
            or checked[0] != self.resolutions[0]
        ):
            raise ValueError(
                "`train_resolutions` must be among the resolutions, "
                f"{self.resolutions}, and contain the largest one. "
                f"Received: train_resolutions={checked}"
            )
        return checked

    def _check_distillation(self, distillation) -> str:
        allowed = (*self.task.divergences, "none")
        if distillation is None:
            return allowed[0]
        if distillation not in allowed:
            raise ValueError(
                f"`distillation` must be one of {allowed}. "
                f"Received: distillation={distillation!r}"
            )
        return distillation

    # === Forward ===

    def call(self, inputs, point: OperatingPoint | None = None, training=None):
        inputs, targets, size = self.split_targets(inputs)
        if isinstance(inputs, (list, tuple)):  # in `evaluate`
            images, point = inputs[0], self.full_point
            outputs = self.outputs_at(images, point, training, targets)
            size = size or tuple(images.shape[1:3])
            return {point.name: self.task.align(outputs, size)}
        if training and type(point) in (type(None), OperatingPoint) and in_graph():
            self._before_training()  # of another model that contains this one
        if point is None:
            point = self.point_at(inputs)
        if not training:
            self.check_point(point)
            self.check_size(inputs, point)
        return self.outputs_at(inputs, point, training, targets)

    def point_at(self, images) -> OperatingPoint:
        return OperatingPoint(self.resolution_of_images(images), self.width_range[1])

    def check_point(self, point: OperatingPoint) -> None:
        """Raises a `ValueError` unless the network can run at a point."""
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
        return point.resolution  # type: ignore[return-value]

    def grid(
        self,
        widths: Sequence[float] | float = 0.05,
        resolutions: Sequence[int] | None = None,
    ) -> list[OperatingPoint]:
        """Returns the operating points of all widths at all resolutions.

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
        """Returns those of some points that are not among `operating_points`.

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
        """Drops the statistics of all points but the full network.

        Training makes them wrong.
        """
        if self.operating_points == (self.full_point,):
            return
        for norm, _ in channels_of_norms(self, self.full_point):
            norm.forget_statistics()
        for quantizer in self._quantizers():
            quantizer.forget_statistics()
        self.operating_points = (self.full_point,)
        self._point_functions.clear()

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
        """Returns images of the full network, in a tuple of one."""
        if isinstance(images, (list, tuple)):
            images = images[0]
        size = tuple(images.shape[1:3])
        if self.task.padded:
            pass  # The resolution is that of the image on the canvas.
        elif self.task.any_shape and None not in size and size[0] != size[1]:
            self.check_size(images, self.full_point)
        elif size != (self.resolutions[0],) * 2:
            raise ValueError(
                "`fit` and `evaluate` take images at the largest resolution, "
                f"{self.resolutions[0]} pixels. Received: {size}"
            )
        return (ops.cast(images, "float32"),)

    def loss_terms(self, y, outputs: dict, sample_weight=None) -> dict:
        """Returns the full network's loss (equation 2)."""
        full = outputs[self.full_point.name]
        return {"full": self.task_loss(y, full, sample_weight)}

    def sub_network_loss(self, teacher, outputs, y, sample_weight=None):
        """Returns the loss of a sub-network (equation 3).

        Args:
            teacher: The aligned outputs of the full network.
            outputs: The aligned outputs of the sub-network.
            y, sample_weight: Targets and optional weights, as `fit` takes them.
        """
        if self.distillation == "none":
            return self.task_loss(y, outputs, sample_weight)
        weights = self.task.divergence_weights(y, sample_weight)
        return self.divergence(teacher, outputs, weights)

    def compile(self, *args, jit_compile="auto", **kwargs):
        """Configures training as `Network.compile` does.

        Training slices kernels to the drawn widths on TensorFlow, and masks channels
        on JAX and under XLA, which needs to know all shapes.

        Args:
            *args, **kwargs: As for `Network.compile`.
            jit_compile: `"auto"` means False on TensorFlow: a slice costs what its
                multiply-adds say, and a masked network as much as the full one.
        """
        asked = jit_compile
        if jit_compile == "auto" and keras.backend.backend() == "tensorflow":
            jit_compile = False
        super().compile(*args, jit_compile=jit_compile, **kwargs)
        self._asked_jit_compile = asked

    @property
    def masks_channels(self) -> bool:
        """Whether training masks channels instead of slicing kernels."""
        # A TPU compiles every step with XLA.
        return keras.backend.backend() == "jax" or self.jit_compile or on_tpu()

    def make_train_function(self, force=False):
        require_tensorflow_or_jax("MutualNet.fit")
        if self.masks_channels and self.quantization is not None:
            raise ValueError(
                "A quantized slimmable network trains on TensorFlow without XLA. "
                f"Received: quantization={self.quantization} with the backend "
                f"{keras.backend.backend()!r} and jit_compile={self.jit_compile}"
            )
        self._before_training()
        return super().make_train_function(force)

    def _before_training(self) -> None:
        if self.backbone.trainable_variables:
            self.forget_statistics()

    def train_step(self, *args):
        """Runs the sandwich: one sub-network after the other, then one update."""
        *state, data = args
        inputs, y, sample_weight = self._prepare(data, training=True)
        if keras.backend.backend() == "jax":
            return jax_train_step(self, *state, inputs, y, sample_weight)
        (images,), _, size = self.split_targets(inputs)
        if self.masks_channels:
            loss, logits, gradients = tensorflow_gradients(
                self, images, y, sample_weight, size
            )
        else:
            loss, logits, gradients = sandwich_gradients(
                self, images, y, sample_weight, self._draw_points(), size
            )
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=ops.shape(images)[0])
        return self.compute_metrics(
            images, y, {self.full_point.name: logits}, sample_weight
        )

    def _draw_points(self) -> list[tuple]:
        """Returns the sub-networks of the step as pairs (point, resolution)."""
        drawn = draw_sub_networks(
            self.optimizer.iterations,
            self.seed,
            self.width_range,
            self.train_resolutions,
            self.num_random_widths,
        )
        return [
            (OperatingPoint(DrawnResolution(resolution), width), resolution)
            for width, resolution in drawn
        ]

    # === Config ===

    def identity(self):
        return {
            **super().identity(),
            "width_range": self.width_range,
            "private_bn": self.private_bn,
        }

    def get_config(self):
        return {
            **super().get_config(),
            "width_range": self.width_range,
            "train_resolutions": self.train_resolutions,
            "num_random_widths": self.num_random_widths,
            "distillation": self.distillation,
            "seed": self.seed,
            "private_bn": self.private_bn,
            "calibrated": [
                (point.resolution, point.width) for point in self.operating_points[1:]
            ],
        }


def _check_names(points) -> None:
    """Raises a `ValueError` for different points of the same name."""
    named = {}
    for point in points:
        other = named.setdefault(point.name, point)
        if other != point:
            raise ValueError(
                "Widths must differ in the first two digits after the decimal point. "
                f"Received: {other} and {point}"
            )


RESOLUTIONS = (224, 192, 160, 128)


def _mutual(
    backbone,
    num_classes,
    width_range,
    resolutions,
    weights,
    include_top=True,
    pooling=None,
    **kwargs,
) -> MutualNet:
    task = headless_task(num_classes, SMALL_NORMAL, include_top, pooling)
    model = MutualNet(backbone, task, width_range, resolutions, **kwargs)
    return load_weights_file(model, weights)


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
        width_range: Smallest and largest width multiplier; section 4.1 also uses
            (1.0, 2.0).
        resolutions: Resolutions at which the network runs, in pixels.
        weights: `None` for random weights, or the path of a `.weights.h5`
            file of a model with the same arguments, `calibrated` included.
        depths, filters: As for `backbones.MobileNetV1`.
        stem: `"small"` for images of 32 or 64 pixels.
        **kwargs: Further arguments of `MutualNet`.
    """
    backbone = MobileNetV1(
        depths, filters, stem=stem, activation="relu6", name="backbone"
    )
    return _mutual(
        backbone, num_classes, width_range, resolutions, weights, name=name, **kwargs
    )


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
    return _mutual(
        backbone, num_classes, width_range, resolutions, weights, name=name, **kwargs
    )


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
    return _mutual(
        backbone, num_classes, width_range, resolutions, weights, name=name, **kwargs
    )


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
    return _mutual(
        backbone, num_classes, width_range, resolutions, weights, name=name, **kwargs
    )
