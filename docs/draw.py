"""Draw the figures of a page: run its examples, and save each figure that they name under docs/images.

python docs/draw.py docs/quench.md
"""

import pathlib
import re
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt


def draw(page: pathlib.Path) -> None:
    """Run the Python examples of a page; its figures are named by `num`, as in `plt.subplots(num="quench_film")`."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        exec(compile(block, str(page), "exec"), names)
    for label in plt.get_figlabels():
        path = page.parent / "images" / f"{label}.png"
        plt.figure(label).savefig(path, dpi=100, bbox_inches="tight")
        print(path)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        draw(pathlib.Path(argument))
