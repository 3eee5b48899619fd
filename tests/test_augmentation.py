import torch
from torch.autograd import gradcheck

from dsv import Augmentation

NOTHING = Augmentation(translate=0, crop=0, mirror=0)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_nothing_asked_for_changes_nothing():
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(NOTHING(images, generator()), images, atol=1e-5, rtol=0)


def test_a_certain_mirror_flips_left_and_right():
    images = torch.randn(2, 1, 6, 6)
    flipped = Augmentation(translate=0, crop=0, mirror=1)(images, generator())
    torch.testing.assert_close(flipped, images.flip(3), atol=1e-5, rtol=0)


def test_cutout_blanks_one_square():
    cut = Augmentation(translate=0, crop=0, mirror=0, cutout=0.5)(torch.ones(16, 1, 8, 8), generator())
    blank = (cut == 0).flatten(1).sum(1)
    assert int(blank.max()) <= 16 and int(blank.min()) >= 1


def test_each_image_is_drawn_on_its_own_and_repeatably():
    images = torch.randn(1, 1, 8, 8).expand(4, -1, -1, -1)
    first, second = (Augmentation(noise=0.1)(images, generator()) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_gradients():
    images = torch.randn(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    augmentation = Augmentation(cutout=0.3, noise=0.1)
    assert gradcheck(lambda x: augmentation(x, generator()), (images,))
