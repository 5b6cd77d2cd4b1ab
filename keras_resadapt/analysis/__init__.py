"""Pictures of what a network does, with their numbers."""

from keras_resadapt.analysis.accuracy_cost import plot_accuracy_cost
from keras_resadapt.analysis.agreement import Agreement
from keras_resadapt.analysis.agreement import plot_agreement
from keras_resadapt.analysis.agreement import precision_and_coverage
from keras_resadapt.analysis.bn_statistics import BNStatistics
from keras_resadapt.analysis.bn_statistics import bn_statistics
from keras_resadapt.analysis.bn_statistics import plot_bn_statistics
from keras_resadapt.analysis.complementarity import plot_complementarity
from keras_resadapt.analysis.exit_difficulty import plot_exit_difficulty
from keras_resadapt.analysis.exit_gallery import ExitGallery
from keras_resadapt.analysis.exit_gallery import plot_exit_gallery
from keras_resadapt.analysis.feature_spectrum import Spectrum
from keras_resadapt.analysis.feature_spectrum import feature_spectrum
from keras_resadapt.analysis.feature_spectrum import last_features
from keras_resadapt.analysis.feature_spectrum import plot_feature_spectrum
from keras_resadapt.analysis.resolution_table import plot_resolution_table
