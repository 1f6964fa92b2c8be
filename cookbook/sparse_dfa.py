"""Direct feedback alignment through few connections.

Crafton, Parihar, Gebhardt and Raychowdhury, "Direct Feedback Alignment With Sparse Connections for
Local Learning", Frontiers in Neuroscience 13, 2019.
"""

import torch

from faeval_core import register
from faeval_core.methods.dfa import DFA


@register
class SparseDFA(DFA):
    """DFA whose feedback matrices have a share `sparsity` of zeros, and entries larger by as much
    as leaves the credit its size.
    """

    name = "sparse_dfa"
    options = DFA.options | {"sparsity": 0.9}
    member_options = (*DFA.member_options, "sparsity")

    @classmethod
    def check(cls, cfg):
        super().check(cfg)
        if cfg.options["sparsity"] >= 1:
            raise ValueError(f"sparsity must be below 1, not {cfg.options['sparsity']}")

    def init_state(self, cfg, generator):
        share = 1 - cfg.options["sparsity"]

        def thinned(dense):
            kept = torch.rand(dense.numel(), generator=generator).argsort()
            mask = (kept < round(share * dense.numel())).view_as(dense)
            return dense * mask / share**0.5

        return {k: thinned(dense) for k, dense in super().init_state(cfg, generator).items()}
