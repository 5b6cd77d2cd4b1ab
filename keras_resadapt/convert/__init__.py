"""The authors' checkpoints into our models."""

from keras_resadapt.convert.pytorch import load_pytorch_state_dict
