"""Residual stacks and their kin: each model is an embedding, L blocks and a readout, as pure
functions of parameters.
"""

from .convnet import ConvNet
from .resmlp import ResMLP, StudentNet, ToyLQ
from .vit import ViTMini

MODELS = {
    "resmlp": ResMLP,
    "studentnet": StudentNet,
    "toylq": ToyLQ,
    "vitmini": ViTMini,
    "convnet": ConvNet,
}
