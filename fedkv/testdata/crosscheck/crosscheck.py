"""Recomputes what fedattn's participants compute together, in one numpy forward pass with explicit masks.

A run is what fedattn eval writes: RUN.npy (--logits-out), the publisher's logits, float32 [tokens][vocabulary], and
beside it RUN.json (--tokens-out) with tokens, bounds, the sync layers of contributors and publisher, and the row types.
"""

import argparse
import hashlib
import json
import pathlib
import sys

import numpy as np

import attention
import tiny
from model import Model


# Settings with which participants compute what the masked run computes, but for rounding.
EXACT = {"wire_k": "f16", "wire_v": "f16", "rows": "all", "positions": "inplace"}

SEED = 1  # of the local rows in the vectors


def log_softmax(logits):
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def divergence(logits, run):
    """KL(numpy ‖ run) in nats, one value for each token."""
    p, q = log_softmax(logits), log_softmax(run)
    return (np.exp(p) * (p - q)).sum(axis=-1)


def publisher_logits(model, tokens, bounds, contributors, publisher, local_rows, seed):
    """The publisher's logits, float64 [tokens of the publisher][vocabulary]."""
    if len(tokens) != bounds[-1]:
        raise ValueError(f"{len(tokens)} tokens, and bounds {bounds}")
    if bad := [layer for layer in [*contributors, *publisher] if not 0 <= layer < model.layers]:
        raise ValueError(f"layers {bad} of a model that has {model.layers}")
    contributors, publisher = set(contributors), set(publisher)
    stay = attention.kept(bounds, local_rows, seed)
    return model.logits(tokens, lambda layer: attention.mask(layer, bounds, contributors, publisher, stay), bounds[-2])


def run_logits(model, run):
    local_rows, seed = run.get("local_rows", "all"), run.get("seed", 0)
    return publisher_logits(model, run["tokens"], run["bounds"], run["contributors"], run["publisher"], local_rows, seed)


def logits(args):
    np.save(args.out, run_logits(Model(args.model), json.loads(args.run.read_text())).astype(np.float32))


def compare(args):
    model = Model(args.model)
    worst = 0.0
    print(f"{'run':40} {'tokens':>6} {'mean KL':>10} {'max KL':>10} {'same top':>9}")
    for path in args.runs:
        run = json.loads(path.with_suffix(".json").read_text())
        for key, expected in EXACT.items():
            if (value := run.get(key, expected)) != expected:
                raise ValueError(f"{path} was run with {key} {value}: only {expected} can be compared")
        ours, theirs = run_logits(model, run), np.load(path)
        if ours.shape != theirs.shape:
            raise ValueError(f"{path} has shape {theirs.shape}, expected {ours.shape}")
        kl = divergence(ours, theirs)
        same = np.mean(ours.argmax(axis=-1) == theirs.argmax(axis=-1))
        print(f"{path.stem:40} {len(kl):6} {kl.mean():10.3g} {kl.max():10.3g} {same:9.1%}", flush=True)
        worst = kl.mean() if not kl.mean() <= worst else worst  # NaN is the worst
    if not worst <= args.limit:
        sys.exit(f"crosscheck: a mean KL of {worst:.3g} is above {args.limit}: fedattn and numpy disagree")


def vectors(args):
    """Writes what cmd/fedattn/crosscheck_test.go reads, over the tokens and bounds of an earlier STREAM.json."""
    model = Model(args.model)
    stream = json.loads(args.stream.read_text())
    tokens, bounds = stream["tokens"], stream["bounds"]
    schedules = attention.schedules(model.layers)
    out = np.stack([publisher_logits(model, tokens, bounds, c, p, local, SEED) for _, c, p, local in schedules])
    if args.top is None:
        np.save(args.stream.with_suffix(".npy"), out.astype(np.float32))
    else:
        logprobs = log_softmax(out)
        top = np.argsort(-logprobs, axis=-1, kind="stable")[..., : args.top]
        np.save(args.stream.with_name(args.stream.stem + "-top.npy"), top.astype(np.int32))
        logprobs = np.take_along_axis(logprobs, top, axis=-1)
        np.save(args.stream.with_name(args.stream.stem + "-logprobs.npy"), logprobs.astype(np.float32))
    fields = {
        "model_sha256": hashlib.sha256(pathlib.Path(args.model).read_bytes()).hexdigest(),
        "tokens": tokens,
        "bounds": bounds,
        "seed": SEED,
        "schedules": [{"name": n, "contributors": c, "publisher": p, "local_rows": r} for n, c, p, r in schedules],
    }
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items())
    args.stream.write_text("{" + lines + "}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, do, text):
        c = commands.add_parser(name, help=text, description=text)
        c.set_defaults(do=do)
        return c

    c = command("make-tiny", lambda args: tiny.write(args.out), "write the tiny float32 model")
    c.add_argument("out", metavar="OUT.gguf")

    c = command("logits", logits, "write the publisher's logits for the tokens of a run")
    c.add_argument("model", metavar="MODEL.gguf")
    c.add_argument("run", metavar="RUN.json", type=pathlib.Path)
    c.add_argument("out", metavar="OUT.npy")

    c = command("compare", compare, "hold runs to the numpy forward pass; RUN.json lies beside each RUN.npy")
    c.add_argument("--limit", type=float, default=0.006, help="largest mean KL divergence in nats (%(default)s)")
    c.add_argument("model", metavar="MODEL.gguf")
    c.add_argument("runs", metavar="RUN.npy", nargs="+", type=pathlib.Path)

    c = command("schedules", lambda args: print(*(f"{name} {local}" for name, _, _, local in attention.schedules(4)), sep="\n"),
                "list the schedules that are cross-checked, with the rows of local layers")

    c = command("vectors", vectors, "write the expected values of the Go test")
    c.add_argument("--top", type=int, metavar="K", help="keep the K most likely tokens, not all logits")
    c.add_argument("model", metavar="MODEL.gguf")
    c.add_argument("stream", metavar="STREAM.json", type=pathlib.Path)

    args = parser.parse_args()
    try:
        args.do(args)
    except (OSError, ValueError, KeyError) as err:
        sys.exit(f"crosscheck: {err}")


if __name__ == "__main__":
    main()
