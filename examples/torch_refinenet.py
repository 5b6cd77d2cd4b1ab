"""RS-Net for segmentation in PyTorch, a contestant of `benchmark_segmentation.py`.

The same network as `keras_resadapt.RSRefineNet18` and `RSRefineNet101`: a ResNet
with private BatchNormalization for each resolution, and a RefineNet.

As a script, it runs training steps. Its argument is a JSON object with the arguments
of `main`. It does not import TensorFlow, because some versions of TensorFlow and
PyTorch crash in one process, and because the memory of the process is measured.
"""

import json
import sys

import numpy as np
import torch
from contestants import work
from torch import nn
from torch.nn import functional as F

IGNORE_CLASS = 255
MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1) * 255
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1) * 255


def conv(inputs, outputs, size, stride=1, bias=False):
    """Returns a convolution with symmetric padding."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias)


def resize(x, size, **kwargs):
    """Resizes bilinearly."""
    return F.interpolate(x, size, mode="bilinear", **kwargs)


# === Encoder ===


class ConvNorm(nn.Module):
    """A convolution with one BatchNormalization for each branch."""

    def __init__(self, inputs, outputs, size, stride, branches):
        super().__init__()
        self.conv = conv(inputs, outputs, size, stride)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(branches))

    def forward(self, x, branch):
        return self.norms[branch](self.conv(x))


class ResidualBlock(nn.Module):
    """A block of two 3x3 convolutions, or a bottleneck."""

    def __init__(self, inputs, filters, stride, bottleneck, branches):
        super().__init__()
        shapes = [(filters, 3, stride), (filters, 3, 1)]
        if bottleneck:
            shapes = [(filters, 1, 1), (filters, 3, stride), (4 * filters, 1, 1)]
        self.outputs = shapes[-1][0]
        self.shortcut = None
        if stride > 1 or inputs != self.outputs:
            self.shortcut = ConvNorm(inputs, self.outputs, 1, stride, branches)
        self.convs = nn.ModuleList()
        for outputs, size, stride in shapes:
            self.convs.append(ConvNorm(inputs, outputs, size, stride, branches))
            inputs = outputs

    def forward(self, x, branch):
        shortcut = x if self.shortcut is None else self.shortcut(x, branch)
        *first, last = self.convs
        for layer in first:
            x = F.relu(layer(x, branch), inplace=True)
        return F.relu(last(x, branch) + shortcut, inplace=True)


# === Decoder ===


class ResidualUnit(nn.Module):
    """`x + conv2(relu(conv1(relu(x))))`."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = conv(channels, channels, 3, bias=True)
        self.conv2 = conv(channels, channels, 3)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(F.relu(x)), inplace=True))


class Level(nn.Module):
    """One level of the decoder, which fuses its features with coarser ones."""

    def __init__(self, inputs, channels, outputs, fuses, size, num_units):
        super().__init__()
        before, after = num_units
        self.reduce = conv(inputs, channels, size)
        self.units = nn.Sequential(*(ResidualUnit(channels) for _ in range(before)))
        self.fuse = conv(channels, channels, size) if fuses else None
        self.pooling = nn.ModuleList(conv(channels, channels, size) for _ in range(4))
        self.out_units = nn.Sequential(*(ResidualUnit(channels) for _ in range(after)))
        self.out = conv(channels, outputs, size) if outputs else nn.Identity()

    def forward(self, x, coarser):
        x = self.units(self.reduce(x))
        if self.fuse is not None:
            x = self.fuse(x)
            x = x + resize(coarser, x.shape[2:], align_corners=True)
        x = step = F.relu(x, inplace=True)
        for layer in self.pooling:
            step = layer(F.max_pool2d(step, 5, 1, 2))
            x = x + step
        return self.out(self.out_units(x))


class RefineNet(nn.Module):
    """A ResNet with a RefineNet, run at one resolution.

    Args:
        depths, filters: Blocks and channels of each stage of the ResNet.
        bottleneck: Whether the ResNet has bottlenecks.
        light: Whether the decoder is that of Light-Weight RefineNet.
        channels: Channels of the decoder.
        num_classes: Number of classes.
        branches: Number of resolutions.
    """

    def __init__(
        self, depths, filters, bottleneck, light, channels, num_classes, branches
    ):
        super().__init__()
        self.stem = ConvNorm(3, filters[0], 7, 2, branches)
        self.stages = nn.ModuleList()
        inputs, widths = filters[0], []
        for i, (depth, width) in enumerate(zip(depths, filters)):
            stage = nn.ModuleList()
            for j in range(depth):
                stride = 2 if i and not j else 1
                stage.append(ResidualBlock(inputs, width, stride, bottleneck, branches))
                inputs = stage[-1].outputs
            self.stages.append(stage)
            widths.append(inputs)
        self.levels = nn.ModuleList(
            Level(
                width,
                channels if i else 2 * channels,
                channels if i < len(widths) - 1 else None,
                i > 0,
                1 if light else 3,
                (0, 0) if light else (2, 3),
            )
            for i, width in enumerate(widths[::-1])
        )
        self.light = light
        self.classifier = conv(channels, num_classes, 3, bias=True)
        if branches > 1:
            self.alpha = nn.Parameter(torch.ones(branches))

    def forward(self, x, branch):
        x = F.relu(self.stem(x, branch), inplace=True)
        x = F.max_pool2d(x, 3, 2, 1)
        pyramid = []
        for stage in self.stages:
            for block in stage:
                x = block(x, branch)
            pyramid.append(x)
        x = None
        for i, (level, features) in enumerate(zip(self.levels, pyramid[::-1])):
            x = level(self.drop(features) if i < 2 else features, x)
        return self.classifier(x if self.light else self.drop(x))

    def drop(self, x):
        return F.dropout(x, 0.5, self.training)


# === Training ===


def loss_of(network, images, masks, sizes):
    """Returns the loss of RS-Net with full distillation (equations 2, 6 and 10).

    Args:
        network: A `RefineNet`.
        images: Float pixels of shape (batch, 3, height, width), at the largest size.
        masks: Class indices of shape (batch, height, width).
        sizes: Height and width of each resolution, the largest first.
    """
    x = (images - MEAN) / DEVIATION
    logits = []
    for branch, size in enumerate(sizes):
        inputs = resize(x, size, antialias=True) if branch else x
        logits.append(resize(network(inputs, branch), sizes[0], align_corners=False))
    log_p = [F.log_softmax(z, 1) for z in logits]
    loss = sum(F.nll_loss(p, masks, ignore_index=IGNORE_CLASS) for p in log_p)
    if len(sizes) == 1:
        return loss
    weights = torch.softmax(network.alpha, 0)
    ensemble = sum(w * z.detach() for w, z in zip(weights, logits))
    ensemble = F.log_softmax(ensemble, 1)
    loss = loss + F.nll_loss(ensemble, masks, ignore_index=IGNORE_CLASS)
    labelled = (masks != IGNORE_CLASS).float()
    teachers = [ensemble.detach(), *(p.detach() for p in log_p)]
    divergence = 0
    for s, student in enumerate(log_p):
        for teacher in teachers[: s + 1]:
            pixels = F.kl_div(student, teacher, reduction="none", log_target=True)
            divergence = divergence + (pixels.sum(1) * labelled).sum()
    return loss + 2 / (len(sizes) + 1) * divergence / labelled.sum()


def random_batch(size, batch_size, num_classes):
    """Returns random images and masks, of which a tenth is void."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (batch_size, 3, *size)).astype("float32")
    masks = rng.integers(0, num_classes, (batch_size, *size))
    masks[rng.random(masks.shape) < 0.1] = IGNORE_CLASS
    return torch.tensor(images), torch.tensor(masks)


def training_step(network, images, masks, sizes, sgd):
    """Returns a function that runs one step and returns its loss.

    Args:
        network, images, masks, sizes: As for `loss_of`.
        sgd: The arguments of `torch.optim.SGD`.
    """
    optimizer = torch.optim.SGD(network.parameters(), **sgd)

    def step():
        loss = loss_of(network, images, masks, sizes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main(network, sizes, batch_size, sgd, threads):
    torch.set_num_threads(threads)
    batch = random_batch(sizes[0], batch_size, network["num_classes"])
    network = RefineNet(**network, branches=len(sizes))
    count = sum(p.numel() for p in network.parameters())
    work(training_step(network, *batch, sizes, sgd), count)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
