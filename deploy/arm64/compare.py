#!/usr/bin/env python3
"""How far rows of logits of several runs are from those of the first one.

    compare.py MOST FIRST.npy OTHER.npy…

Prints the largest difference of a logit and the mean KL divergence in nats for each, and fails above MOST nats. Reads
float32 arrays [tokens][vocabulary] as numpy writes them, with nothing but Python's own library.
"""

import array
import ast
import math
import struct
import sys


def read(path):
    with open(path, "rb") as f:
        magic = f.read(8)
        if magic[:6] != b"\x93NUMPY":
            sys.exit(f"{path}: no numpy array")
        size = struct.unpack("<H", f.read(2))[0] if magic[6] == 1 else struct.unpack("<I", f.read(4))[0]
        header = ast.literal_eval(f.read(size).decode("latin1"))
        values = array.array("f", f.read())
    if header["descr"] != "<f4" or header["fortran_order"]:
        sys.exit(f"{path}: expected float32 in C order, found {header}")
    width = header["shape"][-1]
    return [values[i : i + width] for i in range(0, len(values), width)]


def log_softmax(row):
    top = max(row)
    norm = top + math.log(math.fsum(math.exp(x - top) for x in row))
    return [x - norm for x in row]


def main():
    most, first = float(sys.argv[1]), sys.argv[2]
    base = read(first)
    base_log = [log_softmax(row) for row in base]
    failed = False
    for path in sys.argv[3:]:
        rows = read(path)
        if len(rows) != len(base) or any(len(a) != len(b) for a, b in zip(rows, base)):
            sys.exit(f"{path}: another shape than {first}")
        diff = max(abs(x - y) for a, b in zip(rows, base) for x, y in zip(a, b))
        kl = math.fsum(
            math.fsum(math.exp(p) * (p - q) for p, q in zip(want, log_softmax(row))) for want, row in zip(base_log, rows)
        ) / len(rows)
        same = sum(max(range(len(a)), key=a.__getitem__) == max(range(len(b)), key=b.__getitem__) for a, b in zip(rows, base))
        name = path.rsplit("/", 1)[-1].removesuffix(".npy")
        print(f"{name}: {len(rows)} tokens, max |Δ logit| {diff:.4f}, mean KL {kl:.6f}, same top {100 * same / len(rows):.1f} %")
        failed |= not kl <= most
    if failed:
        sys.exit(f"mean KL above {most}")


main()
