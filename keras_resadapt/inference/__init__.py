"""Running a trained network: what each operating point costs and gives."""

from keras_resadapt.inference.latency import measure_latency
