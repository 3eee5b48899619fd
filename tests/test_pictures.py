"""Picture files as cameras and tools write them: what training sees is what the picture shows."""

import warnings

import numpy
import pytest
import torch
from encoded import needed
from PIL import Image

from dsv import DsvError, Task, read_picture

GREY, COLOUR = (Task(channels, 4, ("a", "b"), (0.5,) * channels, (0.5,) * channels) for channels in (1, 3))


def test_sixteen_bits_become_eight_without_being_cut_off(tmp_path):
    ramp = numpy.linspace(0, 65535, 16).astype(numpy.uint16).reshape(4, 4)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    seen = read_picture(tmp_path / "ramp.png", GREY)
    assert seen.flatten().tolist() == numpy.round(ramp / 257).flatten().tolist()
    assert torch.equal(read_picture(tmp_path / "ramp.png", COLOUR), seen.expand(3, 4, 4))


@pytest.mark.parametrize("top", [1000, 65535])
def test_a_greymap_of_sixteen_bits(tmp_path, top):
    ramp = numpy.linspace(0, top, 16).astype(numpy.uint16).reshape(4, 4)
    (tmp_path / "ramp.pgm").write_bytes(f"P5\n4 4\n{top}\n".encode() + ramp.astype(">u2").tobytes())
    seen = read_picture(tmp_path / "ramp.pgm", GREY).flatten()
    assert numpy.abs(seen.numpy() - ramp.flatten() * (255 / top)).max() <= 0.6


@pytest.mark.parametrize("values", [numpy.int32, numpy.float32])
def test_values_whose_range_nobody_tells_are_refused(tmp_path, values):
    Image.fromarray(numpy.ones((4, 4), values)).save(tmp_path / "deep.tif")
    with pytest.raises(DsvError, match=r"deep.tif has grey values of 32 bits; store it with 8 or 16"):
        read_picture(tmp_path / "deep.tif", GREY)


def test_a_camera_that_was_held_upright(tmp_path):
    pixels = numpy.zeros((4, 4, 3), numpy.uint8)
    pixels[0] = 255
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown a quarter turn to the right
    Image.fromarray(pixels).save(tmp_path / "phone.png", exif=turned)
    assert read_picture(tmp_path / "phone.png", COLOUR)[0, :, -1].tolist() == [255] * 4


def test_a_damaged_exif_costs_no_picture(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "odd.png", exif=b"Exif\0\0MM\0*\0\0\xff\xff\x01")
    assert read_picture(tmp_path / "odd.png", COLOUR)[:, 0, 0].tolist() == [255, 0, 0]


def test_a_palette_with_transparency_says_nothing(tmp_path):
    picture = Image.new("P", (4, 4))
    picture.putpalette([255, 0, 0] * 256)
    picture.save(tmp_path / "palette.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(tmp_path / "palette.png", COLOUR)[:, 0, 0].tolist() == [255, 0, 0]


def test_a_damaged_avif_is_named_whatever_its_name_says(tmp_path):
    needed("avif")
    noise = numpy.random.default_rng(0).integers(0, 256, (16, 16, 3), numpy.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.avif")
    whole, broken, refused = (tmp_path / "whole.avif").read_bytes(), tmp_path / "broken.jpg", 0
    for position in range(len(whole)):
        broken.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            read_picture(broken, COLOUR)
        except DsvError as error:
            refused += "broken.jpg cannot be decoded" in str(error)
    assert refused > len(whole) / 10


def test_a_truncated_picture_is_named(tmp_path):
    noise = numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), numpy.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    with pytest.raises(DsvError, match=r"cut.png cannot be decoded"):
        read_picture(tmp_path / "cut.png", COLOUR)
