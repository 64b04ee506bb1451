"""Edits of prompts, reweighted words and heat maps: the figure of docs/how-to/edit-a-prompt.md.

python docs/examples/edits_sheet.py BUNDLE FILE.png

The bundle is the embedded model, exported with --attention-control.
"""

import sys

from sheet import write_rows

from diffoundry.runtime import load
from diffoundry.runtime.images.heat_map import draw_heat_map

APPLES = ["a red apple", "a green apple"]
STEPS = (0.2, 0.5, 1.0)
GLASSES = "a cat face with sunglasses"
FACTORS = (-6, -3, 1, 3, 6)
WORDS = ("cat", "face", "with", "sunglasses")
SETTINGS = {"num_inference_steps": 25, "guidance_scale": 5.0, "seed": 3}


def main(bundle: str, path: str) -> None:
    """Generate one row of edits, one of reweighted words, and one of heat maps."""
    pipe = load(bundle)
    images = [pipe(prompt, **SETTINGS).images[0] for prompt in APPLES]
    for steps in STEPS:
        edit = {"edit_type": "replace", "n_cross_replace": steps, "n_self_replace": steps}
        images.append(pipe(APPLES, cross_attention_kwargs=edit, **SETTINGS).images[1])
    weighted = []
    for factor in FACTORS:
        edit = {"edit_type": "reweight", "n_cross_replace": 1, "n_self_replace": 0}
        edit |= {"equalizer_words": ["sunglasses"], "equalizer_strengths": [factor]}
        weighted.append(pipe([GLASSES] * 2, cross_attention_kwargs=edit, **SETTINGS).images[1])
    result = pipe(GLASSES, heat_map_words=WORDS, **SETTINGS)
    maps = [draw_heat_map(result.heat_maps[word][0], result.images[0]) for word in WORDS]
    rows = {
        "a red apple; a green apple; the edit with 0.2, 0.5 and 1 of the steps replaced": images,
        f"{GLASSES}; 'sunglasses' times {', '.join(map(str, FACTORS))}": weighted,
        f"attention of {', '.join(WORDS)}": [result.images[0], *maps],
    }
    write_rows(rows, path, scale=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
