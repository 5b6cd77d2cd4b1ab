"""MSNet: a high-resolution network on a low-resolution one (Cheng et al.,
BMVC 2019)."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_resadapt.backbones import DenseNet, MobileNetV1, ResNet
from keras_resadapt.backbones.backbone import Backbone, check_backbone
from keras_resadapt.layers import (
    Block,
    HighFrequencyResidual,
    LayerSet,
    Preprocessing,
    resize_bilinear,
)
from keras_resadapt.layers.exit_classifier import UNIFORM_FAN_IN
from keras_resadapt.layers.switchable_batch_normalization import (
    check_resolutions,
)
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.weights import load_weights_file


class ScaleNetwork(Block):
    """A backbone that adds the features of a coarser network after each stage.

    Args:
        backbone: A backbone, of which this network gets its own copy.
        residual: The layer that adds the coarser network's features; None for a
            network without a coarser one.
        layers: The constructors of its layers.

    Call arguments:
        inputs: Float tensor of shape (batch, size, size, 3).
        low: The outputs of the coarser network's stages, or None.
        point: The operating point.

    Returns:
        The list of the outputs of all stages.
    """

    def __init__(
        self,
        backbone: Backbone,
        residual: HighFrequencyResidual | None = None,
        layers: LayerSet = LayerSet(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.backbone = backbone.with_layers(layers)
        self.residual = residual
        self.sums = []
        for i in range(len(backbone.stages) if residual else 0):
            if backbone.normalizes_first:
                self.sums.append(layers.junction(name=f"sum{i}"))
            else:
                non_negative = backbone.non_negative
                self.sums.append(
                    layers.activation(None, non_negative=non_negative, name=f"sum{i}")
                )

    def build(self, input_shape):
        super().build(input_shape)
        self.backbone.build(input_shape)  # only its stages are called

    def call(self, inputs, point, low=None, training=None):
        x, outputs = inputs, []
        for i in range(len(self.backbone.stages)):
            x = self.backbone.run_stage(i, x, point)
            if self.residual is not None:
                x = point.call(self.sums[i], self.residual(x, low[i]))
            outputs.append(x)
        return outputs


@keras.saving.register_keras_serializable("keras_resadapt")
class MSNet(Cascade):
    """A high frequency residual multi-scale network.

    It consists of two networks of the same architecture with separate weights. The
    first, L, classifies the downsampled image. If L is not confident, the second, H,
    classifies the image itself. After each of its stages, H adds the upsampled output
    of the same stage of L, which is not computed again (figure 4 of the paper):

        x_L[i+1] = L[i](x_L[i])
        x_H[i+1] = H[i](x_H[i]) + u(x_L[i+1])

    The stages are those of the backbone, its stem being the first one. The sums cost
    no multiply-adds.

    Both classifiers are trained together by their cross-entropies, and the gradient
    of the second one reaches L.

    Args:
        backbone: A backbone. Both networks are made anew from its architecture.
        num_classes: Number of classes.
        resolutions: Height and width in pixels of the images of H and of L,
            the first a multiple of the second.
        preprocessing: See `layers.Preprocessing`.
        upsampling: u, `"nearest"` or `"bilinear"`; see
            `layers.HighFrequencyResidual`.
        **kwargs: `gradient_equilibrium`, `distillation_weight` and
            `temperature` of `Cascade`.

    Attributes:
        resolution: The resolution of H. The network also runs on square images of
            other sizes, and downsamples them by the same factor.

    Reference:
        High Frequency Residual Learning for Multi-Scale Image Classification
        (https://arxiv.org/abs/1905.02649).
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 1000,
        resolutions: Sequence[int] = (256, 128),
        preprocessing: str | None = "imagenet",
        upsampling: str = "nearest",
        **kwargs,
    ):
        super().__init__(num_classes, **kwargs)
        check_backbone(backbone)
        self.resolutions = check_resolutions(resolutions)
        if len(self.resolutions) != 2 or self.resolutions[0] % self.resolutions[1]:
            raise ValueError(
                "`resolutions` must be two, the larger a multiple of the "
                f"smaller. Received: resolutions={self.resolutions}"
            )
        if self.resolutions[1] < backbone.stride:
            raise ValueError(
                f"`resolutions` must be at least {backbone.stride} pixels, "
                "the stride of the backbone. "
                f"Received: resolutions={self.resolutions}"
            )
        self.upsampling = upsampling
        self.resolution = self.resolutions[0]
        self.num_exits = 2

        # === Layers ===
        layers = self.layer_set()
        self.scale = self.resolutions[0] // self.resolutions[1]
        self.preprocessing = Preprocessing(preprocessing, name="preprocessing")
        self.low = ScaleNetwork(backbone, layers=layers, name="low")
        self.high = ScaleNetwork(
            backbone,
            HighFrequencyResidual(self.scale, upsampling, name="residual"),
            layers,
            name="high",
        )
        self.pool = keras.layers.GlobalAveragePooling2D(name="pool")
        self.classifiers = [
            layers.dense(
                self.num_classes,
                kernel_initializer=UNIFORM_FAN_IN.clone(),
                name=f"classifier{exit}",
            )
            for exit in range(self.num_exits)
        ]
        self.build_from_point()

    # === Forward ===

    def check_images(self, images) -> None:
        super().check_images(images)
        height, width = images.shape[1:3]
        smallest = self.scale * self.low.backbone.stride
        if height != width or height < smallest:
            raise ValueError(
                f"Images must be square and at least {smallest} pixels high "
                f"and wide. Received: {height} x {width} pixels"
            )

    def begin(self, images, point, training=None):
        return {"images": images}

    def extend(self, features, exit, point, training=None):
        images = features["images"]
        if exit == 0:
            # Before the preprocessing, which may round to 16 bits
            downsampled = resize_bilinear(
                ops.cast(images, "float32"), images.shape[1] // self.scale
            )
            low = self.low(
                self.preprocessing(downsampled), point=point, training=training
            )
            return {"images": images, "low": low}
        high = self.high(
            self.preprocessing(images),
            low=features["low"],
            point=point,
            training=training,
        )
        return {"high": high[-1]}

    def exit_features(self, features, exit):
        return features["low"][-1] if exit == 0 else features["high"]

    def classify(self, features, exit, point, training=None):
        x = self.pool(self.exit_features(features, exit))
        x = point.call(self.classifiers[exit], x)
        return ops.cast(x, "float32")

    # === Config ===

    def get_config(self):
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.low.backbone),
            "resolutions": self.resolutions,
            "preprocessing": self.preprocessing.mode,
            "upsampling": self.upsampling,
        }

    @classmethod
    def from_config(cls, config):
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})


def MSResNet18(
    num_classes: int = 1000,
    resolutions: Sequence[int] = (256, 128),
    preprocessing: str | None = "imagenet",
    weights: str | None = None,
    depths: Sequence[int] = (2, 2, 2, 2),
    filters: Sequence[int] = (64, 128, 256, 512),
    stem: str = "imagenet",
    name: str = "msresnet18",
    **kwargs,
) -> MSNet:
    """MSNet on ResNet-18 (MSNet, table 1).

    Args:
        num_classes: Number of classes.
        resolutions: The two resolutions, in pixels; see `MSNet`.
        preprocessing: See `MSNet`.
        weights: `None` for random weights, or the path of a `.weights.h5`
            file of a model with the same arguments.
        depths: Residual blocks of each stage.
        filters: Channels of each stage.
        stem: `"small"` for images of 32 or 64 pixels.
        **kwargs: Further arguments of `MSNet`.
    """
    backbone = ResNet(depths, filters, stem=stem, name="backbone")
    model = MSNet(
        backbone, num_classes, resolutions, preprocessing, name=name, **kwargs
    )
    return load_weights_file(model, weights)


def MSMobileNet(
    num_classes: int = 1000,
    resolutions: Sequence[int] = (256, 128),
    preprocessing: str | None = "imagenet",
    weights: str | None = None,
    alpha: float = 1.0,
    stem: str = "imagenet",
    name: str = "msmobilenet",
    **kwargs,
) -> MSNet:
    """MSNet on MobileNet (MSNet, table 2).

    Args:
        num_classes: Number of classes.
        resolutions: The two resolutions, in pixels; see `MSNet`.
        preprocessing: See `MSNet`.
        weights: `None` for random weights, or the path of a `.weights.h5`
            file of a model with the same arguments.
        alpha: Width multiplier; the paper uses 1, 0.75, 0.5 and 0.25.
        stem: `"small"` for images of 32 or 64 pixels.
        **kwargs: Further arguments of `MSNet`.
    """
    backbone = MobileNetV1(alpha=alpha, stem=stem, name="backbone")
    model = MSNet(
        backbone, num_classes, resolutions, preprocessing, name=name, **kwargs
    )
    return load_weights_file(model, weights)


def MSDenseNet121(
    num_classes: int = 1000,
    resolutions: Sequence[int] = (224, 112),
    preprocessing: str | None = "imagenet",
    weights: str | None = None,
    depths: Sequence[int] = (6, 12, 24, 16),
    growth_rate: int = 32,
    stem: str = "imagenet",
    name: str = "msdensenet121",
    **kwargs,
) -> MSNet:
    """MSNet on DenseNet-121 (MSNet, table 3).

    Args:
        num_classes: Number of classes.
        resolutions: The two resolutions, in pixels; see `MSNet`.
        preprocessing: See `MSNet`.
        weights: `None` for random weights, or the path of a `.weights.h5`
            file of a model with the same arguments.
        depths: Layers of each dense block.
        growth_rate: Channels that a layer adds.
        stem: `"small"` for images of 32 or 64 pixels.
        **kwargs: Further arguments of `MSNet`.
    """
    backbone = DenseNet(depths, growth_rate, stem=stem, name="backbone")
    model = MSNet(
        backbone, num_classes, resolutions, preprocessing, name=name, **kwargs
    )
    return load_weights_file(model, weights)
