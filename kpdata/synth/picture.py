"""Pictures for `kpdata.synth`: colours, shading and backgrounds; antialiased by painting at twice the size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kpdata.synth.body import PARTS
from kpdata.synth.scene import OBJECTS, Block, horizon, paint

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]

_SKIN = ((255, 219, 184), (241, 194, 150), (224, 172, 125), (198, 134, 90), (150, 98, 62), (104, 66, 42))
_HAIR = ((35, 26, 22), (62, 40, 26), (106, 70, 38), (166, 118, 62), (214, 178, 106), (150, 62, 34), (156, 156, 160))
_CLOTH = (
    *((214, 69, 65), (38, 116, 178), (46, 148, 96), (240, 180, 40), (124, 84, 158), (236, 120, 60), (240, 240, 236)),
    *((40, 44, 56), (96, 170, 190), (226, 130, 160), (110, 124, 60), (130, 56, 62)),
)
_LEGS = ((44, 62, 100), (36, 38, 46), (120, 104, 82), (84, 98, 120), (150, 140, 120), (74, 60, 50), (60, 84, 74))
_THING = {
    "crate": ((176, 126, 74), *((140, 96, 54),) * 4),
    "ball": ((226, 92, 48), *((70, 40, 34),) * 3, (255, 176, 140)),
    "bush": ((66, 122, 56), (78, 134, 60), (92, 150, 68), (74, 130, 60), (102, 160, 76)),
}
_LEFT_SHOE, _RIGHT_SHOE = (250, 220, 60), (60, 70, 200)  # the same on everybody: a net can tell the sides


def picture(scene: Block, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of a block of one image; rng: for what the annotation does not depend on."""
    out = _background(scene, rng)
    colours, stripes = _colours(scene, rng)
    fine = paint(scene, 0, scale=2)  # (2W, 2H)
    quarters = [fine[i::2, j::2] for i in (0, 1) for j in (0, 1)]
    x, y = np.nonzero(quarters[0] | quarters[1] | quarters[2] | quarters[3])  # pixels with a part in any of their cells
    table = np.concatenate([np.zeros((1, 4)), np.insert(colours, 3, 1.0, axis=1)]).astype(np.float32)
    mixed = sum((table[quarter[x, y]] for quarter in quarters), np.zeros((len(x), 4), np.float32)) / 4
    light = _shading(scene, paint(scene, 0)[x, y], x, y, stripes, -0.5 if rng.random() < 0.5 else 0.5)
    out[y, x] = out[y, x] * (1 - mixed[:, 3:]) + mixed[:, :3] * light[:, None]
    out *= _vignette(out.shape[0], out.shape[1])[..., None]
    out += 2.4 * rng.standard_normal(out.shape, np.float32)
    return np.asarray(np.clip(out + 0.5, 0, 255), np.uint8)


# ------------------------------------------------------------------------------------------------------ people


def _colours(scene: Block, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(T, 3) RGB 0..255 of each part, and (T,) stripes across it (0: plain)."""
    n = len(scene.image)
    worn = _wardrobe(n, rng)
    kinds, person = scene.part_kind, scene.part_person
    out = np.zeros((len(kinds), 3))
    whose = person >= 0
    out[whose] = worn[person[whose], kinds[whose]]
    out[kinds == PARTS.index("seat")] = (122, 92, 66)
    for k, name in enumerate(OBJECTS):
        rows = np.flatnonzero(kinds == len(PARTS) + k)
        out[rows] = np.array(_THING[name])[np.arange(len(rows)) % 5]
    striped = (rng.random(n) < 0.3) * rng.integers(4, 9, n)
    stripes = np.zeros(len(kinds))
    chest = whose & (kinds == PARTS.index("chest"))
    stripes[chest] = striped[person[chest]]
    return out, stripes


def _wardrobe(n: int, rng: np.random.Generator) -> Floats:
    """(N, len(PARTS), 3) colour of each part of each person. Left clothes are lighter than right ones."""

    def pick(choices: tuple[tuple[int, int, int], ...]) -> Floats:
        return np.array(choices, float)[rng.integers(0, len(choices), n)] + rng.normal(0, 6, (n, 1))

    skin, hair, shirt, legs = pick(_SKIN), pick(_HAIR), pick(_CLOTH), pick(_LEGS)
    long_sleeves, shorts = rng.random((n, 1)) < 0.45, rng.random((n, 1)) < 0.35
    part = dict.fromkeys(PARTS, skin)
    part |= {"chest": shirt, "pelvis": legs, "hair": hair, "fringe": hair, "long_hair": hair * 0.88}
    part |= {"nose": skin * 0.86, "mouth": np.full((n, 3), (178, 62, 66.0)), "neck": skin * 0.9}
    for side, tint, shoe in (("left", 1.18, _LEFT_SHOE), ("right", 0.78, _RIGHT_SHOE)):
        part[f"{side}_thigh"] = legs * tint
        part[f"{side}_shin"] = np.where(shorts, skin, legs * tint)
        part[f"{side}_upper_arm"] = shirt * tint
        part[f"{side}_forearm"] = np.where(long_sleeves, shirt * tint, skin)
        part[f"{side}_foot"] = np.tile(shoe, (n, 1)) * 0.9
        part[f"{side}_ear"] = skin * 0.92
        part[f"{side}_eye"] = np.full((n, 3), 250.0)
        part[f"{side}_pupil"] = np.full((n, 3), (34, 26, 30.0))
    return np.clip(np.stack([part[name] for name in PARTS], axis=1), 8, 255)


def _shading(
    scene: Block, label: NDArray[np.int32], x: NDArray[np.int64], y: NDArray[np.int64], stripes: Floats, sun: float
) -> Pixels:
    """(M,) factor at pixels x, y with these labels: parts are lit as round bodies, from above and the sun's side."""
    inner = np.flatnonzero(label)
    part, out = label[inner] - 1, np.ones(len(label), np.float32)
    first, second, r_first, r_second = _axes(scene.circles)
    along = second - first
    length = np.maximum(np.square(along).sum(1), 1e-9)
    offset = np.stack([x[inner], y[inner]], axis=1) - first[part]
    t = np.clip((offset * along[part]).sum(1) / length[part], 0, 1)
    radius = np.maximum(r_first[part] + t * (r_second - r_first)[part], 0.5)
    normal = (offset - t[:, None] * along[part]) / radius[:, None]
    rim = np.minimum(np.square(normal).sum(1), 1.0)
    light = 1.06 - 0.3 * rim + 0.16 * (normal @ np.array([sun, -0.7]))
    band = (stripes[part] > 0) & (np.floor(t * stripes[part]) % 2 > 0)
    out[inner] = np.where(band, light * 0.72, light)
    return out


def _axes(circles: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Middle line of each part: its ends (T, 2) and the half widths there (T,), from its first and last two circles."""
    a, b = circles[:, :2], circles[:, 2:]
    ends = [c[..., :2].mean(1) for c in (a, b)]
    widths = [c[..., 2].mean(1) + np.hypot(*(c[:, 1, :2] - c[:, 0, :2]).T) / 2 for c in (a, b)]
    return ends[0], ends[1], widths[0], widths[1]


def _vignette(height: int, width: int) -> Pixels:
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    return np.asarray(1 - 0.08 * np.square(x * x + y * y), np.float32)


# -------------------------------------------------------------------------------------------------- background


def _background(scene: Block, rng: np.random.Generator) -> Pixels:
    """(H, W, 3) float32 0..255: one of four places, with texture and the shadows of people and things."""
    from PIL import Image, ImageDraw

    width, height = scene.options.size
    line = float(horizon(scene.scene, height)[0])
    place = (_meadow, _street, _beach, _room)[rng.integers(0, 4)]
    canvas = Image.new("RGB", (2 * width, 2 * height))
    place(canvas, ImageDraw.Draw(canvas, "RGBA"), 2 * line, rng)
    base = np.asarray(canvas.resize((width, height), Image.Resampling.BOX), np.float32)
    coarse, fine = _noise(width, height, 24, rng), _noise(width, height, 4, rng)
    ground = np.clip((np.arange(height) - line) / max(height - line, 1), 0, 1)[:, None]
    texture = 1 + (0.012 + 0.04 * ground) * coarse + (0.01 + 0.05 * ground) * fine
    shade = 1 - 0.42 * _shadows(scene, width, height)
    return np.asarray(base * (texture * shade)[..., None], np.float32)


def _noise(width: int, height: int, cell: int, rng: np.random.Generator) -> Pixels:
    """(H, W) smooth noise of about unit size with features of `cell` px."""
    from PIL import Image

    small = rng.normal(0, 1, (height // cell + 2, width // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _shadows(scene: Block, width: int, height: int) -> Pixels:
    """(H, W) 0..1: soft dark patches on the ground under everybody."""
    from PIL import Image, ImageDraw, ImageFilter

    mask = Image.new("L", (width // 2 + 1, height // 2 + 1))
    draw = ImageDraw.Draw(mask)
    for (x, y, size), box in zip(scene.place / 2, scene.extent / 2, strict=True):
        wide = max(0.16 * size, 0.42 * box[2])
        middle = (x + box[0] + box[2] / 2) / 2
        draw.ellipse((middle - wide, y - 0.035 * size, middle + wide, y + 0.035 * size), fill=255)
    soft = mask.filter(ImageFilter.GaussianBlur(max(1.0, height / 160)))
    return np.asarray(soft.resize((width, height)), np.float32) / np.float32(255)


def _gradient(canvas: Image.Image, top: float, bottom: float, colours: list[tuple[float, float, float]]) -> None:
    """Fill rows top..bottom with a vertical run through the colours."""
    from PIL import Image

    rows = np.arange(int(top), int(bottom) + 1)
    if not len(rows):
        return
    at = np.linspace(0, 1, len(colours))
    t = (rows - rows[0]) / max(len(rows) - 1, 1)
    strip = np.stack([np.interp(t, at, [c[i] for c in colours]) for i in range(3)], axis=-1)
    column = Image.fromarray(np.clip(strip, 0, 255).astype(np.uint8)[:, None])
    canvas.paste(column.resize((canvas.width, len(rows)), Image.Resampling.NEAREST), (0, int(top)))


_SKIES: tuple[list[tuple[float, float, float]], ...] = (
    [(84, 154, 226), (170, 210, 240), (226, 238, 244)],
    [(60, 80, 140), (206, 130, 130), (252, 204, 140)],
    [(150, 164, 180), (196, 206, 214), (224, 228, 230)],
    [(104, 180, 222), (200, 228, 236), (250, 240, 214)],
)


def _sky(canvas: Image.Image, draw: ImageDraw.ImageDraw, line: float, rng: np.random.Generator) -> None:
    width = canvas.width
    _gradient(canvas, 0, line, _SKIES[rng.integers(0, len(_SKIES))])
    if rng.random() < 0.5:
        x, y, r = rng.uniform(0.1, 0.9) * width, rng.uniform(0.15, 0.7) * line, 0.035 * width
        for k in (2.4, 1.7, 1.25):
            draw.ellipse((x - k * r, y - k * r, x + k * r, y + k * r), fill=(255, 246, 210, 40))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 248, 222, 255))
    for _ in range(rng.integers(1, 5)):
        x, y, size = rng.uniform(0, width), rng.uniform(0.1, 0.7) * line, rng.uniform(0.03, 0.07) * width
        for _ in range(6):
            dx, dy, r = rng.normal(0, size), rng.normal(0, 0.16 * size), size * rng.uniform(0.3, 0.6)
            draw.ellipse(
                (x + dx - 1.5 * r, y + dy - 0.6 * r, x + dx + 1.5 * r, y + dy + 0.6 * r), fill=(255, 255, 255, 90)
            )


def _meadow(canvas: Image.Image, draw: ImageDraw.ImageDraw, line: float, rng: np.random.Generator) -> None:
    width, height = canvas.size
    _sky(canvas, draw, line, rng)
    x = np.arange(0, width + 9, 8)
    for k, colour in enumerate(((134, 164, 176), (104, 146, 116))):
        f, size, phase = np.array([[5], [11], [23]]), rng.uniform(0.01, 0.035, (3, 1)), rng.uniform(0, 6.3, (3, 1))
        y = line - (0.09 - 0.05 * k + (size * np.sin(x / width * f + phase)).sum(0)) * height
        draw.polygon([(0, line + 2), *zip(x.tolist(), y.tolist(), strict=True), (width, line + 2)], fill=colour)
    _gradient(canvas, line, height, [(132, 178, 92), (96, 150, 66), (70, 122, 52)])
    for _ in range(rng.integers(2, 7)):
        _tree(draw, rng.uniform(0, width), line + 0.03 * height * rng.random(), rng.uniform(0.12, 0.3) * height, rng)
    for _ in range(90):
        y = line + (height - line) * rng.random() ** 0.7
        x0, r = rng.uniform(0, width), 1 + 4 * (y - line) / height
        draw.ellipse(
            (x0 - r, y - r, x0 + r, y + r), fill=((250, 240, 180), (255, 255, 255), (238, 160, 180))[rng.integers(0, 3)]
        )


def _tree(draw: ImageDraw.ImageDraw, x: float, y: float, size: float, rng: np.random.Generator) -> None:
    draw.rectangle((x - 0.05 * size, y - 0.5 * size, x + 0.05 * size, y), fill=(98, 74, 56))
    green = np.array((70, 124, 66)) + rng.integers(-18, 18, 3)
    for k in range(7):
        dx, dy, r = (
            rng.normal(0, 0.14 * size),
            -0.68 * size + rng.normal(0, 0.12 * size),
            size * rng.uniform(0.16, 0.26),
        )
        shade = tuple(int(v) for v in green + 5 * k)
        draw.ellipse((x + dx - r, y + dy - r, x + dx + r, y + dy + r), fill=shade)


def _street(canvas: Image.Image, draw: ImageDraw.ImageDraw, line: float, rng: np.random.Generator) -> None:
    width, height = canvas.size
    _sky(canvas, draw, line, rng)
    x = -0.03 * width
    while x < width:
        wide, tall = rng.uniform(0.1, 0.22) * width, rng.uniform(0.45, 0.98) * line
        wall = tuple(
            int(v)
            for v in np.array(((196, 158, 132), (170, 174, 184), (204, 190, 160), (158, 116, 104))[rng.integers(0, 4)])
        )
        draw.rectangle((x, line - tall, x + wide, line + 2), fill=wall)
        pane = 0.028 * width
        for wx in np.arange(x + pane * 0.7, x + wide - pane, 1.7 * pane):
            for wy in np.arange(line - tall + pane, line - 1.4 * pane, 2.1 * pane):
                lit = rng.random() < 0.25
                draw.rectangle((wx, wy, wx + pane, wy + 1.3 * pane), fill=(250, 224, 150) if lit else (92, 112, 132))
        x += wide + rng.uniform(0, 0.02) * width
    _gradient(canvas, line, height, [(150, 150, 152), (128, 128, 132), (108, 108, 114)])
    _floor_lines(draw, width, height, line, (90, 90, 96, 110), rng.uniform(0.3, 0.7) * width)


def _floor_lines(
    draw: ImageDraw.ImageDraw, width: int, height: int, line: float, colour: tuple[int, int, int, int], vanish: float
) -> None:
    """Tiles or planks in perspective: lines towards the vanishing point, and across, closer with distance."""
    for k in range(-14, 15):
        draw.line((vanish, line, vanish + k * 0.22 * width * 2, height * 1.1), fill=colour, width=2)
    for k in range(1, 14):
        y = line + (height - line) / (0.35 * k + 0.65)
        draw.line((0, y, width, y), fill=colour, width=2)


def _beach(canvas: Image.Image, draw: ImageDraw.ImageDraw, line: float, rng: np.random.Generator) -> None:
    width, height = canvas.size
    _sky(canvas, draw, line, rng)
    shore = line + 0.14 * height
    _gradient(canvas, line, shore, [(44, 120, 160), (72, 164, 186), (142, 206, 206)])
    for _ in range(40):
        x, y, size = rng.uniform(0, width), rng.uniform(line, shore), rng.uniform(0.01, 0.05) * width
        draw.line((x, y, x + size, y), fill=(230, 246, 250, 90), width=2)
    _gradient(canvas, shore, height, [(206, 184, 140), (226, 204, 160), (216, 190, 142)])
    along = np.arange(0, width + 9, 8)
    for k in range(2):
        foam = shore + (0.008 + 0.012 * k) * height * np.sin(along / width * (9 + 5 * k) + rng.uniform(0, 6.3))
        draw.line(
            list(zip(along.tolist(), foam.tolist(), strict=True)), fill=(250, 252, 250, 190 - 70 * k), width=7 - 2 * k
        )
    for _ in range(rng.integers(0, 3)):
        _parasol(draw, rng.uniform(0, width), shore + 0.05 * height, 0.22 * height, rng)


def _parasol(draw: ImageDraw.ImageDraw, x: float, y: float, size: float, rng: np.random.Generator) -> None:
    draw.line((x, y, x, y - size), fill=(236, 230, 220), width=6)
    colours = (_CLOTH[rng.integers(0, len(_CLOTH))], (246, 244, 238))
    for k in range(6):
        draw.pieslice(
            (x - 0.7 * size, y - 1.25 * size, x + 0.7 * size, y - 0.35 * size),
            180 + 30 * k,
            210 + 30 * k,
            fill=colours[k % 2],
        )


def _room(canvas: Image.Image, draw: ImageDraw.ImageDraw, line: float, rng: np.random.Generator) -> None:
    width, height = canvas.size
    floor = line + 0.16 * height
    wall = np.array(((222, 212, 196), (186, 204, 206), (206, 190, 204), (206, 214, 186))[rng.integers(0, 4)], float)
    _gradient(canvas, 0, floor, [tuple(wall * 1.04), tuple(wall * 0.9)])
    for slot in rng.permutation(4)[: rng.integers(1, 4)]:
        x, y = (slot + rng.uniform(0.05, 0.2)) * width / 4, rng.uniform(0.08, 0.35) * floor
        w, h = rng.uniform(0.1, 0.17) * width, rng.uniform(0.25, 0.42) * floor
        draw.rectangle((x - 8, y - 8, x + w + 8, y + h + 8), fill=(250, 248, 244))
        if rng.random() < 0.5:
            draw.rectangle((x, y, x + w, y + h), fill=(164, 208, 236))
            draw.line((x + w / 2, y, x + w / 2, y + h), fill=(250, 248, 244), width=8)
            draw.line((x, y + h / 2, x + w, y + h / 2), fill=(250, 248, 244), width=8)
        else:
            draw.rectangle((x, y, x + w, y + h), fill=_CLOTH[rng.integers(0, len(_CLOTH))])
            draw.ellipse(
                (x + 0.2 * w, y + 0.2 * h, x + 0.8 * w, y + 0.8 * h), fill=_CLOTH[rng.integers(0, len(_CLOTH))]
            )
    draw.rectangle((0, floor - 0.02 * height, width, floor), fill=(244, 240, 232))
    _gradient(canvas, floor, height, [(176, 132, 92), (160, 114, 76), (142, 98, 62)])
    _floor_lines(draw, width, height, floor, (110, 74, 46, 120), rng.uniform(0.3, 0.7) * width)
