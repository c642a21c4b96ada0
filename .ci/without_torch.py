"""A pytest plugin for environments without PyTorch: a test or file that fails for want of it is skipped, no other."""

import re

import pytest

MISSING = re.compile(r"No module named '(torch|transformers|tokenizers|sklearn|datasets|gguf|safetensors|huggingface_hub)\b")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return skipped_without_torch((yield), collector.path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return skipped_without_torch((yield), item.path)


def skipped_without_torch(report, path):
    found = report.failed and MISSING.search(report.longreprtext)
    if found:
        report.outcome, report.longrepr = "skipped", (str(path), 0, f"Skipped: needs {found[1]}")
    return report
