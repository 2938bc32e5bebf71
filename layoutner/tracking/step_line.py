"""The line that a run logs of an optimizer step."""

from datetime import timedelta
from typing import Any

from layoutner.distributed.clock import PARTS, Part


def shares_text(shares: dict[Part, float]) -> str:
    """Shares of the time as text, without those that round to 0."""
    return " ".join(f"{part} {share:.1%}" for part, share in shares.items() if share >= 0.0005)


def step_line(step: int, total: int, metrics: dict[str, Any]) -> str:
    """What is logged of an optimizer step, from its metrics."""
    skipped = f" skipped {metrics['train/skipped_steps']}" if metrics["train/skipped_steps"] else ""
    noise = metrics.get("gradient/noise_scale_windows")
    measured = "" if noise is None else f" noise scale {noise:.3g} windows"
    left = timedelta(seconds=round(metrics["time/left_s"]))
    return (
        f"step {step}/{total} loss {metrics['train/loss']:.4f} lr {metrics['train/lr']:.3g} "
        f"grad norm {metrics['train/grad_norm']:.3g} {metrics['throughput/tokens_per_s']:.0f} tokens/s "
        f"{metrics['throughput/mfu']:.0%} of peak {metrics['time/step_s']:.2f} s/step {left} left"
        f"{skipped}{measured}; " + shares_text({part: metrics[f"share/{part}"] for part in PARTS})
    )
