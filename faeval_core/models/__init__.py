"""Residual stacks and their kin: each model is an embedding, L blocks and a readout, as pure
functions of parameters. To train one of your own: subclass Model and `register_model` it.
"""

import re

from ..owncode import is_own
from .base import Model
from .convnet import ConvNet
from .resmlp import ResMLP, StudentNet, ToyLQ
from .vit import ViTMini

MODELS: dict[str, type[Model]] = {
    "resmlp": ResMLP,
    "studentnet": StudentNet,
    "toylq": ToyLQ,
    "vitmini": ViTMini,
    "convnet": ConvNet,
}
PARTS = ("init", "embed", "block")  # what a subclass of Model has to define


def register_model(name: str, cls: type[Model]) -> type[Model]:
    """Add a model class under `name`, in the place of one of before; RunConfig(model=name) trains
    it by any method.

    cls: a subclass of Model with `init`, `embed` and `block` (see models/base.py), or of one of
    faeval's models. Runs of it are named by its code: when that changes, they are other runs.
    Raises TypeError for what is no model, ValueError for a name that cannot be its own.
    """
    if not (isinstance(cls, type) and issubclass(cls, Model)):
        way_out = "an nn.Module is measured as it is by faeval_core.judge"
        raise TypeError(f"register_model needs a subclass of Model, not {cls!r}; {way_out}")
    if lacking := [part for part in PARTS if not hasattr(cls, part)]:
        told = f"model class {cls.__name__} lacks {', '.join(lacking)}"
        raise TypeError(f"{told}; every model defines {', '.join(PARTS)}")
    if not (isinstance(name, str) and re.fullmatch(r"[\w-]+", name)):
        raise ValueError(f"the name of a model is of letters, digits, - and _, not {name!r}")
    if not is_own(MODELS.get(name, cls)):
        raise ValueError(f"the model name {name!r} belongs to faeval itself; choose another")
    MODELS[name] = cls
    return cls


__all__ = ["MODELS", "Model", "register_model"]
