"""The llama architecture in numpy, over the dequantised weights of a GGUF file. Written to be read."""

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

LAYER_TENSORS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")


class Model:
    """Weights as float32, arithmetic in float64. A matrix has shape [outputs][inputs]."""

    def __init__(self, path):
        file = GGUFReader(path)

        def value(key, default=None):
            if key in file.fields:
                return file.fields[key].contents()
            if default is None:
                raise ValueError(f"{path} has no {key}")
            return default

        if (architecture := value("general.architecture")) != "llama":
            raise ValueError(f"{path} is a {architecture} model: this forward pass knows llama only")
        if any(key.startswith("llama.rope.scaling") for key in file.fields):
            raise ValueError(f"{path} scales its positions: this forward pass does not")

        self.layers = value("llama.block_count")
        self.heads = value("llama.attention.head_count")
        self.kv_heads = value("llama.attention.head_count_kv", self.heads)
        self.epsilon = value("llama.attention.layer_norm_rms_epsilon")
        self.rope_base = value("llama.rope.freq_base", 10000.0)
        self.head_size = value("llama.attention.key_length", value("llama.embedding_length") // self.heads)
        rotated = value("llama.rope.dimension_count", self.head_size)
        if rotated != self.head_size or value("llama.attention.value_length", self.head_size) != self.head_size:
            raise ValueError(f"{path} rotates {rotated} of {self.head_size} elements, or K and V differ: not known here")

        self.weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in file.tensors}
        known = {"token_embd.weight", "output_norm.weight", "output.weight"}
        known |= {f"blk.{layer}.{name}.weight" for layer in range(self.layers) for name in LAYER_TENSORS}
        if unknown := self.weights.keys() - known:
            raise ValueError(f"{path} has tensors that this forward pass would leave out: {sorted(unknown)}")

    @property
    def vocabulary(self):
        return len(self.weights["token_embd.weight"])

    def logits(self, tokens, mask, first):
        """Logits of the tokens from position first on, [len(tokens) - first][vocabulary].

        mask(layer) is a bool [len(tokens)][len(tokens)]: whether the row's token attends to the column's.
        """
        x = self.weights["token_embd.weight"][np.asarray(tokens)].astype(np.float64)  # [tokens][width]
        for layer in range(self.layers):
            name = f"blk.{layer}."
            x = x + self.attention(name, self.norm(x, name + "attn_norm"), mask(layer))
            x = x + self.feed_forward(name, self.norm(x, name + "ffn_norm"))
        x = self.norm(x[first:], "output_norm")
        embedding = "token_embd" if "output.weight" not in self.weights else "output"
        return self.linear(x, embedding)

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].astype(np.float64).T

    def norm(self, x, name):
        rms = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return x / rms * self.weights[name + ".weight"]

    def attention(self, name, x, mask):
        def rows(part, heads):
            return self.linear(x, name + part).reshape(len(x), heads, self.head_size).transpose(1, 0, 2)

        q = self.rotate(rows("attn_q", self.heads))  # [heads][tokens][head size]
        k = self.rotate(rows("attn_k", self.kv_heads))
        v = rows("attn_v", self.kv_heads)
        out = np.empty_like(q)
        for head in range(self.heads):
            shared = head * self.kv_heads // self.heads  # consecutive query heads share a K and V head
            scores = q[head] @ k[shared].T / np.sqrt(self.head_size)
            scores = np.where(mask, scores, -np.inf)
            p = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[head] = p / p.sum(axis=-1, keepdims=True) @ v[shared]
        return self.linear(out.transpose(1, 0, 2).reshape(len(x), -1), name + "attn_output")

    def rotate(self, x):
        """RoPE in llama's order: elements 2i and 2i+1 are a pair, turned by position · base^(-2i / head size)."""
        tokens, size = x.shape[-2:]
        angle = np.arange(tokens)[:, None] * self.rope_base ** (-np.arange(0, size, 2) / size)  # [tokens][size / 2]
        even, odd = x[..., 0::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., 0::2] = even * np.cos(angle) - odd * np.sin(angle)
        out[..., 1::2] = even * np.sin(angle) + odd * np.cos(angle)
        return out

    def feed_forward(self, name, x):
        gate = self.linear(x, name + "ffn_gate")
        return self.linear(gate / (1 + np.exp(-gate)) * self.linear(x, name + "ffn_up"), name + "ffn_down")
