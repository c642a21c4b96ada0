"""What one answer may cost: what is asked for, what is the default, and what the server allows."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rain.core.config import Budget
from rain.core.errors import RainError
from rain.serve.errors import ApiError


class BudgetFields(BaseModel):
    """A budget as it is asked for; what is left out is the server's default."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    simulations: int | None = Field(None, ge=0, le=10**12)
    tokens: int | None = Field(None, ge=0, le=10**12)
    seconds: float | None = Field(None, ge=0, le=10**12)


def parse_budget(text: str) -> BudgetFields:
    """Read ``simulations=500,seconds=60``.

    Raises:
        ValueError: it is something else.
    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    if len(fields) < len(pairs):
        raise ValueError("a name occurs twice")
    try:
        return BudgetFields.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


@dataclass(frozen=True)
class BudgetRules:
    """Default and maximum of a server; 0 means none.

    Attributes:
        default: of answers that ask for nothing; the maximum where that is smaller.
        maximum: what may be asked for.
    """

    default: Budget
    maximum: Budget

    @classmethod
    def from_texts(cls, default: str, maximum: str) -> BudgetRules:
        """Read the flags.

        Raises:
            RainError: one is not a budget, or the default is beyond the maximum.
        """
        rules = cls(Budget.parse(default), Budget.parse(maximum, "--max-budget"))
        for name, most in asdict(rules.maximum).items():
            if most and getattr(rules.default, name) > most:
                raise RainError(f"--budget has more {name} than --max-budget, which allows {most:g}")
        return rules

    def choose(self, header: str | None, body: BudgetFields | None) -> Budget:
        """Return the budget of an answer: what the header says, else the body, else the default.

        Raises:
            ApiError: it is no budget, or beyond the maximum.
        """
        asked = body.model_dump(exclude_none=True) if body else {}
        try:
            asked |= parse_budget(header or "").model_dump(exclude_none=True)
        except ValueError as error:
            raise _invalid(f"X-Rain-Budget is not a budget such as simulations=500,seconds=60: {error}") from error
        for name, most in asdict(self.maximum).items():
            if name not in asked:
                asked[name] = getattr(self.default, name) or most
            elif most and not 0 < asked[name] <= most:
                raise _invalid(f"the budget of {asked[name]:g} {name} (0: no limit) is beyond the server's {most:g}")
        return Budget(**asked)


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, "invalid_budget", "rain.budget")
