"""The hidden states of any nn.Module: outputs of its submodules, or what a function makes of the
input.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

Levels = Sequence[str | nn.Module] | Callable[[Tensor], Sequence[Tensor]]


class LevelError(ValueError):
    """`levels` or `writers` do not name what they are to name; the text says which, and the way
    out.
    """


@contextmanager
def hooked(pairs: Iterable[tuple[nn.Module, Callable]]) -> Iterator[None]:
    """Forward hooks on modules while this lasts."""
    with ExitStack() as stack:
        for module, hook in pairs:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def first(output):
    """The state in a submodule's output: that itself, or the first of a tuple."""
    return output[0] if isinstance(output, tuple) and output else output


def with_first(output, state):
    """A submodule's output with another state in it."""
    return (state, *output[1:]) if isinstance(output, tuple) else state


def submodules(model: nn.Module, given, argument: str) -> tuple[list[str], list[nn.Module]]:
    """(names, modules) of what `given` names; LevelError for what the model has not."""
    known = dict(model.named_modules(remove_duplicate=False))
    of = {id(module): name for name, module in reversed(known.items())}
    if isinstance(given, nn.ModuleList):
        given = list(given)
    if isinstance(given, str) or not isinstance(given, Sequence):
        told = f"not {given!r}" if isinstance(given, str) else f"not a {type(given).__name__}"
        raise LevelError(f"{argument} must be a list of submodules or of their names, {told}")
    names = []
    for part in given:
        if isinstance(part, nn.Module):
            if id(part) not in of:
                told = f"{argument} holds a {type(part).__name__} that is no part of the model"
                raise LevelError(f"{told}; name it by its place, as in dict(model.named_modules())")
            part = of[id(part)]
        if part not in known:
            near = difflib.get_close_matches(str(part), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "dict(model.named_modules()) has them"
            raise LevelError(f"{argument} names {part!r}, which is no submodule; {hint}")
        names.append(part)
    if twice := [name for name in names if names.count(name) > 1]:
        raise LevelError(f"{argument} names {twice[0]!r} twice")
    return names, [known[name] for name in names]


class Outputs:
    """Levels that are outputs of submodules: read in a pass, or put in another's place."""

    can_resume = True

    def __init__(self, model, levels):
        self.model = model
        self.names, self.modules = submodules(model, levels, "levels")
        if not self.names:
            raise LevelError("levels is empty; name at least one submodule")

    def read(self, x):
        """(states, output) of a pass; the states hang on its graph."""
        found = []

        def keep(name):
            def hook(module, args, output):
                state = first(output)
                if not isinstance(state, Tensor) or not state.is_floating_point():
                    told = f"level {name!r} gives {type(state).__name__}, not a tensor of floats"
                    raise LevelError(f"{told}; name another submodule, or pass a function")
                state = state if state.requires_grad else state.detach().requires_grad_()
                found.append((name, state))
                return with_first(output, state.clone())  # what edits it in place, edits the copy

            return hook

        with hooked((m, keep(name)) for m, name in zip(self.modules, self.names)):
            output = self.model(x)
        self.check_order([name for name, _ in found])
        return [state for _, state in found], output

    def check_order(self, ran: list[str]) -> None:
        for name in self.names:
            if ran.count(name) != 1:
                told = f"level {name!r} runs {ran.count(name)} times in a pass, not once"
                raise LevelError(f"{told}; name a submodule that does, or pass a function")
        if ran != self.names:
            told = f"levels are {', '.join(self.names)}, and run in the order {', '.join(ran)}"
            raise LevelError(f"{told}; name them from the input up")

    def resume(self, x, level: int, state):
        """The model's output where a level's state is another."""

        def put(module, args, output):
            return with_first(output, state.clone())

        with hooked([(self.modules[level], put)]):
            return self.model(x)


class States:
    """Levels that a function gives, which runs the model."""

    can_resume = False

    def __init__(self, model, function):
        self.model, self.function, self.names = model, function, []

    def read(self, x):
        """(states, output) of a pass; the states hang on its graph."""
        outputs = []
        with hooked([(self.model, lambda module, args, output: outputs.append(output))]):
            states = list(self.function(x))
        if len(outputs) != 1:
            told = f"the function in levels calls the model {len(outputs)} times, not once"
            raise LevelError(f"{told}; return states of one pass of it")
        self.names = [f"h_{l}" for l in range(len(states))]
        for name, state in zip(self.names, states):
            if not (isinstance(state, Tensor) and state.requires_grad):
                told = f"{name} of the function in levels is not on the graph of its pass"
                raise LevelError(f"{told}; return it undetached, and from a model that can learn")
        if not states:
            raise LevelError("the function in levels returns no state")
        return states, outputs[0]


def tap(model, levels) -> Outputs | States:
    is_function = callable(levels) and not isinstance(levels, nn.Module)
    return States(model, levels) if is_function else Outputs(model, levels)
