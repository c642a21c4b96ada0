"""LiteLLM against a running server: ``python with_litellm.py http://127.0.0.1:8000``."""

import sys

import httpx
import litellm

litellm.telemetry = False
options = {
    "model": "openai/rain/toy",
    "api_base": f"{sys.argv[1]}/v1",
    "api_key": "none",
    "messages": [{"role": "user", "content": "What now?"}],
}
whole = litellm.completion(**options, temperature=0.7)
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
for asked in ({}, {"stream_options": {"include_usage": True}}, {"n": 2}):
    texts = {0: "", 1: ""}
    for chunk in litellm.completion(**options, stream=True, **asked):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts[0] == whole.choices[0].message.content, (asked, texts)
slow = {**options, "messages": [{"role": "user", "content": "SLOW"}]}
pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**slow, stream=True)]
assert "".join(pieces) == litellm.completion(**slow).choices[0].message.content
body = {"model": "rain/toy", "messages": slow["messages"], "stream": True}
assert ": keep-alive\n" in httpx.post(f"{options['api_base']}/chat/completions", json=body, timeout=60).text
try:
    litellm.completion(**{**options, "messages": [{"role": "user", "content": "x" * 3000}]})
except litellm.ContextWindowExceededError:
    pass
else:
    raise AssertionError("a prompt that is too long was answered")
print("litellm: ok")
