"""Image networks that run at many costs: one training, many operating points."""

import os

# TensorFlow decides when it is imported whether to use oneDNN's convolutions,
# by itself only on the newest processors. On older ones they make a training
# step twice as fast as well. Whoever set the variable has the last word.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from keras_resadapt import (
    backbones,
    convert,
    layers,
    losses,
    quantization,
    training,  # loading a trained model needs its SGD
)
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


def __getattr__(name):
    """Imports the folders that need TensorFlow or matplotlib when used."""
    if name in _LAZY:
        import importlib

        return importlib.import_module(f"keras_resadapt.{name}")
    raise AttributeError(f"module 'keras_resadapt' has no attribute {name!r}")
