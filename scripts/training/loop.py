"""Training from scratch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera.compiler.datasets import LabelledImages
from training.networks import Recipe

SEED = 1
_BATCH_SIZE = 64
_SHIFTED_SHARE = 0.3  # of the images of a batch; shifting more of them is too hard for the smallest network
_REPORTS = 10  # epochs from one line of progress to the next


def train(recipe: Recipe, data: LabelledImages, epochs: int) -> nn.Sequential:
    """Train a network from scratch on ``data`` and return it in evaluation mode."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    network = recipe.build()
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    steps = math.ceil(len(data) / _BATCH_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_learning_rate, total_steps=epochs * steps)
    network.train()
    for epoch in range(1, epochs + 1):
        total_loss = 0.0
        for batch in torch.randperm(len(data), generator=generator).split(_BATCH_SIZE):
            inputs = shift_some(images[batch], recipe.shift, generator) if recipe.shift else images[batch]
            loss = loss_of(recipe.metric, network(inputs), inputs, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total_loss += loss.item() * len(batch)
        if epoch % _REPORTS == 0 or epoch == epochs:
            print(f"  epoch {epoch:3} of {epochs}, training loss {total_loss / len(data):.4f}", flush=True)
    return network.eval()


def loss_of(metric: str, outputs: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """What training lowers where ``metric`` is what counts: cross-entropy, or the error of a reconstruction."""
    return functional.mse_loss(outputs, inputs) if metric == "auc" else functional.cross_entropy(outputs, labels)


def shift_some(images: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Move a share of the images of (N, 1, H, W) by up to ``limit`` pixels down and across, zeros coming in."""
    count, _, height, width = images.shape
    shifted = torch.rand((count, 1), generator=generator) < _SHIFTED_SHARE
    offsets = torch.randint(0, 2 * limit + 1, (2, count, 1), generator=generator)
    down, across = torch.where(shifted, offsets, limit)
    rows = (torch.arange(height) + down)[:, :, None]
    columns = (torch.arange(width) + across)[:, None, :]
    padded = functional.pad(images, (limit,) * 4)
    return padded[torch.arange(count)[:, None, None], 0, rows, columns][:, None]
