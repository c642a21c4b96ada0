"""A one-layer llama with a byte-level vocabulary, written as a GGUF file in milliseconds."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType
from transformers.convert_slow_tokenizer import bytes_to_unicode

HIDDEN, HEADS, INNER = 32, 2, 64
NEWLINE = bytes_to_unicode()[ord("\n")]


def write_tiny_gguf(path: Path, seed: int = 0) -> None:
    """Write the file; its only merge joins two newlines, and its digits are to be split off one by one."""
    tokens = ["<|end|>", *bytes_to_unicode().values(), NEWLINE * 2]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL, *[TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_token_merges([f"{NEWLINE} {NEWLINE}"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, tensor in _tensors(len(tokens), np.random.default_rng(seed)).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(vocabulary: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = {f"blk.0.attn_{part}.weight": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate.weight": (INNER, HIDDEN), "blk.0.ffn_up.weight": (INNER, HIDDEN)}
    shapes |= {"blk.0.ffn_down.weight": (HIDDEN, INNER), "token_embd.weight": (vocabulary, HIDDEN)}
    tensors = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    norms = ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight")
    return tensors | {name: np.ones(HIDDEN, dtype=np.float32) for name in norms}
