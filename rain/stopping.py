"""What ends a response and a rollout, and which part of a response is text, final, or the answer."""

from __future__ import annotations

import copy

from rain.core.config import LONGEST_SET
from rain.core.stop import BYTES_PER_CHARACTER, Stop
from rain.core.types import Tokens
from rain.text import PAUSES, TokenizerAdapter

PAUSE_WINDOW = 8
"""Tokens at the end of a text that are decoded to see whether it pauses; more than any one character takes."""


class TextStopPolicy:
    """What ends a response and a rollout (``rain.core.problem.StopPolicy``).

    Args:
        adapter: for the text and the end-of-sequence ids.
        stop_strings: a response ends before any of these (HH: a new turn of the human).
        to_end: roll out to the end of the response (TruthfulQA), not only to the next pause.
        rollout_limit: maximum length of a rollout (tokens); 0: only the response's own limit.
        pausing: ``adapter.pausing_tokens()``, computed once a model.
    """

    def __init__(
        self,
        adapter: TokenizerAdapter,
        stop_strings: tuple[str, ...] = (),
        to_end: bool = False,
        rollout_limit: int = 0,
        pausing: frozenset[int] = frozenset(),
    ) -> None:
        self.adapter, self._pausing = adapter, pausing
        self.to_end, self.rollout_limit = to_end, rollout_limit
        self.longest: int | None = None
        self.stop = Stop(adapter.eos, stop_strings)
        self.rollout_stop = self.stop if to_end else Stop(adapter.eos | pausing, stop_strings)
        # A stop string may lie anywhere in the last token set, not only at its end: look back over a set as well.
        self._window = LONGEST_SET + BYTES_PER_CHARACTER * max(map(len, stop_strings), default=0)

    def also(self, strings: tuple[str, ...]) -> TextStopPolicy:
        """Return a policy by which a response ends before any of these strings, too."""
        if not strings:
            return self
        stops = (*self.stop.strings, *strings)
        return TextStopPolicy(self.adapter, stops, self.to_end, self.rollout_limit, self._pausing)

    def up_to(self, longest: int) -> TextStopPolicy:
        """Return a policy by which no more than so many tokens of a response are text: what an answer may have."""
        limited = copy.copy(self)
        limited.longest = longest
        return limited

    def finish(self, response: Tokens) -> str | None:
        """Tell whether the response contains an end-of-sequence id or a stop string."""
        if not self.adapter.eos.isdisjoint(response):
            return "eos"
        if self.stop.strings and response:
            text = self.adapter.decode(response[-self._window :])
            if any(string in text for string in self.stop.strings):
                return "stop"
        return None

    def complete(self, response: Tokens) -> bool:
        """Tell whether a text needs no rollout: it has ended, or it ends in a pause."""
        if self.finish(response):
            return True
        return not self.to_end and self.adapter.decode(response[-PAUSE_WINDOW:]).endswith(PAUSES)

    def rollout_tokens(self, remaining: int) -> int:
        """Limit a rollout."""
        return min(remaining, self.rollout_limit) if self.rollout_limit else remaining

    def visible(self, response: Tokens) -> Tokens:
        """Return a response without special tokens and without what follows its end."""
        kept, text, cut = self._cut(response)
        return kept if cut < 0 else self.adapter.encode(text[:cut])

    def text(self, response: Tokens) -> str:
        """Return the text of a response, without what follows its end."""
        _, text, cut = self._cut(response)
        return text if cut < 0 else text[:cut]

    def lead(self, response: Tokens) -> str:
        """Return the whitespace in front of a response's text; none if there is nothing else."""
        text = self.text(response)
        return text[: len(text) - len(text.lstrip())] if text.strip() else ""

    def answer(self, response: Tokens, finish: str) -> str:
        """Return a response's text, stripped; of one that was cut without half characters (and half stop strings)."""
        if finish == "budget":
            return self.final_text(response)
        text = self.text(response)
        return (text.rstrip("\ufffd") if finish == "length" else text).strip()

    def _cut(self, response: Tokens) -> tuple[Tokens, str, int]:
        """Return the ids in front of the end that are not special, their text, and where a stop string begins (-1)."""
        kept: list[int] = []
        for token in response[: self.longest]:
            if token in self.adapter.eos:
                break
            if token not in self.adapter.special:
                kept.append(token)
        text = self.adapter.decode(kept)
        return tuple(kept), text, min((p for p in map(text.find, self.stop.strings) if p >= 0), default=-1)

    def up_to_end(self, response: Tokens) -> Tokens:
        """Return the ids up to the first that ends a response, which is kept."""
        end = next((i for i, token in enumerate(response, 1) if token in self.adapter.eos), len(response))
        return response[:end]

    def final_text(self, response: Tokens) -> str:
        """Return the part of an unfinished response's text that no later token can change.

        Held back are trailing whitespace (the answer is stripped), a character of which bytes are missing, and what
        could be the beginning of a stop string.
        """
        text = self.text(response).rstrip("\ufffd")
        for string in self.stop.strings:
            for length in range(min(len(string) - 1, len(text)), 0, -1):
                if text.endswith(string[:length]):
                    text = text[:-length]
                    break
        return text.strip()
