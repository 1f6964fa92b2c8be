"""One update of every member of an ensemble, in turn or batched."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch

from ..methods.shared import Phase
from .execution import first_line
from .initial import noise
from .members import Members


class Group(NamedTuple):
    """Members whose methods are in one phase: `at` finds them in stacked tensors, `together` is
    their batched step.
    """

    phase: Phase
    members: list[int]
    at: slice | torch.Tensor
    together: Callable


class Stepper(Members):
    """Members that take their steps: what of them learns, and in which groups, an epoch decides
    (ensemble.py).
    """

    def step(self, x, y):
        """One update of every member from x (member, batch, C, H, W) and y (member, batch); the CE
        losses (member,).
        """
        drawn = [self.noise(m, x.shape[1]) for m in range(len(self.configs))]
        if len(self.groups) == 1:
            return self.step_of(self.groups[0], x, y, drawn)
        losses = {}
        for group in self.groups:
            losses |= zip(group.members, self.step_of(group, x, y, drawn))
        return torch.stack([losses[m] for m in range(len(self.configs))])

    def step_of(self, group, x, y, drawn):
        """One update of the members of a group, from batches and noise of all members; their
        losses.
        """
        if self.driver == "vmap":
            try:
                noise = self.stack([drawn[m] for m in group.members])
                return group.together({"x": x[group.at], "y": y[group.at]} | noise)
            except torch.OutOfMemoryError:
                raise
            except Exception as e:
                # raised while the gradient is taken, before anything has changed
                reason = e
            self.driver = self.gradient.driver = "loop"
            self.gradient.gradients.clear()
            # which fails where batches are not the reason
            losses = self.in_turn(group, x, y, drawn)
            told = (
                f"method {self.configs[0].method!r} cannot be batched, so its members train in turn"
            )
            warnings.warn(f"{told} ({first_line(reason)})", stacklevel=3)
            return losses
        return self.in_turn(group, x, y, drawn)

    def in_turn(self, group, x, y, drawn):
        """The same, one member after another."""
        return torch.stack([self.advance(m, x[m], y[m], drawn[m]) for m in group.members])

    def noise(self, m, batch):
        """Noise of member m for its next step."""
        method = self.during(self.phase[m])
        return noise(method, self.configs[m], batch, self.generators[m])

    def advance(self, m, x, y, noise):
        """One update of member m alone, from x (batch, C, H, W), y (batch,) and the step's noise;
        its CE loss.
        """
        phase = self.phase[m]
        with self.compiling[phase]:
            state = {k: v[m] for k, v in self.state.items()} | noise
            grads, (loss, changed) = self.gradient(
                self.leaves[m], self.fixed[m], state, x, y, phase
            )
            self.compiling[phase] = nullcontext()
        self.optimizer.descend(m, grads)  # at once, while this member's tensors are in cache
        self.take(changed, m)
        return loss

    def update(self, inputs, phase, members, at):
        """One step of a group, batched. Changes tensors in place alone, as a CUDA graph of it can
        do no other.
        """
        params, state = ({k: v[at] for k, v in part.items()} for part in (self.params, self.state))
        trained = {k: params.pop(k) for k in self.trained}
        grads, (losses, changed) = self.gradient(
            trained, params, state | inputs, inputs["x"], inputs["y"], phase
        )
        for i, m in enumerate(members):
            self.optimizer.descend(m, {k: g[i] for k, g in grads.items()})
        self.take(changed, at)
        return losses

    def take(self, changed, at):
        """Changed tensors of one member or a group into the state, or into the parameters (running
        statistics).
        """
        for k, v in changed.items():
            if k in self.state:
                self.state[k][at] = v
            elif self.configs[0].train_net:
                self.params[k][at] = v
