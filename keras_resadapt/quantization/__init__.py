"""Networks whose weights and activations take few values.

TensorFlow Model Optimization is imported when an `Int8` network is made.
"""

from keras_resadapt.quantization.calibration import calibrate_ranges
from keras_resadapt.quantization.calibration import check_calibrated
from keras_resadapt.quantization.conversion import pack
from keras_resadapt.quantization.conversion import quantize
from keras_resadapt.quantization.conversion import refit_weights
from keras_resadapt.quantization.conversion import unpack
from keras_resadapt.quantization.int8 import Int8
from keras_resadapt.quantization.learned import LearnedQuantization
from keras_resadapt.quantization.scheme import Scheme
