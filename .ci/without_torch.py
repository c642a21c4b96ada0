"""A pytest plugin for environments without PyTorch: a test or file that fails for want of it is skipped, no other."""

import re

import pytest

MISSING = re.compile(
    r"No module named '(torch|transformers|tokenizers|safetensors|huggingface_hub|datasets|gguf|sklearn)\b"
)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Skip a file that cannot be imported."""
    return _skipped_without_torch((yield), collector.path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Skip a test."""
    return _skipped_without_torch((yield), item.path)


def _skipped_without_torch(report, path):
    found = report.failed and MISSING.search(report.longreprtext)
    if found:
        report.outcome, report.longrepr = "skipped", (str(path), 0, f"Skipped: needs {found[1]}")
    return report
