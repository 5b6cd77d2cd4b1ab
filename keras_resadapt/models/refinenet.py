"""RS-Net for semantic segmentation: RefineNet that switches resolution.

RS-Net, appendix C.
"""

from collections.abc import Sequence

from keras_resadapt.backbones import ResNet
from keras_resadapt.models.rsnet import RSNet
from keras_resadapt.models.weights import load_weights_file
from keras_resadapt.tasks import Segmentation

RESOLUTIONS = (352, 224, 96)


def RSRefineNet101(
    num_classes: int = 40,
    resolutions: Sequence[int] = RESOLUTIONS,
    distillation: str = "full",
    preprocessing: str | None = "imagenet",
    weights: str | None = None,
    decoder: str = "refinenet",
    ignore_class: int | None = 255,
    channels: int = 256,
    dropout: float = 0.5,
    depths: Sequence[int] = (3, 4, 23, 3),
    name: str = "rsrefinenet101",
    **kwargs,
) -> RSNet:
    """RS-Net for segmentation: RefineNet on ResNet-101 (RS-Net, appendix C).

    All resolutions share the encoder's convolutions and the whole decoder, which has
    no normalization.

    Args:
        num_classes: Number of classes.
        resolutions: Resolutions to train, in pixels; see `RSNet`.
        distillation: See `RSNet`.
        preprocessing: `"imagenet"`, `"unit"` or `None`; see `RSNet`.
        weights: `None` for random weights, or the path of a `.weights.h5` file of a
            model with the same arguments.
        decoder, ignore_class, channels, dropout: See `tasks.Segmentation`.
        depths: Residual blocks of each stage.
        **kwargs: Further arguments of `RSNet`.
    """
    return _rs_refinenet(
        Segmentation(num_classes, ignore_class, decoder, channels, dropout),
        ResNet(depths, bottleneck=True, name="backbone"),
        weights,
        resolutions=resolutions,
        distillation=distillation,
        preprocessing=preprocessing,
        name=name,
        **kwargs,
    )


def RSRefineNet50(
    num_classes: int = 40,
    resolutions: Sequence[int] = RESOLUTIONS,
    distillation: str = "full",
    preprocessing: str | None = "imagenet",
    weights: str | None = None,
    depths: Sequence[int] = (3, 4, 6, 3),
    name: str = "rsrefinenet50",
    **kwargs,
) -> RSNet:
    """RS-Net for segmentation: RefineNet on ResNet-50.

    With `decoder="light_weight_refinenet"`, the decoder is that of Light-Weight
    RefineNet. Arguments as for `RSRefineNet101`.
    """
    return RSRefineNet101(
        num_classes,
        resolutions,
        distillation,
        preprocessing,
        weights,
        depths=depths,
        name=name,
        **kwargs,
    )


def RSRefineNet18(
    num_classes: int = 40,
    resolutions: Sequence[int] = RESOLUTIONS,
    distillation: str = "full",
    preprocessing: str | None = "imagenet",
    weights: str | None = None,
    decoder: str = "light_weight_refinenet",
    ignore_class: int | None = 255,
    channels: int = 256,
    dropout: float = 0.5,
    depths: Sequence[int] = (2, 2, 2, 2),
    filters: Sequence[int] = (64, 128, 256, 512),
    stem: str = "imagenet",
    name: str = "rsrefinenet18",
    **kwargs,
) -> RSNet:
    """RS-Net for segmentation: Light-Weight RefineNet on ResNet-18.

    A network for small machines.

    Args:
        filters, stem: See `backbones.ResNet`.
        num_classes, resolutions, distillation, preprocessing, weights, decoder,
            ignore_class, channels, dropout, depths, **kwargs: As for
            `RSRefineNet101`.
    """
    return _rs_refinenet(
        Segmentation(num_classes, ignore_class, decoder, channels, dropout),
        ResNet(depths, filters, stem=stem, name="backbone"),
        weights,
        resolutions=resolutions,
        distillation=distillation,
        preprocessing=preprocessing,
        name=name,
        **kwargs,
    )


def _rs_refinenet(task, backbone, weights, **kwargs) -> RSNet:
    return load_weights_file(RSNet(backbone, task, **kwargs), weights)
