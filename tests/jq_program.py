"""``jq -r PROGRAM`` for machines that have no jq: the same language, from the Python package of that name."""

from __future__ import annotations

import json
import sys

import jq

flags = [argument for argument in sys.argv[1:] if argument.startswith("-")]
(program,) = (argument for argument in sys.argv[1:] if not argument.startswith("-"))
text = sys.stdin.read()
slurp = any("s" in flag for flag in flags)
for result in jq.compile(program).input_text(text, slurp=slurp):
    print(result if isinstance(result, str) else json.dumps(result))
