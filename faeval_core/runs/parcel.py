"""What an ensemble needs of code on its way to a worker: the classes of its rules and models."""

from ..config import RunConfig
from ..methods import METHODS
from ..models import MODELS
from ..owncode import packed, unpacked


def _chain(configs):
    """Configs, the runs that they start from, and so on."""
    for c in configs:
        while c is not None:
            yield c
            c = c.upstream


class Parcel:
    """The classes of the rules and models of some configs, and of the runs that these start from.

    In this process they are themselves, in another one copies by value. A worker that lives long
    may know other classes by these names: `open` puts those that were sent in their place.
    """

    def __init__(self, configs):
        self.configs = list(dict.fromkeys(_chain(configs)))
        self.ids = [c.id for c in self.configs]
        self.methods = {c.method: METHODS[c.method] for c in self.configs}
        self.models = {c.model: MODELS[c.model] for c in self.configs}
        self.packed = None  # what has travelled, in another process

    def __getstate__(self):
        """Raises ValueError where the classes cannot be sent (owncode.packed)."""
        if self.packed is not None:  # on its way further
            return vars(self)
        classes = [*self.methods.values(), *self.models.values()]
        names = {"methods": list(self.methods), "models": list(self.models)}
        return vars(self) | names | {"packed": packed(classes)}

    def open(self) -> None:
        """Make the classes those of this process; ValueError where they give other ids here."""
        if self.packed is None:
            return
        classes = unpacked(self.packed)
        METHODS.update(zip(self.methods, classes))
        MODELS.update(zip(self.models, classes[len(self.methods) :]))
        for c, sent in zip(self.configs, self.ids):
            check_code(c, " on this worker; restart it, or install cloudpickle there and here")
            if c.id != sent:
                told = f"run {sent} is {c.id} on this worker"
                raise ValueError(f"{told}, which has another version of faeval")


def check_code(c: RunConfig, where="; make the config anew, as with cfg.with_()") -> None:
    """Raise ValueError where a config is of other code than its method and model have now."""
    if c.code == (now := c.code_now()):
        return
    told = f"run {c.id} is of code {c.code or '(none named)'}, but method {c.method!r}"
    told += f" or model {c.model!r}, or a global that it reads, is now other code"
    raise ValueError(f"{told}, {now or 'that of faeval itself'}{where}")
