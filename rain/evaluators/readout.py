"""``readout:NAME|FILE``: a straight line through the model's own hidden states, in the context in which it writes.

With h_i the output of decoder layer l at the i-th token of a response (before the final norm)::

    logit(text) = bias + mean_i w . h_i          score(text) = tanh(logit / 2) = 2 p(good) - 1

Both are linear, so a search needs one number a token, which the engine keeps with keys and values: an evaluation
computes at most the last token of a text, and no evaluation prompt. Related: arXiv 2310.06824, 2406.11717 (probing),
2104.05218 and 2310.17022 (value heads for decoding).

A text does harm only if the request is harmful, too. A read-out may know how likely that is, from the last token of the
prompt (``RequestReadOut``); then, with both probabilities::

    score(text) = 1 - 2 p(request is harmful) p(text goes along)

so that refusing a harmless request is worth hardly more than answering it. Rows of symbols and endless repetition are
scored as if the request were harmful.
"""

from __future__ import annotations

from collections.abc import Sequence

from rain.core.engine import Engine, Session, Usage
from rain.core.types import Tokens
from rain.evaluators.base import Evaluator, MemoScorer, SearchContext, Seen, give_up_others
from rain.evaluators.fluency import is_language
from rain.evaluators.readout_file import Reading, ReadOutFile


class ReadOutEvaluator(Evaluator):
    """Scores texts with one or more read-outs; the smallest score counts.

    Args:
        files: for this model and prompt format.
        invert: steer to the other side.
    """

    def __init__(self, files: list[ReadOutFile], invert: bool = False) -> None:
        self.files, self.invert = files, invert
        self.reads_requests = any(file.request for file in files)

    async def warm_up(self, engine: Engine) -> None:
        """Have the engine compute the read-outs of every token."""
        engine.set_read_outs([read_out for file in self.files for read_out in file.read_outs])

    def search(self, context: SearchContext) -> ReadOutScorer:
        """Return the scorer of one search, on the session in which it writes."""
        return ReadOutScorer(self, context)

    async def prompt_end(self, session: Session, prompt: Tokens, usage: Usage | None = None) -> list[float]:
        """Return the numbers of the last token of a prompt, which tell whether the request is harmful.

        Args:
            session: whose engine was warmed up.
            prompt: ids, at least one.
            usage: who pays; None: the session.
        """
        if not self.reads_requests:
            return []
        numbers: list[float] = (await session.read_out(prompt, len(prompt) - 1, usage)).tolist()
        return numbers

    def readings(self, means: Sequence[float], ends: Sequence[float], language: bool = True) -> list[Reading]:
        """Return what each read-out says of a text.

        Args:
            means: of each number of each read-out over the text, in a row (``Session.read_out``).
            ends: the same of the prompt's last token, see ``prompt_end``.
            language: whether the text is language (``rain.evaluators.fluency.is_language``).
        """
        found, start = [], 0
        for file in self.files:
            end = start + len(file.read_outs)
            found.append(file.reading(means[start:end], ends[start:end], language))
            start = end
        return [reading._replace(score=-reading.score) for reading in found] if self.invert else found


class ReadOutScorer(MemoScorer[Tokens, list[Reading]]):
    """Scores the texts of one search; the same text is read once, an empty one is undecided."""

    def __init__(self, evaluator: ReadOutEvaluator, context: SearchContext) -> None:
        super().__init__()
        self.evaluator, self.session, self.prompt = evaluator, context.session, context.prompt
        self.policy = context.policy
        self._prompt_end: list[float] = []

    async def score(self, response: Tokens) -> float:
        """Return the score of a response, in [-1, 1]."""
        text = self.policy.visible(response)
        return min(reading.score for reading in await self._once(text, lambda: self._read(text)))

    async def _read(self, text: Tokens) -> list[Reading]:
        if not text:
            return [Reading(0.0, 0.0)] * len(self.evaluator.files)
        means = await self.session.read_out(self.prompt + text, len(self.prompt), self.usage)
        if not self._prompt_end:  # the prompt has been computed by now, with the text
            self._prompt_end = await self.evaluator.prompt_end(self.session, self.prompt, self.usage)
        language = is_language(text, self.policy.adapter.decode(text))
        return self.evaluator.readings(means.tolist(), self._prompt_end, language)

    def commit(self, response: Tokens) -> None:
        """Give up texts that begin otherwise: their tokens are dropped, and would all be computed again."""
        give_up_others(self._tasks, self.policy.visible(response))

    def asks(self) -> list[Seen]:
        """Return the name of each read-out."""
        return [{"by": f"readout:{file.name}"} for file in self.evaluator.files]

    def seen(self, response: Tokens) -> list[Seen]:
        """Return the logits of a response that has been scored, and how likely the request is harmful."""
        text = self.policy.visible(response)
        read = self.policy.adapter.decode(text)
        found = [{"read": read, **reading._asdict()} for reading in self._known(text)]
        return [{name: value for name, value in each.items() if value is not None} for each in found]
