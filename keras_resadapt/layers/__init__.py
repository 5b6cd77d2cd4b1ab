"""Layers that depend on the operating point, and those they rest on."""

from keras_resadapt.layers.batch_normalization import BatchNormalization
from keras_resadapt.layers.convolution import Conv2D
from keras_resadapt.layers.convolution import DepthwiseConv2D
from keras_resadapt.layers.preprocessing import Preprocessing
from keras_resadapt.layers.resize import resize_bilinear
from keras_resadapt.layers.switchable_batch_normalization import (
    SwitchableBatchNormalization,
)
