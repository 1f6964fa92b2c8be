"""What the members of an ensemble have in common, as a method sees it; what an epoch asks of it."""

from dataclasses import dataclass

from ..settings.fields import GATES, IN_STATE, MEMBER_FIELDS


class RuleError(ValueError):
    """A rule does what would make its results wrong, or fail later; the text says what, where, and
    the way out.
    """


@dataclass(frozen=True)
class Phase:
    """What one epoch asks of a method for one member. It spares work; no result depends on it.

    hears: whether credit hears the auxiliary net. fits: whether `auxiliary` is called.
    """

    hears: bool = True
    fits: bool = True


EVERYTHING = Phase()


class Shared(dict):
    """Those of the options that all members of an ensemble have in common; reading another raises
    KeyError.
    """

    def __init__(self, options, own):
        super().__init__({k: v for k, v in options.items() if k not in own})
        self.own = frozenset(own)

    def get(self, name, default=None):
        return self[name] if name in self or name in self.own else default

    def __missing__(self, name):
        way_out = (
            f"members may differ in it; read s[{name!r}] or what at_epoch makes of it"
            if name in self.own
            else "declare it"
        )
        raise KeyError(f"option {name!r}: {way_out}")


class SharedConfig:
    """Those fields of a config that all members of an ensemble have in common; reading another
    raises RuleError.

    It stands for the config of an ensemble in its method and model, which serve all members.
    active: those of the gates (settings/fields.py) that are above zero, in all of them.
    """

    def __init__(self, cfg, own_options=()):

        shared = {k: v for k, v in vars(cfg).items() if k not in MEMBER_FIELDS}
        active = frozenset(k for k in GATES if getattr(cfg, k) > 0)
        vars(self).update(shared | {"options": Shared(cfg.options, own_options), "active": active})

    def __setattr__(self, name, value):
        raise RuleError(f"a config is not changed: {name}={value!r}; give the run another config")

    def __getattr__(self, name):  # of what __init__ has left out

        if name not in MEMBER_FIELDS:
            raise AttributeError(
                f"no field {name!r} that all members of an ensemble have in common"
            )
        way_out = (
            "read it in init_state or at_epoch, from the cfg that they receive, and "
            "return from there what you make of it"
        )
        if name in IN_STATE:
            way_out = f"read s[{name!r}]"
        raise RuleError(
            f"self.cfg.{name}: runs that differ in it train together, with one self.cfg for "
            f"all; {way_out}"
        )
