"""Started by test_train.py: command lines that end with a message, one after the other in one process.

python tests/workers/refusals.py LINES.json    [["train", ...], ...] -> [[exit code, standard error], ...]
"""

import contextlib
import io
import json
import sys
from pathlib import Path

from layoutner.cli import main

found = []
for arguments in json.loads(Path(sys.argv[1]).read_text()):
    said, code = io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(sys.stderr):
        try:
            main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
    found.append([code, said.getvalue()])
print(json.dumps(found))
