"""Trains a RANet or an MSDNet: one network with early exits.

By default on the package's own demo set, in minutes on a CPU:

    python examples/train_ranet.py --output_dir=runs/demo_ranet

The paper's CIFAR recipe (section 4: 300 epochs of batches of 64, padded crops,
flips), and its ImageNet recipe on the GPUs of one machine:

    python examples/train_ranet.py --dataset=cifar10 --data_dir=DIR \
        --model=ranet_cifar --crop_fraction=1 --output_dir=runs/ranet_cifar
    python examples/train_ranet.py --dataset=imagenet2012 --data_dir=DIR \
        --model=ranet_imagenet --crop=random_resized --batch_size=256 \
        --strategy=mirrored --output_dir=runs/ranet_imagenet

An interrupted run goes on with `--resume` from its last finished epoch. At the
end, thresholds are calibrated on held-out training pictures;
`export_savedmodel.py --thresholds` takes them.
"""

import functools

import cascade_report
import training_script
from absl import app, flags

# Before keras: it chooses TensorFlow's convolutions.
import keras_resadapt
from keras_resadapt import training

MODELS = {
    # For the demo set and other small pictures
    "tiny": functools.partial(
        keras_resadapt.RANet,
        block_step=1,
        step=1,
        channels=8,
        preprocessing="imagenet",
        resolution=48,
        name="ranet_tiny",
    ),
    "tiny_msdnet": functools.partial(
        keras_resadapt.MSDNet,
        num_blocks=4,
        base=2,
        step=2,
        channels=8,
        preprocessing="imagenet",
        resolution=48,
        name="msdnet_tiny",
    ),
    # For a first look at CIFAR-10 on a CPU
    "small": functools.partial(
        keras_resadapt.RANet, step=2, channels=8, name="ranet_small"
    ),
    "small_msdnet": functools.partial(
        keras_resadapt.MSDNet,
        num_blocks=6,
        base=2,
        step=1,
        channels=8,
        name="msdnet_small",
    ),
    "ranet_cifar": keras_resadapt.RANetCIFAR,
    "ranet_cifar_growing": keras_resadapt.RANetCIFARGrowing,
    "ranet_imagenet": keras_resadapt.RANetImageNet,
    "ranet_imagenet_wide": keras_resadapt.RANetImageNetWide,
    "msdnet_cifar": keras_resadapt.MSDNetCIFAR,
    "msdnet_cifar_growing": keras_resadapt.MSDNetCIFARGrowing,
    "msdnet_imagenet": keras_resadapt.MSDNetImageNet,
}

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "tiny", list(MODELS), "The network.")
flags.DEFINE_integer("resolution", None, "In pixels; default: the network's.")
flags.DEFINE_enum(
    "preprocessing",
    None,
    ["imagenet", "unit", "cifar10", "cifar100"],
    "Default: the network's.",
)
flags.DEFINE_bool(
    "gradient_equilibrium", False, "Li et al. (2019), RANet's appendix B."
)
flags.DEFINE_float("distillation_weight", 0.0, "From the last exit, likewise.")
flags.DEFINE_float("temperature", 1.0, "Of the distillation.")
FLAGS.set_default("crop", "pad")
FLAGS.set_default("batch_size", 64)


def build_model(num_classes: int):
    """The network that the flags describe."""
    changes = {
        name: getattr(FLAGS, name)
        for name in ("resolution", "preprocessing")
        if getattr(FLAGS, name) is not None
    }
    model = MODELS[FLAGS.model](
        num_classes,
        gradient_equilibrium=FLAGS.gradient_equilibrium,
        distillation_weight=FLAGS.distillation_weight,
        temperature=FLAGS.temperature,
        **changes,
    )
    cascade_report.check_budget(model)
    return model


def main(_):
    recipe = (
        training.RANET_IMAGENET if "imagenet" in FLAGS.model else training.RANET_CIFAR
    )
    training_script.run(
        recipe,
        build_model,
        cascade_report.report,
        resolutions=lambda model: model.resolution,
        held_out=FLAGS.held_out,
    )


if __name__ == "__main__":
    app.run(main)
