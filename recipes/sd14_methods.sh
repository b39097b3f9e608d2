#!/usr/bin/env bash
# Methods on Stable Diffusion v1.4, judged by HPS v2.1 and others, on the prompts of the HPS v2 benchmark:
#
#     bash recipes/sd14_methods.sh [OUT] [PROMPTS-PER-STYLE]
#
# For a machine with a GPU and network: it fetches Stable Diffusion v1.4, HPS v2.1, PickScore and ImageReward, about 13 GB.
# Not run by the project itself, which has no figures of it. A prompt takes 35 images; stop it when you like, the same
# command goes on.
#
# To set beside the published rows of Stable Diffusion v1.4, in hundredths of a cosine (`humanpref benchmark table` shows
# them all): HPS v2.0 27.26 26.61 26.66 27.27, mean 26.95; HPS v2.1 26.03 24.87 24.80 25.70, mean 25.35 (anime, concept-art,
# paintings, photo). The gains below are in cosines: 0.01 is one point of that table.
set -euo pipefail

out=${1:-sd14-methods}
count=${2:-100}
backend=diffusers:CompVis/stable-diffusion-v1-4,steps=50,guidance=7.5

humanpref download hps-benchmark-prompts --out "$out/prompts"

for style in anime concept-art paintings photo; do
    python3 - "$out/prompts/$style.json" "$out/$style.json" "$count" <<'PYTHON'
import json, sys
texts = json.load(open(sys.argv[1], encoding="utf-8"))
json.dump(list(dict.fromkeys(texts))[: int(sys.argv[3])], open(sys.argv[2], "w", encoding="utf-8"))
PYTHON
    # Chosen by HPS v2.1, judged by it (which says nothing) and by two that had no say.
    humanpref improve compare "$out/$style.json" --backend "$backend" \
        --method best-of:2,model=hps-v2.1 --method best-of:8,model=hps-v2.1 --method best-of:8,model=pickscore \
        --model hps-v2.1 pickscore imagereward --out "$out/compare-$style"
    # What would more images be worth?
    humanpref improve best-of "$out/$style.json" --backend "$backend" --n 16 \
        --model hps-v2.1 --check-model pickscore --check-model imagereward --out "$out/curve-$style"
done
