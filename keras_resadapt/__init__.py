"""Image networks that run at many costs: one training, many operating points."""

from keras_resadapt import backbones
from keras_resadapt import convert
from keras_resadapt import layers
from keras_resadapt import losses
from keras_resadapt.models.rsnet import RSMobileNetV2
from keras_resadapt.models.rsnet import RSNet
from keras_resadapt.models.rsnet import RSNet18
from keras_resadapt.models.rsnet import RSNet34
from keras_resadapt.models.rsnet import RSNet50
from keras_resadapt.models.rsnet import RSNet101
from keras_resadapt.operating_point import OperatingPoint

__version__ = "0.1.0"
