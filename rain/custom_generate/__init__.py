"""RAIN inside ``model.generate`` of transformers, by its ``custom_generate`` argument.

- a function: ``model.generate(**inputs, custom_generate=aligned(tokenizer, goal="harmless"), max_new_tokens=60)``
- a folder, for services that can only be given a path: ``model.generate(**inputs, custom_generate=FOLDER,
  trust_remote_code=True, tokenizer=tokenizer, goal="harmless", max_new_tokens=60)``; transformers then runs
  ``generate.py`` next to this file, which needs RAIN to be installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rain.core.errors import RainError

FOLDER = str(Path(__file__).resolve().parents[1])
"""What to pass as ``custom_generate``."""


def aligned(tokenizer: Any, **settings: Any) -> Callable[..., torch.Tensor]:
    """Return a decoding method for ``model.generate``.

    Args:
        tokenizer: the model's.
        settings: see ``rain.Rain``.
    """

    def decode(model: Any, input_ids: torch.Tensor, generation_config: Any, **inputs: Any) -> torch.Tensor:
        check_form(generation_config)
        limit = max(1, generation_config.max_length - input_ids.shape[1])
        return align(model, tokenizer, input_ids, inputs.get("attention_mask"), limit, settings)

    return decode


def check_form(config: Any) -> None:
    """Refuse what would change the form of the result, which is one answer to each prompt, as ids.

    Raises:
        RainError: it names the option.
    """
    for name, usual in (("num_beams", 1), ("num_return_sequences", 1), ("return_dict_in_generate", False)):
        if (getattr(config, name, None) or usual) != usual:
            raise RainError(f"RAIN has no use for {name}; leave it out of model.generate")


def align(
    model: Any, tokenizer: Any, input_ids: torch.Tensor, mask: torch.Tensor | None, limit: int, settings: Any
) -> torch.Tensor:
    """Return prompts and their answers as ids.

    Args:
        model: a loaded causal language model.
        tokenizer: its own.
        input_ids: prompts, (batch, length), padded on the left.
        mask: 0 where there is padding, likewise; None: no padding.
        limit: maximum length of an answer (tokens).
        settings: see ``rain.Rain``.

    Returns:
        (batch, length + longest answer), padded on the right with the tokenizer's padding or end-of-sequence id.
    """
    from rain.library import Rain

    kept = mask.bool() if mask is not None else torch.ones_like(input_ids, dtype=torch.bool)
    prompts = [tuple(row[keep].tolist()) for row, keep in zip(input_ids, kept, strict=True)]
    with Rain(model, tokenizer, **settings) as rain:
        answers = rain.generate(prompts, max_new_tokens=limit)
    width = max(len(answer.tokens) for answer in answers)
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    rows = [[*answer.tokens, *[padding] * (width - len(answer.tokens))] for answer in answers]
    return torch.cat([input_ids, torch.tensor(rows, dtype=torch.long, device=input_ids.device)], dim=1)
