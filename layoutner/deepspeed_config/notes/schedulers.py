"""Notes on the parameters of each learning-rate schedule that a config can name, by its type, case and all.

DeepSpeed looks the type up among its own schedules, then in torch.optim.lr_scheduler. Those of PyTorch ask for a plain
torch optimizer, so they fail as soon as ZeRO, fp16 or bf16 wraps it. Unknown parameters, and a missing `params`, are a
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
"""Names DeepSpeed would find in torch.optim.lr_scheduler, and why a config cannot build them."""

_STEPS = "optimizer steps"
_RATE = Key("A learning rate, one a parameter group.", types=NUMBER, minimum=0)
_NUMBER = Key("A number, one a parameter group.", types=NUMBER)


def _rate(meaning: str, types: tuple[str, ...] = ()) -> Key:
    return Key(meaning, types=types, minimum=0, items=_RATE)


def _momentum(meaning: str) -> Key:
    return Key(meaning, types=NUMBER + ARRAY, items=_NUMBER)


PARAMETERS: Notes = {
    "last_batch_iteration": Key("Step to go on from; -1 starts anew.", _STEPS),
    "last_epoch": Key("Step to go on from; -1 starts anew. DeepSpeed steps it once an optimizer step.", _STEPS),
    "gamma": "Factor each time.",
    "cycle_momentum": "Move the momentum against the learning rate.",
    "base_momentum": _momentum("Lowest momentum."),
    "max_momentum": _momentum("Highest momentum."),
    "total_num_steps": Key("Steps in all: the learning rate ends there.", _STEPS, minimum=1),
    "warmup_min_lr": _rate("Learning rate the warm-up starts from.", NUMBER + ARRAY),
    "warmup_num_steps": Key("Steps of the warm-up; DeepSpeed makes 1 into 2 and rejects 0.", _STEPS, minimum=1),
    "warmup_type": Key("Course of the warm-up.", choices=("log", "linear")),
}
"""Notes on a parameter of this name, whichever schedule has it."""

SCHEDULERS: dict[str, Notes] = {
    "LRRangeTest": {
        "lr_range_test_min_lr": _rate("Learning rate at the start.", NUMBER + ARRAY),
        "lr_range_test_step_size": Key("Steps between two raises.", _STEPS, minimum=1),
        "lr_range_test_step_rate": "Size of a raise.",
        "lr_range_test_staircase": "Raise in stairs instead of evenly.",
    },
    "OneCycle": {
        "cycle_min_lr": _rate("Learning rate at both ends of the cycle.", NUMBER + ARRAY),
        "cycle_max_lr": _rate("Learning rate at its top.", NUMBER + ARRAY),
        "decay_lr_rate": "Decay of the learning rate after the cycle.",
        "cycle_first_step_size": Key("Steps up.", _STEPS, exclusive_minimum=0),
        "cycle_second_step_size": Key("Steps down; unset, as many.", _STEPS, types=INTEGER + NULL),
        "cycle_first_stair_count": "Stairs up; 0 rises evenly.",
        "cycle_second_stair_count": Key("Stairs down; unset, as many.", types=INTEGER + NULL),
        "decay_step_size": Key("Steps between two decays after the cycle; 0 for none.", _STEPS),
        "cycle_min_mom": "Lowest momentum.",
        "cycle_max_mom": "Highest momentum.",
        "decay_mom_rate": "Decay of the momentum after the cycle.",
    },
    "WarmupLR": {"warmup_max_lr": _rate("Learning rate it ends at; unset, the optimizer's.", NUMBER + ARRAY + NULL)},
    "WarmupDecayLR": {
        "warmup_max_lr": _rate(
            "Learning rate at the top; it overrides the optimizer's, unless null.", NUMBER + ARRAY + NULL
        )
    },
    "WarmupCosineLR": {
        "warmup_min_ratio": Key("Share of the learning rate to start from.", minimum=0),
        "cos_min_ratio": Key("Share of the learning rate at the end.", minimum=0),
    },
    "StepLR": {"step_size": Key("Steps between two falls.", _STEPS, minimum=1)},
    "MultiStepLR": {
        "milestones": Key("Steps it falls at.", _STEPS, types=ARRAY, items=Key("A step.", types=INTEGER)),
    },
    "ConstantLR": {
        "factor": Key("The share.", minimum=0, maximum=1),
        "total_iters": Key("Steps of it.", _STEPS),
    },
    "LinearLR": {
        "start_factor": Key("Share at the start.", exclusive_minimum=0, maximum=1),
        "end_factor": Key("Share at the end.", minimum=0, maximum=1),
        "total_iters": Key("Steps between the two.", _STEPS),
    },
    "ExponentialLR": {"gamma": "Factor each step."},
    "PolynomialLR": {
        "total_iters": Key("Steps until 0.", _STEPS),
        "power": "The power; 1 is linear.",
    },
    "CosineAnnealingLR": {
        "T_max": Key("Steps of the half cosine.", _STEPS, minimum=1),
        "eta_min": Key("Learning rate at its foot.", minimum=0),
    },
    "CosineAnnealingWarmRestarts": {
        "T_0": Key("Steps of the first.", _STEPS, minimum=1),
        "T_mult": Key("Each is so many times as long as the last.", minimum=1),
        "eta_min": Key("Learning rate at its foot.", minimum=0),
    },
    "CyclicLR": {
        "base_lr": _rate("Lowest learning rate."),
        "max_lr": _rate("Highest learning rate."),
        "step_size_up": Key("Steps up.", _STEPS),
        "step_size_down": Key("Steps down; unset, as many.", _STEPS),
        "mode": "Shape.",
        "gamma": "Factor of exp_range.",
        "scale_fn": "A Python function: cannot be set here.",
        "scale_mode": "What scale_fn counts.",
    },
    "OneCycleLR": {
        "max_lr": _rate("Learning rate at the top."),
        "total_steps": Key("Steps in all; or give epochs and steps_per_epoch.", _STEPS),
        "epochs": Key("Epochs in all.", "epochs"),
        "steps_per_epoch": Key("Steps an epoch.", _STEPS),
        "pct_start": Key("Share of the steps spent rising.", minimum=0, maximum=1),
        "anneal_strategy": "Shape.",
        "div_factor": "The top divided by the start.",
        "final_div_factor": "The start divided by the end.",
        "three_phase": "Come back to the start before the last fall.",
    },
    "ReduceLROnPlateau": {
        "mode": "Whether the watched figure should fall or rise.",
        "factor": Key("Factor each time.", exclusive_maximum=1),
        "patience": Key("Steps without gain before a fall.", _STEPS),
        "threshold": "Gain that counts.",
        "threshold_mode": "Whether it is relative.",
        "cooldown": Key("Steps of rest after a fall.", _STEPS),
        "min_lr": _rate("Lowest learning rate."),
        "eps": "Falls smaller than this are left out.",
    },
}
"""Notes on the parameters of one type, beside or instead of those in PARAMETERS."""

_TORCH = "Of PyTorch: not with ZeRO, fp16 or bf16."
MEANINGS = {
    "LRRangeTest": "Raises the learning rate without end, to find the largest one that trains.",
    "OneCycle": "Up and down once, then decay.",
    "WarmupLR": "Warm-up, then constant.",
    "WarmupDecayLR": "Warm-up, then linear decay to 0; one step later than transformers' linear schedule.",
    "WarmupCosineLR": "Warm-up, then half a cosine; shares of the optimizer's learning rate.",
    "StepLR": f"Falls by a factor every so many steps. {_TORCH}",
    "MultiStepLR": f"Falls by a factor at given steps. {_TORCH}",
    "ConstantLR": f"A share of the learning rate for some steps, then all of it. {_TORCH}",
    "LinearLR": f"From one share of the learning rate to another. {_TORCH}",
    "ExponentialLR": f"Falls by a factor every step. {_TORCH}",
    "PolynomialLR": f"Falls to 0 along a power. {_TORCH}",
    "CosineAnnealingLR": f"Falls along half a cosine. {_TORCH}",
    "CosineAnnealingWarmRestarts": f"Half a cosine, begun again and again. {_TORCH}",
    "CyclicLR": f"Up and down again and again. {_TORCH}",
    "OneCycleLR": f"Up once and down far. {_TORCH}",
    "ReduceLROnPlateau": (
        "Falls when a figure no longer improves; its step needs that figure, which the engine does not give."
    ),
}
"""What each schedule does."""
