"""Image networks that run at many costs: one training, many operating points."""

import os

# TensorFlow decides when it is imported whether to use oneDNN's convolutions,
# by itself only on the newest processors. On older ones they make a training
# step twice as fast as well. Whoever set the variable has the last word.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from keras_resadapt import backbones
from keras_resadapt import convert
from keras_resadapt import layers
from keras_resadapt import losses
from keras_resadapt.models.msdnet import MSDNet
from keras_resadapt.models.msdnet import MSDNetCIFAR
from keras_resadapt.models.msdnet import MSDNetCIFARGrowing
from keras_resadapt.models.msdnet import MSDNetImageNet
from keras_resadapt.models.msnet import MSDenseNet121
from keras_resadapt.models.msnet import MSMobileNet
from keras_resadapt.models.msnet import MSNet
from keras_resadapt.models.msnet import MSResNet18
from keras_resadapt.models.mutualnet import MutualMobileNetV1
from keras_resadapt.models.mutualnet import MutualMobileNetV2
from keras_resadapt.models.mutualnet import MutualNet
from keras_resadapt.models.mutualnet import MutualResNet50
from keras_resadapt.models.mutualnet import MutualVGG16
from keras_resadapt.models.point_cascade import PointCascade
from keras_resadapt.models.ranet import RANet
from keras_resadapt.models.ranet import RANetCIFAR
from keras_resadapt.models.ranet import RANetCIFARGrowing
from keras_resadapt.models.ranet import RANetImageNet
from keras_resadapt.models.ranet import RANetImageNetWide
from keras_resadapt.models.rsnet import RSMobileNetV2
from keras_resadapt.models.rsnet import RSNet
from keras_resadapt.models.rsnet import RSNet18
from keras_resadapt.models.rsnet import RSNet34
from keras_resadapt.models.rsnet import RSNet50
from keras_resadapt.models.rsnet import RSNet101
from keras_resadapt.operating_point import OperatingPoint
from keras_resadapt import quantization
from keras_resadapt import training  # loading a trained model needs its SGD

__version__ = "0.1.0"

_LAZY = ("analysis", "data", "export", "inference")


def __getattr__(name):
    """Imports the folders that need TensorFlow or matplotlib when used."""
    if name in _LAZY:
        import importlib

        return importlib.import_module(f"keras_resadapt.{name}")
    raise AttributeError(f"module 'keras_resadapt' has no attribute {name!r}")
