"""Requests as clients send them: what is honoured, what must be neutral, what has no effect and is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rain.serve.budgets import BudgetFields
from rain.serve.errors import ApiError

MOST_CHOICES = 8
MOST_STOPS = 4
LONGEST_STOP = 256
"""Characters of a stop string at most: the end of each text is decoded that far, again and again."""
SHOWN_IGNORED = 16
"""Names of ignored fields in an answer, at most."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "audio": (),
    "suffix": ("",),
    "echo": (False,),
    "best_of": (1,),
}
"""Fields that ask for something which RAIN does not do; null and these values ask for nothing."""

INERT: Mapping[str, tuple[Any, ...]] = {
    "temperature": (1,),
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
}
"""Fields that have no effect, since the search draws its candidates by its own settings; these values need no word."""


class Wire(BaseModel):
    """Part of a request; unknown fields are kept apart."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)


class ChatMessage(Wire):
    """One turn; a content in parts is joined."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _join(cls, content: Any) -> Any:
        if content is None:
            raise ValueError("null is only for tool calls, which RAIN does not make; give a text")
        if not isinstance(content, list):
            return content
        for i, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text" or not isinstance(part.get("text"), str):
                shown = kind if isinstance(kind, str) and len(kind) < 32 else "something else"
                raise ValueError(f"part {i} is {shown!r}; RAIN reads text parts only")
        return "".join(part["text"] for part in content)

    @property
    def turn(self) -> dict[str, str]:
        """The turn as the library takes it."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class StreamOptions(Wire):
    """Whether the usage is sent: at the end of a stream, and so far with each chunk (vLLM's name)."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class RainFields(BaseModel):
    """RAIN's own fields."""

    model_config = ConfigDict(extra="forbid")

    budget: BudgetFields | None = None
    evaluator: str | None = None


class Request(Wire):
    """What both kinds of requests have in common."""

    model: str
    max_tokens: int | None = Field(None, ge=1, le=10**9)
    stop: list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]] | None = Field(None, max_length=MOST_STOPS)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    rain: RainFields | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, stop: Any) -> Any:
        if stop is not None and not isinstance(stop, (str, list)):
            raise ValueError("must be a string or a list of strings")
        return [stop] if isinstance(stop, str) else stop

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Request:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is only for stream: true")
        return self

    def ignored(self, strict: bool) -> list[str]:
        """Return the names of fields that have no effect.

        Raises:
            ApiError: a field asks for what RAIN does not do; or, if strict, has no effect.
        """
        found = []
        for name, value in (self.model_extra or {}).items():
            neutral = any(value == one and type(value) is type(one) for one in NEUTRAL.get(name, ()))  # 0 is not False
            if value is None or neutral or value in INERT.get(name, ()):
                continue
            if name in NEUTRAL or strict:
                raise ApiError(400, f"{name[:64]} is not supported; leave it out", "unsupported_value", name[:64])
            found.append(name[:64])
        return found[:SHOWN_IGNORED]


class ChatRequest(Request):
    """The body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=10**9)

    @field_validator("messages")
    @classmethod
    def _one_beginning(cls, messages: list[ChatMessage]) -> list[ChatMessage]:
        if [message.role for message in messages[-2:]] == ["assistant", "assistant"]:
            raise ValueError("the last two messages are the assistant's; only one can be continued")
        return messages

    @model_validator(mode="after")
    def _max_completion_tokens_count_first(self) -> ChatRequest:
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        return self


class CompletionRequest(Request):
    """The body of /v1/completions."""

    prompt: str = Field(min_length=1)

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt(cls, prompt: Any) -> Any:
        return prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt


RequestT = TypeVar("RequestT", bound=Request)


def parse(cls: type[RequestT], body: bytes) -> RequestT:
    """Read a request.

    Raises:
        ApiError: it is not JSON, or a field is wrong; the message names the field.
    """
    try:
        return cls.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = _field(first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise ApiError(400, f"{where}: {what}" if where else what, "invalid_value", where or None) from error


def _field(location: Sequence[str | int]) -> str:
    """Return a field's name such as messages[0].content."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")[:200]
