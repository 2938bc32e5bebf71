"""Parameters of each learning-rate schedule that a config can name, by its type, case and all.

DeepSpeed looks the type up among its own schedules (`DEEPSPEED_SCHEDULERS`), then in torch.optim.lr_scheduler. Those
of PyTorch ask for a plain torch optimizer, so they fail as soon as ZeRO, fp16 or bf16 wraps it. Unknown parameters,
and a missing `params`, are a TypeError when the engine starts.
"""

from layoutner.deepspeed_config.schema.key import ARRAY, BOOLEAN, INTEGER, NULL, NUMBER, STRING, Block, Key

DEEPSPEED_SCHEDULERS = ("LRRangeTest", "OneCycle", "WarmupLR", "WarmupDecayLR", "WarmupCosineLR")
"""DeepSpeed's own."""

NOT_FROM_JSON: dict[str, str] = {
    "LambdaLR": "needs a Python function",
    "MultiplicativeLR": "needs a Python function",
    "SequentialLR": "needs scheduler objects",
    "ChainedScheduler": "needs scheduler objects",
    "LRScheduler": "is the base class of the others",
}
"""Names DeepSpeed would find in torch.optim.lr_scheduler, and why a config cannot build them."""

_STEPS = "optimizer steps"
_RATE = Key(NUMBER, None, "A learning rate, one a parameter group.", minimum=0)
_NUMBER = Key(NUMBER, None, "A number, one a parameter group.")
_LAST = Key(INTEGER, -1, "Step to go on from; -1 starts anew.", unit=_STEPS)
_EPOCH = Key(INTEGER, -1, "Step to go on from; -1 starts anew. DeepSpeed steps it once an optimizer step.", unit=_STEPS)
_WARMUP_STEPS = Key(
    INTEGER, 1000, "Steps of the warm-up; DeepSpeed makes 1 into 2 and rejects 0.", unit=_STEPS, minimum=1
)
_WARMUP_TYPE = Key(STRING, "log", "Course of the warm-up.", choices=("log", "linear"))
_TOTAL = Key(INTEGER, None, "Steps in all: the learning rate ends there.", unit=_STEPS, minimum=1, required=True)
_WARMUP_MIN = Key(NUMBER + ARRAY, 0.0, "Learning rate the warm-up starts from.", minimum=0, items=_RATE)
_CYCLE_MOMENTUM = Key(BOOLEAN, True, "Move the momentum against the learning rate.")
_GAMMA = Key(NUMBER, 0.1, "Factor each time.")


def _rate(default: float | None, meaning: str, required: bool = False) -> Key:
    return Key(NUMBER + ARRAY, default, meaning, minimum=0, items=_RATE, required=required)


def _torch(meaning: str, keys: dict[str, Key]) -> Block:
    return Block(
        keys={**keys, "last_epoch": _EPOCH},
        strict=True,
        meaning=f"{meaning} Of PyTorch: not with ZeRO, fp16 or bf16.",
    )


SCHEDULERS: dict[str, Block] = {
    "LRRangeTest": Block(
        keys={
            "lr_range_test_min_lr": _rate(1e-3, "Learning rate at the start."),
            "lr_range_test_step_size": Key(INTEGER, 2000, "Steps between two raises.", unit=_STEPS, minimum=1),
            "lr_range_test_step_rate": Key(NUMBER, 1.0, "Size of a raise."),
            "lr_range_test_staircase": Key(BOOLEAN, False, "Raise in stairs instead of evenly."),
            "last_batch_iteration": _LAST,
        },
        strict=True,
        meaning="Raises the learning rate without end, to find the largest one that trains.",
    ),
    "OneCycle": Block(
        keys={
            "cycle_min_lr": _rate(None, "Learning rate at both ends of the cycle.", required=True),
            "cycle_max_lr": _rate(None, "Learning rate at its top.", required=True),
            "decay_lr_rate": Key(NUMBER, 0.0, "Decay of the learning rate after the cycle."),
            "cycle_first_step_size": Key(INTEGER, 2000, "Steps up.", unit=_STEPS, exclusive_minimum=0),
            "cycle_second_step_size": Key(INTEGER + NULL, None, "Steps down; unset, as many.", unit=_STEPS),
            "cycle_first_stair_count": Key(INTEGER, 0, "Stairs up; 0 rises evenly."),
            "cycle_second_stair_count": Key(INTEGER + NULL, None, "Stairs down; unset, as many."),
            "decay_step_size": Key(INTEGER, 0, "Steps between two decays after the cycle; 0 for none.", unit=_STEPS),
            "cycle_momentum": _CYCLE_MOMENTUM,
            "cycle_min_mom": Key(NUMBER, 0.8, "Lowest momentum."),
            "cycle_max_mom": Key(NUMBER, 0.9, "Highest momentum."),
            "decay_mom_rate": Key(NUMBER, 0.0, "Decay of the momentum after the cycle."),
            "last_batch_iteration": _LAST,
        },
        strict=True,
        meaning="Up and down once, then decay.",
    ),
    "WarmupLR": Block(
        keys={
            "warmup_min_lr": _WARMUP_MIN,
            "warmup_max_lr": Key(
                NUMBER + ARRAY + NULL, None, "Learning rate it ends at; unset, the optimizer's.", minimum=0, items=_RATE
            ),
            "warmup_num_steps": _WARMUP_STEPS,
            "warmup_type": _WARMUP_TYPE,
            "last_batch_iteration": _LAST,
        },
        strict=True,
        meaning="Warm-up, then constant.",
    ),
    "WarmupDecayLR": Block(
        keys={
            "total_num_steps": _TOTAL,
            "warmup_min_lr": _WARMUP_MIN,
            "warmup_max_lr": Key(
                NUMBER + ARRAY + NULL,
                0.001,
                "Learning rate at the top; it overrides the optimizer's, unless null.",
                minimum=0,
                items=_RATE,
            ),
            "warmup_num_steps": _WARMUP_STEPS,
            "warmup_type": _WARMUP_TYPE,
            "last_batch_iteration": _LAST,
        },
        strict=True,
        meaning="Warm-up, then linear decay to 0; one step later than transformers' linear schedule.",
    ),
    "WarmupCosineLR": Block(
        keys={
            "total_num_steps": _TOTAL,
            "warmup_min_ratio": Key(NUMBER, 0.0, "Share of the learning rate to start from.", minimum=0),
            "warmup_num_steps": _WARMUP_STEPS,
            "cos_min_ratio": Key(NUMBER, 0.0001, "Share of the learning rate at the end.", minimum=0),
            "warmup_type": _WARMUP_TYPE,
            "last_batch_iteration": _LAST,
        },
        strict=True,
        meaning="Warm-up, then half a cosine; shares of the optimizer's learning rate.",
    ),
    "StepLR": _torch(
        "Falls by a factor every so many steps.",
        {
            "step_size": Key(INTEGER, None, "Steps between two falls.", unit=_STEPS, minimum=1, required=True),
            "gamma": _GAMMA,
        },
    ),
    "MultiStepLR": _torch(
        "Falls by a factor at given steps.",
        {
            "milestones": Key(
                ARRAY, None, "Steps it falls at.", unit=_STEPS, items=Key(INTEGER, None, "A step."), required=True
            ),
            "gamma": _GAMMA,
        },
    ),
    "ConstantLR": _torch(
        "A share of the learning rate for some steps, then all of it.",
        {
            "factor": Key(NUMBER, 1 / 3, "The share.", minimum=0, maximum=1),
            "total_iters": Key(INTEGER, 5, "Steps of it.", unit=_STEPS),
        },
    ),
    "LinearLR": _torch(
        "From one share of the learning rate to another.",
        {
            "start_factor": Key(NUMBER, 1 / 3, "Share at the start.", exclusive_minimum=0, maximum=1),
            "end_factor": Key(NUMBER, 1.0, "Share at the end.", minimum=0, maximum=1),
            "total_iters": Key(INTEGER, 5, "Steps between the two.", unit=_STEPS),
        },
    ),
    "ExponentialLR": _torch(
        "Falls by a factor every step.", {"gamma": Key(NUMBER, None, "Factor each step.", required=True)}
    ),
    "PolynomialLR": _torch(
        "Falls to 0 along a power.",
        {
            "total_iters": Key(INTEGER, 5, "Steps until 0.", unit=_STEPS),
            "power": Key(NUMBER, 1.0, "The power; 1 is linear."),
        },
    ),
    "CosineAnnealingLR": _torch(
        "Falls along half a cosine.",
        {
            "T_max": Key(INTEGER, None, "Steps of the half cosine.", unit=_STEPS, minimum=1, required=True),
            "eta_min": Key(NUMBER, 0.0, "Learning rate at its foot.", minimum=0),
        },
    ),
    "CosineAnnealingWarmRestarts": _torch(
        "Half a cosine, begun again and again.",
        {
            "T_0": Key(INTEGER, None, "Steps of the first.", unit=_STEPS, minimum=1, required=True),
            "T_mult": Key(INTEGER, 1, "Each is so many times as long as the last.", minimum=1),
            "eta_min": Key(NUMBER, 0.0, "Learning rate at its foot.", minimum=0),
        },
    ),
    "CyclicLR": _torch(
        "Up and down again and again.",
        {
            "base_lr": _rate(None, "Lowest learning rate.", required=True),
            "max_lr": _rate(None, "Highest learning rate.", required=True),
            "step_size_up": Key(INTEGER, 2000, "Steps up.", unit=_STEPS),
            "step_size_down": Key(INTEGER + NULL, None, "Steps down; unset, as many.", unit=_STEPS),
            "mode": Key(STRING, "triangular", "Shape.", choices=("triangular", "triangular2", "exp_range")),
            "gamma": Key(NUMBER, 1.0, "Factor of exp_range."),
            "scale_fn": Key(NULL, None, "A Python function: cannot be set here."),
            "scale_mode": Key(STRING, "cycle", "What scale_fn counts.", choices=("cycle", "iterations")),
            "cycle_momentum": _CYCLE_MOMENTUM,
            "base_momentum": Key(NUMBER + ARRAY, 0.8, "Lowest momentum.", items=_NUMBER),
            "max_momentum": Key(NUMBER + ARRAY, 0.9, "Highest momentum.", items=_NUMBER),
        },
    ),
    "OneCycleLR": _torch(
        "Up once and down far.",
        {
            "max_lr": _rate(None, "Learning rate at the top.", required=True),
            "total_steps": Key(INTEGER + NULL, None, "Steps in all; or give epochs and steps_per_epoch.", unit=_STEPS),
            "epochs": Key(INTEGER + NULL, None, "Epochs in all.", unit="epochs"),
            "steps_per_epoch": Key(INTEGER + NULL, None, "Steps an epoch.", unit=_STEPS),
            "pct_start": Key(NUMBER, 0.3, "Share of the steps spent rising.", minimum=0, maximum=1),
            "anneal_strategy": Key(STRING, "cos", "Shape.", choices=("cos", "linear")),
            "cycle_momentum": _CYCLE_MOMENTUM,
            "base_momentum": Key(NUMBER + ARRAY, 0.85, "Lowest momentum.", items=_NUMBER),
            "max_momentum": Key(NUMBER + ARRAY, 0.95, "Highest momentum.", items=_NUMBER),
            "div_factor": Key(NUMBER, 25.0, "The top divided by the start."),
            "final_div_factor": Key(NUMBER, 1e4, "The start divided by the end."),
            "three_phase": Key(BOOLEAN, False, "Come back to the start before the last fall."),
        },
    ),
    "ReduceLROnPlateau": Block(
        keys={
            "mode": Key(STRING, "min", "Whether the watched figure should fall or rise.", choices=("min", "max")),
            "factor": Key(NUMBER, 0.1, "Factor each time.", exclusive_maximum=1),
            "patience": Key(INTEGER, 10, "Steps without gain before a fall.", unit=_STEPS),
            "threshold": Key(NUMBER, 1e-4, "Gain that counts."),
            "threshold_mode": Key(STRING, "rel", "Whether it is relative.", choices=("rel", "abs")),
            "cooldown": Key(INTEGER, 0, "Steps of rest after a fall.", unit=_STEPS),
            "min_lr": _rate(0.0, "Lowest learning rate."),
            "eps": Key(NUMBER, 1e-8, "Falls smaller than this are left out."),
        },
        strict=True,
        meaning="Falls when a figure no longer improves; its step needs that figure, which the engine does not give.",
    ),
}
"""Type -> what `scheduler.params` may hold."""
