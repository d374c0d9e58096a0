"""Pictures of particles in the plane: discs, bonds and darts on a dark ground, smooth at the edges."""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

BACKGROUND = "#0d1220"
GRID = "#161d31"
TEXT = "#d5dcf0"
FONT = "DejaVu Sans"  # matplotlib brings it, so that plots can have it too
_OVERSAMPLING = 3
_SCALE = ((64, 92, 178), (46, 150, 186), (62, 190, 148), (168, 212, 90), (250, 214, 70))

Color = str | tuple[int, int, int]


class Canvas:
    """A square picture of a square piece of the plane, y upwards.

    Args:
        corner: lower left corner, `[2]`, unit length.
        side: side of the square, unit length.
        period: period along both axes, or one for each, unit length; what crosses an edge is drawn at the other one
            too.
        pixels: side of the picture.
        grid: spacing of lines at rest in the plane, unit length, so that they move when the piece does; None for
            eighths of the picture.
    """

    def __init__(
        self,
        corner: np.ndarray,
        side: float,
        *,
        period: float | np.ndarray | None = None,
        pixels: int = 640,
        grid: float | None = None,
    ):
        self.corner, self.side, self.period, self.pixels = np.asarray(corner, float), float(side), period, pixels
        self.scale = pixels * _OVERSAMPLING / self.side
        self.picture = Image.new("RGB", (pixels * _OVERSAMPLING, pixels * _OVERSAMPLING), BACKGROUND)
        self.draw = ImageDraw.Draw(self.picture)
        self.captions: list[str] = []
        self.labels: list[str] = []
        self._key: list[Image.Image | str] = []
        size = pixels * _OVERSAMPLING
        spacing = self.side / 8 if grid is None else float(grid)
        from_corner = np.full(2, spacing) if grid is None else -self.corner % spacing
        for at in np.arange(from_corner[0], self.side, spacing) * self.scale:
            self.draw.line([(at, 0), (at, size)], GRID, 2)
        for at in size - np.arange(from_corner[1], self.side, spacing) * self.scale:
            self.draw.line([(0, at), (size, at)], GRID, 2)

    def disc(
        self, center: np.ndarray, radius: float, color: Color, *, halo: float | None = None, opacity: float = 1.0
    ) -> None:
        """A filled disc at `center` `[2]`, with a ring of radius `halo` around it, blended with the ground."""
        color = blend(color, opacity)
        for image in self._images(np.asarray(center, float), max(radius, halo or 0.0)):
            x, y = self._pixel(image)
            if halo is not None:
                h = halo * self.scale
                self.draw.ellipse([x - h, y - h, x + h, y + h], outline=GRID, width=2 * _OVERSAMPLING)
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

    def glow(self, center: np.ndarray, radius: float, color: Color) -> None:
        """A ring that glows: bright on a circle around `center` `[2]`, fading to both sides, dimly lit inside."""
        x, y = self._pixel(np.asarray(center, float))
        r, layers = radius * self.scale, 12
        self.draw.ellipse([x - r, y - r, x + r, y + r], fill=blend(color, 0.05))
        for k in range(layers, -1, -1):
            half = 0.12 * r * k / layers + _OVERSAMPLING
            brightness = 0.05 + 0.75 * (1 - k / layers) ** 2.5
            outer = r + half
            self.draw.ellipse(
                [x - outer, y - outer, x + outer, y + outer], outline=blend(color, brightness), width=round(2 * half)
            )

    def cross(self, center: np.ndarray, size: float, color: Color, opacity: float = 1.0) -> None:
        """A mark like an x at `center` `[2]`, `size` across, blended with the ground."""
        arm = 0.5 * size * np.array([[1.0, 1.0], [1.0, -1.0]])
        for image in self._images(np.asarray(center, float), size):
            for a in arm:
                ends = [self._pixel(image - a), self._pixel(image + a)]
                self.draw.line(ends, blend(color, opacity), max(1, round(0.2 * size * self.scale)))

    def bond(self, start: np.ndarray, along: np.ndarray, color: Color, width: float) -> None:
        """A straight line from `start` `[2]` by the displacement `along` `[2]`, `width` wide, unit length."""
        middle = np.asarray(start, float) + 0.5 * np.asarray(along, float)
        for image in self._images(middle, 0.5 * float(np.linalg.norm(along)) + width):
            ends = [self._pixel(image - 0.5 * along), self._pixel(image + 0.5 * along)]
            self.draw.line(ends, color, max(1, round(width * self.scale)))

    def frame(self, corner: np.ndarray, side: float, color: Color = TEXT) -> None:
        """The outline of a square; what is outside of it fades into the ground."""
        (left, bottom), (right, top) = self._pixel(np.asarray(corner, float)), self._pixel(np.asarray(corner) + side)
        mask = Image.new("L", self.picture.size, 190)
        ImageDraw.Draw(mask).rectangle([left, top, right, bottom], fill=0)
        self.picture.paste(Image.new("RGB", self.picture.size, BACKGROUND), mask=mask)
        self.draw.rectangle([left, top, right, bottom], outline=color, width=2 * _OVERSAMPLING)

    def ring(self, center: np.ndarray, radius: float, color: Color, width: int = 2) -> None:
        """A circle around `center` `[2]`, its line `width` pixels wide."""
        for image in self._images(np.asarray(center, float), radius):
            x, y = self._pixel(image)
            r = radius * self.scale
            self.draw.ellipse([x - r, y - r, x + r, y + r], outline=color, width=width * _OVERSAMPLING)

    def trail(self, points: np.ndarray, color: Color, width: int = 3) -> None:
        """A line through points `[m, 2]`, `width` pixels wide, that fades towards the first of them."""
        points = np.asarray(points, float)
        for share, piece in zip(np.linspace(0.1, 0.7, len(points) - 1), itertools.pairwise(points), strict=True):
            self.line(np.stack(piece), blend(color, share), width)

    def caption(self, text: str) -> None:
        """A line of text at the top left."""
        self.captions.append(text)

    def key(self, label: str, *colors: Color) -> None:
        """Say at the bottom what a colour means, or, from left to right, several of them."""
        self._explain(label, _swatch(colors))

    def heading_key(self, label: str = "heading") -> None:
        """Say at the bottom what `heading_colors` mean: each is shown in its direction."""
        self._explain(label, _wheel())

    def _explain(self, label: str, swatch: Image.Image) -> None:
        self.labels.append(label)
        self._key += [swatch, label]

    def image(self) -> np.ndarray:
        """The picture, uint8 `[pixels, pixels, 3]`, with captions and the key to the colours on plates."""
        picture = self.picture.copy()
        margin, lines = 10 * _OVERSAMPLING, [[text] for text in self.captions]
        plates = [_plate(line, picture.width - 2 * margin) for line in lines]
        for row, plate in enumerate(plates):
            picture.paste(plate, (margin, margin + row * plates[0].height), plate)
        if self._key:
            plate = _plate(self._key, picture.width - 2 * margin)
            picture.paste(plate, (margin, picture.height - margin - plate.height), plate)
        return np.asarray(picture.resize((self.pixels, self.pixels), Image.Resampling.BOX))

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


def _plate(line: Sequence[Image.Image | str], most: int) -> Image.Image:
    """Swatches and texts side by side on a plate that lets a little through; shrunk where it is wider than `most`."""
    font, gap, height = _font(18 * _OVERSAMPLING), 8 * _OVERSAMPLING, 32 * _OVERSAMPLING
    widths = [round(font.getlength(piece)) if isinstance(piece, str) else piece.width for piece in line]
    gaps = [2 * gap if isinstance(piece, str) else gap for piece in line]
    plate = Image.new("RGBA", (sum(widths) + sum(gaps), height))
    draw = ImageDraw.Draw(plate)
    draw.rounded_rectangle([0, 0, plate.width - 1, height - 1], gap, fill=(*ImageColor.getrgb(BACKGROUND), 215))
    x = gap
    for piece, width, space in zip(line, widths, gaps, strict=True):
        if isinstance(piece, str):
            draw.text((x, height // 2), piece, TEXT, font, anchor="lm")
        else:
            plate.alpha_composite(piece, (x, (height - piece.height) // 2))
        x += width + space
    share = min(1.0, most / plate.width)
    return plate.resize((round(share * plate.width), round(share * height)), Image.Resampling.BOX)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{FONT.replace(' ', '')}.ttf", size)


@functools.cache
def _swatch(colors: tuple[Color, ...]) -> Image.Image:
    """A dot of one colour, or a strip of several."""
    first, *others = colors
    if others:
        strip = Image.new("RGBA", (len(colors), 1))
        for i, color in enumerate(colors):
            strip.putpixel((i, 0), (*blend(color, 1.0), 255))
        return strip.resize((72 * _OVERSAMPLING, 14 * _OVERSAMPLING), Image.Resampling.NEAREST)
    side = 14 * _OVERSAMPLING
    dot = Image.new("RGBA", (side, side))
    ImageDraw.Draw(dot).ellipse([0, 0, side - 1, side - 1], fill=first, outline=TEXT, width=_OVERSAMPLING)
    return dot


@functools.cache
def _wheel() -> Image.Image:
    """A ring whose colour in each direction is that of the heading."""
    side = 26 * _OVERSAMPLING
    y, x = np.mgrid[:side, :side] - 0.5 * (side - 1)
    colors = np.reshape(heading_colors(np.arctan2(-y, x).ravel()), (side, side, 3))
    ring = np.abs(np.hypot(x, y) / side - 0.35) < 0.15
    return Image.fromarray(np.concatenate([colors, 255 * ring[..., None]], axis=-1).astype(np.uint8))


def colors_between(
    count: int, first: tuple[int, int, int] = (92, 225, 230), last: tuple[int, int, int] = (255, 122, 198)
) -> list[tuple[int, int, int]]:
    """`count` colours from one to another one."""
    share = np.linspace(0.0, 1.0, count)[:, None]
    colors = (1 - share) * np.array(first) + share * np.array(last)
    return [(int(r), int(g), int(b)) for r, g, b in colors]


def heading_colors(headings: np.ndarray) -> list[tuple[int, int, int]]:
    """A colour for each heading `[n]` (radians) from a cyclic scale of even brightness, so that order shows as hue."""
    phases = np.asarray(headings, float)[:, None] + np.array([0.0, -2 * np.pi / 3, 2 * np.pi / 3])
    channels = 0.5 + 0.5 * np.cos(phases)
    channels = 0.25 + 0.75 * channels / np.linalg.norm(channels, axis=1, keepdims=True) * 1.1
    return [(int(r), int(g), int(b)) for r, g, b in np.clip(255 * channels, 0, 255)]


def scale_color(value: float) -> tuple[int, int, int]:
    """A colour for a number from 0 to 1, from blue over green to yellow; numbers beyond get the colours at the ends."""
    at = float(np.clip(value, 0.0, 1.0)) * (len(_SCALE) - 1)
    low = min(int(at), len(_SCALE) - 2)
    red, green, blue = (round(a + (at - low) * (b - a)) for a, b in zip(_SCALE[low], _SCALE[low + 1], strict=True))
    return red, green, blue


def blend(color: Color, opacity: float) -> tuple[int, int, int]:
    """The colour over the background."""
    front = ImageColor.getrgb(color) if isinstance(color, str) else color
    back = ImageColor.getrgb(BACKGROUND)
    r, g, b = (round(opacity * f + (1 - opacity) * k) for f, k in zip(front[:3], back[:3], strict=True))
    return r, g, b


def bars(values: np.ndarray, low: np.ndarray, high: np.ndarray, *, caption: str) -> np.ndarray:
    """A picture of numbers: a bar for each, upwards or downwards from the middle of its range; 640 x 640.

    Args:
        values: `[m]`, or `[rows, m]` with a colour per row; a red cross stands for NaN.
        low: least values, of the same shape; where they or the greatest are infinite, so is the range: x / (1 + |x|).
        high: greatest values.
        caption: a line of text.
    """
    values = np.asarray(values, float)
    bounded = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    with np.errstate(invalid="ignore"):  # an infinite value without a range has no bar, as NaN
        shares = np.where(bounded, 2 * (values - low) / (high - low) - 1, values / (1 + np.abs(values)))
    rows = np.clip(shares, -1.0, 1.0).reshape(values.shape[0] if values.ndim > 1 else 1, -1)
    canvas = Canvas(np.array([-0.05, -0.55]), 1.1)
    at = (np.arange(rows.size) + 0.5) / rows.size
    colors = [color for color in colors_between(len(rows)) for _ in range(rows.shape[1])]
    for x, share, color in zip(at, rows.ravel(), colors, strict=True):
        if np.isnan(share):
            canvas.cross(np.array([x, 0.0]), 0.7 / rows.size, "#ff4d5e")
        else:
            canvas.bond(np.array([x, 0.0]), np.array([0.0, 0.45 * share]), color, 0.7 / rows.size)
    canvas.line(np.array([[0.0, 0.0], [1.0, 0.0]]), TEXT, 1)
    canvas.caption(caption)
    if len(rows) > 1:
        canvas.key("first to last row", *colors_between(len(rows)))
    return canvas.image()
