"""Notes on the parameters of each optimizer that a config can name, by the type in lower case.

DeepSpeed takes its own types (`SPELLINGS`) in any case. Any other type is looked up in torch.optim exactly as it is
written, so "sgd" fails where "SGD" works. Unknown parameters are a TypeError when the engine starts, except for Muon,
which ignores them.
"""

from layoutner.deepspeed_config.key import ARRAY, BOOLEAN, NULL, NUMBER, STRING, Key, Notes

SPELLINGS: dict[str, str] = {
    "adagrad": "Adagrad",
    "adam": "Adam",
    "adamw": "AdamW",
    "lamb": "Lamb",
    "lion": "Lion",
    "muadam": "MuAdam",
    "muadamw": "MuAdamW",
    "musgd": "MuSGD",
    "muon": "Muon",
    "onebitadam": "OneBitAdam",
    "onebitlamb": "OneBitLamb",
    "zerooneadam": "ZeroOneAdam",
}
"""How DeepSpeed's own types are usually written."""

_SHARE = Key("One factor.", types=NUMBER, minimum=0, exclusive_maximum=1)
_TORCH_ONLY = "with torch_adam only."

PARAMETERS: Notes = {
    "lr": Key("Learning rate.", minimum=0),
    "betas": Key("Decay of the running mean and of the running square.", items=_SHARE),
    "eps": Key("Added to the denominator, against division by zero.", minimum=0),
    "momentum": Key("Momentum.", minimum=0),
    "dampening": "Damping of the momentum.",
    "weight_decay": Key("Weight decay.", minimum=0),
    "nesterov": "Nesterov momentum.",
    "amsgrad": "The AMSGrad variant.",
    "bias_correction": "Correct the running means of the first steps.",
    "set_grad_none": "Drop gradients rather than zero them; of the fused optimizer alone.",
    "torch_adam": "Use torch.optim's Adam or AdamW: nothing to compile.",
    "adam_w_mode": "Decoupled weight decay, as in AdamW; DeepSpeed's default for Adam too.",
    "fp32_optimizer_states": "Keep the state in fp32; of the CPU optimizer that offload uses.",
    "foreach": "Update many tensors at once; unset, PyTorch decides.",
    "maximize": "Maximize instead of minimize.",
    "capturable": "Safe to capture in a CUDA graph.",
    "differentiable": "Let autograd see the step.",
    "fused": "PyTorch's own fused kernel; unset, PyTorch decides.",
    "decoupled_weight_decay": "Decouple weight decay from the gradient.",
    "decoupled_wd": "Leave weight decay out of muP's scaling.",
    "eps_inside_sqrt": "Add eps under the root.",
}
"""Notes on a parameter of this name, whichever optimizer has it."""

_ADAM: Notes = {
    "weight_decay": Key("Weight decay; 0.01 for AdamW with torch_adam.", minimum=0),
    "amsgrad": "The AMSGrad variant; with torch_adam or offload only.",
    "bias_correction": "Correct the running means of the first steps; not with torch_adam.",
    "foreach": f"Update many tensors at once; {_TORCH_ONLY}",
    "maximize": f"Maximize instead of minimize; {_TORCH_ONLY}",
    "capturable": f"Safe to capture in a CUDA graph; {_TORCH_ONLY}",
    "differentiable": f"Let autograd see the step; {_TORCH_ONLY}",
    "fused": f"PyTorch's own fused kernel; {_TORCH_ONLY}",
}
_LAMB: Notes = {
    "max_coeff": Key("Largest trust ratio.", minimum=0),
    "min_coeff": Key("Smallest trust ratio.", minimum=0),
    "amsgrad": "Must stay false: the fused optimizer has no AMSGrad.",
}

OPTIMIZERS: dict[str, Notes] = {
    "adam": {
        **_ADAM,
        "decoupled_weight_decay": "Decouple weight decay; with torch_adam and adam_w_mode false only.",
    },
    "adamw": _ADAM,
    "lamb": _LAMB,
    "adagrad": {
        "weight_decay": Key("Weight decay.", types=NUMBER, minimum=0),
        "lr_decay": Key("Decay of the learning rate; not with offload.", minimum=0),
        "initial_accumulator_value": Key("First sum of squares; not with offload.", minimum=0),
        "foreach": "Update many tensors at once; not with offload.",
        "maximize": "Maximize instead of minimize; not with offload.",
        "differentiable": "Let autograd see the step; not with offload.",
        "fused": "PyTorch's own fused kernel; not with offload.",
        "amsgrad": "Accepted with offload; without effect.",
        "fp32_optimizer_states": "Keep the state in fp32; with offload only.",
    },
    "lion": {
        "set_grad_none": "Drop gradients rather than zero them; not with offload.",
        "fp32_optimizer_states": "Keep the state in fp32; with offload only.",
    },
    # DeepSpeed's code gives the names alone: the engine picks them out.
    "muon": {
        "lr": Key("Learning rate; unset, 0.02 for Muon's matrices, 3e-4 for Adam's rest.", types=NUMBER, minimum=0),
        "muon_lr": Key("Learning rate of the matrices; wins over lr.", types=NUMBER, minimum=0),
        "adam_lr": Key("Learning rate of the rest; wins over lr.", types=NUMBER, minimum=0),
        "momentum": Key("Momentum.", types=NUMBER, default=0.95, minimum=0),
        "weight_decay": Key("Weight decay.", types=NUMBER, default=0.0, minimum=0),
        "ns_method": Key(
            "Form of the Newton-Schulz iteration.", types=STRING, default="gram", choices=("gram", "standard")
        ),
        "per_head_muon": Key("Orthogonalize each attention head by itself.", types=BOOLEAN, default=False),
        "betas": Key("Of Adam: decay of the mean and the square.", types=ARRAY, default=[0.9, 0.95], items=_SHARE),
        "eps": Key("Added to the denominator, against division by zero.", types=NUMBER, default=1e-10, minimum=0),
        "adam_w_mode": Key("Decoupled weight decay, as in AdamW.", types=BOOLEAN, default=True),
        "torch_adam": Key("Use torch.optim's Adam: nothing to compile.", types=BOOLEAN, default=False),
        "foreach": Key(f"Update many tensors at once; {_TORCH_ONLY}", types=BOOLEAN + NULL),
        "fp32_optimizer_states": Key(
            "Keep the state in fp32; of the CPU optimizer that offload uses.", types=BOOLEAN, default=True
        ),
    },
    "rmsprop": {
        "alpha": Key("Decay of the running square.", minimum=0),
        "centered": "Take the mean out of the square.",
    },
    "nadam": {"momentum_decay": Key("Decay of the momentum.", minimum=0)},
    "adadelta": {"rho": Key("Decay of the running square.", minimum=0, maximum=1)},
    "adafactor": {
        "beta2_decay": Key("Course of the running square; 0 or less.", maximum=0),
        "eps": Key("Two guards: of the square, and of the size.", items=Key("A guard.", types=NUMBER + NULL)),
        "d": Key("Bound on the size of an update.", minimum=1),
    },
    "asgd": {
        "lambd": "Decay term.",
        "alpha": "Power of the decay of the learning rate.",
        "t0": Key("Step from which averaging starts.", "optimizer steps"),
    },
    "rprop": {
        "etas": Key("Factors down and up.", items=Key("A factor.", types=NUMBER)),
        "step_sizes": Key("Smallest and largest step.", items=Key("A size.", types=NUMBER)),
    },
    "lbfgs": {
        "max_iter": "Iterations a step.",
        "max_eval": "Evaluations a step; unset, 1.25 times max_iter.",
        "tolerance_grad": Key("Stop at a gradient this small.", minimum=0),
        "tolerance_change": Key("Stop at a change this small.", minimum=0),
        "history_size": "Updates remembered.",
        "line_search_fn": Key("Line search.", choices=("strong_wolfe", None)),
    },
    "onebitlamb": _LAMB,
}
"""Notes on the parameters of one type, beside or instead of those in PARAMETERS."""

_MUP = "muP width scaling; needs the mup package and a model with its base shapes."
_EXACT = "Of torch.optim: write the type exactly."
MEANINGS = {
    "adam": "AdamW unless adam_w_mode is false. A compiled kernel on first use, or torch.optim with torch_adam.",
    "adamw": "AdamW. A compiled kernel on first use (CUDA or CPU), or torch.optim with torch_adam.",
    "lamb": "LAMB. CUDA (or ROCm) only, and dynamic loss scaling in fp16.",
    "adagrad": "Adagrad: torch.optim's, or a compiled CPU kernel with offload.",
    "lion": "Lion: CUDA, or a compiled CPU kernel with offload.",
    "muadam": f"Adam with {_MUP}",
    "muadamw": f"AdamW with {_MUP}",
    "musgd": f"SGD with {_MUP}",
    "muon": "Muon for matrices, Adam for embeddings, the output head and vectors. Unknown parameters are ignored.",
    "sgd": f"Gradient descent. {_EXACT}",
    "rmsprop": f"RMSprop. {_EXACT}",
    "adamax": f"Adam with the largest gradient. {_EXACT}",
    "nadam": f"Adam with Nesterov momentum. {_EXACT}",
    "radam": f"Adam with a corrected start. {_EXACT}",
    "adadelta": f"Adadelta. {_EXACT}",
    "adafactor": f"Adafactor. {_EXACT}",
    "asgd": f"Averaged gradient descent. {_EXACT}",
    "rprop": f"Resilient propagation. {_EXACT}",
    "sparseadam": f"Adam for sparse gradients. {_EXACT}",
    "lbfgs": f"L-BFGS; its step needs a closure, which the engine does not give. {_EXACT}",
}
"""What each optimizer is, and what it needs."""
