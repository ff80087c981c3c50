"""BERT sentence encoder, Hugging Face's files to GGUF: `config.json`, `vocab.txt` and `model.safetensors`.

Names, shapes and keys follow llama.cpp's architecture `bert`. Matrices become float16, norms, biases, positions and
token types stay float32. The pooling is the mean over tokens, as sentence-transformers trained it; the pooler of BERT
(next-sentence prediction) is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gguf
    import numpy as np

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# SentencePiece's mark of a word's beginning; llama.cpp puts it before WordPieces too.
_WORD_START = "\u2581"
_EXPECTED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}

_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_ALWAYS_FLOAT32 = {"position_embd.weight", "token_types.weight"}


def convert_bert(folder: Path, target: Path, name: str) -> None:
    """Write the model in `folder` as the GGUF file `target`; `name` goes into its metadata.

    Raises:
        ValueError: the model is no BERT of the kind that llama.cpp computes.
        KeyError: a tensor is missing.
    """
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _check(config)
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    writer = gguf.GGUFWriter(target, "bert")
    try:
        writer.add_name(name)
        _write_hyperparameters(writer, config)
        _write_vocabulary(writer, vocabulary, config["type_vocab_size"])
        _write_tensors(writer, load_file(folder / "model.safetensors"), config["num_hidden_layers"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def word_piece(token: str) -> str:
    """Return how llama.cpp writes a WordPiece: `##ing` is `ing`, `go` is `U+2581 go`, `[SEP]` stays."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else _WORD_START + token


def _check(config: Mapping[str, Any]) -> None:
    for key, value in _EXPECTED.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key} is {config[key]!r}, expected {value!r}")


def _write_hyperparameters(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    import gguf

    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _write_vocabulary(writer: gguf.GGUFWriter, vocabulary: Sequence[str], token_types: int) -> None:
    import gguf

    special, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("bert")
    writer.add_token_list([word_piece(token) for token in vocabulary])
    writer.add_token_types([special if token in _SPECIAL else normal for token in vocabulary])
    writer.add_token_type_count(token_types)
    pad, unknown, classify, separate, mask = (vocabulary.index(token) for token in _SPECIAL)
    writer.add_pad_token_id(pad)
    writer.add_unk_token_id(unknown)
    writer.add_bos_token_id(classify)
    writer.add_eos_token_id(separate)
    writer.add_sep_token_id(separate)
    writer.add_mask_token_id(mask)


def _write_tensors(writer: gguf.GGUFWriter, tensors: Mapping[str, np.ndarray], layers: int) -> None:
    import numpy as np

    for theirs, ours in _names(layers):
        matrix = tensors[theirs].ndim == 2 and ours not in _ALWAYS_FLOAT32
        writer.add_tensor(ours, tensors[theirs].astype(np.float16 if matrix else np.float32))


def _names(layers: int) -> Iterator[tuple[str, str]]:
    """Yield Hugging Face's name and GGUF's for every tensor."""
    yield from _EMBEDDINGS.items()
    for layer in range(layers):
        for theirs, ours in _LAYER.items():
            for part in ("weight", "bias"):
                yield f"encoder.layer.{layer}.{theirs}.{part}", f"blk.{layer}.{ours}.{part}"
