"""What is classified: image geometry, class names and pixel statistics. Public knowledge, no image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dsv.errors import DsvError

MAX_CLASSES = 65_535
MAX_DEVIATION = 1_000_000
MAX_IMAGE_SIZE_PX = 4_096


@dataclass(frozen=True)
class Task:
    """One classification task, as server, clients and newcomers must agree on it.

    Args:
        channels: 1 (grey) or 3 (RGB).
        image_size_px: side of the square images, 1 to 4096.
        class_names: one printable name per class; the label of an image is an index into it.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1]; positive.
        mirror: whether a mirrored image still shows its class (digits do not).

    Raises:
        DsvError: a value is of another type or out of its range.
    """

    channels: int
    image_size_px: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirror: bool = True

    def __post_init__(self) -> None:
        self._check_types()
        if self.channels not in (1, 3):
            raise DsvError(f"a task has 1 (grey) or 3 (RGB) channels, not {self.channels}")
        if not 1 <= self.image_size_px <= MAX_IMAGE_SIZE_PX:
            raise DsvError(f"image size {self.image_size_px} is outside 1 to {MAX_IMAGE_SIZE_PX} pixels")
        if not 2 <= len(self.class_names) <= MAX_CLASSES:
            raise DsvError(f"a task needs 2 to {MAX_CLASSES} classes, got {len(self.class_names)}")
        if len(set(self.class_names)) != len(self.class_names):
            raise DsvError("class names repeat; give every class its own name")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise DsvError(f"mean and std need one value per channel ({self.channels})")
        if not all(math.isfinite(value) for value in self.mean + self.std) or min(self.std) <= 0:
            raise DsvError(f"mean must be finite and std positive and finite, got {self.mean} and {self.std}")

    def _check_types(self) -> None:
        """Tasks also come out of files that strangers wrote, so the annotations alone do not hold."""
        if type(self.channels) is not int or type(self.image_size_px) is not int or type(self.mirror) is not bool:
            raise DsvError("a task's channels and image size must be whole numbers, and mirror true or false")
        if not all(isinstance(value, tuple) for value in (self.class_names, self.mean, self.std)):
            raise DsvError("a task's class names, mean and std must be tuples")
        for name in self.class_names:
            if not isinstance(name, str) or not name or not name.isprintable():
                raise DsvError(f"class name {name!r} is not printable text; rename the class")
        numbers = (*self.mean, *self.std)
        # whole numbers of a file may be beyond any float
        if any(type(value) not in (int, float) or abs(value) > MAX_DEVIATION for value in numbers):
            raise DsvError(f"a task's mean and std must be numbers up to {MAX_DEVIATION}")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.channels, self.image_size_px, self.image_size_px)


_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = tuple(
    (
        "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly "
        "camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup "
        "dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower "
        "leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid "
        "otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray "
        "road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
        "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle "
        "wardrobe whale willow_tree wolf woman worm "
    ).split()
)
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

KNOWN_TASKS: dict[str, Task] = {
    "digits": Task(1, 8, _DIGITS, (0.305,), (0.376,), mirror=False),
    "mnist": Task(1, 28, _DIGITS, (0.1307,), (0.3081,), mirror=False),
    "fashionmnist": Task(1, 28, _FASHION, (0.2860,), (0.3530,)),
    "svhn": Task(3, 32, _DIGITS, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), mirror=False),
    "cifar10": Task(3, 32, _CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Task(3, 32, _CIFAR100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""Data sets whose task is public knowledge."""
