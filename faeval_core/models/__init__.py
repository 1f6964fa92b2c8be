"""Residual stacks: each model is an embedding, L blocks and a readout, as pure functions of a dict of parameters."""

from .resmlp import ResMLP

MODELS = {"resmlp": ResMLP}
