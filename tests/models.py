"""Tiny real models as GGUF files, with fixed random weights: llama.cpp loads and serves each in milliseconds.

The answers mean nothing, and are the same on every run. Two properties are built in. Texts that share letters embed
near each other (token embeddings outweigh positions). The generative model never ends by itself and utters printable
ASCII alone: the first component of its residual stream is constant, and the output rows of all other tokens pay for it.
"""

from __future__ import annotations

import string
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

WIDTH = 32
HEADS = 4
FEED_FORWARD = 64
BERT_CONTEXT = 512
LLAMA_CONTEXT = 4096
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = string.ascii_lowercase + string.digits + string.punctuation
_SPACE = "\u2581"

Matrix = NDArray[np.float32]


class _Weights:
    """Writes named tensors of seeded Gaussian noise into a GGUF file."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int, width: int = WIDTH) -> None:
        self._writer = writer
        self._random = np.random.default_rng(seed)
        self._width = width

    def noise(self, *shape: int, scale: float = 0.2) -> Matrix:
        return (self._random.standard_normal(shape) * scale).astype(np.float32)

    def add(self, name: str, values: Matrix) -> None:
        self._writer.add_tensor(name, values)

    def linear(self, name: str, rows: int, columns: int) -> None:
        """Add a matrix with its bias, as every layer of BERT has them."""
        self.add(f"{name}.weight", self.noise(rows, columns))
        self.add(f"{name}.bias", self.noise(rows, scale=0.01))

    def norm(self, name: str) -> None:
        self.add(f"{name}.weight", np.ones(self._width, np.float32))
        self.add(f"{name}.bias", np.zeros(self._width, np.float32))


def write_embedding_model(path: Path) -> None:
    """Write a one-block BERT with mean pooling: 32 dimensions, 512 positions."""
    writer = gguf.GGUFWriter(path, "bert")
    _write_bert(writer, "tiny-embedding", gguf.PoolingType.MEAN)
    _close(writer)


def write_wide_embedding_model(path: Path) -> None:
    """Write another one, of 48 dimensions."""
    writer = gguf.GGUFWriter(path, "bert")
    _write_bert(writer, "wide-embedding", gguf.PoolingType.MEAN, width=48)
    _close(writer)


def write_reranking_model(path: Path) -> None:
    """Write a one-block BERT cross-encoder with a classification head of one logit."""
    writer = gguf.GGUFWriter(path, "bert")
    weights = _write_bert(writer, "tiny-reranking", gguf.PoolingType.RANK)
    weights.linear("cls", WIDTH, WIDTH)
    weights.linear("cls.output", 1, WIDTH)
    _close(writer)


def write_generative_model(path: Path) -> None:
    """Write a one-block Llama over bytes, with a chat template; 4,096 positions."""
    writer = gguf.GGUFWriter(path, "llama")
    _write_hyperparameters(writer, "tiny-generative", LLAMA_CONTEXT)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    vocabulary = _write_byte_vocabulary(writer)
    weights = _Weights(writer, seed=3)
    weights.add("token_embd.weight", _with_first_column(weights.noise(len(vocabulary), WIDTH, scale=1.0), 2.0))
    weights.add("output_norm.weight", np.ones(WIDTH, np.float32))
    weights.add("output.weight", _output_rows(weights, vocabulary))
    _write_llama_block(weights)
    _close(writer)


def _write_bert(writer: gguf.GGUFWriter, name: str, pooling: gguf.PoolingType, width: int = WIDTH) -> _Weights:
    _write_hyperparameters(writer, name, BERT_CONTEXT, width)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    tokens = _SPECIAL + [_SPACE + letter for letter in _LETTERS] + list(_LETTERS)
    _write_word_pieces(writer, tokens)
    weights = _Weights(writer, seed=int(pooling), width=width)
    weights.add("token_embd.weight", weights.noise(len(tokens), width, scale=1.0))
    weights.add("position_embd.weight", weights.noise(BERT_CONTEXT, width, scale=0.05))
    weights.add("token_types.weight", weights.noise(2, width, scale=0.05))
    weights.norm("token_embd_norm")
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        weights.linear(f"blk.0.{part}", width, width)
    weights.linear("blk.0.ffn_up", FEED_FORWARD, width)
    weights.linear("blk.0.ffn_down", width, FEED_FORWARD)
    weights.norm("blk.0.attn_output_norm")
    weights.norm("blk.0.layer_output_norm")
    return weights


def _write_hyperparameters(writer: gguf.GGUFWriter, name: str, context: int, width: int = WIDTH) -> None:
    writer.add_name(name)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _write_word_pieces(writer: gguf.GGUFWriter, tokens: list[str]) -> None:
    special, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([special if token in _SPECIAL else normal for token in tokens])
    writer.add_token_type_count(2)
    writer.add_pad_token_id(tokens.index("[PAD]"))
    writer.add_unk_token_id(tokens.index("[UNK]"))
    writer.add_bos_token_id(tokens.index("[CLS]"))
    writer.add_eos_token_id(tokens.index("[SEP]"))
    writer.add_sep_token_id(tokens.index("[SEP]"))
    writer.add_mask_token_id(tokens.index("[MASK]"))


def _write_byte_vocabulary(writer: gguf.GGUFWriter) -> list[str]:
    """Add the control tokens, one token a byte, and the space, which SentencePiece writes as U+2581."""
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), _SPACE]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocabulary)
    writer.add_token_scores([0.0] * len(vocabulary))
    writer.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, kinds.NORMAL])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    return vocabulary


def _write_llama_block(weights: _Weights) -> None:
    """Add the block; the zeroed first rows keep the residual's first component as the embedding set it."""
    for norm in ("attn_norm", "ffn_norm"):
        weights.add(f"blk.0.{norm}.weight", np.ones(WIDTH, np.float32))
    for part in ("attn_q", "attn_k", "attn_v"):
        weights.add(f"blk.0.{part}.weight", weights.noise(WIDTH, WIDTH))
    for part in ("ffn_gate", "ffn_up"):
        weights.add(f"blk.0.{part}.weight", weights.noise(FEED_FORWARD, WIDTH))
    for part, columns in (("attn_output", WIDTH), ("ffn_down", FEED_FORWARD)):
        values = weights.noise(WIDTH, columns)
        values[0] = 0.0
        weights.add(f"blk.0.{part}.weight", values)


def _output_rows(weights: _Weights, vocabulary: list[str]) -> Matrix:
    printable = {f"<0x{ord(letter):02X}>" for letter in string.ascii_letters + string.digits + "., "} | {_SPACE}
    rows = _with_first_column(weights.noise(len(vocabulary), WIDTH), -50.0)
    for token, name in enumerate(vocabulary):
        if name in printable:
            rows[token, 0] = 0.0
    return rows


def _with_first_column(values: Matrix, constant: float) -> Matrix:
    values[:, 0] = constant
    return values


def _close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
