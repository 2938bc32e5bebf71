"""Page images as a network sees them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from transformers import LayoutLMv3ImageProcessorPil

from layoutner.corpus.pixels import PageImages
from layoutner.distributed.ranks import Ranks
from layoutner.errors import DataError
from layoutner.files.image import PageImage, find_page, read_image
from layoutner.pages.document import Document
from layoutner.training.page_images import image_problems, require_images

PROCESSOR = LayoutLMv3ImageProcessorPil(
    apply_ocr=False, size={"height": 24, "width": 32}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    Image.effect_noise((60, 90), 90).convert("RGB").save(tmp_path / "page.png")
    return tmp_path / "page.png"


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA", "P", "CMYK"])
def test_pixels_are_those_of_the_image_processor(mode: str, page: Path) -> None:
    picture = Image.open(page).convert(mode)
    path = page.with_suffix(".tif")
    picture.save(path)
    expected = PROCESSOR(picture.convert("RGB"), return_tensors="pt")["pixel_values"]
    pixels = PageImages(PROCESSOR).pixels([PageImage(path), PageImage(path)])
    assert pixels.dtype == torch.float32
    assert torch.allclose(pixels, expected.repeat(2, 1, 1, 1), atol=1e-6)


def test_no_image_is_one_black_page() -> None:
    pixels = PageImages(PROCESSOR).pixels([])
    assert pixels.shape == (1, 3, 24, 32)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([-0.4 / 0.2, -0.5 / 0.3, -0.6 / 0.4])


def test_a_page_is_read_once_and_no_more_pages_are_kept_than_said(page: Path) -> None:
    others = [page.with_name(f"{number}.png") for number in range(2)]
    for other in others:
        other.write_bytes(page.read_bytes())
    pages = PageImages(PROCESSOR, kept=2)
    first = pages.pixels([PageImage(page), PageImage(others[0])])
    page.unlink()
    assert torch.equal(pages.pixels([PageImage(page), PageImage(others[0])]), first)
    pages.pixels([PageImage(other) for other in others])  # the page that was there longest makes room
    with pytest.raises(DataError, match="page.png"):
        pages.pixels([PageImage(page)])


def test_what_is_no_whole_image_is_named(page: Path, tmp_path: Path) -> None:
    torn, text = tmp_path / "torn.png", tmp_path / "text.png"
    torn.write_bytes(page.read_bytes()[:-2000])
    text.write_text("no image")
    for path in (torn, text, tmp_path / "missing.png", tmp_path):
        with pytest.raises(DataError, match=f"page image {path}: "):
            read_image(PageImage(path), 1024)
    # The header of a torn image is whole: it is found out when the page is read, which training does first.
    assert find_page(torn)[1] == (60, 90)
    images = {"whole": PageImage(page), "torn": PageImage(torn), "text": PageImage(text), "none": None}
    documents = [Document(name, (), (), (), (60, 90), image) for name, image in images.items()]
    alone = Ranks(rank=0, size=1, device=torch.device("cpu"))
    problems = image_problems(documents, PageImages(PROCESSOR), alone)
    assert list(problems) == [1, 2, 3]
    assert [str(problem).partition(f"{tmp_path}")[0] for problem in problems.values()] == [
        "torn: page image ",
        "text: page image ",
        "none: has no page image",
    ]
    with pytest.raises(DataError, match=r"3 of 4 documents have a page image that cannot be read:\n  - torn: page"):
        require_images(documents, PageImages(PROCESSOR), alone)


def test_one_page_in_several_kinds_of_file_is_the_same_to_the_network(tmp_path: Path) -> None:
    grey = Image.effect_noise((60, 90), 90)
    wide = np.asarray(grey).astype(np.uint16) * 257
    ink = Image.new("RGBA", grey.size, (0, 0, 0, 0))
    ink.putalpha(ImageOps.invert(grey))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = grey.transpose(Image.Transpose.ROTATE_90)
    grey.save(tmp_path / "grey.png")
    Image.fromarray(wide).save(tmp_path / "wide.png")
    ink.save(tmp_path / "ink.png")
    turned.save(tmp_path / "turned.png", exif=exif)
    Image.new("L", (9, 9)).save(tmp_path / "second.tif", save_all=True, append_images=[grey.copy()])
    pages = [PageImage(tmp_path / f"{name}.png") for name in ("grey", "wide", "ink", "turned")]
    first, *others = PageImages(PROCESSOR).pixels([*pages, PageImage(tmp_path / "second.tif", 1)])
    for other in others:
        assert torch.allclose(other, first, atol=1.01 / 255 / 0.2)  # a level of grey, normalised
    # Frames of one file are kept apart.
    both = PageImages(PROCESSOR).pixels([PageImage(tmp_path / "second.tif", frame) for frame in (1, 0, 1)])
    assert torch.equal(both[0], both[2])
    assert not torch.equal(both[0], both[1])


def test_the_network_sees_no_image_larger_than_the_setting(page: Path) -> None:
    Image.new("L", (1024, 1024)).save(page)
    assert PageImages(PROCESSOR, max_mib=5).pixels([PageImage(page)]).shape == (1, 3, 24, 32)
    with pytest.raises(DataError, match="page.png: 1024 x 1024 pixels of mode L take 5 MiB .* data.max_image_mib = 4"):
        PageImages(PROCESSOR, max_mib=4).pixels([PageImage(page)])
