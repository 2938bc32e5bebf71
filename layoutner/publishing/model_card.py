"""README.md of an export: the model card, as the Hugging Face hub shows it.

What comes from the data or the user, such as the names of entity types, is escaped. Of paths only the last part is
shown.
"""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from layoutner.errors import LayoutnerError, ModelError
from layoutner.files.artefact import sha256
from layoutner.files.atomic import write_text
from layoutner.models.preprocessing import PREPROCESSING_FILE, Preprocessing
from layoutner.objectives.scores_file import ScoresFile
from layoutner.pages.labels import LabelSet
from layoutner.settings.optimizer import BY_NAME, AdamW
from layoutner.settings.tree import Settings, as_toml
from layoutner.training.checkpoint_files import Record, read_record, step_of
from layoutner.training.folder import CARD_FILE, ENVIRONMENT_FILE, SCORES_FILE, TRAINING_PAGES_FILE

# Settings that say how a model was trained. The others say where, and what is written.
SECTIONS = ("model", "data", "batch", "loss", "optimizer", "schedule", "precision", "deepspeed")
RUN_KEYS = ("seed", "eval_every", "patience")
PATHS = ("model.name_or_path", "data.train", "data.eval", "data.test", "data.labels", "deepspeed.preset")
DIGEST_LINE = 17  # bytes per page in training_pages.txt
VERSIONS = ("torch", "deepspeed", "transformers", "tokenizers")

# Of the families that take boxes: those of the special tokens before and after the words, and what coordinates are
# divided by. As `models.families` has them, which would load torch.
CORNERS, ORIGIN = ([0, 0, 0, 0], [1000, 1000, 1000, 1000]), ([0, 0, 0, 0], [0, 0, 0, 0])
BOXED = {
    "layoutlm": (CORNERS, 1),
    "layoutlmv2": (CORNERS, 1),
    "layoutlmv3": (ORIGIN, 1),
    "lilt": (ORIGIN, 1),
    "bros": (CORNERS, 1000),
}

LAYOUTNER = """\
import layoutner

model = layoutner.load_model(".")
for page in model.predict("pages.jsonl"):  # words and boxes; page.png would be read by OCR
    for entity in page.entities:
        print(page.document.name, entity.type, entity.text, entity.box)
"""
COMMAND = "layoutner predict --model . page.png\n"
WORDS = 'words = ["Due", "date", "14", "Apr", "2025"]\n'
BOXES = """\
# Left, top, right and bottom of each word, in thousandths of the page.
boxes = [[555, 166, 593, 205], [600, 166, 641, 205], [555, 212, 577, 251], [583, 212, 617, 251], [623, 212, 672, 251]]
"""
TRANSFORMERS = """\
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

{page}
tokenizer = AutoTokenizer.from_pretrained(".")
network = AutoModelForTokenClassification.from_pretrained(".", dtype=torch.float32).eval()
encoded = tokenizer.backend_tokenizer.encode(words, is_pretokenized=True)
word_of = encoded.word_ids  # of each token; None for the special ones
inputs = {{"input_ids": torch.tensor([encoded.ids])}}
{boxes}with torch.no_grad():
    classes = network(**inputs).logits[0].argmax(-1).tolist()
for number, word in enumerate(words):
    print(word, network.config.id2label[classes[word_of.index(number)]])  # that of its first token
"""
BOXES_OF_TOKENS = """\
first, last = {special}  # boxes of the special tokens
boxes_of_tokens = [first, *(last if word is None else boxes[word] for word in word_of[1:])]
inputs["bbox"] = torch.tensor([boxes_of_tokens]){scaled}
"""


def write_card(checkpoint: Path, folder: Path, onnx: str | None = None) -> None:
    """Write the model card of a checkpoint into the folder of its export.

    Args:
        onnx: the result of the check of its ONNX graph; None if it has weights.

    Raises:
        CheckpointError: the checkpoint is not complete.
        ModelError: the run has no valid layoutner.json.
        OSError: it cannot be written.
    """
    text = model_card(checkpoint, onnx)
    # A lone surrogate, from a file name, is not valid UTF-8.
    write_text(folder / CARD_FILE, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def model_card(checkpoint: Path, onnx: str | None = None) -> str:
    """The model card of a checkpoint, from the files of its run folder.

    scores.json is used if it is of this checkpoint. Files that an older run does not have are done without.

    Args:
        onnx: see `write_card`.

    Raises:
        CheckpointError, ModelError: see `write_card`.
    """
    run, record = checkpoint.resolve().parent.parent, read_record(checkpoint)
    try:
        preprocessing = Preprocessing.read(run / PREPROCESSING_FILE)
        labels = LabelSet.from_tags(list(preprocessing.labels))
    except (OSError, ValueError) as error:
        raise ModelError(f"{checkpoint} cannot be exported: {PREPROCESSING_FILE}: {error}") from None
    scores = _scores(run, step_of(checkpoint))
    parts = [
        f"---\n{_front_matter(run.name, preprocessing, record, scores, 'onnx' if onnx else 'transformers')}\n---",
        f"# {_plain(run.name)}",
        *_labels(preprocessing, labels),
        *_usage(preprocessing, onnx),
        "## Scores",
        *_score_parts(preprocessing, scores),
        "## Training",
        *_training(run, checkpoint, preprocessing, record),
        "## Licence",
        "The licences of the model that training started from and of the training data apply.",
    ]
    return "\n\n".join(parts) + "\n"


def transformers_example(family: str) -> str:
    """Code that labels words with transformers alone. For networks that need no page image."""
    if family not in BOXED:
        return TRANSFORMERS.format(page=WORDS, boxes="")
    (first, last), divisor = BOXED[family]
    boxes = BOXES_OF_TOKENS.format(special=f"{first}, {last}", scaled="" if divisor == 1 else f" / {divisor}")
    return TRANSFORMERS.format(page=WORDS + BOXES, boxes=boxes)


def _scores(run: Path, step: int) -> ScoresFile | None:
    """The scores of the checkpoint; None if there are none, or they are damaged, which is no reason not to export."""
    try:
        scores = ScoresFile.read(run / SCORES_FILE)
    except (LayoutnerError, OSError, ValueError):
        return None
    return scores if scores.split is not None and scores.checkpoint.get("step") == step else None


def _front_matter(
    name: str, preprocessing: Preprocessing, record: Record, scores: ScoresFile | None, library: str
) -> str:
    """What the hub reads, as YAML."""
    results = []
    if scores is not None:
        data = record.settings.get("data", {})
        source = data.get(str(scores.split))
        source = source if isinstance(source, str) else data.get("train")  # data.eval may be a share of data.train
        results = [
            EvalResult(
                task_type="token-classification",
                dataset_type="local",
                dataset_name=f"{PurePath(str(source)).name}, {scores.split}",
                dataset_split=scores.split,
                metric_type=metric,
                metric_value=getattr(scores, metric),
            )
            for metric in ("f1", "precision", "recall")
        ]
    card = ModelCardData(
        base_model=_base_model(preprocessing),
        library_name=library,
        pipeline_tag="token-classification",
        tags=["layoutner", preprocessing.family],
        metrics=["f1", "precision", "recall"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(card.to_yaml())


def _labels(preprocessing: Preprocessing, labels: LabelSet) -> Iterator[str]:
    yield (
        f"A network of the family {preprocessing.family} that labels the words of document pages with "
        f"{len(labels.types)} entity types: {', '.join(map(_plain, labels.types))}. A word of no entity is O. "
        f"Its {len(labels.tags)} tags are in the scheme {labels.scheme}."
    )
    if preprocessing.ignore_types:
        yield f"In training these types were read as O: {', '.join(map(_plain, preprocessing.ignore_types))}."
    pipeline = '`pipeline("token-classification")`'
    if preprocessing.family not in BOXED:
        yield f"It needs the words of a page, already split. {pipeline} would split text in another way."
        return
    image = " and the page image" if preprocessing.images == "use" else ""
    yield (
        f"It needs a box for each word{image}: {pipeline} passes none and would predict without them. It was trained "
        f"with the boxes of {'words' if preprocessing.box_level == 'word' else 'whole lines or fields'}."
    )


def _usage(preprocessing: Preprocessing, onnx: str | None) -> Iterator[str]:
    yield "## Use"
    yield (
        "In this folder, with layoutner, which cuts long pages into the windows of training. `huggingface_hub."
        "snapshot_download` gets the folder from the hub."
    )
    yield f"```python\n{LAYOUTNER}```"
    yield f"```bash\n{COMMAND}```"
    if onnx is not None:
        corners, divisor = BOXED.get(preprocessing.family, (None, 1))
        unit = "thousandths of the page, int64" if divisor == 1 else "fractions of the page, float32"
        boxes = f", `bbox` (rows x tokens x 4, {unit})" if corners else ""
        image = ", `pixel_values` (rows x 3 x height x width, float32)" if preprocessing.images == "use" else ""
        yield (
            "`model.onnx` is the network in fp32, for ONNX Runtime. Its inputs are `input_ids` and `attention_mask` "
            f"(rows x tokens, int64){boxes}{image}; its output is `logits` (rows x tokens x "
            f"{len(preprocessing.labels)}), in the order of the labels in `{PREPROCESSING_FILE}`. In fp32 {onnx}."
        )
    elif preprocessing.images == "ignore":
        yield f"With transformers alone, for a page that fits into one window of {preprocessing.max_length} sub-words:"
        yield f"```python\n{transformers_example(preprocessing.family)}```"


def _score_parts(preprocessing: Preprocessing, scores: ScoresFile | None) -> Iterator[str]:
    if scores is None:
        yield "This checkpoint has not been scored after training."
        if preprocessing.chosen_on_test:
            yield "**It was chosen on its test pages, which inflates every score on them.**"
        return
    counts = scores.counts
    interval = f" ± {scores.f1_interval:.4f} (95% interval, over pages)" if scores.f1_interval else ""
    yield (
        f"F1 {scores.f1:.4f}{interval} on the split {scores.split}: {counts['documents']} pages, {counts['words']} "
        "words. An entity is correct if its type, first word and last word match."
    )
    if scores.checkpoint.get("chosen_on_test"):
        yield "**The checkpoint was chosen on these test pages, which inflates the score.**"
    elif scores.split == "eval" and scores.checkpoint.get("by") == "eval f1":
        yield "The checkpoint was chosen on these pages, which inflates the score."
    if trained_on := counts.get("documents_trained_on"):
        yield f"**The model was trained on {trained_on} of these pages, which inflates the score.**"
    rows = [
        (_plain(kind), *(one[key] for key in ("precision", "recall", "f1")), one["entities"])
        for kind, one in scores.by_entity.items()
    ]
    rows.append(("**all types**", scores.precision, scores.recall, scores.f1, counts["entities"]))
    table = ["| type | precision | recall | F1 | entities |", "|---|---:|---:|---:|---:|"]
    table += [f"| {kind} | {p:.4f} | {r:.4f} | {f:.4f} | {int(n)} |" for kind, p, r, f, n in rows]
    yield "\n".join(table)


def _training(run: Path, checkpoint: Path, preprocessing: Preprocessing, record: Record) -> Iterator[str]:
    start = record.settings.get("model", {}).get("name_or_path")
    base_model, counts = _base_model(preprocessing), preprocessing.origin
    name = base_model or (None if start is None else PurePath(start).name)
    chosen = record.state.best_step == step_of(checkpoint)
    yield (
        f"{step_of(checkpoint)} optimizer steps{'' if name is None else f' from {_plain(name)}'}"
        f"{', the best so far on the pages that checkpoints were compared on' if chosen else ''}."
    )
    if counts is not None:
        yield (
            f"Training data: {counts['pages']} pages, {counts['words']} words, {counts['windows']} windows of at "
            f"most {preprocessing.max_length} sub-words."
        )
    pages = run / TRAINING_PAGES_FILE
    if pages.is_file():
        yield (
            f"`{TRAINING_PAGES_FILE}` has the digests of {pages.stat().st_size // DIGEST_LINE} different pages that it "
            "was trained on, with those of the model it started from if layoutner had trained that. SHA-256 of the "
            f"file, its first 16 digits: `{sha256(pages)[:16]}`."
        )
    yield "Settings that are not the defaults of layoutner, with the last part of each path:"
    yield f"```toml\n{as_toml(_changed(record.settings, base_model))}```"
    if versions := _versions(run):
        yield f"Versions: {versions}."


def _base_model(preprocessing: Preprocessing) -> str | None:
    """Hub name of the model that training started from; None if it was a folder, or is not known."""
    return None if preprocessing.origin is None else preprocessing.origin["base_model"]


def _changed(settings: dict[str, dict[str, Any]], base_model: str | None) -> dict[str, dict[str, Any]]:
    """The settings of SECTIONS and RUN_KEYS that are not the defaults. None is left out, as in settings.toml."""
    defaults = Settings().model_dump(mode="json")
    own = BY_NAME.get(settings.get("optimizer", {}).get("name", "adamw"), AdamW)
    defaults["optimizer"] = own().model_dump(mode="json") | {"name": "adamw"}
    found: dict[str, dict[str, Any]] = {}
    for section, values in settings.items():
        for key, value in values.items():
            shown = section in SECTIONS or (section == "run" and key in RUN_KEYS)
            if not shown or value is None or value == defaults.get(section, {}).get(key):
                continue
            if f"{section}.{key}" in PATHS and isinstance(value, str) and value != base_model:
                value = PurePath(value).name
            found.setdefault(section, {})[key] = value
    return found


def _versions(run: Path) -> str:
    """The versions in environment.json; empty if they cannot be read."""
    try:
        tree = json.loads((run / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
        named = {"layoutner": tree["layoutner"], "Python": tree["python"]}
        named |= {name: tree["versions"][name] for name in VERSIONS}
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return ", ".join(f"{name} {_plain(str(version))}" for name, version in named.items())


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line, also in a table."""
    line = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", html.escape(line, quote=False))
