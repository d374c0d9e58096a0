"""Pictures: captions and the key to the colours are legible whatever is behind them, and none is cropped."""

import numpy as np
import pytest
from PIL import ImageColor

from dmdenv.envs.rendering import TEXT, Canvas, bars, heading_colors

INK = ImageColor.getrgb(TEXT)


def white(**options):
    """A picture that is covered by a white disc."""
    canvas = Canvas(np.zeros(2), 1.0, **options)
    canvas.disc(np.full(2, 0.5), 1.0, "#ffffff")
    return canvas


def close(picture, color, by=12):
    """Which pixels have a colour, `[H, W]`."""
    return np.all(np.abs(picture.astype(int) - color) <= by, axis=-1)


def test_captions_and_keys_are_on_plates():
    canvas = white()
    canvas.caption("order 0.42")
    canvas.key("predator", "#ff4d5e")
    canvas.heading_key()
    assert canvas.labels == ["predator", "heading"]
    picture = canvas.image()
    for band in (picture[10:42, 10:60], picture[-42:-10, 10:60]):
        plate = np.mean(band.reshape(-1, 3) @ [0.3, 0.6, 0.1] < 100)
        assert plate > 0.5
        assert close(band, INK).any()
    assert np.all(picture[60:-60] == 255)
    assert close(picture[-42:-10], ImageColor.getrgb("#ff4d5e")).sum() > 50
    np.testing.assert_array_equal(picture, canvas.image())


def test_a_strip_shows_its_colours_in_order():
    canvas = white()
    canvas.key("few to many", "#ff0000", "#00ff00", "#0000ff")
    columns = [np.flatnonzero(close(canvas.image(), color).any(axis=0)) for color in np.diag([255] * 3)]
    assert [column.max() - column.min() for column in columns] == pytest.approx([23] * 3, abs=2)
    assert columns[0].max() < columns[1].min() < columns[1].max() < columns[2].min()


def test_the_wheel_shows_each_colour_in_its_direction():
    canvas = Canvas(np.zeros(2), 1.0)
    canvas.heading_key()
    picture = canvas.image()
    for heading, color in zip((0, np.pi / 2, np.pi, -np.pi / 2), heading_colors(np.arange(4) * np.pi / 2), strict=True):
        y, x = (x.mean() for x in np.nonzero(close(picture, color, by=25)))
        cy, cx = 640 - 10 - 16, 10 + 8 + 13
        assert np.cos(np.arctan2(cy - y, x - cx) - heading) > 0.95


@pytest.mark.parametrize("pixels", [64, 640])
def test_what_is_too_long_is_set_smaller(pixels):
    canvas = white(pixels=pixels)
    canvas.caption("a caption that is longer than the picture is wide " * 3 + "|")
    for label in ("one thing", "another thing", "a third thing", "something else", "and more"):
        canvas.key(label, "#ff4d5e")
    picture = canvas.image()
    assert picture.shape == (pixels, pixels, 3)
    assert np.all(picture[:, -9:] == 255)
    assert (picture[:40, -30:] < 200).any()
    assert (picture[-40:, -30:] < 200).any()


def test_bars_name_the_colours_of_their_rows():
    one, two = (bars(np.zeros((rows, 2)), -np.ones((rows, 2)), np.ones((rows, 2)), caption="step 0") for rows in (1, 2))
    assert not close(one[-42:], (255, 122, 198)).any()
    assert close(two[-42:], (255, 122, 198)).any()
