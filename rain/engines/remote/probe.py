"""What a completions server can do, found out at start-up, before any work is done."""

from __future__ import annotations

from typing import Any

from rain.core.engine import SamplingParams
from rain.core.errors import RainError, WorkerFault
from rain.engines.remote.client import RetryPolicy, ServerClient
from rain.engines.remote.engine import TOP, CompletionRequest, CompletionResult, greedy_request
from rain.models.info import UNLIMITED
from rain.terminal import one_line

NEEDED = 15
"""Log-probabilities for each token without which candidates have no prior (top-k of the paper)."""

POLICY = RetryPolicy(reply=120.0, retry=5.0)
TEXT = "The quick brown fox jumps over the"


async def probe(server: ServerClient, tokenizer: Any, modelname: str, policy: RetryPolicy = POLICY) -> None:
    """Learn a server's model, context and limitations, and make sure that it gives what RAIN needs.

    Args:
        server: is filled in.
        tokenizer: compared with the server's.
        modelname: the server's name of the model; it only matters if the server serves several.
        policy: with a server that does not answer.

    Raises:
        RainError: the server does not answer, cannot give what RAIN needs, or has another tokenizer.
    """
    server.vocabulary = max(server.vocabulary, len(tokenizer))
    _describe(server, await server.send("/models", None, policy), modelname)
    prefix = tuple(tokenizer.encode(TEXT))
    result = await _greedy(server, prefix, policy)
    fewest = min(len(top) for sample in result.samples for top in sample.tops)
    if fewest < NEEDED:
        raise RainError(
            f"server {server.url} cannot be used: it returns {fewest} log-probabilities for a token, and RAIN needs "
            f"{NEEDED} or more (vLLM: --max-logprobs {TOP})"
        )
    [sample] = result.samples
    here, there = tokenizer.decode(list(sample.tokens), skip_special_tokens=True).strip(), sample.text.strip()
    if here != there and "\ufffd" not in here + there:
        raise RainError(
            f"server {server.url} cannot be used: its tokens {list(sample.tokens)} are {there[:100]!r} there and "
            f"{here!r} to the tokenizer of --modelname {modelname}; give the model that the server runs "
            f"({one_line(server.model)[:100]})"
        )
    await _learn_sampling(server, prefix, policy)


def _describe(server: ServerClient, listed: dict[str, Any], modelname: str) -> None:
    """Read the server's list of models."""
    data = listed.get("data")
    found = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
    cards = {str(card.get("id")): card for card in found}
    if modelname not in cards and len(cards) != 1:
        names = one_line(", ".join(cards))[:300] or "no model"
        raise RainError(f"server {server.url} serves {names}; name one of them as --modelname")
    server.model = modelname if modelname in cards else next(iter(cards))
    card = cards[server.model]
    meta = card.get("meta")
    context = card.get("max_model_len") or (meta.get("n_ctx_train") if isinstance(meta, dict) else None) or UNLIMITED
    if type(context) is not int or context < 1:
        said = one_line(repr(context))[:60]
        raise RainError(f"server {server.url} cannot be used: it says that its model's context is {said} tokens")
    server.context = context
    server.bans_eos = card.get("owned_by") == "llamacpp"


async def _greedy(server: ServerClient, prefix: tuple[int, ...], policy: RetryPolicy) -> CompletionResult:
    try:
        return await server.complete(greedy_request(prefix, 8, TOP), policy)
    except WorkerFault:
        raise
    except RainError as error:
        needs = f"RAIN needs completions of token ids, with token ids and {TOP} log-probabilities for each token"
        raise RainError(f"{error}; {needs}") from error


async def _learn_sampling(server: ServerClient, prefix: tuple[int, ...], policy: RetryPolicy) -> None:
    """Learn whether ids come without log-probabilities, and whether one request with one seed gives several samples."""
    params, server.one_seed_one_text = SamplingParams(n=3, max_tokens=8, temperature=2.0, top_k=NEEDED, seed=1), False
    for server.gives_ids in (True, False):
        try:
            result = await server.complete(CompletionRequest(prefix, params, 0), policy)
        except WorkerFault:
            raise
        except RainError:
            continue
        server.one_seed_one_text = len({sample.tokens for sample in result.samples}) == 1
        return
    server.one_seed_one_text = True
