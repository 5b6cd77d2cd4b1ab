"""Networks whose weights and activations take few values.

TensorFlow Model Optimization is imported when an `Int8` network is made.
"""

from keras_resadapt.quantization.calibration import (
    calibrate_ranges,
    check_calibrated,
)
from keras_resadapt.quantization.conversion import (
    pack,
    quantize,
    refit_weights,
    unpack,
)
from keras_resadapt.quantization.int8 import Int8
from keras_resadapt.quantization.learned import LearnedQuantization
from keras_resadapt.quantization.scheme import Scheme
