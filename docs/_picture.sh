#!/usr/bin/env bash
# Makes docs/_static/attention.png, the README's picture: run it in an empty folder, with the environment active.
#
# The model is the quickstart's student, and the clip the first held-out one of its class. 256 colours keep it small.
set -euo pipefail
static="$(cd "$(dirname "$0")" && pwd)/_static"
w3ray run quickstart
clip=$(find runs/data -path '*/test/moves-right/*.mp4' | sort | head -n 1)
w3ray explain runs/stages/student-*/model "$clip" --out explained --true moves-right
python - "$static/attention.png" explained/*.strip.png <<'END'
import sys

from PIL import Image

Image.open(sys.argv[2]).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(sys.argv[1], optimize=True)
END
