"""Ten samples of Inspect against a server; RAIN_BASE_URL and RAIN_API_KEY say where."""

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

samples = [Sample(input=f"Question {number}?", target="a") for number in range(10)]
task = Task(dataset=samples, solver=generate(), scorer=includes())
for model_args in ({}, {"stream": True}):
    [log] = eval(task, model="openai-api/rain/rain/toy", model_args=model_args, max_tokens=16, display="plain")
    assert log.status == "success", log.error
    assert len(log.samples) == 10 and all(sample.output.completion for sample in log.samples)
    assert log.stats.model_usage["openai-api/rain/rain/toy"].output_tokens > 0
print("inspect: ok")
