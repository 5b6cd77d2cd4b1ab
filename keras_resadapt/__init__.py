"""Image networks that are trained once and run at many operating points."""

import importlib
import os

# TensorFlow decides whether to use oneDNN's convolutions when it is imported, and
# uses them only on the newest processors by default. They make a training step
# twice as fast on older processors as well. A value set by the user is kept.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from keras_resadapt import (
    backbones,
    convert,
    heads,
    layers,
    losses,
    points,
    quantization,
    tasks,
    training,  # loading a trained model needs its SGD
)
from keras_resadapt.models.mask_rcnn import MutualMaskRCNN, RSMaskRCNN
from keras_resadapt.models.msdnet import (
    MSDNet,
    MSDNetCIFAR,
    MSDNetCIFARGrowing,
    MSDNetImageNet,
)
from keras_resadapt.models.msnet import (
    MSDenseNet121,
    MSMobileNet,
    MSNet,
    MSResNet18,
)
from keras_resadapt.models.mutualnet import (
    MutualMobileNetV1,
    MutualMobileNetV2,
    MutualNet,
    MutualResNet50,
    MutualVGG16,
)
from keras_resadapt.models.point_cascade import PointCascade
from keras_resadapt.models.ranet import (
    RANet,
    RANetCIFAR,
    RANetCIFARGrowing,
    RANetImageNet,
    RANetImageNetWide,
)
from keras_resadapt.models.refinenet import (
    RSRefineNet18,
    RSRefineNet50,
    RSRefineNet101,
)
from keras_resadapt.models.rsnet import (
    RSMobileNetV2,
    RSNet,
    RSNet18,
    RSNet34,
    RSNet50,
    RSNet101,
)
from keras_resadapt.points.operating_point import OperatingPoint

__version__ = "0.1.0"

_LAZY = ("analysis", "data", "export", "inference")


def __getattr__(name: str):
    """Imports the folders that need TensorFlow or matplotlib on first use."""
    if name in _LAZY:
        return importlib.import_module(f"keras_resadapt.{name}")
    raise AttributeError(f"module 'keras_resadapt' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Lists the folders that are imported on first use, too."""
    return sorted({*globals(), *_LAZY})
