"""Random streams: each is found by what it is for, so that no draw depends on another."""

import hashlib

import torch


def stream(seed: int, name: str, epoch: int = 0) -> torch.Generator:
    """CPU generator that depends on (seed, name, epoch) alone, so a member never depends on its
    company.
    """
    digest = hashlib.sha256(f"{seed}/{name}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
