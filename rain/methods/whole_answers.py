"""What RAIN is compared with: methods that write whole answers, each with the same stop rules, limits and budget."""

from __future__ import annotations

from collections.abc import Sequence

from rain.core.config import Budget
from rain.core.errors import RainError
from rain.core.types import Tokens
from rain.generation import PreparedPrompt
from rain.methods.base import Generation, Parts
from rain.methods.drafting import Drafting, Method
from rain.methods.tree_search import TreeSearch
from rain.prompts import is_tokens
from rain.text import Message

REMINDER = ("Keep this in mind: your answer must be {aim}.\n\n", "\n\nRemember: your answer must be {aim}.")
"""Before and after the question; the idea is that of Self-Reminder (Xie et al., Nature Machine Intelligence 2023)."""

ASKED = "This question was asked, and answered as follows.\n\nQuestion: {question}\n\nAnswer: {answer}\n\n"
CRITIQUE = ASKED + "The answer should be {aim}. Say in three sentences at most what is wrong with it."
REWRITE = ASKED + (
    "A reader says about the answer: {critique}\n\n"
    "Now answer the question again, better. The answer must be {aim}. Write the answer and nothing else."
)
"""The idea of criticising and rewriting is that of Self-Refine (Madaan et al., arXiv 2303.17651)."""

LONGEST_CRITIQUE = 128
"""Tokens."""


async def best_of_n(drafting: Drafting) -> None:
    """Draw n answers, the greedy one among them."""
    while count := drafting.next_count():
        await drafting.draw(count)


async def rejection(drafting: Drafting) -> None:
    """Draw one answer after the other, the greedy one first, until a value is above Vt, as for a commit."""
    threshold = drafting.prompt.search.value_threshold
    while not any((draft.value or 0.0) > threshold for draft in drafting.drafts) and drafting.next_count():
        await drafting.draw(1)


async def refine(drafting: Drafting) -> None:
    """Answer greedily, then criticise and rewrite the answer, as long as there is room for all of it."""
    words(drafting)
    encode, text = drafting.parts.formatter.encode, drafting.policy.text
    await drafting.write_draft(drafting.prompt.tokens)
    for _ in range(drafting.parts.method.rounds):
        asked = {"question": drafting.prompt.question, "answer": drafting.drafts[-1].text, "aim": drafting.parts.aim}
        said = await drafting.write(encode(CRITIQUE.format(**asked)), longest=LONGEST_CRITIQUE)
        await drafting.write_draft(encode(REWRITE.format(**asked, critique=text(said.tokens).strip())))


def reminded(drafting: Drafting) -> str | Sequence[Message]:
    """Return the prompt with the reminder around the question: the last message of the user."""
    before, after = (part.format(aim=drafting.parts.aim) for part in REMINDER)
    prompt = words(drafting)
    if isinstance(prompt, str):
        return before + prompt + after
    last = max((i for i, message in enumerate(prompt) if message["role"] == "user"), default=len(prompt) - 1)
    changed = {**prompt[last], "content": before + prompt[last]["content"] + after}
    return [*prompt[:last], changed, *prompt[last + 1 :]]


def words(drafting: Drafting) -> str | Sequence[Message]:
    """Return the prompt as it was given.

    Raises:
        RainError: it was given as token ids.
    """
    prompt: str | Sequence[Message] | Tokens = drafting.prompt.source
    if is_tokens(prompt):
        raise RainError(f"--method {drafting.parts.method.method} needs a prompt in words, not token ids")
    return prompt


WHOLE_ANSWERS = {
    "best-of-n": Method(best_of_n, guided=True),
    "rejection": Method(rejection, guided=True),
    "greedy": Method(lambda drafting: drafting.write_draft(drafting.prompt.tokens)),
    "sample": Method(lambda drafting: drafting.write_draft(drafting.prompt.tokens, greedy=False)),
    "remind": Method(lambda drafting: drafting.write_draft(drafting.parts.formatter.encode(reminded(drafting)))),
    "refine": Method(refine),
}


def begin(parts: Parts, prompt: PreparedPrompt, budget: Budget) -> Generation:
    """Return an answer by the method of the settings that is about to begin."""
    if parts.method.method == "rain":
        return TreeSearch(parts, prompt, budget)
    return Drafting(parts, prompt, budget, WHOLE_ANSWERS[parts.method.method])
