"""Models of a known architecture with random weights: what they cost is measured where no weights can be had."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rain.core.errors import RainError
from rain.models.embedded.convert import first_line
from rain.models.loading import placement_options

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SHAPES = Path(__file__).parent / "shapes"
WORD = re.compile(r" ?\w+|\s|[^\w\s]")
PAUSE_EVERY = 12
"""One id in so many ends in a comma, so that rollouts of random text end about as soon as those of English."""

LINEAR_STD, EMBEDDING_STD, LOGITS_STD = 0.02, 1.0, 4.0
"""Of the weights and the logits: these leave some 2 nats of entropy, so that most candidates of a node differ."""


class HashTokenizer:
    """One token a word or sign, and its id a hash; behaves like a transformers tokenizer as far as RAIN asks.

    A text that is decoded consists of numbered words, whatever was encoded: random models write nothing else.

    Args:
        size: number of ids.
    """

    eos_token_id = None
    all_special_ids = ()
    chat_template = None

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def encode(self, text: str, **options: Any) -> list[int]:
        """Return the ids of a text's words and signs."""
        words = WORD.findall(text.encode("utf-8", "replace").decode())
        return [int(hashlib.blake2b(word.encode(), digest_size=6).hexdigest(), 16) % self.size for word in words]

    def decode(self, tokens: Sequence[int], **options: Any) -> str:
        """Return a word for each id, some with a comma."""
        return "".join(f" w{token}" + ("" if token % PAUSE_EVERY else ",") for token in tokens)

    def batch_decode(self, sequences: Sequence[Sequence[int]], **options: Any) -> list[str]:
        """Return the text of each sequence."""
        return [self.decode(tokens) for tokens in sequences]


def shape_names() -> list[str]:
    """Return the architectures that come with RAIN."""
    return sorted(path.stem for path in SHAPES.glob("*.json"))


def random_model(source: str, dtype: str, device_map: str) -> tuple[PreTrainedModel, HashTokenizer]:
    """Return a causal language model with random weights, always the same ones, and a tokenizer for it.

    The weights are made on the device of the model: nothing is downloaded or copied.

    Args:
        source: one of ``shape_names``, or a JSON file with the fields of a transformers configuration.
        dtype: as in ``load_model``.
        device_map: "" is the first visible GPU if there is one, else the CPU; or the name of one device.

    Raises:
        RainError: there is no such file, or it describes no model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    options, config = placement_options(dtype, device_map), read_shape(source)
    device = torch.device(options.get("device_map", "cpu"))
    try:
        with torch.random.fork_rng(), device:
            model = AutoModelForCausalLM.from_config(config, dtype=options["dtype"])
    except (ValueError, TypeError, AttributeError) as error:
        raise RainError(f"--random-weights {source}: {first_line(error)}") from error
    _fill(model, torch.Generator(device).manual_seed(0))
    return model.eval().requires_grad_(False), HashTokenizer(config.vocab_size)


def read_shape(source: str) -> Any:
    """Return the transformers configuration of an architecture; see ``random_model``."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        path = SHAPES / f"{source}.json" if source in shape_names() else Path(source)
        config = AutoConfig.for_model(**json.loads(path.read_text(encoding="utf-8")))
        if not isinstance(getattr(config, "vocab_size", None), int):
            raise ValueError("it has no vocab_size")
        return config
    except (OSError, ValueError, TypeError, RecursionError, StrictDataclassError) as error:
        known = ", ".join(shape_names())
        raise RainError(f"--random-weights {source}: {first_line(error)}; known are {known} and JSON files") from error


def _fill(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Draw all matrices anew, so that distributions are neither flat nor certain."""
    import torch

    deviations = {id(weight): LINEAR_STD for weight in model.parameters() if weight.dim() > 1}
    head = model.get_output_embeddings().weight
    deviations[id(model.get_input_embeddings().weight)] = EMBEDDING_STD
    deviations[id(head)] = LOGITS_STD * head.shape[1] ** -0.5
    with torch.no_grad():
        for weight in model.parameters():
            if id(weight) in deviations:
                weight.normal_(0.0, deviations[id(weight)], generator=generator)
