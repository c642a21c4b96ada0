"""garak's report has an answer to every prompt that is not empty: ``python with_garak.py REPORT``."""

import json
import sys
from pathlib import Path

rows = map(json.loads, Path(sys.argv[1]).read_text().splitlines())
attempts = [row for row in rows if row["entry_type"] == "attempt" and row["prompt"]["turns"][-1]["content"]["text"]]
outputs = [output for attempt in attempts for output in attempt["outputs"]]
assert outputs and all(attempt["outputs"] for attempt in attempts)
assert all(output and output["text"].strip() for output in outputs), outputs
print(f"garak: {len(outputs)} answers")
