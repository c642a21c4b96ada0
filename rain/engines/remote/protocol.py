"""OpenAI's completions protocol with token ids, as several servers speak it: requests out, samples in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from rain.core.errors import RainError
from rain.engines.remote.engine import CompletionRequest, CompletionResult, Sample
from rain.terminal import one_line

ROUNDING = 1e-3
"""How far above 0 (nats) a log-probability may be."""


class ProtocolError(RainError):
    """A reply is not what was requested; the message is the rest of a sentence that names the server."""


def request_body(model: str, request: CompletionRequest, bans_eos: bool) -> dict[str, Any]:
    """Return a request in the words of vLLM; what else shapes distributions is switched off.

    Args:
        model: the server's name of it.
        request: with ``greedy_first`` of one sample only.
        bans_eos: as ``ServerClient.bans_eos``. Then it is not told that the end of sequence ends nothing, and no stop
            strings, with which llama.cpp leaves out the last tokens: the session ends the text in any case.
    """
    params = request.params
    body = {
        "model": model,
        "prompt": list(request.prefix),
        "n": params.n,
        "max_tokens": params.max_tokens,
        "temperature": 0.0 if params.greedy_first else params.temperature,
        "top_k": params.top_k or -1,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": params.seed,
        "logprobs": request.logprobs or None,
        "stop": list(params.stop.strings),
        "stop_token_ids": sorted(params.stop.token_ids),
        "include_stop_str_in_output": True,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    return {**body, "stop": []} if bans_eos else {**body, "ignore_eos": True}


def read_reply(reply: Mapping[str, Any], request: CompletionRequest, vocabulary: int) -> CompletionResult:
    """Return the samples of a reply in order.

    Args:
        reply: to the request.
        request: what was asked.
        vocabulary: number of token ids that the model has.

    Raises:
        ProtocolError: something is missing or of another type, or a number is impossible.
    """
    try:
        choices = sorted(reply["choices"], key=lambda choice: int(choice.get("index", 0)))
        samples = [_sample(choice, request.logprobs != 0) for choice in choices]
        usage = reply.get("usage") or {}
        cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        written = int(usage.get("completion_tokens") or 0)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = one_line(f"{type(error).__name__}: {error}")[:200]
        raise ProtocolError(f"its completions are not in a known format ({what})") from error
    if written > (shown := sum(len(sample.tokens) for sample in samples)):  # characters of several tokens in llama.cpp
        raise ProtocolError(f"it shows {shown} of the {written} tokens that it has written")
    return checked(CompletionResult(samples, cached), request, vocabulary)


def checked(result: CompletionResult, request: CompletionRequest, vocabulary: int) -> CompletionResult:
    """Return a result whose numbers are possible; see ``read_reply``."""
    wanted, length = request.params, len(request.prefix)
    if len(result.samples) != wanted.n:
        raise ProtocolError(f"it returns {len(result.samples)} completions where {wanted.n} were requested")
    if not 0 <= result.cached <= wanted.n * length:  # some servers add up those of all samples
        raise ProtocolError(f"it says that {result.cached} tokens of a prefix of {length} were cached")
    for sample in result.samples:
        if not 0 < len(sample.tokens) <= wanted.max_tokens:
            raise ProtocolError(f"it returns {len(sample.tokens)} tokens where {wanted.max_tokens} were requested")
        for top in (dict.fromkeys(sample.tokens, 0.0), *sample.tops):
            if wrong := [token for token in top if not 0 <= token < vocabulary]:
                raise ProtocolError(f"it returns the token id {wrong[0]}, and the model has ids below {vocabulary}")
            if odd := [value for value in top.values() if not -math.inf < value <= ROUNDING]:
                raise ProtocolError(f"it returns a log-probability of {odd[0]}, which is none")
    return result._replace(cached=min(result.cached, length))


def _sample(choice: Mapping[str, Any], scored: bool) -> Sample:
    finish: Literal["stop", "length"] = "stop" if choice.get("finish_reason") == "stop" else "length"
    text, logprobs = str(choice.get("text") or ""), choice.get("logprobs")
    if not logprobs and not scored and choice.get("token_ids"):
        return Sample(tuple(map(_token_id, choice["token_ids"])), (), finish, text)
    if not logprobs:
        raise ProtocolError("it returns no log-probabilities")
    if logprobs.get("content"):  # llama.cpp
        tokens = tuple(_token_id(item["id"]) for item in logprobs["content"])
        own = [float(item["logprob"]) for item in logprobs["content"]]
        best = [((top["id"], top["logprob"]) for top in item["top_logprobs"]) for item in logprobs["content"]]
    else:
        tokens = tuple(map(_token_id, choice.get("token_ids") or logprobs["tokens"]))
        own = logprobs["token_logprobs"]
        best = [top.items() for top in logprobs["top_logprobs"]]
    if len(own) != len(tokens):
        raise ProtocolError(f"it returns {len(own)} log-probabilities for {len(tokens)} tokens")
    tops = [_top(pairs) | {token: float(value)} for pairs, token, value in zip(best, tokens, own, strict=True)]
    return Sample(tokens, tops, finish, text)


def _top(pairs: Iterable[tuple[Any, Any]]) -> dict[int, float]:
    return {_token_id(token): float(logprob) for token, logprob in pairs}


def _token_id(token: Any) -> int:
    """Read 17 and "token_id:17".

    Raises:
        ProtocolError: it is a text.
    """
    if type(token) is int:
        return token
    name, _, number = str(token).rpartition(":")
    if name != "token_id" or not number.isdecimal() or len(number) > 18:
        raise ProtocolError("it returns texts instead of token ids")
    return int(number)
