"""What training scripts are made of: optimizer, schedules, callbacks."""

from keras_resadapt.training.sgd import SGD
