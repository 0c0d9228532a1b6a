"""Who attends to whom: FedAttn as masks of one run over the whole token stream.

The stream is prefix ‖ segment 1 ‖ … ‖ segment N, the last segment is the publisher's. bounds are the first positions
of segment 1, segment 2, …, segment N, and the length of the stream; the prefix ends where segment 1 begins.
"""

import numpy as np

PREFIX = -1


def owners(bounds):
    """The participant 0..N-1 that owns each position, or PREFIX. Shape [total]."""
    if any(a >= b for a, b in zip(bounds, bounds[1:])) or bounds[0] < 0 or len(bounds) < 2:
        raise ValueError(f"bounds {bounds} do not rise from the prefix's length to the total")
    return np.searchsorted(bounds, np.arange(bounds[-1]), side="right") - 1


def mask(layer, bounds, contributors, publisher):
    """Whether the token at row i attends to the token at column j in a layer. Bool [total][total].

    contributors and publisher are sets of sync layers. At a local layer a token attends to the prefix and to its
    owner's tokens, at a sync layer of its owner to everybody's; never to one after itself. The prefix has no owner that
    syncs, and nothing before it.
    """
    owner = owners(bounds)
    last = len(bounds) - 2
    syncs = np.where(owner == last, layer in publisher, layer in contributors) & (owner != PREFIX)
    here, there = owner[:, None], owner[None, :]
    seen = (there == PREFIX) | (there == here) | syncs[:, None]
    return seen & np.tri(len(owner), dtype=bool)


def tail(layers, interval):
    """interval-1 local layers, then one sync layer, and again."""
    return [layer for layer in range(layers) if (layer + 1) % interval == 0]


def head(layers, interval):
    """One sync layer, then interval-1 local layers, and again."""
    return [layer for layer in range(layers) if layer % interval == 0]


def schedules(layers):
    """What is cross-checked: name as fedattn writes it, contributors' and publisher's sync layers."""
    every = list(range(layers))
    from2 = [layer for layer in every if layer >= 2]
    uniform = [("all", every)]
    for interval in (2, 3):
        uniform += [(f"tail={interval}", tail(layers, interval)), (f"head={interval}", head(layers, interval))]
    return [(name, sync, sync) for name, sync in uniform] + [
        ("gather", [], every),
        ("contributors=2-3;publisher=2-", [2, 3], from2),
        ("contributors=head=2;publisher=tail=3", head(layers, 2), tail(layers, 3)),
    ]
