"""Stands in for brew360 in the tests of releases: writes what each command would write, and records the call.

Environment: CALLS is a file that gets the name of each step; FAIL names a step that fails, HANG one that never ends.
"""

import json
import os
import sys
import time
from pathlib import Path

arguments = sys.argv[1:]


def option(name: str) -> Path:
    return Path(arguments[arguments.index(name) + 1])


def setting(name: str) -> str:
    return next(text.partition("=")[2] for text in reversed(arguments) if text.startswith(f"{name}="))


if arguments[0] == "train":
    output = Path(setting("run"))
    step = output.parent.name.rpartition("-")[0]
else:
    step = {"data": "data", "benchmark": "benchmark", "release": "canary"}.get(arguments[0]) or arguments[1]
with Path(os.environ["CALLS"]).open("a") as calls:
    calls.write(f"{step}\n")
print(f"{step} begins")
if os.environ.get("HANG") == step:
    time.sleep(600)
if os.environ.get("FAIL") == step:
    print("error: the disk is full. Free some space.")
    sys.exit(1)
if step == "data":
    option("--out").mkdir()  # as the command, it refuses a folder that exists
    (option("--out") / "dataset.json").write_text("{}")
elif arguments[0] == "train":
    (output / "export").mkdir(parents=True)
    (output / "checkpoint").write_text(str(time.time_ns()))
elif step == "benchmark":
    assert Path(arguments[2]).is_dir(), arguments
    option("--report").write_text(json.dumps({"tasks": {"job_apply": {"auc": 0.75, "logloss": 0.5, "gain": None}}}))
elif step == "publish":
    assert "gates:" in option("--recipe").read_text()
    assert len(str(option("--publication"))) == 32
    option("--out").write_text(json.dumps({"number": 7}))
elif step == "canary":
    option("--report").write_text(json.dumps({"state": "skipped", "reason": "no service runs."}))
else:
    assert arguments[2] == "7", arguments
