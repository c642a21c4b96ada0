"""Which key goes to which server."""

import pytest

from rain.core.errors import RainError
from rain.keys import OPENAI, is_loopback, key_for

OWN = "RAIN_JUDGE_API_KEY"
POINTED = "https://gateway.example/v1"


@pytest.fixture(autouse=True)
def openais_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (OWN, "RAIN_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")


@pytest.mark.parametrize("url", ["", f"{OPENAI}/v1", "HTTPS://API.OPENAI.COM/v1/"])
def test_openais_key_goes_to_openai(url: str) -> None:
    assert key_for(url, OWN) == "sk-openai"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1",
        "https://vllm.example/v1",
        "https://api.openai.com.example/v1",
        "https://api.openai.com@evil.example/v1",
        "http://api.openai.com/v1",
    ],
)
def test_openais_key_goes_nowhere_else(url: str) -> None:
    assert key_for(url, OWN) is None


def test_openais_key_goes_where_the_user_pointed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", POINTED)
    assert key_for("", OWN) == key_for(POINTED, OWN) == "sk-openai"
    assert key_for("https://other.example/v1", OWN) is None


def test_a_server_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OWN, "own")
    assert key_for("https://vllm.example/v1", OWN) == key_for("", OWN) == "own"
    assert key_for("https://vllm.example/v1", "RAIN_API_KEY") is None


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://user:hunter2@gpu.example:8000/v1", True),
        ("http://gpu.example:8001/v1", True),
        ("https://gpu.example/v1", False),
        ("http://127.0.0.1:8000/v1", False),
    ],
)
def test_a_key_that_travels_unencrypted_is_announced_once_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, warned: bool
) -> None:
    monkeypatch.setenv(OWN, "secret")
    assert [key_for(url, OWN) for _ in range(2)] == ["secret"] * 2
    said = capsys.readouterr().err
    assert said.count("\n") == said.count(OWN) == int(warned)
    assert "secret" not in said and "hunter2" not in said


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "http://[::1]:8000/v1", "http://127.8.0.1/v1"])
def test_this_machine_is_recognised(url: str) -> None:
    assert is_loopback(url)


@pytest.mark.parametrize("url", ["", "http://127.0.0.1.example.org/v1", "http://10.0.0.1/v1"])
def test_other_machines_are_not_this_one(url: str) -> None:
    assert not is_loopback(url)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(RainError, match="not a URL"):
        key_for("http://[half", OWN)
