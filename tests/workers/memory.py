"""Started by test_memory.py: what training really holds in memory, on 1 and on 2 ranks, by ZeRO stage and precision.

    python tests/workers/memory.py OUT.json

Every case runs in processes of its own, forked from this one (so torch and DeepSpeed are imported once), because
engines of earlier cases leave tensors behind. Two numbers are taken, in bytes, on the rank that holds the most:

- `states`: distinct storages of all live tensors and their gradients (a walk over the garbage collector's objects),
  between the last backward and the optimizer step of step 2, less the communication buckets. Then parameters,
  gradients and both moments are all there, and activations are gone.
- `peak`: the most bytes, within step 2, of storages that any operator returned and that still live, forward, backward
  and step. A TorchDispatchMode sees every operator, autograd's too, whoever frees the result. It does not see what a
  kernel takes and frees inside itself; RSS would, but with the interpreter, the C library's arenas and freed pages.
  (torch.profiler's record of the CPU allocator gives the same on one rank; on two it misses what gloo's threads free.)
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import socket
import sys
import tempfile
import time
import warnings
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import torch
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LayoutLMConfig, LayoutLMForTokenClassification

from layoutner.distributed.ranks import Ranks
from layoutner.engine.engine import Engine
from layoutner.planning.batch_plan import plan_batch
from layoutner.planning.render import render
from layoutner.planning.schedule import plan_schedule
from layoutner.settings.tree import Settings, load

# torch computes fp16 on any CPU, only slowly; DeepSpeed asks for a CPU that does it fast. Allocations are the same.
CPU_Accelerator.is_fp16_supported = lambda self: True

# Some 20 MB of fp32 weights and as much of activations, so neither hides an error in the other.
SIZE = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 768}
LABELS, VOCAB, MICRO, TOKENS, ACCUMULATION = 7, 8000, 4, 128, 2
# Buckets of 4 MB in fp32 rather than the presets' 200 MB, beside which an error in the states would not show.
BUCKET = 1_000_000

# The threads of gloo need Python's lock to free a tensor that they have sent, and get it while this one sleeps:
# without, one run in six on two ranks finds a weight that is on its way out.
LET_GO_S = 0.1

# fp16 differs from bf16 at stage 1 alone: elsewhere the same classes allocate the same.
CASES = [(dtype, stage) for dtype in ("fp32", "bf16") for stage in (0, 1, 2, 3)] + [("fp16", 1)]
CASES += [("fp32 averaging", 0), ("bf16 averaging", 3)]


def config_for(dtype: str, stage: int, ranks: int) -> tuple[Settings, dict[str, Any]]:
    """The settings and the rendered config of a case: the shipped preset of the stage, with smaller buckets."""
    windows = MICRO * ranks * ACCUMULATION
    dtype, *averaging = dtype.split()
    tree: dict[str, dict[str, str]] = {
        "batch": {"global_batch_size": str(windows), "micro_batch_size": str(MICRO)},
        "schedule": {"max_steps": "10"},
        "precision": {"dtype": dtype, "initial_scale_power": "4"},
        "deepspeed": {"zero_stage": str(stage)},
        "optimizer": {"average_decay": "0.9" if averaging else "0"},
    }
    settings = load(None, tree)
    schedule = plan_schedule(settings.schedule, windows, None)
    config = render(settings, plan_batch(windows, MICRO, ranks), schedule)
    for key in ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size"):
        if key in config["zero_optimization"]:
            config["zero_optimization"][key] = BUCKET
    return settings, config


def live_storages() -> dict[int, int]:
    """Bytes by storage, of all tensors that Python holds and of their gradients."""
    gc.collect()
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None:
                    storage = tensor.untyped_storage()
                    found[storage._cdata] = storage.nbytes()
    return found


class Tracker(TorchDispatchMode):
    """Sum of the bytes of all storages that operators returned and that still live, and its peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._known:
                    self._known[key] = weakref.ref(storage, partial(self._freed, key, size))
                    self.live += size
        self.peak = max(self.peak, self.live)
        return out

    def _freed(self, key: int, size: int, _: Any) -> None:
        del self._known[key]
        self.live -= size


def measure(dtype: str, stage: int, ranks: Ranks) -> dict[str, float]:
    settings, config = config_for(dtype, stage, ranks.size)
    bucket = BUCKET * (4 if settings.precision.dtype == "fp32" else 2)
    torch.manual_seed(0)
    before = set(live_storages())
    with Tracker() as tracker:
        model = LayoutLMForTokenClassification(LayoutLMConfig(**SIZE, vocab_size=VOCAB, num_labels=LABELS))
        engine = Engine(model, config, settings.optimizer, ranks)
        del model
        engine.train()
        for step in range(2):
            tracker.peak = tracker.live
            for number in range(ACCUMULATION):
                inputs = torch.randint(5, VOCAB, (MICRO, TOKENS))
                boxes = torch.randint(0, 500, (MICRO, TOKENS, 4))
                boxes[..., 2:] += 500
                logits = engine.forward({"input_ids": inputs, "attention_mask": inputs.sign(), "bbox": boxes})
                loss = torch.nn.functional.cross_entropy(
                    logits.float().flatten(0, 1), inputs.flatten() % LABELS, reduction="mean"
                )
                del logits
                engine.backward(loss, last=number == ACCUMULATION - 1)
                del loss
            if step:
                time.sleep(LET_GO_S)
                live = {key: size for key, size in live_storages().items() if key not in before}
                states = sum(size for size in live.values() if size != bucket)
            engine.step(0.0, step)
    return {"states": float(states), "peak": float(tracker.peak)}


def rank_process(dtype: str, stage: int, rank: int, world_size: int, port: int, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "MASTER_PORT": str(port)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_SIZE": str(world_size)}
    ranks = Ranks.join()
    measured = measure(dtype, stage, ranks)
    out.write_text(json.dumps({name: ranks.all_reduce_max(value) for name, value in measured.items()}))
    ranks.close()


def run_case(dtype: str, stage: int, ranks: int, folder: Path) -> dict[str, float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(KeyboardInterrupt):
                try:
                    rank_process(dtype, stage, rank, ranks, port, folder / str(rank))
                    code = 0
                finally:
                    sys.stderr.flush()
                    if code:
                        logging.getLogger(__name__).exception("%s, stage %d, rank %d", dtype, stage, rank)
                    os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * ranks, f"{dtype}, stage {stage}, {ranks} ranks: exit codes {codes}"
    measured: dict[str, float] = json.loads((folder / "0").read_text())
    return measured


def main() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    out = Path(sys.argv[1])
    results: dict[str, Any] = {}
    # DeepSpeed imports this, and with it torch's compiler, only when an engine of ZeRO 1 to 3 is built.
    importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    gc.collect()
    gc.freeze()  # what is imported is not walked again
    with tempfile.TemporaryDirectory() as folder:
        for dtype, stage in CASES:
            for ranks in (1, 2):
                found = run_case(dtype, stage, ranks, Path(folder))
                results[f"{dtype}/{stage}/{ranks}"] = {**found, "config": config_for(dtype, stage, ranks)[1]}
    network = {**SIZE, "vocab_size": VOCAB}
    results["about"] = {"network": network, "labels": LABELS, "micro": MICRO, "tokens": TOKENS}
    out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
