"""Drawn scenes for trying a segmentor without any download: textured shapes before a horizon."""

import cv2
import numpy as np

CLASSES = ('sky', 'ground', 'wall', 'disc', 'triangle', 'stripes', 'checker')
PALETTE = (
    (135, 190, 235),
    (120, 100, 60),
    (180, 70, 50),
    (250, 200, 40),
    (60, 170, 90),
    (150, 80, 190),
    (40, 60, 130),
)


def draw_scene(rng, size):
    """Draw one scene. Colours are random: only texture and shape tell the classes apart.

    Args:
        rng (numpy.random.Generator): Source of every random choice.
        size (int): Height and width in pixels.

    Returns:
        tuple[ndarray, ndarray]: Image `[size, size, 3]` (BGR, uint8) and labels `[size, size]`
        (uint8): 0 = other, i + 1 = ``CLASSES[i]``.
    """
    scene = _Scene(rng, size)
    scene.draw_background()
    if rng.random() < 0.7:
        scene.draw_wall()
    shapes = [scene.draw_disc, scene.draw_triangle, scene.draw_stripes, scene.draw_checker]
    for index in rng.permutation(4)[: rng.integers(2, 5)]:
        shapes[index]()
    if rng.random() < 0.5:
        scene.draw_clutter()
    return scene.photograph(), scene.labels


class _Scene:
    """An image and its labels, painted from back to front."""

    def __init__(self, rng, size):
        self.rng = rng
        self.size = size
        self.image = np.zeros((size, size, 3), np.float32)
        self.labels = np.zeros((size, size), np.uint8)
        self.placed = []
        self.y, self.x = np.mgrid[:size, :size].astype(np.float32)

    def draw_background(self):
        horizon = self.size * self.rng.uniform(0.3, 0.65)
        slope = self.rng.uniform(-0.15, 0.15)
        below = self.y > horizon + slope * (self.x - self.size / 2)
        depth = (self.y / self.size)[..., None]
        sky = self._colour(120, 240) * (1 - depth) + self._colour(120, 240) * depth
        sky = sky + 22 * self._noise(self.size // 10)
        ground = self._colour(60, 190) + 38 * self._noise(self.size) + 12 * self._noise(8)
        self._paint(~below, sky, 'sky')
        self._paint(below, ground, 'ground')

    def draw_wall(self):
        """Bricks in staggered rows, standing on the ground."""
        width, height = self.size * self.rng.uniform((0.3, 0.3), (0.7, 0.55))
        left = self.rng.uniform(-0.2, 0.9) * self.size
        bottom = self.size * self.rng.uniform(0.6, 0.9)
        inside = (self.x >= left) & (self.x < left + width)
        inside &= (self.y >= bottom - height) & (self.y < bottom)
        brick_h = self.size * self.rng.uniform(0.055, 0.08)
        row = np.floor((self.y - bottom) / brick_h)
        along = (self.x - left) / (2 * brick_h) + 0.5 * (row % 2)
        joint = ((self.y - bottom) % brick_h < 1.5) | (along % 1 < 0.75 / brick_h)
        bricks = self._colour(70, 200) + 12 * self._noise(self.size // 3)
        self._paint(inside, np.where(joint[..., None], self._colour(170, 240), bricks), 'wall')

    def draw_disc(self):
        """A shaded ball."""
        cx, cy, radius = self._place(0.14, 0.22)
        distance = np.hypot(self.x - cx, self.y - cy) / radius
        light = np.hypot(self.x - cx + radius / 3, self.y - cy + radius / 3) / radius
        shade = (1.25 - 0.65 * light)[..., None]
        self._paint(distance < 1, self._colour(80, 220) * shade, 'disc')

    def draw_triangle(self):
        """A flat triangle with a dark rim."""
        cx, cy, radius = self._place(0.2, 0.29)
        angles = self.rng.uniform(0, 2 * np.pi) + np.array([0, 2.1, 4.2])
        corners = np.stack([cx + radius * np.cos(angles), cy + radius * np.sin(angles)], 1)
        inside = self._polygon(corners)
        core = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        colour = self._colour(80, 230)
        self._paint(inside, np.where(core[..., None], colour, 0.45 * colour), 'triangle')

    def draw_stripes(self):
        inside, u, _ = self._panel()
        period = self.size * self.rng.uniform(0.08, 0.11)
        self._paint(inside, self._two_tone((u / period) % 1 < 0.5), 'stripes')

    def draw_checker(self):
        inside, u, v = self._panel()
        cell = self.size * self.rng.uniform(0.05, 0.065)
        odd = (np.floor(u / cell) + np.floor(v / cell)) % 2 == 1
        self._paint(inside, self._two_tone(odd), 'checker')

    def draw_clutter(self):
        """Something that belongs to no class."""
        cx, cy, radius = self._place(0.05, 0.1)
        angles = np.sort(self.rng.uniform(0, 2 * np.pi, 7))
        reach = radius * self.rng.uniform(0.5, 1, 7)
        corners = np.stack([cx + reach * np.cos(angles), cy + reach * np.sin(angles)], 1)
        self._paint(self._polygon(corners), self._colour(0, 255) + 60 * self._noise(6), None)

    def photograph(self):
        """The image under uneven light, slightly blurred, with sensor noise; uint8."""
        angle = self.rng.uniform(0, 2 * np.pi)
        across = (self.x * np.cos(angle) + self.y * np.sin(angle)) / self.size
        light = self.rng.uniform(0.75, 1.15) + self.rng.uniform(0, 0.4) * (across - across.mean())
        image = cv2.GaussianBlur(self.image * light[..., None], (3, 3), 0.6)
        image += self.rng.normal(0, self.rng.uniform(2, 7), image.shape)
        return np.clip(image, 0, 255).astype(np.uint8)

    def _paint(self, inside, texture, name):
        self.image[inside] = np.broadcast_to(texture, self.image.shape)[inside]
        self.labels[inside] = 0 if name is None else CLASSES.index(name) + 1

    def _colour(self, low, high):
        return self.rng.uniform(low, high, 3).astype(np.float32)

    def _noise(self, cells):
        """Smooth grey noise of about unit deviation, `cells` bumps across the image."""
        grid = self.rng.normal(0, 1, (max(cells, 2), max(cells, 2))).astype(np.float32)
        return cv2.resize(grid, (self.size, self.size), interpolation=cv2.INTER_CUBIC)[..., None]

    def _two_tone(self, choice):
        """Two colours of clearly different brightness."""
        return np.where(choice[..., None], self._colour(150, 250), self._colour(10, 90))

    def _place(self, smallest, largest):
        """Centre x, centre y and radius in pixels, overlapping earlier shapes but little."""
        radius = self.rng.uniform(smallest, largest) * self.size
        spots = self.rng.uniform(0.12, 0.88, (20, 2)) * self.size
        clearance = [
            min((np.hypot(*(spot - centre)) - radius - r for centre, r in self.placed), default=0)
            for spot in spots
        ]
        spot = spots[int(np.argmax(np.minimum(clearance, 0)))]
        self.placed.append((spot, radius))
        return *spot, radius

    def _polygon(self, corners):
        mask = np.zeros((self.size, self.size), np.uint8)
        cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 1)
        return mask > 0

    def _panel(self):
        """A turned rectangle: its mask and its own coordinates u and v in pixels."""
        cx, cy, half = self._place(0.15, 0.22)
        angle = self.rng.uniform(0, np.pi)
        u = (self.x - cx) * np.cos(angle) + (self.y - cy) * np.sin(angle)
        v = (self.y - cy) * np.cos(angle) - (self.x - cx) * np.sin(angle)
        return (np.abs(u) < half) & (np.abs(v) < half * self.rng.uniform(0.7, 1)), u, v
