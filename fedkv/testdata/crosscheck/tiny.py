"""A llama model of 1 MB with float32 weights, the same bytes wherever it is written.

Its weights are splitmix64's outputs, so another program can write the same file without this one:
cmd/fedattn/crosscheck_test.go does.
"""

import gguf
import numpy as np

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_SIZE, HIDDEN = 6, 64, 4, 2, 32, 96
SEED = 20


def splitmix64(seed, n):
    """The generator's first n outputs."""
    z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seed, n):
    """n float32 values in [-1, 1): the upper 24 bits of each output, exactly."""
    return (splitmix64(seed, n) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)


def write(path):
    g = gguf.GGUFWriter(path, "llama")
    g.add_uint32("llama.context_length", 2048)
    g.add_uint32("llama.embedding_length", WIDTH)
    g.add_uint32("llama.block_count", LAYERS)
    g.add_uint32("llama.feed_forward_length", HIDDEN)
    g.add_uint32("llama.attention.head_count", HEADS)
    g.add_uint32("llama.attention.head_count_kv", KV_HEADS)
    g.add_uint32("llama.attention.key_length", HEAD_SIZE)
    g.add_uint32("llama.attention.value_length", HEAD_SIZE)
    g.add_uint32("llama.rope.dimension_count", HEAD_SIZE)
    g.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    tokens = vocabulary(g)

    tensors = []

    def tensor(name, mean, spread, *shape):
        """Uniform around mean; the tensor's number in the file is part of its seed."""
        values = uniform(SEED << 32 | len(tensors), int(np.prod(shape)))
        values = values * np.float32(spread) + np.float32(mean)
        tensors.append(name)
        g.add_tensor(name + ".weight", values.reshape(shape))

    # wide enough for a token's neighbours to matter: a wrong mask is far above float noise
    rows = HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE
    tensor("token_embd", 0, 0.25, tokens, WIDTH)
    tensor("output_norm", 1, 0.25, WIDTH)
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        tensor(name + "attn_norm", 1, 0.25, WIDTH)
        tensor(name + "attn_q", 0, 0.25, rows[0], WIDTH)
        tensor(name + "attn_k", 0, 0.25, rows[1], WIDTH)
        tensor(name + "attn_v", 0, 0.25, rows[1], WIDTH)
        tensor(name + "attn_output", 0, 0.25, WIDTH, rows[0])
        tensor(name + "ffn_norm", 1, 0.25, WIDTH)
        tensor(name + "ffn_gate", 0, 0.25, HIDDEN, WIDTH)
        tensor(name + "ffn_up", 0, 0.25, HIDDEN, WIDTH)
        tensor(name + "ffn_down", 0, 0.25, WIDTH, HIDDEN)
    g.write_header_to_file()
    g.write_kv_data_to_file()
    g.write_tensors_to_file()
    g.close()


def vocabulary(g):
    """SentencePiece's smallest: three special tokens, one for each byte, and the space."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + ["▁"]
    kind = gguf.TokenType
    g.add_string("tokenizer.ggml.model", "llama")
    g.add_array("tokenizer.ggml.tokens", tokens)
    g.add_array("tokenizer.ggml.scores", [float(-i) for i in range(len(tokens))])
    g.add_array("tokenizer.ggml.token_type",
                [int(k) for k in [kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * 256 + [kind.NORMAL]])
    g.add_uint32("tokenizer.ggml.unknown_token_id", 0)
    g.add_uint32("tokenizer.ggml.bos_token_id", 1)
    g.add_uint32("tokenizer.ggml.eos_token_id", 2)
    return len(tokens)
