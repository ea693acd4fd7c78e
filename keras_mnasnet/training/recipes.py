"""The named recipes, and what each value rests on."""

from __future__ import annotations

from keras_mnasnet.preprocessing import Augment
from keras_mnasnet.training.recipe import Recipe

__all__ = ["RECIPES", "SOURCES"]

PAPER = "arXiv 1807.11626v3, section 5"
TRAINER = "tensorflow/tpu models/official/mnasnet/mnasnet_main.py and mnasnet_utils.py"
OURS = "keras_mnasnet"

_ALL = (
    Recipe(
        name="paper-imagenet",
        epochs=350,
        batch_size=4096,
        optimizer="rmsprop-tf1",
        learning_rate=0.256,
        base_batch=4096,
        schedule="exponential",
        warmup_epochs=5.0,
        decay_rate=0.97,
        decay_epochs=2.4,
        momentum=0.9,
        rho=0.9,
        epsilon=1e-3,
        weight_decay=1e-5,
        label_smoothing=0.1,
        dropout=0.2,
        bn_momentum=0.99,
        ema=0.9999,
        augment=Augment(crop="inception", flip=True),
    ),
    Recipe(
        name="finetune",
        epochs=10,
        batch_size=32,
        optimizer="adamw",
        learning_rate=1e-3,
        base_batch=32,
        schedule="cosine",
        warmup_epochs=0.5,
        weight_decay=0.02,
        clip_norm=1.0,
        label_smoothing=0.1,
        dropout=0.2,
        bn_momentum=0.9,
        frozen_epochs=1,
        frozen_learning_rate=3e-3,
        augment=Augment(crop="inception", area=(0.35, 1.0), flip=True),
    ),
    Recipe(
        name="cifar10",
        epochs=40,
        batch_size=128,
        optimizer="adamw",
        learning_rate=6e-3,
        base_batch=128,
        schedule="cosine",
        warmup_epochs=2.0,
        weight_decay=0.05,
        label_smoothing=0.1,
        dropout=0.2,
        bn_momentum=0.99,
        ema=0.9995,
        size=32,
        augment=Augment(crop="pad", pad=4, flip=True),
    ),
    Recipe(
        name="proxy-5-epochs",
        epochs=5,
        batch_size=128,
        optimizer="adamw",
        learning_rate=6e-3,
        base_batch=128,
        schedule="cosine",
        warmup_epochs=0.5,
        weight_decay=0.05,
        label_smoothing=0.1,
        dropout=0.2,
        bn_momentum=0.9,
        size=32,
        augment=Augment(crop="pad", pad=4, flip=True),
    ),
)
RECIPES = {recipe.name: recipe for recipe in _ALL}

SOURCES = {
    "paper-imagenet": {
        "rho, momentum, bn_momentum, weight_decay, dropout, learning_rate, warmup_epochs, decay_rate, decay_epochs, "
        "batch_size, augment (Inception crop)": PAPER,
        "epochs (437,898 steps at batch 1024), epsilon, label_smoothing, ema (statistics included), the rate's scaling with "
        "the batch": TRAINER,
        "biases are spared by the weight decay (the trainer spares batch norms only)": OURS,
    },
    "finetune": {"everything": OURS},
    "cifar10": {"everything": OURS},
    "proxy-5-epochs": {"5 epochs": "arXiv 1807.11626v3, section 4.2", "everything else": OURS},
}
