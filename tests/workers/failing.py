"""Started on 2 ranks by test_failing_ranks.py: `layoutner train`, with something wrong.

    torchrun --nproc-per-node 2 tests/workers/failing.py FAULT ARGUMENTS OF LAYOUTNER

FAULT: `hang` - rank 1 never comes back from collating its third batch; `raise` - it fails there with a KeyError;
`build` - it fails two seconds into loading the network; `late` - rank 0 takes eight seconds more than rank 1 to say
what went wrong; `dawdle` - it takes three to begin;
`overflow` - on all ranks the loss is far too large for fp16 from step 4 on. Anything else: nothing.
"""

import os
import sys
import threading
import time
from typing import Any

from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

from layoutner.cli import main
from layoutner.console import ending
from layoutner.engine.engine import Engine
from layoutner.models import collator
from layoutner.runs import training_run

# torch computes fp16 on any CPU, only slowly; DeepSpeed asks for a CPU that does it fast. Loss scaling is the same.
CPU_Accelerator.is_fp16_supported = lambda self: True


def spoil(fault: str) -> None:
    collate, backward = collator.collate, Engine.backward
    calls = {"collate": 0, "backward": 0}

    def spoilt_collate(*arguments: Any) -> Any:
        calls["collate"] += 1
        if calls["collate"] == 3 and fault == "hang":
            threading.Event().wait()
        if calls["collate"] == 3 and fault == "raise":
            raise KeyError("no such word")
        return collate(*arguments)

    def spoilt_backward(engine: Engine, loss: Any, last: bool) -> None:
        calls["backward"] += 1
        backward(engine, loss * 1e30 if calls["backward"] > 3 else loss, last)

    def spoilt_build(*_: Any) -> Any:
        time.sleep(2)
        raise KeyError("no such layer")

    report = ending.report

    def late_report(*arguments: Any, **more: Any) -> int:
        time.sleep(8)
        return report(*arguments, **more)

    if fault == "late" and os.environ["RANK"] == "0":
        ending.report = late_report
    if fault == "dawdle" and os.environ["RANK"] == "0":
        time.sleep(3)
    if fault == "build" and os.environ["RANK"] == "1":
        training_run.build = spoilt_build
    if fault in ("hang", "raise") and os.environ["RANK"] == "1":
        collator.collate = spoilt_collate
    if fault == "overflow":
        Engine.backward = spoilt_backward  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.argv = [argument for argument in sys.argv if not argument.startswith("--local_rank")]
    spoil(sys.argv[1])
    main(sys.argv[2:])
