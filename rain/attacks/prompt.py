"""A behaviour's prompt with a suffix in it: where the suffix's tokens stand, and which suffixes survive as text.

The attack works on token ids, the attacked model is sent text. A suffix counts only if the text that holds it is cut
into exactly the tokens that were optimised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rain.core.errors import RainError
from rain.core.types import Tokens
from rain.text import Prompter, common_start


@dataclass(frozen=True, eq=False)
class SuffixPrompt:
    """The ids head + suffix + tail + target of one behaviour; `build_prompt` makes it.

    Attributes:
        prompter: encodes a question exactly as it is encoded when the model is defended.
        goal: the behaviour that is asked for; a space and the suffix follow it.
        head: ids up to the end of the goal.
        tail: ids between the suffix and the answer.
        target: ids of the answer's wanted beginning.
    """

    prompter: Prompter = field(repr=False)
    goal: str
    head: Tokens
    tail: Tokens
    target: Tokens

    def controls(self, suffix: Tokens) -> str | None:
        """Return the suffix as text without the space before it, or None if it does not begin with exactly one."""
        decode = self.prompter.codec.decode
        anchor = self.head[-1:]  # some tokenizers strip the first token's space
        text = decode(anchor + suffix)[len(decode(anchor)) :]
        return text[1:] if text.strip() and text == f" {text.strip()}" else None

    def stable(self, suffixes: Sequence[Tokens]) -> list[Tokens]:
        """Keep the suffixes that come back when the whole prompt is read as text."""
        return [suffix for suffix in suffixes if self._returns(suffix)]

    def _returns(self, suffix: Tokens) -> bool:
        text = self.controls(suffix)
        return text is not None and self.prompter.encode(f"{self.goal} {text}") == self.head + suffix + self.tail


def build_prompt(prompter: Prompter, goal: str, target: str, init: str) -> tuple[SuffixPrompt, Tokens]:
    """Place `goal`, a space and the suffix `init` in the prompt.

    Returns:
        The prompt, and the ids of `init` in it.

    Raises:
        RainError: a text is empty, nothing stands between question and answer, or the suffix has no tokens of its own.
    """
    for name, text in (("goal", goal), ("target", target), ("first suffix", init)):
        if not text.strip():
            raise RainError(f"the {name} is empty (goal {goal!r}, target {target!r})")
    if not prompter.after:
        raise RainError('the attack needs a prompt template with text after "{question}"')
    glue = "" if prompter.after[-1].isspace() else " "
    answer = prompter.codec.encode_after(prompter.after, glue + target.strip())
    whole, bare = prompter.encode(f"{goal} {init.strip()}"), prompter.encode(goal)
    start = len(common_start([whole, bare]))
    end = len(whole) - len(common_start([whole[::-1], bare[::-1]]))
    for i in range(start, 0, -1):  # the first try fits, unless the suffix begins or ends as the tail does
        for j in range(end, len(whole)):
            prompt = SuffixPrompt(prompter, goal, whole[:i], whole[j:], answer)
            if i < j and prompt.controls(whole[i:j]) == init.strip():
                return prompt, whole[i:j]
    raise RainError(f"the suffix {init!r} has no tokens of its own behind {goal!r}; choose another with --init")
