"""Notes on the parameters of each learning-rate schedule that a config can name, by its exact type.

DeepSpeed looks for the type first among its own schedules, then in torch.optim.lr_scheduler. PyTorch's schedules need a
plain torch optimizer, so they fail if ZeRO, fp16 or bf16 wraps it. Unknown parameters, and a missing `params`, raise a
TypeError when the engine starts.
"""

from layoutner.deepspeed_config.key import ARRAY, INTEGER, NULL, NUMBER, Key, Notes

NOT_FROM_JSON: dict[str, str] = {
    "LambdaLR": "needs a Python function",
    "MultiplicativeLR": "needs a Python function",
    "SequentialLR": "needs scheduler objects",
    "ChainedScheduler": "needs scheduler objects",
    "LRScheduler": "is the base class of the others",
}
"""Name that DeepSpeed finds in torch.optim.lr_scheduler -> why a config cannot build it."""

_STEPS = "optimizer steps"
_RATE = Key("Learning rate of one parameter group.", types=NUMBER, minimum=0)
_NUMBER = Key("Number for one parameter group.", types=NUMBER)


def _rate(meaning: str, types: tuple[str, ...] = ()) -> Key:
    return Key(meaning, types=types, minimum=0, items=_RATE)


def _momentum(meaning: str) -> Key:
    return Key(meaning, types=NUMBER + ARRAY, items=_NUMBER)


PARAMETERS: Notes = {
    "last_batch_iteration": Key("Step from which to continue; -1: start from the beginning.", _STEPS),
    "last_epoch": Key("Step from which to continue; -1: start from the beginning. It counts optimizer steps.", _STEPS),
    "gamma": "Factor of each decay.",
    "cycle_momentum": "Change the momentum in the opposite direction of the learning rate.",
    "base_momentum": _momentum("Minimum momentum."),
    "max_momentum": _momentum("Maximum momentum."),
    "total_num_steps": Key("Total number of steps, at which the schedule ends.", _STEPS, minimum=1),
    "warmup_min_lr": _rate("Learning rate at the start of the warm-up.", NUMBER + ARRAY),
    "warmup_num_steps": Key("Steps of the warm-up; DeepSpeed turns 1 into 2 and rejects 0.", _STEPS, minimum=1),
    "warmup_type": Key("Shape of the warm-up.", choices=("log", "linear")),
}
"""Notes on a parameter of this name, whichever schedule has it."""

SCHEDULERS: dict[str, Notes] = {
    "LRRangeTest": {
        "lr_range_test_min_lr": _rate("Learning rate at the start.", NUMBER + ARRAY),
        "lr_range_test_step_size": Key("Steps between two increases.", _STEPS, minimum=1),
        "lr_range_test_step_rate": "Size of an increase.",
        "lr_range_test_staircase": "Increase in stairs instead of continuously.",
    },
    "OneCycle": {
        "cycle_min_lr": _rate("Learning rate at the start and end of the cycle.", NUMBER + ARRAY),
        "cycle_max_lr": _rate("Learning rate at the top of the cycle.", NUMBER + ARRAY),
        "decay_lr_rate": "Decay of the learning rate after the cycle.",
        "cycle_first_step_size": Key("Steps of the increase.", _STEPS, exclusive_minimum=0),
        "cycle_second_step_size": Key(
            "Steps of the decrease; if unset, as for the increase.", _STEPS, types=INTEGER + NULL
        ),
        "cycle_first_stair_count": "Stairs of the increase; 0: a continuous increase.",
        "cycle_second_stair_count": Key("Stairs of the decrease; if unset, as for the increase.", types=INTEGER + NULL),
        "decay_step_size": Key("Steps between two decays after the cycle; 0: no decay.", _STEPS),
        "cycle_min_mom": "Minimum momentum.",
        "cycle_max_mom": "Maximum momentum.",
        "decay_mom_rate": "Decay of the momentum after the cycle.",
    },
    "WarmupLR": {
        "warmup_max_lr": _rate("Learning rate at the end; if unset, that of the optimizer.", NUMBER + ARRAY + NULL)
    },
    "WarmupDecayLR": {
        "warmup_max_lr": _rate(
            "Peak learning rate; unless it is null, it overrides that of the optimizer.", NUMBER + ARRAY + NULL
        )
    },
    "WarmupCosineLR": {
        "warmup_min_ratio": Key("Initial learning rate, as a share of the optimizer's.", minimum=0),
        "cos_min_ratio": Key("Final learning rate, as a share of the optimizer's.", minimum=0),
    },
    "StepLR": {"step_size": Key("Steps between two decays.", _STEPS, minimum=1)},
    "MultiStepLR": {
        "milestones": Key(
            "Steps at which the learning rate decays.", _STEPS, types=ARRAY, items=Key("A step.", types=INTEGER)
        ),
    },
    "ConstantLR": {
        "factor": Key("Share of the learning rate.", minimum=0, maximum=1),
        "total_iters": Key("Steps with this share.", _STEPS),
    },
    "LinearLR": {
        "start_factor": Key("Share of the learning rate at the start.", exclusive_minimum=0, maximum=1),
        "end_factor": Key("Share of the learning rate at the end.", minimum=0, maximum=1),
        "total_iters": Key("Steps from start to end.", _STEPS),
    },
    "ExponentialLR": {"gamma": "Factor of each step."},
    "PolynomialLR": {
        "total_iters": Key("Steps until the learning rate is 0.", _STEPS),
        "power": "Power of the decay; 1: linear.",
    },
    "CosineAnnealingLR": {
        "T_max": Key("Steps of half a cosine period.", _STEPS, minimum=1),
        "eta_min": Key("Minimum learning rate.", minimum=0),
    },
    "CosineAnnealingWarmRestarts": {
        "T_0": Key("Steps of the first period.", _STEPS, minimum=1),
        "T_mult": Key("Factor by which each period is longer than the one before.", minimum=1),
        "eta_min": Key("Minimum learning rate.", minimum=0),
    },
    "CyclicLR": {
        "base_lr": _rate("Minimum learning rate."),
        "max_lr": _rate("Maximum learning rate."),
        "step_size_up": Key("Steps of the increase.", _STEPS),
        "step_size_down": Key("Steps of the decrease; if unset, as for the increase.", _STEPS),
        "mode": "Shape of a cycle.",
        "gamma": "Factor of each step, for mode exp_range.",
        "scale_fn": "A Python function, which JSON cannot contain.",
        "scale_mode": "Whether scale_fn counts cycles or steps.",
    },
    "OneCycleLR": {
        "max_lr": _rate("Peak learning rate."),
        "total_steps": Key("Total number of steps; or give epochs and steps_per_epoch.", _STEPS),
        "epochs": Key("Total number of epochs.", "epochs"),
        "steps_per_epoch": Key("Steps per epoch.", _STEPS),
        "pct_start": Key("Share of the steps in which the learning rate increases.", minimum=0, maximum=1),
        "anneal_strategy": "Shape of the decay.",
        "div_factor": "Peak learning rate divided by the initial one.",
        "final_div_factor": "Initial learning rate divided by the final one.",
        "three_phase": "Return to the initial learning rate before the last decay.",
    },
    "ReduceLROnPlateau": {
        "mode": "Whether the metric should decrease or increase.",
        "factor": Key("Factor of each decay.", exclusive_maximum=1),
        "patience": Key("Steps without improvement before a decay.", _STEPS),
        "threshold": "Minimum improvement that counts.",
        "threshold_mode": "Whether threshold is relative or absolute.",
        "cooldown": Key("Steps to wait after a decay.", _STEPS),
        "min_lr": _rate("Minimum learning rate."),
        "eps": "Decays smaller than this are skipped.",
    },
}
"""Notes on the parameters of one type, in addition to those in PARAMETERS or instead of them."""

_TORCH = "A schedule of PyTorch, which fails with ZeRO, fp16 or bf16."
MEANINGS = {
    "LRRangeTest": "Increases the learning rate without limit, to find the largest one that works.",
    "OneCycle": "One increase and decrease, then a decay.",
    "WarmupLR": "Warm-up, then a constant learning rate.",
    "WarmupDecayLR": "Warm-up, then linear decay to 0; one step later than transformers' linear schedule.",
    "WarmupCosineLR": "Warm-up, then cosine decay, as shares of the optimizer's learning rate.",
    "StepLR": f"Decays by a factor every step_size steps. {_TORCH}",
    "MultiStepLR": f"Decays by a factor at given steps. {_TORCH}",
    "ConstantLR": f"A share of the learning rate for some steps, then the full one. {_TORCH}",
    "LinearLR": f"Linear change from one share of the learning rate to another. {_TORCH}",
    "ExponentialLR": f"Decays by a factor in every step. {_TORCH}",
    "PolynomialLR": f"Polynomial decay to 0. {_TORCH}",
    "CosineAnnealingLR": f"Cosine decay. {_TORCH}",
    "CosineAnnealingWarmRestarts": f"Cosine decay with restarts. {_TORCH}",
    "CyclicLR": f"Repeated increase and decrease. {_TORCH}",
    "OneCycleLR": f"One increase, then a decay far below the start. {_TORCH}",
    "ReduceLROnPlateau": (
        "Decays if a metric no longer improves; its step needs that metric, which the engine does not pass."
    ),
}
"""What each schedule does."""
