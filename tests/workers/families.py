"""Started on 2 ranks by test_every_family.py: every family through gradient check, training, export and evaluation.

    torchrun --nproc-per-node 2 tests/workers/families.py CHECKPOINTS FORMS OUT fast|all CASE...

A CASE is FAMILY, or FAMILY:ignore to do without page images. Its exports go to OUT/CASE-STAGE, what was measured to
OUT/results.json.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from steps import measure

from layoutner.distributed.ranks import Ranks
from layoutner.inference.export import export
from layoutner.inference.labeller import Labeller
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.runs.training_run import open_run, train_model
from layoutner.settings.tree import load

# Nothing is small enough to stay whole on every rank, so that at ZeRO 3 everything is gathered where it is used.
STAGE_3 = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}


def main() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    checkpoints, forms, out, tier, *cases = sys.argv[1:]
    ranks = Ranks.join()
    preset = Path(out) / "stage3.json"
    ranks.run_on_rank_zero(lambda: preset.write_text(json.dumps(STAGE_3)))
    results: dict[str, Any] = {}
    for case in cases:
        family, _, images = case.partition(":")
        for stage, dtype, policy in (("0", "fp32", {"zero_stage": "0"}), ("3", "bf16", {"preset": str(preset)})):
            if tier == "fast" and stage == "3" and case != "layoutlm":
                continue
            name = f"{case}-{stage}"
            common = {
                "model": {"name_or_path": f"{checkpoints}/{family}", "images": images or "use", "dropout": "0"},
                "data": {"format": "funsd", "train": forms, "max_length": "128", "stride": "0"},
                "deepspeed": policy,
            }
            flat = {f"{section}.{key}": value for section, keys in common.items() for key, value in keys.items()}
            # Dropout is on, with the same masks in the one padded batch that this is compared with.
            found: dict[str, Any] = dict(measure(Path(out), ranks, 1, **{**flat, "model.dropout": "0.1"}))
            settings = {
                **common,
                "data": {**common["data"], "eval": "0.25", "test": forms, "box_level": "segment"},
                "batch": {"global_batch_size": "8", "micro_batch_size": "2"},
                "optimizer": {"lr": "3e-3"},
                "schedule": {"max_steps": "4"},
                "precision": {"dtype": dtype},
                "run": {"output_dir": f"{out}/run-{name}", "eval_every": "2", "log_every": "1"},
            }
            training = open_run(load(None, settings), ranks)
            with training.tracker.finished_with(ranks):
                chosen, _ = train_model(training, ranks)
            plan = training.plan
            ranks.run_on_rank_zero(lambda chosen=chosen, name=name: export(chosen, Path(out) / name))
            labeller = Labeller(Path(out) / name, ranks)
            found["scores"] = labeller.evaluate(plan.corpus.test, "test", MicroBatchLimit(3)).to_dict()
            found["eval"] = labeller.evaluate(plan.corpus.eval, "eval", MicroBatchLimit(2)).loss
            found["step"] = int(chosen.name.removeprefix("step-"))
            results[name] = found
    if ranks.is_rank_zero:
        (Path(out) / "results.json").write_text(json.dumps(results))
    ranks.close()


if __name__ == "__main__":
    main()
