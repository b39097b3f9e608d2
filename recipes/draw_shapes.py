"""python recipes/draw_shapes.py docs/shapes.png

Draws one caption with every source of the shapes world.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from humanpref.shapes.quality import quality
from humanpref.shapes.sources import SOURCES, generate

CAPTION = "a shaded picture of two red circles left of a blue square on a grey background"
CELL, COLUMNS, GAP, FOOT = 160, 5, 10, 22


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--caption", default=CAPTION)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--leave-out", nargs="*", default=[])
    options = parser.parse_args()
    names = [name for name in SOURCES if name not in options.leave_out]
    rows = -(-len(names) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + GAP) + GAP, rows * (CELL + FOOT + GAP) + GAP + FOOT), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    pen.text((GAP, GAP), options.caption, fill="black", font=font)
    for place, name in enumerate(names):
        picture = generate(name, [options.caption], [options.seed], 64)[0]
        x = GAP + place % COLUMNS * (CELL + GAP)
        y = GAP + FOOT + place // COLUMNS * (CELL + FOOT + GAP)
        sheet.paste(picture.resize((CELL, CELL), Image.Resampling.NEAREST), (x, y))
        pen.text((x, y + CELL + 3), f"{name}  {quality(picture, options.caption).total:.2f}", fill="black", font=font)
    sheet.save(options.path, optimize=True)


if __name__ == "__main__":
    main()
