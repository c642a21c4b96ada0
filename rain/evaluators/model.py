"""``model:NAME``: another model than the writer is asked about the writer's text, such as a guard model."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rain.core.digest import digest
from rain.core.engine import Engine
from rain.core.types import Tokens
from rain.evaluators.base import SearchContext, evidence
from rain.evaluators.labels import EvaluationConfig, LabelEvaluator, SelfEvalPrompt, SelfEvaluator, cut_after_full_stop
from rain.evaluators.templates import Template
from rain.keys import EVALUATOR_KEY
from rain.text import TokenizerAdapter


@dataclass(frozen=True)
class ModelSpec:
    """Which model is asked what.

    Attributes:
        name: of the model.
        template: what it is asked.
        base_url: of the server that runs it; empty: this process does.
    """

    name: str
    template: Template
    base_url: str = ""

    def __str__(self) -> str:
        return f"model:{self.name} {digest(asdict(self.template))}"


class ModelEvaluator(LabelEvaluator):
    """Scores texts by the labels of another model: 2 p - 1, with p the good label's share of the two.

    Args:
        engine: of that model; it is closed with the evaluator.
        prompt: what it is asked, in its own tokens.
        invert: steer to the other side.
        cut: see ``LabelEvaluator``.
    """

    def __init__(self, engine: Engine, prompt: SelfEvalPrompt, invert: bool = False, cut: bool = False) -> None:
        super().__init__(prompt, EvaluationConfig(votes="soft", scale=0.5, invert=invert), cut)
        self.engine = engine

    async def warm_up(self, engine: Engine) -> None:
        """Compute the few-shot examples, on the other model."""
        await super().warm_up(self.engine)

    def overhead(self, question: str) -> int:
        """Return 0: the writer's context is not used."""
        return 0

    def search(self, context: SearchContext) -> ModelScorer:
        """Return the scorer of one search."""
        return ModelScorer(self, self.engine.session(context.name), context)

    async def close(self) -> None:
        """Release the model."""
        await self.engine.close()


class ModelScorer(SelfEvaluator):
    """Scores the texts of one search, which are encoded again for the other model."""

    async def evidence(self, response: Tokens) -> float:
        """Return half the log-odds of the score."""
        return evidence(await self.score(response))

    def visible(self, response: Tokens) -> Tokens:
        """Return the text of a response in the other model's ids."""
        prompt = self.evaluator.prompt
        ids = prompt.encode_response(self.question, self.policy.text(response))
        return cut_after_full_stop(ids, prompt.adapter) if self.evaluator.cut else ids

    def commit(self, response: Tokens) -> None:
        """Do nothing: this model may tokenise the end of a text differently once it is continued."""


def open_model(spec: ModelSpec, invert: bool, cut: bool) -> ModelEvaluator:
    """Load the model, or connect to its server.

    Raises:
        RainError: it cannot be loaded, or does not fit the template.
    """
    from rain.engines.registry import ModelConfig, PlacementConfig, open_engine

    kind = "http" if spec.base_url else "hf"
    model, placement = ModelConfig(kind, spec.name), PlacementConfig(base_url=spec.base_url)
    engine, tokenizer = open_engine(model, placement, EVALUATOR_KEY)
    prompt = SelfEvalPrompt(spec.template, TokenizerAdapter(tokenizer, engine.eos))
    return ModelEvaluator(engine, prompt, invert, cut)
