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


def mix(x):
    """One output of splitmix64 from state x."""
    wrap = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & wrap
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & wrap
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & wrap
    return x ^ x >> 31


def kept(bounds, local_rows, seed):
    """Whether later tokens of the same owner attend to a token at local layers. Bool [total].

    local_rows is "all", or "random=" and the participants' shares, the last one for all further participants: of a
    segment, that share of rows stays whose draws are smallest. Row i of it draws mix(seed + mix(i + 1)).
    """
    stay = np.ones(bounds[-1], dtype=bool)
    if local_rows == "all":
        return stay
    kind, shares = local_rows.split("=")
    if kind != "random":
        raise ValueError(f"local rows by {kind} are not known here")
    shares = shares.split(":")
    for n, (start, end) in enumerate(zip(bounds, bounds[1:])):
        share = float(shares[min(n, len(shares) - 1)])
        draws = [mix((seed + mix(i + 1)) & (1 << 64) - 1) for i in range(end - start)]
        count = max(1, int(np.floor(share * (end - start) + 0.5)))
        stay[start:end] = np.argsort(np.argsort(np.array(draws, dtype=np.uint64))) < count
    return stay


def mask(layer, bounds, contributors, publisher, stay):
    """Whether the token at row i attends to the token at column j in a layer. Bool [total][total].

    contributors and publisher are sets of sync layers. At a local layer a token attends to the prefix, to itself and to
    those of its owner's tokens that stay, at a sync layer of its owner to everybody's; never to one after itself. The
    prefix has no owner that syncs, and nothing before it.
    """
    owner = owners(bounds)
    last = len(bounds) - 2
    syncs = np.where(owner == last, layer in publisher, layer in contributors) & (owner != PREFIX)
    here, there = owner[:, None], owner[None, :]
    own = (there == here) & (stay[None, :] | np.eye(len(owner), dtype=bool))
    seen = (there == PREFIX) | own | syncs[:, None]
    return seen & np.tri(len(owner), dtype=bool)


def tail(layers, interval):
    """interval-1 local layers, then one sync layer, and again."""
    return [layer for layer in range(layers) if (layer + 1) % interval == 0]


def head(layers, interval):
    """One sync layer, then interval-1 local layers, and again."""
    return [layer for layer in range(layers) if layer % interval == 0]


def schedules(layers):
    """What is cross-checked: names as fedattn writes them, contributors' and publisher's sync layers, local rows."""
    every = list(range(layers))
    from2 = [layer for layer in every if layer >= 2]
    uniform = [("all", every)]
    for interval in (2, 3):
        uniform += [(f"tail={interval}", tail(layers, interval)), (f"head={interval}", head(layers, interval))]
    return [(name, sync, sync, "all") for name, sync in uniform] + [
        ("gather", [], every, "all"),
        ("contributors=2-3;publisher=2-", [2, 3], from2, "all"),
        ("contributors=head=2;publisher=tail=3", head(layers, 2), tail(layers, 3), "all"),
        ("tail=2", tail(layers, 2), tail(layers, 2), "random=0.5:0.6:0.4"),
    ]
