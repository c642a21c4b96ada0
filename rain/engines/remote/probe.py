"""What a completions server can do, found out at start-up, before any work is done."""

from __future__ import annotations

from typing import Any

from rain.core.engine import Stop
from rain.core.errors import RainError
from rain.engines.remote.client import Patience, Server, Unreachable
from rain.engines.remote.engine import TOP, Answer, Ask

NEEDED = 15
"""Log-probabilities for each token without which candidates have no prior (top-k of the paper)."""

PATIENCE = Patience(reply=120.0, retry=5.0)
TEXT = "The quick brown fox jumps over the"


async def probe(server: Server, tokenizer: Any, modelname: str, patience: Patience = PATIENCE) -> None:
    """Learn a server's model, context and ways, and make sure that it gives what RAIN needs.

    Args:
        server: is filled in.
        tokenizer: compared with the server's.
        modelname: the server's name of the model; it only matters if the server serves several.
        patience: with a server that does not answer.

    Raises:
        RainError: the server does not answer, cannot give what RAIN needs, or has another tokenizer.
    """
    _describe(server, await server.ask("/models", None, patience), modelname)
    prefix = tuple(tokenizer.encode(TEXT))
    answer = await _greedy(server, prefix, patience)
    fewest = min(len(top) for sample in answer.samples for top in sample.tops)
    if fewest < NEEDED:
        raise RainError(
            f"server {server.url} cannot be used: it returns {fewest} log-probabilities for a token, and RAIN needs "
            f"{NEEDED} or more (vLLM: --max-logprobs {TOP})"
        )
    [sample] = answer.samples
    here, there = tokenizer.decode(list(sample.tokens), skip_special_tokens=True).strip(), sample.text.strip()
    if here != there and "\ufffd" not in here + there:
        raise RainError(
            f"server {server.url} cannot be used: its tokens {list(sample.tokens)} are {there!r} there and {here!r} to "
            f"the tokenizer of --modelname {modelname}; give the model that the server runs ({server.model})"
        )
    server.one_seed_one_text = not await _draws_several(server, prefix, patience)


def _describe(server: Server, listed: dict[str, Any], modelname: str) -> None:
    """Read the server's list of models."""
    cards = {str(card.get("id")): card for card in listed.get("data") or () if isinstance(card, dict)}
    if modelname not in cards and len(cards) != 1:
        raise RainError(f"server {server.url} serves {', '.join(cards) or 'no model'}; name one of them as --modelname")
    server.model = modelname if modelname in cards else next(iter(cards))
    card = cards[server.model]
    context = card.get("max_model_len") or (card.get("meta") or {}).get("n_ctx_train")
    server.context = int(context or server.context)
    server.bans_eos = card.get("owned_by") == "llamacpp"


async def _greedy(server: Server, prefix: tuple[int, ...], patience: Patience) -> Answer:
    try:
        return await server.complete(Ask(prefix, 1, 8, 0.0, 0, Stop(), 1, TOP), patience)
    except Unreachable:
        raise
    except RainError as error:
        needs = f"RAIN needs completions of token ids, with token ids and {TOP} log-probabilities for each token"
        raise RainError(f"{error}; {needs}") from error


async def _draws_several(server: Server, prefix: tuple[int, ...], patience: Patience) -> bool:
    """Return whether one request with one seed gives several samples that differ."""
    try:
        answer = await server.complete(Ask(prefix, 3, 8, 2.0, NEEDED, Stop(), 1, NEEDED), patience)
    except Unreachable:
        raise
    except RainError:
        return False
    return len({sample.tokens for sample in answer.samples}) > 1
