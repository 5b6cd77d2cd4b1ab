"""Conversion of PyTorch checkpoints."""

from keras_resadapt.convert.pytorch import load_pytorch_state_dict
