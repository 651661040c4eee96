"""Gemma 3 in numpy, for training a LoRA: autograd derives the gradients of the few adapter weights. Checked against llama.cpp, which serves it.

The base weights are those that are served, dequantised; of the embedding only the rows of the tokens in use.
"""

import math

import autograd.numpy as np
import gguf
import numpy
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

from engine import WEIGHTS

# Rank and strength of the LoRA, and the projections of attention that get one: 608,256 numbers, 2.4 MB.
RANK = 8
ALPHA = 16
TARGETS = ("attn_q", "attn_v", "attn_output")
# Five layers of six look only 512 tokens back and turn by this base, the sixth by the one in the file. Training sequences are shorter.
LOCAL_ROPE_BASE = 10_000.0
GLOBAL_EVERY = 6


class Network:
    def __init__(self):
        reader = gguf.GGUFReader(WEIGHTS)

        def field(name):
            return reader.fields[f"gemma3.{name}"].contents()

        self.width = field("embedding_length")
        self.heads = field("attention.head_count")
        self.head_width = field("attention.key_length")
        self.epsilon = field("attention.layer_norm_rms_epsilon")
        self.rope_base = field("rope.freq_base")
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.embedding = tensors["token_embd.weight"]
        self.vocabulary = len(self.embedding.data)
        self.final_norm = dequantize(tensors["output_norm.weight"])
        self.layers = [{} for _ in range(field("block_count"))]
        for name, tensor in tensors.items():
            if name.startswith("blk."):
                _, layer, part, _ = name.split(".")
                self.layers[int(layer)][part] = dequantize(tensor)

    def embed(self, tokens):
        """The rows of the embedding for an array of token ids, as the output layer uses them."""
        return gguf.dequantize(self.embedding.data[tokens.ravel()], self.embedding.tensor_type).astype(numpy.float32)

    def new_adapter(self, rng):
        """A LoRA that changes nothing yet: per layer and target the factors `a` (random) and `b` (zero)."""
        return [
            {
                target: {
                    "a": rng.normal(0, 0.02, (RANK, layer[target].shape[1])).astype(numpy.float32),
                    "b": numpy.zeros((layer[target].shape[0], RANK), numpy.float32),
                }
                for target in TARGETS
            }
            for layer in self.layers
        ]

    def hidden(self, x, adapter):
        """Last hidden states (rows, tokens, width) of embedded tokens (rows, tokens, width)."""
        rows, tokens, _ = x.shape
        x = x.reshape(rows * tokens, self.width) * math.sqrt(self.width)
        future = numpy.triu(numpy.full((tokens, tokens), -1e30, numpy.float32), 1)
        future = numpy.tile(future, (self.heads, 1))
        for index, layer in enumerate(self.layers):
            is_global = (index + 1) % GLOBAL_EVERY == 0
            turn = rotation(tokens, self.head_width, self.rope_base if is_global else LOCAL_ROPE_BASE)
            x = x + self._attention(x, layer, adapter and adapter[index], rows, tokens, turn, future)
            h = self._norm(x, layer["ffn_norm"])
            h = gelu(h @ layer["ffn_gate"].T) * (h @ layer["ffn_up"].T)
            x = x + self._norm(h @ layer["ffn_down"].T, layer["post_ffw_norm"])
        return self._norm(x, self.final_norm).reshape(rows, tokens, self.width)

    def _attention(self, x, layer, adapter, rows, tokens, turn, future):
        def project(y, name):
            result = y @ layer[name].T
            if adapter is not None and name in TARGETS:
                result = result + (y @ adapter[name]["a"].T) @ adapter[name]["b"].T * (ALPHA / RANK)
            return result

        h = self._norm(x, layer["attn_norm"])
        # (rows, heads * tokens, head width): one head of keys and values serves all heads of queries.
        q = project(h, "attn_q").reshape(rows, tokens, self.heads, self.head_width).transpose((0, 2, 1, 3))
        q = rotate(self._norm(q, layer["attn_q_norm"]), turn).reshape(rows, self.heads * tokens, self.head_width)
        k = rotate(self._norm(project(h, "attn_k").reshape(rows, tokens, self.head_width), layer["attn_k_norm"]), turn)
        v = project(h, "attn_v").reshape(rows, tokens, self.head_width)
        scores = q @ k.transpose((0, 2, 1)) * self.head_width**-0.5 + future
        scores = np.exp(scores - getval(scores).max(-1, keepdims=True))
        mixed = (scores / np.sum(scores, -1, keepdims=True)) @ v
        mixed = mixed.reshape(rows, self.heads, tokens, self.head_width).transpose((0, 2, 1, 3))
        return self._norm(project(mixed.reshape(rows * tokens, -1), "attn_output"), layer["post_attention_norm"])

    def _norm(self, x, weight):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.epsilon) * weight


def dequantize(tensor):
    return gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)


@primitive
def gelu(x):
    return 0.5 * x * (1 + numpy.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


def gelu_slope(_, x):
    t = numpy.tanh(0.7978845608 * (x + 0.044715 * x * x * x))
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608 * (1 + 0.134145 * x * x)
    return lambda g: g * slope


# By hand: the derived form overflows, and takes a third longer.
defvjp(gelu, gelu_slope)


def rotation(tokens, width, base):
    """Cosine and sine (tokens, width / 2) of rotary positions."""
    angles = numpy.arange(tokens)[:, None] * base ** (-numpy.arange(0, width, 2) / width)
    return numpy.cos(angles).astype(numpy.float32), numpy.sin(angles).astype(numpy.float32)


def rotate(x, turn):
    cosine, sine = turn
    first, second = np.split(x, 2, -1)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)


def cross_entropy(hidden, vocabulary, targets):
    """Nats a token of `targets`, which are rows of `vocabulary`."""
    logits = hidden.reshape(-1, hidden.shape[-1]) @ vocabulary.T
    logits = logits - getval(logits).max(-1, keepdims=True)
    picked = logits[numpy.arange(targets.size), targets.ravel()]
    return np.mean(np.log(np.sum(np.exp(logits), -1)) - picked)


def save(adapter, path):
    """In llama.cpp's form of an adapter."""
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(ALPHA))
    for index, layer in enumerate(adapter):
        for target, factors in layer.items():
            writer.add_tensor(f"blk.{index}.{target}.weight.lora_a", factors["a"])
            writer.add_tensor(f"blk.{index}.{target}.weight.lora_b", factors["b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
