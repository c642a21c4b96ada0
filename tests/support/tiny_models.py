"""Random models of a few thousand weights over 257 byte tokens (see ``ToyTokenizer``), and another tokenizer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from rain.engines.local.engine import HfEngine
from rain.engines.toy import EOS, ToyTokenizer

DEVICE = os.environ.get("RAIN_TEST_DEVICE", "cpu")
"""Where ``tiny_model`` puts its models."""

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"vocab_size": EOS + 1, "eos_token_id": EOS, "bos_token_id": None, "pad_token_id": EOS}
GROUPED = {"num_key_value_heads": 2}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
KINDS = {
    "llama": ("Llama", GROUPED),
    "gemma3": ("Gemma3Text", {**GROUPED, **SLIDING, "head_dim": 8}),
    "gemma2": ("Gemma2", {**GROUPED, **SLIDING, "head_dim": 8, "attn_logit_softcapping": 2.0}),
    "qwen2": ("Qwen2", GROUPED),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 8}),
    "mistral": ("Mistral", {**GROUPED, "head_dim": 8, "sliding_window": 8}),
    "phi3": ("Phi3", {**GROUPED, "sliding_window": 8}),
    "gpt_neox": ("GPTNeoX", {}),
}


def tiny_model(
    kind: str = "llama", seed: int = 0, context: int = 1024, deviation: float = 0.25, **changes: object
) -> PreTrainedModel:
    """Return a float32 model; ``deviation`` of its weights makes its distributions uneven, as a trained model's are."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    name, extra = KINDS[kind]
    settings = {"max_position_embeddings": context, **IDS, **SHAPE, **extra, **changes}
    config = getattr(transformers, f"{name}Config")(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, deviation)
    return model.float().eval().requires_grad_(False).to(DEVICE)


def tiny_engine(kind: str = "llama", **options: int) -> HfEngine:
    """Return an engine on a ``tiny_model``."""
    return HfEngine(tiny_model(kind), ToyTokenizer(), **options)


def save_tiny_model(folder: Path, context: int, eos: int | list[int] = EOS) -> Path:
    """Save a model whose attention heads vLLM takes, and the tokenizer of ``ToyTokenizer``: one token a byte."""
    tiny_model(context=context, head_dim=32, eos_token_id=eos).save_pretrained(folder)
    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    core = Tokenizer(models.BPE({**letters, "<|end|>": EOS}, [], unk_token=None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>").save_pretrained(folder)
    return folder


class LetterEncoder(torch.nn.Module):
    """A sentence encoder whose hidden states are random vectors of bytes; it is its own tokenizer's model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vectors = torch.nn.Embedding(256, 16)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.vectors(input_ids))


def letter_tokenizer(texts: Sequence[str], **options: object) -> transformers.BatchEncoding:
    rows = [torch.tensor(list(text.encode(errors="replace")) or [0]) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return transformers.BatchEncoding({"input_ids": ids, "attention_mask": mask})


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Give a model, which an engine has changed, transformers' own attention for a while."""
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield model
    finally:
        model.set_attn_implementation(before)


def plain_logprobs(model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    """Return log-probabilities after each token (tokens, vocabulary) by one forward pass without any cache."""
    with plain_attention(model), torch.inference_mode():
        inputs = torch.tensor([list(tokens)], device=model.device)
        return model(inputs, use_cache=False).logits[0].double().log_softmax(dim=-1).cpu()


@contextmanager
def failing_passes(
    model: PreTrainedModel,
    failing: Callable[[int], bool],
    error: Exception = torch.OutOfMemoryError("CUDA out of memory (simulated)"),  # noqa: B008
) -> Iterator[list[bool]]:
    """Let passes fail (numbers from 0, retries count) as a GPU fails: when one layer has stored its keys already."""
    passes: list[bool] = []

    def fail(module: object, inputs: object) -> None:
        passes.append(failing(len(passes)))
        if passes[-1]:
            raise error

    hook = model.model.layers[1].register_forward_pre_hook(fail)
    yield passes
    hook.remove()


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that puts a dummy space before a text and <s> before it all, as Llama 1 and 2 do."""
    letters = "abdehiklnorstuwxHABYN:?.,()\n"
    tokens = ["<s>", "</s>", "\u2581", *letters, "\u2581A", "\u2581a", "(A", "(B", "he"]
    merges = [("\u2581", "A"), ("\u2581", "a"), ("(", "A"), ("(", "B"), ("h", "e")]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, unk_token=None))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
