#!/usr/bin/env bash
# Writes NAME.zip beside this script, with the camcli that is on the path: make.sh NAME. It is run once, by the version that NAME
# says; tests/test_old_folders.py lets every later version continue what is in it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
place=/tmp/camcli-old
rm -rf "$place" && mkdir -p "$place/imgs/red" "$place/imgs/blue" && cd "$place" && cp "$here/network.py" . && printf "%s\n" red blue green grey brown > labels.txt
python - <<'PY'
import os
from PIL import Image, ImageDraw
for folder, colour in (("red", (200, 40, 30)), ("blue", (30, 60, 190))):
    for number in range(3):
        picture = Image.new("RGB", (60, 40), (90, 110, 90))
        ImageDraw.Draw(picture).ellipse((5 + 12 * number, 8, 25 + 12 * number, 28), fill=colour)
        picture.save(f"imgs/{folder}/{number}.png")
open("imgs/red/broken.jpg", "wb").write(b"not a picture")
for folder, _, files in os.walk("imgs"):
    for name in files:
        os.utime(os.path.join(folder, name), ns=(1767225600 * 10**9,) * 2)
PY
of_model="--model network:colours --weights none --layer 4 --device cpu"
camcli run imgs -o run $of_model --method gradcam --method layercam --topk 2 --save-maps --masks --boxes all --boxes-json \
    --class-from folder --smooth 2 --legend --report --labels labels.txt || [ $? = 1 ]
for part in 0/2 1/2; do camcli run imgs -o parts $of_model --save-maps --shard $part || [ $? = 1 ]; done
camcli fit imgs -o model --backbone network:colours --weights none --layer 4 || [ $? = 1 ]
camcli sanity imgs/red/0.png imgs/blue/0.png -o sanity $of_model --method gradcam
camcli dream network:colours --weights none --class 1 --size 32 --steps 4 -o dreams
rm -rf __pycache__ && python -m zipfile -c "$here/$1.zip" ./*
