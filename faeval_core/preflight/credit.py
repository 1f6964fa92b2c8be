"""What a rule answers in a step: credit, the inputs it learns on, the class it predicts."""

import warnings

import torch

from ..measure import diagnostics
from ..methods.base import Method
from ..methods.local import LocalMethod
from ..methods.shared import RuleError
from .changes import undrawn, unmoved

AS_DTYPE = (
    "make what credit adds in the dtype and on the device of logits, as in F.one_hot(y, "
    "classes).to(logits.dtype)"
)


def check_levels(method, credit, hs, when) -> None:
    """RuleError where credit is not one finite tensor for each level, like its state."""
    told, wanted = (
        f"credit of method {method.name!r} {when}",
        f"it needs one tensor for each of the levels 0..{len(hs) - 1}",
    )
    if not isinstance(credit, (list, tuple, torch.Tensor)):
        raise RuleError(f"{told} is of type {type(credit).__name__}; {wanted}, in a list")
    if len(credit) != len(hs):
        raise RuleError(f"{told} has {len(credit)} levels; {wanted}")
    for l, (a, h) in enumerate(zip(credit, hs)):
        if not isinstance(a, torch.Tensor):
            raise RuleError(
                f"{told} is of type {type(a).__name__} at level {l}; {wanted}, as "
                "torch.as_tensor(a).to(hs[l])"
            )
        for name in ("shape", "dtype", "device"):
            found, like = (
                tuple(v) if name == "shape" else v for v in (getattr(a, name), getattr(h, name))
            )
            if found != like:
                way_out = (
                    "one number for each of its features and samples"
                    if name == "shape"
                    else AS_DTYPE
                )
                raise RuleError(
                    f"{told} has {name} {found} at level {l}, whose state has {like}; {way_out}"
                )
        if not a.isfinite().all():
            samples = (~a.isfinite()).flatten(1).any(1).sum().item()
            where = f"at level {l}, for {samples} of {len(a)} samples"
            raise RuleError(f"{told} is not finite {where}; look for a division by zero there")


def check_credit(method, p, s, x, y) -> None:
    """Credit of a training step, twice: it changes nothing and depends on nothing but what it is
    given.
    """
    hs, logits, _ = diagnostics.gradients(method, p, x, y)
    given = {"p": p, "s": s, "x": x, "hs": hs, "logits": logits, "y": y}

    def called():
        return undrawn(
            method.name, "credit", lambda: method.ask("credit", x, p, s, list(hs), logits, y)
        )

    first, second = (unmoved(method, "credit", given, called) for _ in range(2))
    check_levels(method, first, hs, "in a training step")
    for l, (a, b) in enumerate(zip(first, second)):
        if not torch.equal(a, b):
            told = (
                f"credit of method {method.name!r} differs at level {l} when it is called "
                "twice on the same batch"
            )
            raise RuleError(
                f"{told}; name the random numbers that it needs in `noise`, and keep what is "
                "to last in the state"
            )
    heard = set(method.heard(range(len(hs)))) | ({0} if method.cfg.embedding == "rule" else set())
    silent = [l for l, a in enumerate(first) if l in heard and not a.any()]
    if silent and isinstance(method, LocalMethod):
        told = (
            f"credit of method {method.name!r} is zero at level "
            f"{', '.join(map(str, silent))} of the initial net"
        )
        warnings.warn(f"{told}: what it trains learns nothing there", stacklevel=2)


def check_inputs(method, p, s, x, y) -> None:
    """RuleError where what the weights are to learn on is not like the inputs and states."""
    if not getattr(method, "learns_elsewhere", False):
        return
    hs, logits, _ = diagnostics.gradients(method, p, x, y)
    given = {"p": p, "s": s, "x": x, "hs": hs, "logits": logits, "y": y}

    def called():
        return undrawn(method.name, "inputs", lambda: method.inputs(p, s, x, list(hs), logits, y))

    told, answer = f"inputs of method {method.name!r}", unmoved(method, "inputs", given, called)
    try:
        found, states = answer
        pairs = [("x", found, x), *((f"h_{l}", *pair) for l, pair in enumerate(zip(states, hs)))]
    except (TypeError, ValueError) as e:
        raise RuleError(f"{told} must return (x, [h_0..h_{len(hs) - 1}])") from e
    if len(states) != len(hs):
        wanted = f"one for each of the levels 0..{len(hs) - 1}"
        raise RuleError(f"{told} are {len(states)} states; it needs {wanted}")
    for name, tensor, like in pairs:
        if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
            was, needs = (f"{tuple(t.shape)} {t.dtype}" for t in (tensor, like))
            raise RuleError(f"{told} has {name} of {was}, in place of one of {needs}")
        if not tensor.isfinite().all():
            raise RuleError(f"{told} has {name} that is not finite; look for a division by zero")


def check_predict(method, p, s, x) -> None:
    """RuleError where `predict` does not give the number of a class for each input, from what it
    is given alone.
    """
    if type(method).predict is Method.predict:
        return
    s = {k: v for k, v in s.items() if k not in method.noise(len(x))}

    def called():
        return undrawn(method.name, "predict", lambda: method.predict(p, s, x))

    with torch.no_grad():
        found = unmoved(method, "predict", {"p": p, "s": s, "x": x}, called)
    told, classes = f"predict of method {method.name!r}", method.model.classes
    wanted = f"it needs whole numbers of classes, ({len(x)},), such as scores.argmax(-1)"
    if not isinstance(found, torch.Tensor) or found.is_floating_point():
        kind = found.dtype if isinstance(found, torch.Tensor) else type(found).__name__
        raise RuleError(f"{told} is of type {kind}; {wanted}")
    if found.shape != (len(x),):
        raise RuleError(f"{told} has shape {tuple(found.shape)}; {wanted}")
    if found.min() < 0 or found.max() >= classes:
        raise RuleError(f"{told} names classes outside 0..{classes - 1}")
