"""Parameters of each optimizer that a config can name, by the type in lower case.

DeepSpeed takes its own types (`DEEPSPEED_TYPES`) in any case. Any other type is looked up in torch.optim exactly as it
is written (`TORCH_TYPES` has the spelling), so "sgd" fails where "SGD" works. Unknown parameters are a TypeError when
the engine starts, except for Muon, which ignores them.
"""

from layoutner.deepspeed_config.schema.key import ARRAY, BOOLEAN, INTEGER, NULL, NUMBER, STRING, Block, Key

DEEPSPEED_TYPES: dict[str, str] = {
    "adagrad": "Adagrad",
    "adam": "Adam",
    "adamw": "AdamW",
    "lamb": "Lamb",
    "lion": "Lion",
    "muadam": "MuAdam",
    "muadamw": "MuAdamW",
    "musgd": "MuSGD",
    "muon": "Muon",
}
"""Types DeepSpeed builds itself: lower case to usual spelling; any case will do."""

TORCH_TYPES: dict[str, str] = {
    "adadelta": "Adadelta",
    "adafactor": "Adafactor",
    "adamax": "Adamax",
    "asgd": "ASGD",
    "lbfgs": "LBFGS",
    "nadam": "NAdam",
    "radam": "RAdam",
    "rmsprop": "RMSprop",
    "rprop": "Rprop",
    "sgd": "SGD",
    "sparseadam": "SparseAdam",
}
"""Types found in torch.optim: lower case to the one spelling that works."""


def _lr(default: float) -> Key:
    return Key(NUMBER, default, "Learning rate.", minimum=0)


def _eps(default: float) -> Key:
    return Key(NUMBER, default, "Added to the denominator, against division by zero.", minimum=0)


def _decay(default: float) -> Key:
    return Key(NUMBER, default, "Weight decay.", minimum=0)


def _momentum(default: float) -> Key:
    return Key(NUMBER, default, "Momentum.", minimum=0)


_SHARE = Key(NUMBER, None, "One factor.", minimum=0, exclusive_maximum=1)
_BETAS = Key(ARRAY, [0.9, 0.999], "Decay of the running mean and of the running square.", items=_SHARE)
_AMSGRAD = Key(BOOLEAN, False, "The AMSGrad variant.")
_NO_AMSGRAD = Key(BOOLEAN, False, "Must stay false: the fused optimizer has no AMSGrad.")
_BIAS_CORRECTION = Key(BOOLEAN, True, "Correct the running means of the first steps.")
_SET_GRAD_NONE = Key(BOOLEAN, True, "Drop gradients rather than zero them; of the fused optimizer alone.")
_FP32_STATES = Key(BOOLEAN, True, "Keep the state in fp32; of the CPU optimizer that offload uses.")
_ADAM_W_MODE = Key(BOOLEAN, True, "Decoupled weight decay, as in AdamW; DeepSpeed's default for Adam too.")
_TORCH_ADAM = Key(BOOLEAN, False, "Use torch.optim's Adam or AdamW: nothing to compile.")

_FOREACH = Key(BOOLEAN + NULL, None, "Update many tensors at once; unset, PyTorch decides.")
_MAXIMIZE = Key(BOOLEAN, False, "Maximize instead of minimize.")
_CAPTURABLE = Key(BOOLEAN, False, "Safe to capture in a CUDA graph.")
_DIFFERENTIABLE = Key(BOOLEAN, False, "Let autograd see the step.")
_FUSED = Key(BOOLEAN + NULL, None, "PyTorch's own fused kernel; unset, PyTorch decides.")
_DECOUPLED = Key(BOOLEAN, False, "Decouple weight decay from the gradient.")
_TORCH: dict[str, Key] = {
    "foreach": _FOREACH,
    "maximize": _MAXIMIZE,
    "capturable": _CAPTURABLE,
    "differentiable": _DIFFERENTIABLE,
}

_ADAM: dict[str, Key] = {
    "lr": _lr(1e-3),
    "betas": _BETAS,
    "eps": _eps(1e-8),
    "weight_decay": Key(NUMBER, 0.0, "Weight decay; 0.01 for AdamW with torch_adam.", minimum=0),
    "amsgrad": Key(BOOLEAN, False, "The AMSGrad variant; with torch_adam or offload only."),
    "bias_correction": Key(BOOLEAN, True, "Correct the running means of the first steps; not with torch_adam."),
    "set_grad_none": _SET_GRAD_NONE,
    "torch_adam": _TORCH_ADAM,
    "adam_w_mode": _ADAM_W_MODE,
    "fp32_optimizer_states": _FP32_STATES,
    "foreach": Key(BOOLEAN + NULL, None, "Update many tensors at once; with torch_adam only."),
    "maximize": Key(BOOLEAN, False, "Maximize instead of minimize; with torch_adam only."),
    "capturable": Key(BOOLEAN, False, "Safe to capture in a CUDA graph; with torch_adam only."),
    "differentiable": Key(BOOLEAN, False, "Let autograd see the step; with torch_adam only."),
    "fused": Key(BOOLEAN + NULL, None, "PyTorch's own fused kernel; with torch_adam only."),
}

_TORCH_ADAM_KEYS: dict[str, Key] = {
    "lr": _lr(1e-3),
    "betas": _BETAS,
    "eps": _eps(1e-8),
    "weight_decay": _decay(0.0),
    "amsgrad": _AMSGRAD,
    "fused": _FUSED,
    **_TORCH,
}

_SGD: dict[str, Key] = {
    "lr": _lr(1e-3),
    "momentum": _momentum(0.0),
    "dampening": Key(NUMBER, 0.0, "Damping of the momentum."),
    "weight_decay": _decay(0.0),
    "nesterov": Key(BOOLEAN, False, "Nesterov momentum."),
    "maximize": _MAXIMIZE,
    "foreach": _FOREACH,
    "differentiable": _DIFFERENTIABLE,
    "fused": _FUSED,
}

_MUP = "muP width scaling; needs the mup package and a model with its base shapes."
_MUP_DECAY = Key(BOOLEAN, False, "Leave weight decay out of muP's scaling.")


def _torch(meaning: str, keys: dict[str, Key]) -> Block:
    return Block(keys=keys, strict=True, meaning=f"{meaning} Of torch.optim: write the type exactly.")


OPTIMIZERS: dict[str, Block] = {
    "adam": Block(
        keys={
            **_ADAM,
            "decoupled_weight_decay": Key(
                BOOLEAN, False, "Decouple weight decay; with torch_adam and adam_w_mode false only."
            ),
        },
        strict=True,
        meaning="AdamW unless adam_w_mode is false. A compiled kernel on first use, or torch.optim with torch_adam.",
    ),
    "adamw": Block(
        keys=_ADAM,
        strict=True,
        meaning="AdamW. A compiled kernel on first use (CUDA or CPU), or torch.optim with torch_adam.",
    ),
    "lamb": Block(
        keys={
            "lr": _lr(1e-3),
            "bias_correction": _BIAS_CORRECTION,
            "betas": _BETAS,
            "eps": _eps(1e-8),
            "eps_inside_sqrt": Key(BOOLEAN, False, "Add eps under the root."),
            "weight_decay": _decay(0.0),
            "max_coeff": Key(NUMBER, 10.0, "Largest trust ratio.", minimum=0),
            "min_coeff": Key(NUMBER, 0.01, "Smallest trust ratio.", minimum=0),
            "amsgrad": _NO_AMSGRAD,
        },
        strict=True,
        meaning="LAMB. CUDA (or ROCm) only, and dynamic loss scaling in fp16.",
    ),
    "adagrad": Block(
        keys={
            "lr": _lr(1e-2),
            "lr_decay": Key(NUMBER, 0.0, "Decay of the learning rate; not with offload.", minimum=0),
            "weight_decay": _decay(0.0),
            "initial_accumulator_value": Key(NUMBER, 0.0, "First sum of squares; not with offload.", minimum=0),
            "eps": _eps(1e-10),
            "foreach": Key(BOOLEAN + NULL, None, "Update many tensors at once; not with offload."),
            "maximize": Key(BOOLEAN, False, "Maximize instead of minimize; not with offload."),
            "differentiable": Key(BOOLEAN, False, "Let autograd see the step; not with offload."),
            "fused": Key(BOOLEAN + NULL, None, "PyTorch's own fused kernel; not with offload."),
            "amsgrad": Key(BOOLEAN, False, "Accepted with offload; without effect."),
            "fp32_optimizer_states": Key(BOOLEAN, True, "Keep the state in fp32; with offload only."),
        },
        strict=True,
        meaning="Adagrad: torch.optim's, or a compiled CPU kernel with offload.",
    ),
    "lion": Block(
        keys={
            "lr": _lr(1e-3),
            "betas": _BETAS,
            "weight_decay": _decay(0.0),
            "set_grad_none": Key(BOOLEAN, True, "Drop gradients rather than zero them; not with offload."),
            "fp32_optimizer_states": Key(BOOLEAN, True, "Keep the state in fp32; with offload only."),
        },
        strict=True,
        meaning="Lion: CUDA, or a compiled CPU kernel with offload.",
    ),
    "muadam": Block(
        keys={**_TORCH_ADAM_KEYS, "decoupled_weight_decay": _DECOUPLED, "decoupled_wd": _MUP_DECAY},
        strict=True,
        meaning=f"Adam with {_MUP}",
    ),
    "muadamw": Block(
        keys={**_TORCH_ADAM_KEYS, "weight_decay": _decay(0.01), "decoupled_wd": _MUP_DECAY},
        strict=True,
        meaning=f"AdamW with {_MUP}",
    ),
    "musgd": Block(keys={**_SGD, "decoupled_wd": _MUP_DECAY}, strict=True, meaning=f"SGD with {_MUP}"),
    "muon": Block(
        keys={
            "lr": Key(NUMBER, None, "Learning rate; unset, 0.02 for Muon's matrices, 3e-4 for Adam's rest.", minimum=0),
            "muon_lr": Key(NUMBER, None, "Learning rate of the matrices; wins over lr.", minimum=0),
            "adam_lr": Key(NUMBER, None, "Learning rate of the rest; wins over lr.", minimum=0),
            "momentum": _momentum(0.95),
            "weight_decay": _decay(0.0),
            "ns_method": Key(STRING, "gram", "Form of the Newton-Schulz iteration.", choices=("gram", "standard")),
            "per_head_muon": Key(BOOLEAN, False, "Orthogonalize each attention head by itself."),
            "betas": Key(ARRAY, [0.9, 0.95], "Of Adam: decay of the mean and the square.", items=_SHARE),
            "eps": _eps(1e-10),
            "adam_w_mode": _ADAM_W_MODE,
            "torch_adam": _TORCH_ADAM,
            "foreach": Key(BOOLEAN + NULL, None, "Update many tensors at once; with torch_adam only."),
            "fp32_optimizer_states": _FP32_STATES,
        },
        strict=False,
        meaning="Muon for matrices, Adam for embeddings, the output head and vectors. Unknown parameters are ignored.",
    ),
    "sgd": _torch("Gradient descent.", _SGD),
    "rmsprop": _torch(
        "RMSprop.",
        {
            "lr": _lr(1e-2),
            "alpha": Key(NUMBER, 0.99, "Decay of the running square.", minimum=0),
            "eps": _eps(1e-8),
            "weight_decay": _decay(0.0),
            "momentum": _momentum(0.0),
            "centered": Key(BOOLEAN, False, "Take the mean out of the square."),
            **_TORCH,
        },
    ),
    "adamax": _torch(
        "Adam with the largest gradient.",
        {"lr": _lr(2e-3), "betas": _BETAS, "eps": _eps(1e-8), "weight_decay": _decay(0.0), **_TORCH},
    ),
    "nadam": _torch(
        "Adam with Nesterov momentum.",
        {
            "lr": _lr(2e-3),
            "betas": _BETAS,
            "eps": _eps(1e-8),
            "weight_decay": _decay(0.0),
            "momentum_decay": Key(NUMBER, 4e-3, "Decay of the momentum.", minimum=0),
            "decoupled_weight_decay": _DECOUPLED,
            **_TORCH,
        },
    ),
    "radam": _torch(
        "Adam with a corrected start.",
        {
            "lr": _lr(1e-3),
            "betas": _BETAS,
            "eps": _eps(1e-8),
            "weight_decay": _decay(0.0),
            "decoupled_weight_decay": _DECOUPLED,
            **_TORCH,
        },
    ),
    "adadelta": _torch(
        "Adadelta.",
        {
            "lr": _lr(1.0),
            "rho": Key(NUMBER, 0.9, "Decay of the running square.", minimum=0, maximum=1),
            "eps": _eps(1e-6),
            "weight_decay": _decay(0.0),
            **_TORCH,
        },
    ),
    "adafactor": _torch(
        "Adafactor.",
        {
            "lr": _lr(1e-2),
            "beta2_decay": Key(NUMBER, -0.8, "Course of the running square; 0 or less.", maximum=0),
            "eps": Key(
                ARRAY,
                [None, 1e-3],
                "Two guards: of the square, and of the size.",
                items=Key(NUMBER + NULL, None, "A guard."),
            ),
            "d": Key(NUMBER, 1.0, "Bound on the size of an update.", minimum=1),
            "weight_decay": _decay(0.0),
            "foreach": _FOREACH,
            "maximize": _MAXIMIZE,
        },
    ),
    "asgd": _torch(
        "Averaged gradient descent.",
        {
            "lr": _lr(1e-2),
            "lambd": Key(NUMBER, 1e-4, "Decay term."),
            "alpha": Key(NUMBER, 0.75, "Power of the decay of the learning rate."),
            "t0": Key(NUMBER, 1e6, "Step from which averaging starts.", unit="optimizer steps"),
            "weight_decay": _decay(0.0),
            **_TORCH,
        },
    ),
    "rprop": _torch(
        "Resilient propagation.",
        {
            "lr": _lr(1e-2),
            "etas": Key(ARRAY, [0.5, 1.2], "Factors down and up.", items=Key(NUMBER, None, "A factor.")),
            "step_sizes": Key(ARRAY, [1e-6, 50], "Smallest and largest step.", items=Key(NUMBER, None, "A size.")),
            **_TORCH,
        },
    ),
    "sparseadam": _torch(
        "Adam for sparse gradients.",
        {"lr": _lr(1e-3), "betas": _BETAS, "eps": _eps(1e-8), "maximize": _MAXIMIZE},
    ),
    "lbfgs": _torch(
        "L-BFGS; its step needs a closure, which the engine does not give.",
        {
            "lr": _lr(1.0),
            "max_iter": Key(INTEGER, 20, "Iterations a step."),
            "max_eval": Key(INTEGER + NULL, None, "Evaluations a step; unset, 1.25 times max_iter."),
            "tolerance_grad": Key(NUMBER, 1e-7, "Stop at a gradient this small.", minimum=0),
            "tolerance_change": Key(NUMBER, 1e-9, "Stop at a change this small.", minimum=0),
            "history_size": Key(INTEGER, 100, "Updates remembered."),
            "line_search_fn": Key(STRING + NULL, None, "Line search.", choices=("strong_wolfe", None)),
        },
    ),
}
"""Type in lower case -> what `optimizer.params` may hold."""
