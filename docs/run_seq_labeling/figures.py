"""Draw the figures of this folder as SVG, from the functions that they show: `python figures.py [FOLDER]`."""

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from random import Random
from xml.sax.saxutils import escape

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from layoutner.corpus.batches import assign_to_ranks, step_windows
from layoutner.corpus.splitter import WindowSplitter
from layoutner.corpus.windows import IGNORED, Window
from layoutner.demo.forms import make_forms
from layoutner.documents.roles import read_documents
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet, labels_of
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.planning.schedule import Schedule, plan_schedule
from layoutner.settings.data import DataSettings
from layoutner.settings.schedule import ScheduleSettings

FUNSD_WINDOWS = 150
INK, GREY, PALE = "#1a1a1a", "#5c5c5c", "#d9d9d9"
BLUE, ORANGE, GREEN = "#1f5fa8", "#b4540a", "#1b7a3d"
# Colours of the entity types of the demo's forms, sorted by name.
COLOURS = ("#1f5fa8", "#b4540a", "#1b7a3d", "#8e2f8e", "#a3262a", "#5a5ac8", "#8a6d00", "#007a87")


class Drawing:
    """Builds an SVG drawing on a white background, which stays readable on a dark page."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="DejaVu Sans, Verdana, sans-serif" role="img">',
            f"<title>{escape(title)}</title>",
        ]
        self.box(0, 0, width, height, fill="#ffffff")

    def box(
        self, x: float, y: float, width: float, height: float, fill: str = "none", stroke: str = "none", line: float = 1
    ) -> None:
        """A rectangle."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" stroke="{stroke}" '
            f'stroke-width="{line:g}"/>'
        )

    def text(
        self, x: float, y: float, text: str, size: int = 13, fill: str = INK, anchor: str = "start", bold: bool = False
    ) -> None:
        """A line of text; `y` is its base line."""
        weight = ' font-weight="bold"' if bold else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{weight}>'
            f"{escape(text)}</text>"
        )

    def label(self, x: float, y: float, text: str, fill: str, anchor: str) -> None:
        """A line of text that hides the grid behind it."""
        wide = 8 * len(text)
        self.box(x - (wide if anchor == "end" else 0), y - 12, wide, 16, fill="#ffffff")
        self.text(x, y, text, 13, fill, anchor)

    def line(self, points: list[tuple[float, float]], stroke: str = INK, width: float = 1, dash: str = "") -> None:
        """A line through points."""
        joined = " ".join(f"{x:.4g},{y:.4g}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{stroke}" stroke-width="{width:g}"{dashes}/>'
        )

    def dot(self, x: float, y: float, radius: float, fill: str) -> None:
        """A filled circle."""
        self._parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}"/>')

    def arrow(self, x: float, y: float, to_x: float, to_y: float, fill: str = INK) -> None:
        """A horizontal or vertical arrow."""
        self.line([(x, y), (to_x, to_y)], fill, 1.5)
        if x == to_x:
            back = 8 if to_y > y else -8
            corners = [(to_x - 5, to_y - back), (to_x + 5, to_y - back)]
        else:
            back = 8 if to_x > x else -8
            corners = [(to_x - back, to_y - 5), (to_x - back, to_y + 5)]
        points = " ".join(f"{a:g},{b:g}" for a, b in [(to_x, to_y), *corners])
        self._parts.append(f'<polygon points="{points}" fill="{fill}"/>')

    def __str__(self) -> str:
        return "\n".join([*self._parts, "</svg>"]) + "\n"


def accumulation() -> str:
    """One optimizer step of 16 windows: micro-batches of 2 x 4 accumulation steps x 2 ranks."""
    seed, whole, micro, ranks = 42, 16, 2, 2
    rng = Random(seed)
    lengths = [rng.randrange(80, 513) for _ in range(FUNSD_WINDOWS)]
    indices = step_windows(seed, 0, 0, FUNSD_WINDOWS, whole)
    dealt = assign_to_ranks(indices, lengths, MicroBatchLimit(micro), ranks, packed=True)
    picture = Drawing(960, 560, "One accumulation window on two ranks")
    picture.text(
        20,
        30,
        "One optimizer step: 16 windows = 2 per micro-batch x 4 gradient accumulation steps x 2 ranks",
        17,
        bold=True,
    )
    picture.text(
        20, 54, "which windows: seed 42, epoch 0, step 0 of 150 windows, whatever the number of ranks", 13, GREY
    )
    for place, index in enumerate(indices):
        picture.box(20 + place * 46, 66, 40, 24, fill="#eef3fa", stroke=BLUE)
        picture.text(40 + place * 46, 83, str(index), 12, anchor="middle")
    picture.arrow(386, 94, 386, 116, GREY)
    picture.text(398, 110, "8 micro-batches of similar size, dealt back and forth", 13, GREY)

    left, wide, lane, top = 84, 164, 118, 146
    tokens = 132 / 1024  # of a bar's width
    for number in range(4):
        picture.text(left + number * wide + 76, top - 8, f"micro-batch {number + 1}", 13, anchor="middle", bold=True)
    for rank, forwards in enumerate(dealt):
        y = top + rank * (lane + 14)
        picture.text(20, y + 60, f"rank {rank}", 14, bold=True)
        for number, one in enumerate(forwards):
            x = left + number * wide
            picture.box(x, y, 152, lane, fill="#fafafa", stroke=GREY)
            start = x + 10
            for row, index in enumerate(one):
                picture.box(start, y + 12, lengths[index] * tokens, 20, fill=BLUE if row % 2 == 0 else GREEN)
                start += lengths[index] * tokens
                fill = BLUE if row % 2 == 0 else GREEN
                picture.text(x + 10, y + 52 + row * 20, f"window {index}: {lengths[index]} tokens", 11, fill)
            picture.text(x + 10, y + lane - 10, "forward, backward: add", 11, ORANGE)
    # The all-reduce and the optimizer step.
    x = left + 4 * wide + 8
    picture.box(x, top, 22, 2 * lane + 14, fill="#fdf1e7", stroke=ORANGE, line=1.5)
    picture.line([(x + 11, top + 20), (x + 11, top + 2 * lane - 6)], ORANGE, 1.5)
    picture.arrow(x + 11, top + 60, x + 11, top + 8, ORANGE)
    picture.arrow(x + 11, top + 2 * lane - 46, x + 11, top + 2 * lane + 6, ORANGE)
    picture.box(x + 44, top, 152, 2 * lane + 14, fill="#eef7f0", stroke=GREEN, line=1.5)
    steps = ("sets the rate", "of this step", "", "clips the gradient", "", "AdamW updates", "", "gradients to 0")
    picture.text(x + 120, top + 28, "engine.step", 14, GREEN, "middle", bold=True)
    for row, said in enumerate(steps):
        picture.text(x + 120, top + 62 + row * 22, said, 12, anchor="middle")
    picture.arrow(x + 24, top + lane + 7, x + 42, top + lane + 7, GREEN)

    base = top + 2 * lane + 14
    for number in range(4):
        last = number == 3
        centre = left + number * wide + 76
        picture.text(centre, base + 24, "engine.backward", 12, ORANGE, "middle", bold=True)
        picture.text(centre, base + 41, f"last={last}", 12, ORANGE, "middle")
    notes = (
        "blue and green: the tokens of two windows, packed into one row without padding (made-up lengths)",
        "orange bar: the ranks' gradients are averaged. ZeRO 0 and 1: here, once a step. ZeRO 2 and 3: with every",
        "backward, each piece to the rank that owns it. No weight changes before engine.step.",
    )
    for row, said in enumerate(notes):
        picture.text(20, base + 76 + row * 20, said, 13, GREY)
    return str(picture)


def learning_rate() -> str:
    """The learning rate of FUNSD's published recipe, with and without warm-up."""
    peak = 5e-5
    plain = plan_schedule(ScheduleSettings(epochs=100, warmup_steps=0), 16, FUNSD_WINDOWS)
    warm = plan_schedule(ScheduleSettings(epochs=100, warmup_ratio=0.1), 16, FUNSD_WINDOWS)
    picture = Drawing(960, 500, "Learning rate of an optimizer step")
    picture.text(20, 30, "Learning rate of an optimizer step: linear warm-up, linear decay to 0", 17, bold=True)
    picture.text(20, 54, f"{plain.total} steps = {plain.origin} (150 windows / 16 a step, rounded up)", 13, GREY)
    left, top, wide, high = 90, 92, 830, 312

    def at(step: float, rate: float) -> tuple[float, float]:
        return left + wide * step / plain.total, top + high * (1 - rate / peak)

    for tenth in range(6):
        rate = tenth * 1e-5
        picture.line([at(0, rate), at(plain.total, rate)], PALE)
        picture.text(
            left - 10, at(0, rate)[1] + 5, f"{rate:.0e}".replace("e-0", "e-") if tenth else "0", 12, GREY, "end"
        )
    for step in range(0, plain.total + 1, 100):
        x, y = at(step, 0)
        picture.line([(x, y), (x, y + 6)], GREY)
        picture.text(x, y + 22, str(step), 12, GREY, "middle")
    picture.text(left + wide / 2, top + high + 44, "optimizer step (0-based)", 13, GREY, "middle")
    for schedule, colour, dash in ((plain, BLUE, "7 5"), (warm, ORANGE, "")):
        corners = sorted({0, schedule.warmup, schedule.total})
        picture.line([at(step, peak * schedule.factor(step)) for step in corners], colour, 2.5, dash)
    marks: list[tuple[Schedule, int, str, float, float, str]] = [
        (warm, 0, ORANGE, 14, -12, "start"),
        (warm, 50, ORANGE, 14, 18, "start"),
        (warm, 100, ORANGE, 24, -8, "start"),
        (warm, 550, ORANGE, 14, -10, "start"),
        (plain, 0, BLUE, 2, -10, "start"),
        (plain, 500, BLUE, -14, 22, "end"),
        (plain, 999, BLUE, -8, -96, "end"),
    ]
    for schedule, step, colour, dx, dy, anchor in marks:
        rate = peak * schedule.factor(step)
        x, y = at(step, rate)
        picture.dot(x, y, 4, colour)
        picture.label(x + dx, y + dy, f"step {step}: {rate:.3g}", colour, anchor)
    picture.line([(left + wide - 5, top + high - 92), (left + wide - 1, top + high - 6)], BLUE)
    picture.line([(330, 476), (374, 476)], BLUE, 2.5, "7 5")
    picture.text(384, 481, "no warm-up, as published", 13)
    picture.line([(590, 476), (634, 476)], ORANGE, 2.5)
    picture.text(644, 481, "schedule.warmup_ratio = 0.1: 100 steps", 13)
    return str(picture)


def window() -> str:
    """A page of the demo's forms as network input: sub-words, boxes, labels."""
    document = _page()
    tokenizer = _make_tokenizer(document.words)
    labels = labels_of([document], "BIO")
    (one,) = WindowSplitter(tokenizer, max_length=512, stride=0).split([document], labels)
    picture = Drawing(1080, 810, "A window with its boxes")
    picture.text(20, 30, f"A page of {len(document.words)} words is a window of {one.length} tokens", 17, bold=True)
    picture.text(
        20, 54, "left: the words in their boxes, in thousandths of the page; right: what the network gets", 13, GREY
    )
    _draw_page(picture, document, labels)
    _draw_tokens(picture, one, tokenizer, labels)
    return str(picture)


def _page() -> Document:
    """A synthetic form, as the reader of FUNSD gives it."""
    with tempfile.TemporaryDirectory() as folder:
        make_forms(Path(folder), train=1, test=0, seed=59)
        (document,) = read_documents(DataSettings(), Path(folder), "train")
    return document


def _make_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer that knows only these words, the long ones in two pieces. It is always the same."""
    vocab = {token: number for number, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]"))}
    for word in sorted({word.lower() for word in words}):
        for piece in (word[:4], f"##{word[4:]}") if len(word) > 5 else (word,):
            vocab.setdefault(piece, len(vocab))
    wordpiece = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.Lowercase()
    wordpiece.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wordpiece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=wordpiece, **names)


def _colour(tag: str, labels: LabelSet) -> str:
    return GREY if tag == "O" else COLOURS[labels.types.index(tag.partition("-")[2]) % len(COLOURS)]


def _draw_page(picture: Drawing, document: Document, labels: LabelSet) -> None:
    left, top, wide, high = 30, 92, 560, 660
    picture.box(left, top, wide, high, fill="#fcfcfc", stroke=INK)
    for word, box, tag in zip(document.words, document.boxes, document.tags or (), strict=True):
        x0, y0, x1, y1 = (side * whole / 1000 for side, whole in zip(box, (wide, high, wide, high), strict=True))
        colour = _colour(tag, labels)
        picture.box(left + round(x0, 1), top + round(y0, 1), round(x1 - x0, 1), round(y1 - y0, 1), stroke=colour)
        picture.text(left + round((x0 + x1) / 2, 1), top + round(y1, 1) - 1, word, 9, colour, "middle")
    for x, y, said, anchor, shift in (
        (left, top, "[CLS] (0, 0, 0, 0)", "start", -9),
        (left + wide, top + high, "[SEP] (1000, 1000, 1000, 1000)", "end", 20),
    ):
        picture.dot(x, y, 5, INK)
        picture.text(x, y + shift, said, 12, INK, anchor)
    for number, kind in enumerate(labels.types):
        x, y = left + number % 3 * 110, top + high + 16 + number // 3 * 17
        picture.box(x, y - 10, 11, 11, fill=_colour(f"B-{kind}", labels))
        picture.text(x + 17, y, kind, 11)


def _draw_tokens(picture: Drawing, one: Window, tokenizer: PreTrainedTokenizerFast, labels: LabelSet) -> None:
    tokens = tokenizer.convert_ids_to_tokens(one.input_ids)
    columns = (624, 660, 756, 806, 970)
    for x, said in zip(columns, ("t", "sub-word", "id", "bbox", "label"), strict=True):
        picture.text(x, 84, said, 13, bold=True)
    picture.line([(620, 92), (1056, 92)], INK)
    for place, token in enumerate(tokens):
        y = 110 + place * 18
        number = one.labels[place]
        said = "-100" if number == IGNORED else labels.tags[number]
        special = one.input_ids[place] in tokenizer.all_special_ids
        colour = INK if special else GREY if number == IGNORED else _colour(said, labels)
        box = ", ".join(map(str, one.boxes[place]))
        cells = (str(place), str(token), str(one.input_ids[place]), box, said)
        for x, cell in zip(columns, cells, strict=True):
            picture.text(x, y, cell, 12, colour)
    y = 110 + one.length * 18
    picture.text(624, y + 8, "-100: not scored. A word is labelled, and read, at its first sub-word.", 12, GREY)


FIGURES = {"accumulation.svg": accumulation, "learning-rate.svg": learning_rate, "window.svg": window}


def main() -> None:
    """Draw all figures into the given folder; default: the folder of this file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        (folder / name).write_text(draw(), encoding="utf-8")
        print(folder / name)


if __name__ == "__main__":
    main()
