"""What transformers loads for ``model.generate(..., custom_generate=FOLDER, trust_remote_code=True)``."""

from typing import Any

from rain.custom_generate import align, check_form

UNUSED = (
    "logits_processor stopping_criteria prefix_allowed_tokens_fn synced_gpus assistant_model "
    "streamer negative_prompt_ids negative_prompt_attention_mask"
)


def generate(
    model: Any,
    inputs: Any = None,
    input_ids: Any = None,
    attention_mask: Any = None,
    tokenizer: Any = None,
    generation_config: Any = None,
    max_new_tokens: int | None = None,
    **settings: Any,
) -> Any:
    """Answer with RAIN, in up to 64 tokens if there is no other limit; other arguments are those of ``rain.Rain``."""
    if tokenizer is None:
        raise ValueError("RAIN needs tokenizer= in model.generate")
    check_form(generation_config)
    settings = {name: value for name, value in settings.items() if name not in UNUSED.split()}
    prompts = inputs if input_ids is None else input_ids
    limit = max_new_tokens or getattr(generation_config, "max_new_tokens", None) or 64
    return align(model, tokenizer, prompts, attention_mask, limit, settings)
