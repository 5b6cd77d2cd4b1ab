"""Fourier spectra of the last feature maps."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resadapt.analysis.text import plain
from keras_resadapt.batches import images_at, labelled_batches
from keras_resadapt.models.msnet import MSNet
from keras_resadapt.models.rsnet import RSNet
from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The mean spectrum of feature maps.

    Attributes:
        magnitude: Mean magnitude of the two-dimensional discrete Fourier transform
            divided by the number of pixels, so that maps of different sizes can be
            compared, float64 of shape (height, width). Frequency 0 is at
            [height // 2, width // 2], and one step is one cycle per image.
        profile: Mean magnitude on the rings at a rounded distance of 0, 1, ... cycles
            per image from frequency 0.
    """

    magnitude: np.ndarray
    profile: np.ndarray


def last_features(model: keras.Model, images: Any) -> dict[str, Any]:
    """Computes the output of the last convolutional stage, before the pooling.

    Args:
        model: An `RSNet` or an `MSNet`.
        images: Tensor of shape (batch, size, size, 3), or a tuple of such tensors.

    Returns:
        Feature maps by name. For an `RSNet`, the feature maps at every resolution.
        For an `MSNet`, the two terms of the last sum of network H, which have the same
        size (figure 1 of the paper): `"low, upsampled"`, the feature maps of network
        L, and `"high"`, the term that H adds.

    Raises:
        TypeError: For another model.
    """
    if isinstance(model, RSNet):
        return {
            point.name: model.backbone(
                model.preprocessing(images_at(images, point.resolution)),
                point=point,
            )
            for point in model.operating_points
        }
    if isinstance(model, MSNet):
        if isinstance(images, (tuple, list)):
            images = images_at(images, model.resolution)
        point = OperatingPoint()
        state = model.begin(images, point)
        state = model.extend(state, 0, point)
        low = state["low"][-1]
        total = model.extend(state, 1, point)["high"]
        upsampled = model.high.residual(ops.zeros_like(total), low)
        return {"low, upsampled": upsampled, "high": total - upsampled}
    raise TypeError(
        "`model` must be an RSNet or MSNet. For another network, pass a function "
        f"from images to feature maps. Received: {type(model).__name__}"
    )


def feature_spectrum(
    networks: keras.Model | Mapping[str, keras.Model | Callable],
    data: Iterable,
    verbose: bool = True,
) -> dict[str, Spectrum]:
    """Computes the mean magnitude of the Fourier transform over maps and images.

    Args:
        networks: An `RSNet`, an `MSNet`, or a dict of such models and of functions by
            name. A function takes images and returns feature maps
            (batch, height, width, channels) or a dict of them by name.
        data: Batches of (images, labels). The labels are ignored.
        verbose: Whether to show the progress.

    Returns:
        One spectrum per network by name. The name is `"network, features"` for a
        network with several feature maps.

    Raises:
        TypeError: For a model that `last_features` does not support.
        ValueError: If there are no networks or no data, or if feature maps have
            another shape, different sizes or a single pixel.
    """
    if isinstance(networks, keras.Model):
        networks = {networks.name: networks}
    if not networks:
        raise ValueError(
            f"`networks` must have at least one network. Received: {networks!r}"
        )
    sums, counts = {}, {}
    for images, _ in labelled_batches(data, verbose):
        for name, maps in _named_features(networks, images).items():
            maps = ops.convert_to_numpy(ops.cast(maps, "float32"))
            height, width = _check_maps(name, maps, sums)
            transform = np.fft.fft2(maps, axes=(1, 2), norm="forward")
            magnitude = np.abs(transform).sum((0, 3), dtype="float64")
            sums[name] = sums.get(name, 0) + np.fft.fftshift(magnitude)
            counts[name] = counts.get(name, 0) + len(maps) * maps.shape[-1]
    return {
        name: Spectrum(total / counts[name], _profile(total / counts[name]))
        for name, total in sums.items()
    }


def plot_feature_spectrum(
    networks: keras.Model | Mapping[str, keras.Model | Callable],
    data: Iterable,
    path: str | os.PathLike,
    title: str = "",
    verbose: bool = True,
) -> dict[str, Spectrum]:
    """Plots the mean spectra of the last feature maps.

    MSNet, figure 1: a plain network, and the two networks of an MSNet. L has mostly
    low frequencies, and H has fewer of them. The upper plots show the magnitude of
    each frequency with one logarithmic color scale. The lower plot shows its mean by
    the distance from frequency 0.

    Args:
        networks: As for `feature_spectrum`, for example
            `{"ResNet-18": rsnet_of_one_resolution, "MSNet": msnet}`.
        data: As for `feature_spectrum`.
        path: The image file to write.
        title: Title of the plot.
        verbose: Whether to show the progress.

    Returns:
        One spectrum per network by name.

    Raises:
        TypeError, ValueError: As for `feature_spectrum`.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    spectra = feature_spectrum(networks, data, verbose)
    largest = max(s.magnitude.max() for s in spectra.values()) or 1.0
    # Values below a ten-thousandth of the largest are rounding errors.
    smallest = max(largest * 1e-4, min(s.magnitude.min() for s in spectra.values()))
    norm = LogNorm(min(smallest, 0.5 * largest), largest, clip=True)
    reach = max(max(s.magnitude.shape) // 2 for s in spectra.values()) + 0.5

    figure = Figure(
        figsize=(max(6.5, 1 + 2.8 * len(spectra)), 6.5),
        dpi=120,
        layout="constrained",
    )
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1))
    panels = upper.subplots(1, len(spectra), squeeze=False)[0]
    for axes, (name, spectrum) in zip(panels, spectra.items()):
        height, width = spectrum.magnitude.shape
        bottom, left = -(height // 2) - 0.5, -(width // 2) - 0.5
        image = axes.imshow(
            spectrum.magnitude,
            norm=norm,
            cmap="magma",
            extent=(left, left + width, bottom + height, bottom),
        )
        axes.set(xlim=(-reach, reach), ylim=(reach, -reach))
        axes.set_facecolor("0.85")  # frequencies that small maps do not have
        axes.set_title(plain(name), fontsize="medium")
        axes.set_xlabel("cycles per image")
    upper.colorbar(image, ax=panels, label="mean magnitude", shrink=0.8)
    axes = lower.add_subplot()
    for name, spectrum in spectra.items():
        axes.plot(spectrum.profile, marker=".", label=plain(name))
    axes.set_yscale("log")
    axes.set_xlabel("distance from frequency 0 (cycles per image)")
    axes.set_ylabel("mean magnitude")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(plain(title))
    figure.savefig(path)
    return spectra


def _named_features(networks, images) -> dict[str, Any]:
    """Returns the features of all networks, with one name for each."""
    named = {}
    for name, network in networks.items():
        if isinstance(network, keras.Model):
            features = last_features(network, images)
        else:
            features = network(images)
        if not isinstance(features, Mapping):
            named[name] = features
        elif len(features) == 1:
            (named[name],) = features.values()
        else:
            named.update({f"{name}, {k}": x for k, x in features.items()})
    return named


def _check_maps(name, maps, sums):
    if maps.ndim != 4 or maps.shape[1] * maps.shape[2] < 2:
        raise ValueError(
            "Feature maps must have shape (batch, height, width, channels) and more "
            f"than one pixel. Received: {maps.shape} from {name!r}"
        )
    if name in sums and sums[name].shape != maps.shape[1:3]:
        raise ValueError(
            f"The feature maps of {name!r} must have one size in all batches. "
            f"Received: {sums[name].shape} and {maps.shape[1:3]}"
        )
    return maps.shape[1:3]


def _profile(magnitude):
    """Returns the means on the rings that are completely inside the spectrum."""
    height, width = magnitude.shape
    rows, columns = np.indices(magnitude.shape)
    distance = np.hypot(rows - height // 2, columns - width // 2)
    ring = np.rint(distance).astype(int).ravel()
    means = np.bincount(ring, magnitude.ravel()) / np.bincount(ring)
    return means[: min(height, width) // 2 + 1]
