"""A behaviour's prompt with a suffix in it: where the suffix's tokens are, and which suffixes survive as text.

The attack works on token ids, the attacked model is sent text. A suffix counts only if the text that contains it is
tokenised into exactly the tokens that were optimised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rain.core.errors import RainError
from rain.core.types import Tokens
from rain.prompts import PromptFormatter
from rain.text import common_start


@dataclass(frozen=True, eq=False)
class SuffixPrompt:
    """The ids head + suffix + tail + target of one behaviour; `build_prompt` makes it."""

    formatter: PromptFormatter = field(repr=False)  # encodes a question as it is encoded when the model is defended
    goal: str  # the behaviour that is asked for; a space and the suffix follow it
    head: Tokens  # up to the end of the goal
    tail: Tokens  # between the suffix and the answer
    target: Tokens  # the answer's wanted beginning

    def controls(self, suffix: Tokens) -> str | None:
        """Return the suffix as text without the space before it, or None if it does not begin with exactly one."""
        decode = self.formatter.adapter.decode
        anchor = self.head[-1:]  # some tokenizers strip the first token's space
        text = decode(anchor + suffix)[len(decode(anchor)) :]
        return text[1:] if text.strip() and text == f" {text.strip()}" else None

    def stable(self, suffixes: Sequence[Tokens]) -> list[Tokens]:
        """Keep the suffixes that are the same tokens again when the whole prompt is encoded from text."""
        texts = [(suffix, self.controls(suffix)) for suffix in suffixes]
        encoded = [(suffix, self.formatter.encode(f"{self.goal} {text}")) for suffix, text in texts if text is not None]
        return [suffix for suffix, ids in encoded if ids == self.head + suffix + self.tail]


def suffix_spans(whole: Tokens, bare: Tokens) -> Iterator[tuple[int, int]]:
    """Yield where in ``whole`` (start, end) the tokens can be that ``bare`` lacks: first between the common ends.

    Only a suffix that begins or ends as its neighbours do ("! !" before "!") needs one of the wider spans that follow.
    """
    start = len(common_start([whole, bare]))
    end = len(whole) - len(common_start([whole[::-1], bare[::-1]]))
    yield from ((i, j) for i in range(start, 0, -1) for j in range(end, len(whole)) if i < j)


def build_prompt(formatter: PromptFormatter, goal: str, target: str, init: str) -> tuple[SuffixPrompt, Tokens]:
    """Place `goal`, a space and the suffix `init` in the prompt.

    Returns:
        The prompt, and the ids of `init` in it.

    Raises:
        RainError: a text is empty, no text separates question and answer, or the suffix has no tokens of its own.
    """
    for name, text in (("goal", goal), ("target", target), ("first suffix", init)):
        if not text.strip():
            raise RainError(f"the {name} is empty (goal {goal!r}, target {target!r})")
    if formatter.prompt_file is not None and not formatter.prompt_file.after:
        raise RainError('the attack needs a prompt template with text after "{question}"')
    whole, bare = formatter.encode(f"{goal} {init.strip()}"), formatter.encode(goal)
    for start, end in suffix_spans(whole, bare):
        before = formatter.adapter.decode(whole[end:]) or "."  # the tail may consist of special tokens alone
        answer = formatter.adapter.encode_after(before, ("" if before[-1].isspace() else " ") + target.strip())
        prompt = SuffixPrompt(formatter, goal, whole[:start], whole[end:], answer)
        if prompt.controls(whole[start:end]) == init.strip():
            return prompt, whole[start:end]
    raise RainError(f"the suffix {init!r} has no tokens of its own after {goal!r}; choose another with --init")
