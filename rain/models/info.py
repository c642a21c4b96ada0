"""What engines and attacks ask of a loaded model, a stored one, or a tokenizer; each question in one place."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rain.core.errors import RainError
from rain.models.hub import hub_reachable
from rain.models.loading import resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rain.core.engine import ReadOut
    from rain.core.stop import Decode

UNLIMITED = 1 << 30


def context_length(model: PreTrainedModel) -> int:
    """Return the longest sequence that a model was made for (tokens)."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or UNLIMITED)


def longest_input(model: PreTrainedModel, tokenizer: Any) -> int:
    """Return how many tokens an encoder or classifier can read; RoBERTa's positions begin after the padding id."""
    longest = min(context_length(model), tokenizer.model_max_length)
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            longest = min(longest, table.num_embeddings - table.padding_idx - 1)
    return int(longest)


def decoder_layers(model: PreTrainedModel) -> Sequence[Any]:
    """Return the decoder layers of a model in order.

    Raises:
        RainError: they cannot be found.
    """
    from torch.nn import ModuleList

    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, ModuleList) and len(module) == count:
            return list(module)
    raise RainError(f"the decoder layers of {type(model).__name__} cannot be found")


def check_read_outs(model: PreTrainedModel, read_outs: Sequence[ReadOut]) -> None:
    """Refuse read-outs of layers that a model lacks, or of another size.

    The last layer is not read: transformers gives its output after the final norm.

    Raises:
        RainError: the message says which layers there are.
    """
    last, size = len(decoder_layers(model)) - 1, model.config.get_text_config().hidden_size
    for layer, weights in read_outs:
        if not 1 <= layer <= last or len(weights) != size:
            raise RainError(
                f"a read-out of layer {layer} and size {len(weights)} does not fit the model, whose layers 1 to "
                f"{last} have size {size}"
            )


def check_read_out(read_outs: Sequence[ReadOut], prefix: Sequence[int], start: int) -> None:
    """Refuse ``Session.read_out`` without read-outs or tokens.

    Raises:
        RainError: the message says what is missing.
    """
    if not read_outs:
        raise RainError("the engine has no read-outs; Engine.set_read_outs comes before the first request")
    if not 0 <= start < len(prefix):
        raise RainError(f"a read-out from token {start} on needs a longer prefix than {len(prefix)} tokens")


def dtype_name(model: PreTrainedModel) -> str:
    """Return the number format of a model's weights, such as "float32"."""
    return str(model.dtype).removeprefix("torch.")


def end_ids(config: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return all ids that end a response: those of a generation or model configuration, then the tokenizer's.

    Chat models often have several: one ends a turn, another one a document.
    """
    ends = getattr(config, "eos_token_id", None)
    found = [*ends] if isinstance(ends, Sequence) else [ends]
    return tuple(dict.fromkeys(id for id in (*found, tokenizer.eos_token_id) if id is not None))


class StoredModel(NamedTuple):
    """What the files of a model say that another program runs, as far as they can be found.

    Attributes:
        eos: see ``end_ids``.
        vocabulary: number of token ids, 0 if it is not known.
    """

    eos: tuple[int, ...]
    vocabulary: int


def stored_model(name: str, tokenizer: Any) -> StoredModel:
    """Read the configuration files of a model, and no code."""
    from transformers import AutoConfig, GenerationConfig

    source = resolve(name)
    access: dict[str, Any] = {"local_files_only": isinstance(source, Path) or not hub_reachable()}
    found: list[Any] = [None, None]
    for place, kind in enumerate((GenerationConfig, AutoConfig)):
        with suppress(OSError, ValueError):
            found[place] = kind.from_pretrained(source, **access)
        access["trust_remote_code"] = False
    generation, config = found
    size = getattr(config.get_text_config(), "vocab_size", 0) if config else 0
    return StoredModel(end_ids(generation or config, tokenizer), int(size or 0))


def decoder(tokenizer: Any) -> Decode:
    """Return a function from token ids to text, special tokens left out."""
    return lambda tokens: str(tokenizer.decode(list(tokens), skip_special_tokens=True))
