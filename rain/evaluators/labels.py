"""Self-evaluation: the model scores its own text (section 3 of the paper), by votes on label tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rain.core.concurrency import gather_or_cancel
from rain.core.engine import Engine, Session
from rain.core.errors import RainError, UnclearFault
from rain.core.fields import setting, validate
from rain.core.types import Tokens
from rain.evaluators.base import Evaluator, MemoScorer, SearchContext, Seen, give_up_others
from rain.evaluators.templates import Template
from rain.text import PROBES, TokenizerAdapter, common_start


@dataclass(frozen=True)
class EvaluationConfig:
    """How label probabilities become a score; everything but the defaults changes decisions and is recorded.

    Attributes:
        votes: "hard": each question votes 1 or 0, the score is 2 x mean - 1 (paper); "soft": tanh of the calibrated
            log-odds.
        offset: log-odds at which the model is undecided, in nats; learnt by ``rain preflight``.
        scale: soft votes only: slope of the score per nat.
        target: name of the goal, for the records.
        invert: whether the goal is the template's negative label.
    """

    votes: str = setting(
        "hard", "hard: votes of 0 and 1 (paper); soft: tanh of the calibrated log-odds", choices=("hard", "soft")
    )
    offset: float = setting(0.0, "log-odds (nats) at which the evaluation is undecided; from a calibration", low=-1e6)
    scale: float = setting(1.0, "soft votes: slope of the score per nat of log-odds; from a calibration", low=1e-9)
    target: str = setting("", "what to steer towards, where the task offers a choice (imdb: positive or negative)")
    invert: bool = setting(False, "steer away from the template's positive labels; --target sets it")

    def __post_init__(self) -> None:
        validate(self)

    def score(self, log_odds: Sequence[float]) -> float:
        """Return the score of a text from the log-odds of each question about it, in [-1, 1]."""
        if self.votes == "hard":
            score = 2 * sum(value > self.offset for value in log_odds) / len(log_odds) - 1
        else:
            score = math.tanh(self.scale * (sum(log_odds) / len(log_odds) - self.offset))
        return -score if self.invert else score


class LabelPrompt(NamedTuple):
    """One question about a response, in token ids: what follows the response, and the labels that may come next."""

    tail: Tokens
    positive: Tokens
    negative: Tokens


class LabelScores(NamedTuple):
    """What the model said of one text.

    Attributes:
        log_odds: for each question, log p(best positive label) - log p(best negative label), in nats.
        mass: mean probability of all labels together, in [0, 1].
    """

    log_odds: tuple[float, ...]
    mass: float


class SelfEvalPrompt:
    """A template resolved for one tokenizer.

    Args:
        template: see ``rain.evaluators.templates``.
        adapter: of the model that evaluates.

    Attributes:
        label_prompts: the questions; two with the options swapped for letters, one for words.
        shared_prefix: ids that the evaluation of every prompt begins with.

    Raises:
        RainError: a label is not a single token that tells it from the others, in its place in the template.
    """

    def __init__(self, template: Template, adapter: TokenizerAdapter) -> None:
        self.template, self.adapter = template, adapter
        self.label_prompts = [self._resolve(*ask) for ask in template.asks()]
        self.shared_prefix = adapter.bos + common_start([adapter.encode(template.head + text) for text in PROBES])

    def _resolve(self, ask: str, positive: Sequence[str], negative: Sequence[str]) -> LabelPrompt:
        """Find the label tokens in context, where " A", "A" and "(A" are different tokens.

        The context is what precedes a response in the template (its last character is enough) and a response of one
        letter, so that the labels are tokenised as they are in the middle of a text, not at its start.
        """
        context = (self.template.middle[-1:] or ".") + "x"
        whole = {label: self.adapter.encode_after(context, ask + label) for label in (*positive, *negative)}
        plain = self.adapter.encode_after(context, ask)
        tail = common_start([*whole.values(), plain]) if len(whole) > 1 else plain
        labels: dict[str, int] = {}
        for label, ids in whole.items():
            if len(ids) != len(tail) + 1:
                raise RainError(
                    f"{self.template.name}: the label {label!r} is not a single token for this model "
                    f"({len(ids) - len(tail)} tokens after {ask[-20:]!r}); choose another label"
                )
            labels[label] = ids[-1]
        good, bad = {labels[label] for label in positive}, {labels[label] for label in negative}
        if good & bad:
            raise RainError(f"{self.template.name}: positive and negative labels begin with the same token")
        return LabelPrompt(tail, tuple(sorted(good)), tuple(sorted(bad)))

    def context(self, question: str) -> Tokens:
        """Return the ids before the response."""
        return self.adapter.bos + self.adapter.encode(self.template.head + question + self.template.middle)

    def encode_response(self, question: str, response: str) -> Tokens:
        """Return the ids of a response as they are after its question."""
        return self.adapter.encode_after((question + self.template.middle)[-1:] or ".", response)

    async def read(self, session: Session, context: Tokens, response: Tokens) -> LabelScores:
        """Ask every question about a response at once."""
        answers = await gather_or_cancel(
            *(
                session.next_logprobs(context + response + prompt.tail, ids=(*prompt.positive, *prompt.negative))
                for prompt in self.label_prompts
            )
        )
        odds, mass = [], 0.0
        for prompt, answer in zip(self.label_prompts, answers, strict=True):
            odds.append(max(answer[i] for i in prompt.positive) - max(answer[i] for i in prompt.negative))
            labels = (*prompt.positive, *prompt.negative)
            mass += sum(math.exp(answer[i]) for i in labels) / len(self.label_prompts)
        if not all(map(math.isfinite, (*odds, mass))):
            raise UnclearFault("the evaluation's log-probabilities are infinite or not numbers; choose another --dtype")
        return LabelScores(tuple(odds), mass)


class LabelEvaluator(Evaluator):
    """The paper's evaluator: the model that writes is asked about its own text.

    Args:
        prompt, config: what is asked, and how the answer becomes a score.
        cut: judge a text only up to its last full stop (TruthfulQA).
    """

    def __init__(self, prompt: SelfEvalPrompt, config: EvaluationConfig, cut: bool = False) -> None:
        self.prompt, self.config, self.cut = prompt, config, cut

    async def warm_up(self, engine: Engine) -> None:
        """Compute the few-shot examples once for all searches."""
        if self.prompt.shared_prefix:
            await engine.cache_prefix(self.prompt.shared_prefix)

    def overhead(self, question: str) -> int:
        """Return the length of the evaluation prompt without the response (tokens)."""
        longest = max(len(prompt.tail) for prompt in self.prompt.label_prompts)
        return len(self.prompt.context(question)) + longest

    def search(self, context: SearchContext) -> SelfEvaluator:
        """Return the scorer of one search, with a session of its own for the evaluation prompts."""
        session = context.engine.session(f"{context.name}/judge")
        return SelfEvaluator(self, session, context)


class SelfEvaluator(MemoScorer[Tokens, LabelScores]):
    """Scores the texts of one search; the same tokens are asked about once.

    Not the same text: two ways to write it in tokens have different log-odds, and who asks first must not decide.
    """

    def __init__(self, evaluator: LabelEvaluator, session: Session, context: SearchContext) -> None:
        super().__init__()
        self.evaluator, self.session, self.policy = evaluator, session, context.policy
        self.question, self.context = context.question, evaluator.prompt.context(context.question)
        self.usage = session.usage

    async def score(self, response: Tokens) -> float:
        """Return the score of a response, in [-1, 1]."""
        return self.evaluator.config.score((await self.read(response)).log_odds)

    async def evidence(self, response: Tokens) -> float:
        """Return the mean log-odds of the labels (nats)."""
        odds = (await self.read(response)).log_odds
        return sum(odds) / len(odds)

    async def read(self, response: Tokens) -> LabelScores:
        """Return what the model says of a response."""
        text = self.visible(response)
        return await self._once(text, lambda: self.evaluator.prompt.read(self.session, self.context, text))

    def visible(self, response: Tokens) -> Tokens:
        """Return the ids of the text that is asked about."""
        text = self.policy.visible(response)
        return cut_after_full_stop(text, self.policy.adapter) if self.evaluator.cut else text

    def commit(self, response: Tokens) -> None:
        """Let the engine drop texts that begin otherwise."""
        committed = self.policy.visible(response)
        give_up_others(self._tasks, committed)
        self.session.commit(self.context + committed)

    def asks(self) -> list[Seen]:
        """Return the texts before and after a response, with the labels."""
        prompt, decode = self.evaluator.prompt, self.evaluator.prompt.adapter.decode
        after = []
        for ask in prompt.label_prompts:
            good, bad = ([decode((label,)) for label in side] for side in (ask.positive, ask.negative))
            after.append({"text": decode(ask.tail), "good": good, "bad": bad})
        return [{"by": f"labels {prompt.template.name}", "before": decode(self.context), "after": after}]

    def seen(self, response: Tokens) -> list[Seen]:
        """Return the log-odds of a response that has been scored."""
        text = self.visible(response)
        read, (log_odds, mass) = self.evaluator.prompt.adapter.decode(text), self._known(text)
        score = self.evaluator.config.score(log_odds)
        return [{"score": score, "read": read, "log_odds": log_odds, "mass": mass}]

    async def close(self) -> None:
        """Give up questions that nobody waits for any more, and the session."""
        await super().close()
        await self.session.close()


def cut_after_full_stop(text: Tokens, adapter: TokenizerAdapter) -> Tokens:
    """Drop the tokens after the last one that contains a full stop; a text without one stays."""
    for length in range(len(text), 0, -1):
        if "." in adapter.decode(text[length - 1 : length]):
            return text[:length]
    return text
