"""Pictures of particles in the plane: discs and darts on a dark ground, smooth at the edges."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

_BACKGROUND = "#0d1220"
_GRID = "#161d31"
_TEXT = "#aeb8d4"
_OVERSAMPLING = 3

Color = str | tuple[int, int, int]


class Canvas:
    """A square picture of a square piece of the plane, y upwards.

    Args:
        corner: lower left corner, `[2]`, unit length.
        side: side of the square, unit length.
        period: period along both axes, or one for each, unit length; what crosses an edge is drawn at the other one
            too.
        pixels: side of the picture.
    """

    def __init__(self, corner: np.ndarray, side: float, *, period: float | np.ndarray | None = None, pixels: int = 640):
        self.corner, self.side, self.period, self.pixels = np.asarray(corner, float), float(side), period, pixels
        self.scale = pixels * _OVERSAMPLING / self.side
        self.picture = Image.new("RGB", (pixels * _OVERSAMPLING, pixels * _OVERSAMPLING), _BACKGROUND)
        self.draw = ImageDraw.Draw(self.picture)
        self.captions: list[str] = []
        for k in range(1, 8):
            at = k / 8 * pixels * _OVERSAMPLING
            self.draw.line([(at, 0), (at, pixels * _OVERSAMPLING)], _GRID, 2)
            self.draw.line([(0, at), (pixels * _OVERSAMPLING, at)], _GRID, 2)

    def disc(self, center: np.ndarray, radius: float, color: Color, *, halo: float | None = None) -> None:
        """A filled disc at `center` `[2]`, with a ring of radius `halo` around it."""
        for image in self._images(np.asarray(center, float), max(radius, halo or 0.0)):
            x, y = self._pixel(image)
            if halo is not None:
                h = halo * self.scale
                self.draw.ellipse([x - h, y - h, x + h, y + h], outline=_GRID, width=2 * _OVERSAMPLING)
            r = radius * self.scale
            self.draw.ellipse([x - r, y - r, x + r, y + r], fill=color)

    def darts(self, positions: np.ndarray, headings: np.ndarray, length: float, colors: Sequence[Color]) -> None:
        """Darts at `positions` `[n, 2]` that point along `headings` `[n]` (radians), with a fading wake."""
        shape = length * np.array([[1.0, 0.0], [-0.8, 0.55], [-0.4, 0.0], [-0.8, -0.55]])
        for position, heading, color in zip(positions, headings, colors, strict=True):
            c, s = np.cos(heading), np.sin(heading)
            rotation = np.array([[c, s], [-s, c]])
            wake = np.array([[-0.5, 0.0], [-3.5, 0.0]]) * length
            for image in self._images(np.asarray(position, float), 3.5 * length):
                for fraction, opacity in ((1.0, 0.15), (0.66, 0.25), (0.33, 0.4)):
                    tail = image + wake * np.array([[1.0], [fraction]]) @ rotation
                    width = max(1, int(0.25 * length * self.scale))
                    self.draw.line([self._pixel(p) for p in tail], blend(color, opacity), width)
                self.draw.polygon([self._pixel(p) for p in image + shape @ rotation], fill=color)

    def line(self, points: np.ndarray, color: Color, width: int = 2) -> None:
        """A line through `points` `[m, 2]`, `width` pixels wide."""
        self.draw.line([self._pixel(np.asarray(p, float)) for p in points], color, width * _OVERSAMPLING)

    def ring(self, center: np.ndarray, radius: float, color: Color, width: int = 2) -> None:
        """A circle around `center` `[2]`, its line `width` pixels wide."""
        for image in self._images(np.asarray(center, float), radius):
            x, y = self._pixel(image)
            r = radius * self.scale
            self.draw.ellipse([x - r, y - r, x + r, y + r], outline=color, width=width * _OVERSAMPLING)

    def caption(self, text: str) -> None:
        """A line of text at the top left."""
        self.captions.append(text)

    def image(self) -> np.ndarray:
        """The picture, uint8 `[pixels, pixels, 3]`."""
        picture = self.picture.resize((self.pixels, self.pixels), Image.Resampling.BOX)
        draw = ImageDraw.Draw(picture)
        for line, text in enumerate(self.captions):
            draw.text(
                (14, 12 + 22 * line), text, _TEXT, ImageFont.load_default(16), stroke_width=3, stroke_fill=_BACKGROUND
            )
        return np.asarray(picture)

    def _pixel(self, point: np.ndarray) -> tuple[float, float]:
        x, y = (point - self.corner) * self.scale
        return float(x), float(self.pixels * _OVERSAMPLING - y)

    def _images(self, center: np.ndarray, reach: float) -> list[np.ndarray]:
        """The periodic images of something of this extent that show in the picture."""
        if self.period is None:
            return [center]
        base = self.corner + (center - self.corner) % self.period
        shifts = self.period * np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
        near = (base + shifts > self.corner - reach) & (base + shifts < self.corner + self.side + reach)
        return list((base + shifts)[near.all(axis=1)])


def heading_colors(headings: np.ndarray) -> list[tuple[int, int, int]]:
    """A colour for each heading `[n]` (radians) from a cyclic scale of even brightness, so that order shows as hue."""
    phases = np.asarray(headings, float)[:, None] + np.array([0.0, -2 * np.pi / 3, 2 * np.pi / 3])
    channels = 0.5 + 0.5 * np.cos(phases)
    channels = 0.25 + 0.75 * channels / np.linalg.norm(channels, axis=1, keepdims=True) * 1.1
    return [(int(r), int(g), int(b)) for r, g, b in np.clip(255 * channels, 0, 255)]


def blend(color: Color, opacity: float) -> tuple[int, int, int]:
    """The colour over the background."""
    front = ImageColor.getrgb(color) if isinstance(color, str) else color
    back = ImageColor.getrgb(_BACKGROUND)
    r, g, b = (round(opacity * f + (1 - opacity) * k) for f, k in zip(front[:3], back[:3], strict=True))
    return r, g, b
