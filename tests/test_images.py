"""Page images as a network sees them."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LayoutLMv3ImageProcessorPil

from layoutner.config.errors import UserError
from layoutner.data.document import Document, PageImage
from layoutner.data.image_file import find_page, read_image
from layoutner.data.images import PageImages
from layoutner.training.page_images import demand_images, image_problems
from layoutner.training.world import World

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
    with pytest.raises(UserError, match="page.png"):
        pages.pixels([PageImage(page)])


def test_what_is_no_whole_image_is_named(page: Path, tmp_path: Path) -> None:
    torn, text = tmp_path / "torn.png", tmp_path / "text.png"
    torn.write_bytes(page.read_bytes()[:-2000])
    text.write_text("no image")
    for path in (torn, text, tmp_path / "missing.png", tmp_path):
        with pytest.raises(UserError, match=f"page image {path}: "):
            read_image(PageImage(path), 1024)
    # The header of a torn image is whole: it is found out when the page is read, which training does first.
    assert find_page(torn)[1] == (60, 90)
    images = {"whole": PageImage(page), "torn": PageImage(torn), "text": PageImage(text), "none": None}
    documents = [Document(name, (), (), (), (60, 90), image) for name, image in images.items()]
    alone = World(rank=0, size=1, device=torch.device("cpu"))
    problems = image_problems(documents, PageImages(PROCESSOR), alone)
    assert list(problems) == [1, 2, 3]
    assert [str(problem).partition(f"{tmp_path}")[0] for problem in problems.values()] == [
        "torn: page image ",
        "text: page image ",
        "none: has no page image",
    ]
    with pytest.raises(UserError, match=r"3 of 4 documents have a page image that cannot be read:\n  - torn: page"):
        demand_images(documents, PageImages(PROCESSOR), alone)
