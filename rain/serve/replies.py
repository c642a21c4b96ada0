"""Answers as OpenAI's clients read them, whole and in chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rain.core.config import Budget
from rain.core.types import Json
from rain.evaluators.base import Evaluator
from rain.generation import Answer, Piece, PreparedPrompt
from rain.serve.models import Served
from rain.serve.schema import StreamOptions

FINISHED = {"eos": "stop", "stop": "stop"}
"""OpenAI's finish reason for the library's; all others are "length"."""

COUNTS = ("simulations", "evaluations", "tokens_computed", "tokens_reused")


@dataclass(frozen=True)
class AnswerJob:
    """A request that has been admitted.

    Attributes:
        head: fields that every body of this answer has, but for its kind.
        chat: whether the answer is a chat message; otherwise it is a plain text.
        served: how the model answers.
        prompt: encoded; choice i has its seed + i.
        evaluator: of the search; None: the usual one.
        choices: how many answers (count).
        budget: of each.
        shared: tokens of the prompt that no answer has to compute, since they were cached before (count).
        deadline: when the client's patience ends (``time.monotonic``); None: never.
        silence: after so many seconds without text a stream gets a comment.
        stream_options: what the chunks of a stream have.
        ignored: names of fields that had no effect.
    """

    head: Json
    chat: bool
    served: Served
    prompt: PreparedPrompt
    evaluator: Evaluator | None
    choices: int
    budget: Budget
    shared: int
    deadline: float | None
    silence: float
    stream_options: StreamOptions
    ignored: Sequence[str]


def usage(job: AnswerJob, answers: Sequence[Answer]) -> Json:
    """Return the tokens of a request; rewound ones are rejected predictions."""
    prompt, completion = answers[0].prompt_tokens, sum(len(answer.tokens) for answer in answers)
    reused = max(int(answer.cost["tokens_reused"]) for answer in answers)
    rejected = sum(rewound(answer, job.shared) for answer in answers)
    return {
        **_count(prompt, completion),
        "prompt_tokens_details": {"cached_tokens": min(prompt, reused)},
        "completion_tokens_details": {"reasoning_tokens": 0, "rejected_prediction_tokens": rejected},
    }


def _count(prompt: int, completion: int) -> Json:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def rewound(answer: Answer, shared: int) -> int:
    """Return how many tokens the search computed that are neither prompt nor answer, evaluation left out.

    Args:
        answer: from the search.
        shared: tokens of the prompt that it did not compute (count).
    """
    evaluation: Mapping[str, Any] = answer.cost.get("evaluation", {})
    searched = answer.cost["tokens_computed"] - evaluation.get("tokens_computed", 0)
    return max(0, int(searched) - (answer.prompt_tokens - shared) - len(answer.tokens))


def price(answer: Answer) -> Json:
    """Return what one answer cost, and how sure the search was of it."""
    value = answer.commits[-1].value if answer.commits else answer.value
    counts = {name: answer.cost.get(name, 0) for name in COUNTS}
    own = {"finish": answer.finish, "value": value, "commits": len(answer.commits), "seconds": answer.cost["seconds"]}
    return {**own, **counts}


def whole(job: AnswerJob, answers: Sequence[Answer]) -> Json:
    """Return the body of an answer that is not streamed."""
    choices = [_choice(job, i, answer) for i, answer in enumerate(answers)]
    kind = "chat.completion" if job.chat else "text_completion"
    rain = {**_total(answers), "ignored": list(job.ignored)}
    return {**job.head, "object": kind, "choices": choices, "usage": usage(job, answers), "rain": rain}


def _choice(job: AnswerJob, index: int, answer: Answer) -> Json:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    content = {"message": message} if job.chat else {"text": answer.lead + answer.text}
    finish = FINISHED.get(answer.finish, "length")
    return {"index": index, **content, "logprobs": None, "finish_reason": finish, "rain": price(answer)}


def _total(answers: Sequence[Answer]) -> Json:
    """Return the price of all choices together; finish and value are those of the first."""
    prices = [price(answer) for answer in answers]
    sums = {name: sum(each[name] for each in prices) for name in ("commits", *COUNTS)}
    return {**prices[0], **sums, "seconds": max(each["seconds"] for each in prices)}


class Chunks:
    """Makes the chunks of one stream; details of commits whose text is held back wait for the next text."""

    def __init__(self, job: AnswerJob) -> None:
        self.job = job
        self._head = {**job.head, "object": "chat.completion.chunk" if job.chat else "text_completion"}
        if job.stream_options.include_usage:
            self._head["usage"] = None
        self._tokens = [0] * job.choices
        self._held: list[list[Json]] = [[] for _ in range(job.choices)]

    def begin(self, index: int) -> Json:
        """Return the first chunk of a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""}, "", None)

    def text(self, index: int, piece: Piece) -> Json | None:
        """Return the chunk of a commit, None if its text is held back."""
        held, (text, commit, self._tokens[index], lead) = self._held[index], piece
        if commit:
            held.append({"visits": commit.visits, "value": commit.value, "simulations": commit.simulations})
        if not text:
            return None
        self._held[index] = []
        return {**self._chunk(index, {"content": text}, lead + text, None), "rain": {"committed": held}}

    def end(self, index: int, answer: Answer) -> Json:
        """Return the last chunk of a choice."""
        self._tokens[index] = len(answer.tokens)
        chunk = self._chunk(index, {}, "", FINISHED.get(answer.finish, "length"))
        rest = {"committed": self._held[index], "ignored": list(self.job.ignored)}
        return {**chunk, "rain": {**price(answer), **rest}}

    def usage(self, answers: Sequence[Answer]) -> Json:
        """Return the chunk that has the usage."""
        return {**self._head, "choices": [], "usage": usage(self.job, answers)}

    def _chunk(self, index: int, delta: Json, text: str, finish: str | None) -> Json:
        content = {"delta": delta} if self.job.chat else {"text": text}
        choices = [{"index": index, **content, "logprobs": None, "finish_reason": finish}]
        if not self.job.stream_options.continuous_usage_stats:
            return {**self._head, "choices": choices}
        return {**self._head, "choices": choices, "usage": _count(len(self.job.prompt.tokens), sum(self._tokens))}
