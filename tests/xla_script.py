"""Tiny networks of every family, and a script that trains them on JAX.

`python xla_script.py FOLDER FAMILY...` trains each family on one device and on four
virtual ones, from the weights and the images in the folder.
"""

import json
import os
import sys

if __name__ == "__main__":
    os.environ |= {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 "
        # Compiling takes longer than running.
        "--xla_backend_optimization_level=0",
    }

import numpy as np
import tensorflow as tf

import keras_resadapt
from keras_resadapt import backbones, tasks, training

RESOLUTIONS = (32, 16)


def make_rsnet(task=5, resolutions=RESOLUTIONS):
    backbone = backbones.ResNet((1,), (8,), stem="small", name="backbone")
    return keras_resadapt.RSNet(backbone, task, resolutions)


def make_segmentation():
    decoder = dict(decoder="light_weight_refinenet", channels=8, dropout=0)
    return make_rsnet(tasks.Segmentation(3, **decoder), (32,))


def make_msnet():
    backbone = backbones.ResNet((1,), (8,), stem="small", name="backbone")
    return keras_resadapt.MSNet(backbone, 5, RESOLUTIONS)


def make_ranet():
    return keras_resadapt.RANet(
        5,
        num_blocks=1,
        block_step=1,
        step=1,
        scale_list=(1, 2),
        channels=8,
        growth_rate=8,
        growth_factors=(2, 1),
        bottleneck_factors=(2, 1),
    )


def make_msdnet():
    return keras_resadapt.MSDNet(
        5,
        num_blocks=2,
        base=1,
        step=1,
        channels=8,
        growth_rate=8,
        growth_factors=(1, 2),
        bottleneck_factors=(1, 2),
    )


def make_mutual(task=5, backbone=None, **kwargs):
    if backbone is None:
        backbone = backbones.MobileNetV1((1,), (64,), activation="relu6")
    kwargs = {"resolutions": RESOLUTIONS, "num_random_widths": 1, "seed": 5} | kwargs
    return keras_resadapt.MutualNet(backbone, task, **kwargs)


FAMILIES = {
    "rsnet": make_rsnet,
    "msnet": make_msnet,
    "ranet": make_ranet,
    "msdnet": make_msdnet,
    "mutualnet": make_mutual,
    "segmentation": make_segmentation,
}


def make(family):
    """Returns a network whose parameters all matter, the same in every process."""
    return spread_out(FAMILIES[family]())


def spread_out(model):
    rng = np.random.default_rng(0)
    for v in model.weights:
        if v.path.endswith(("gamma", "variance")):
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif v.path.endswith(("kernel", "bias", "beta", "mean")):
            scale = 0.1 if len(v.shape) == 1 else 0.7 * np.prod(v.shape[:-1]) ** -0.5
            v.assign(rng.normal(0, scale, v.shape))
    return model


def make_batch(family, count=8):
    """Returns images in [0, 255] and targets."""
    rng = np.random.default_rng(1)
    images = rng.uniform(0, 255, (count, 32, 32, 3)).astype("float32")
    if family == "segmentation":
        return images, rng.integers(0, 3, (count, 32, 32)).astype("int32")
    return images, rng.integers(0, 5, count).astype("int32")


def train(family):
    """Trains for two steps, evaluates, and returns weights and logs.

    The data set has batches of a known size; the arrays of the evaluation have a
    last batch that four devices do not divide.
    """
    model = make(family)
    model.compile(training.SGD(0.01), metrics=["accuracy"])
    images, targets = make_batch(family)
    batches = tf.data.Dataset.from_tensor_slices((images, targets))
    batches = batches.batch(8, drop_remainder=True).repeat(2)
    logs = model.fit(batches, verbose=0).history
    weights = model.get_weights()
    scores = model.evaluate(
        images[:6], targets[:6], batch_size=4, verbose=0, return_dict=True
    )
    return weights, logs | {f"val_{name}": [v] for name, v in scores.items()}


def main(folder, *families):
    logs = {}
    for family in families:
        for devices, strategy in (("one", "none"), ("four", "mirrored")):
            with training.strategy_scope(strategy):
                weights, logs[f"{family}_{devices}"] = train(family)
                np.savez(os.path.join(folder, f"{family}_{devices}.npz"), *weights)
    with open(os.path.join(folder, "logs.json"), "w") as file:
        json.dump(logs, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
