"""Pictures of what a network does, with their numbers."""

from keras_resadapt.analysis.accuracy_cost import plot_accuracy_cost
