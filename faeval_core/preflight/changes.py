"""What a call changes that it must not: the generators of the process, and what it was given."""

import random
import types

import numpy as np
import torch

from ..methods.shared import RuleError

# before a global generator that has moved is the rule's doing, rather than that of another thread
ATTEMPTS = 3


def own(thing) -> bool:
    """Whether a class or function is faeval's own."""
    return thing.__module__.startswith("faeval_core.")


def generators() -> dict[str, bytes]:
    """State of the generators that all code of a process shares."""
    kind, keys, position, *_ = np.random.get_state()
    found = {
        "torch's": torch.get_rng_state().numpy().tobytes(),
        "numpy's": keys.tobytes() + bytes(str(position), "ascii"),
    }
    found["Python's"] = repr(random.getstate()).encode()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["CUDA's"] = torch.cuda.get_rng_state().numpy().tobytes()
    return found


def undrawn(name, where, call):
    """What `call` returns; RuleError where it draws from a generator that is not its own."""
    for _ in range(ATTEMPTS):
        before = generators()
        found = call()
        moved = [k for k, v in generators().items() if k in before and before[k] != v]
        if not moved:
            return found
    told = (
        f"method {name!r} draws from {' and '.join(moved)} global generator in {where}, so "
        "that runs depend on one another"
    )
    raise RuleError(
        f"{told}; draw from the generator that init_state and init_params receive, or name the "
        "numbers in `noise`"
    )


def held(value, path="", seen=None) -> dict:
    """Place -> content of all that a value holds: tensors and arrays copied, containers and objects
    taken apart.
    """
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        return {path: value.detach().clone()}
    if isinstance(value, np.ndarray):
        return {path: value.copy()}
    if isinstance(value, torch.Generator):
        return {path: value.get_state()}
    if isinstance(value, np.random.Generator):
        return {path: repr(value.bit_generator.state)}
    if isinstance(value, random.Random):
        return {path: repr(value.getstate())}
    if (
        isinstance(value, (type, types.FunctionType, types.ModuleType, types.MethodType))
        or id(value) in seen
    ):
        return {}
    seen.add(id(value))
    if isinstance(value, dict):
        parts = {f"{path}[{k!r}]": v for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
        parts = {f"{path}[{i}]": v for i, v in enumerate(value)}
    elif hasattr(value, "__dict__"):
        parts = {f"{path}.{k}": v for k, v in vars(value).items()}
    else:
        return {path: repr(value)}
    found = {}
    for place, part in parts.items():
        found |= held(part, place, seen)
    return found | {f"the entries of {path}": repr(sorted(parts))}


def moved(before, after) -> str | None:
    """The first place whose content is another than before."""
    for place in (*before, *(k for k in after if k not in before)):
        a, b = before.get(place), after.get(place)
        if type(a) is not type(b):
            return place
        if isinstance(a, torch.Tensor):
            same = (
                a.shape == b.shape
                and a.dtype == b.dtype
                and torch.equal(a.nan_to_num(), b.nan_to_num())
            )
        else:
            same = np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        if not same:
            return place
    return None


def unmoved(method, where, given, call):
    """What `call` returns; RuleError where it edits what it is given, or the method or its
    class.
    """
    kinds = [part for part in type(method).__mro__ if not own(part) and part is not object]

    def held_now():
        found = held(given | {"self": vars(method)})
        for kind in kinds:
            values = {
                k: v for k, v in vars(kind).items() if not k.startswith("__") and not callable(v)
            }
            found |= held(values, f"[{kind.__name__!r}]")
        return found

    before = held_now()
    found = call()
    if place := moved(before, held_now()):
        head, *rest = place.split("]", 1)
        place = head.replace("['", "").rstrip("'") + "".join(rest)
        told = f"{where} of method {method.name!r} edits {place} in place"
        raise RuleError(
            f"{told}; make a new tensor, and keep what is to last in the state: auxiliary "
            "returns its changes"
        )
    return found
