"""One attack from its first suffix to the records in the file, with a progress bar; resumes what a file has begun."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from rain.attacks.config import AttackConfig, GCGConfig, succeeds
from rain.attacks.gcg import Objective, State, allowed_tokens, mean_losses, step
from rain.attacks.prompt import build_prompt
from rain.attacks.store import Behaviour, Record, SuffixStore
from rain.core.errors import RainError
from rain.core.types import Tokens
from rain.prompts import PromptFormatter

SAVE_EVERY = 10  # a suffix that several behaviours share is saved after so many steps


@dataclass(frozen=True, eq=False)
class Victim:
    """A model under attack, with its prompts."""

    model: Any
    formatter: PromptFormatter


class Attack:
    """The search for one suffix, for one behaviour or several at once, on one model or several of one vocabulary.

    Args:
        behaviours: those that share the suffix; at least one.
        config, search: how it is made; the file must agree.
        store: the file that the records go to; steps that are in it are not done again.

    Raises:
        RainError: the file has suffixes that were made with other settings.
    """

    def __init__(
        self, behaviours: Sequence[Behaviour], config: AttackConfig, search: GCGConfig, store: SuffixStore
    ) -> None:
        self.behaviours, self.config, self.search, self.store = behaviours, config, search, store
        self.identity = config.identity(search, len(behaviours))
        self.found = store.find(behaviours, self.identity)
        self.objectives: list[list[Objective]] = []  # per behaviour, per model

    @property
    def finished(self) -> bool:
        """Whether the file has the suffix with all its steps, or with the success that ends it."""
        if not self.found:
            return False
        succeeded = self.config.stop_on_success and all(each["success"] for each in self.found)
        return succeeded or self.found[0]["steps"] >= self.search.steps

    def run(self, victims: Sequence[Victim], title: str) -> None:
        """Do the steps that are left on the models, in the order of their names, and write the records."""
        try:
            self.store.put(self._records(self._search(victims, title)))
        except torch.OutOfMemoryError as error:
            raise RainError("too little GPU memory for one candidate; use --dtype bfloat16 or more GPUs") from error
        finally:
            self.objectives.clear()  # and with them their caches

    def _search(self, victims: Sequence[Victim], title: str) -> State:
        state = self._start(victims)
        config, every = self.search, [each for row in self.objectives for each in row]
        width = min(each.model.get_input_embeddings().weight.shape[0] for each in victims)
        allowed = allowed_tokens(victims[0].formatter.adapter.tokenizer, width)
        pace = 0.1 if sys.stderr.isatty() else 60.0  # seconds: in a log file, a line now and then
        with tqdm(total=config.steps, initial=state.steps, desc=title, unit="step", mininterval=pace) as bar:
            over = self._ends(state)
            while state.steps < config.steps and not over:
                last, state = state, step(every, state, allowed, config)
                bar.set_postfix(loss=f"{state.loss:.4f}", tried=state.tried, refresh=False)
                bar.update()
                over = state.suffix != last.suffix and self._ends(state)
                if len(self.behaviours) > 1 and state.steps % SAVE_EVERY == 0:
                    self.store.put(self._records(state))
        return state

    def _start(self, victims: Sequence[Victim]) -> State:
        """Build the objectives; return the state before the first step, or the one that the file has."""
        init = self.found[0]["controls"] if self.found else self.config.first_suffix
        starts = set[Tokens]()
        for behaviour in self.behaviours:
            row = [(each.model, *build_prompt(each.formatter, *behaviour, init)) for each in victims]
            starts |= {suffix for *_, suffix in row}
            self.objectives.append([Objective(model, prompt) for model, prompt, _ in row])
        if len(starts) > 1:
            raise RainError(f"the suffix {init!r} has different tokens in other prompts; choose another with --init")
        suffix = starts.pop()
        loss = float(mean_losses([each for row in self.objectives for each in row], [suffix], 1))
        if not math.isfinite(loss):
            raise RainError(f"the loss of {self.behaviours[0].target!r} is not finite; try --dtype float32")
        state = State(suffix, loss, self.found[0]["steps"] if self.found else 0)
        self.found = self.found or self._records(state)
        return state

    def _answers(self, row: Sequence[Objective], state: State) -> dict[str, str]:
        answers = {}
        for name, each in zip(self.config.models, row, strict=True):
            length = max(self.config.answer_tokens, len(each.prompt.target) + 4)
            adapter = each.prompt.formatter.adapter
            answers[name] = adapter.decode(each.answer(state.suffix, length, adapter.eos)).strip()
        return answers

    def _ends(self, state: State) -> bool:
        return self.config.stop_on_success and all(record["success"] for record in self._records(state))

    def _records(self, state: State) -> list[Record]:
        """Make the record of each behaviour; `found` has its loss and answer before the first step."""
        records = []
        for i, (behaviour, row) in enumerate(zip(self.behaviours, self.objectives, strict=True)):
            loss, answers = float(mean_losses(row, [state.suffix], 1)), self._answers(row, state)
            first = self.found[i] if self.found else {"initial_loss": loss, "initial_answers": answers}
            record = {
                "goal": behaviour.goal,
                "controls": row[0].prompt.controls(state.suffix),
                "target": behaviour.target,
                "loss": loss,
                "initial_loss": first["initial_loss"],
                "success": all(succeeds(text, behaviour.target, self.config.criterion) for text in answers.values()),
                "steps": state.steps,
                "answers": answers,
                "initial_answers": first["initial_answers"],
            }
            records.append(record | self.identity)
        return records
