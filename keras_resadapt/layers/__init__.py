"""Layers that depend on the operating point, and the layers they are made of."""

from keras_resadapt.layers.activation import Activation
from keras_resadapt.layers.batch_normalization import BatchNormalization
from keras_resadapt.layers.block import Block, LayerSet
from keras_resadapt.layers.convolution import Conv2D, DepthwiseConv2D
from keras_resadapt.layers.dense import Dense
from keras_resadapt.layers.folding import conv_norm
from keras_resadapt.layers.high_frequency_residual import HighFrequencyResidual
from keras_resadapt.layers.max_pooling import PaddedMaxPooling2D
from keras_resadapt.layers.preprocessing import Preprocessing
from keras_resadapt.layers.private_slimmable_batch_normalization import (
    PrivateSlimmableBatchNormalization,
)
from keras_resadapt.layers.resize import resize_bilinear, resize_to_corners
from keras_resadapt.layers.slimmable import (
    SlimmableConv2D,
    SlimmableDense,
    SlimmableDepthwiseConv2D,
    make_divisible,
    slim_channels,
)
from keras_resadapt.layers.slimmable_batch_normalization import (
    SlimmableBatchNormalization,
)
from keras_resadapt.layers.switchable_batch_normalization import (
    SwitchableBatchNormalization,
)
