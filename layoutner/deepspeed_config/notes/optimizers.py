"""Notes on the parameters of each optimizer that a config can name, by its type in lower case.

DeepSpeed accepts its own types (`SPELLINGS`) in upper or lower case. It looks up any other type in torch.optim exactly
as written, so "SGD" works and "sgd" fails. Unknown parameters raise a TypeError when the engine starts; only Muon
ignores them.
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
"""The usual spelling of DeepSpeed's own types."""

_SHARE = Key("One factor.", types=NUMBER, minimum=0, exclusive_maximum=1)
_TORCH_ONLY = "only with torch_adam."

PARAMETERS: Notes = {
    "lr": Key("Learning rate.", minimum=0),
    "betas": Key("Decay rates of the running averages.", items=_SHARE),
    "eps": Key("Added to the denominator to avoid division by zero.", minimum=0),
    "momentum": Key("Momentum.", minimum=0),
    "dampening": "Dampening of the momentum.",
    "weight_decay": Key("Weight decay.", minimum=0),
    "nesterov": "Nesterov momentum.",
    "amsgrad": "The AMSGrad variant.",
    "bias_correction": "Correct the bias of the running averages.",
    "set_grad_none": "Set gradients to None instead of zero; only for the fused optimizer.",
    "torch_adam": "Use torch.optim's Adam or AdamW, which needs no compilation.",
    "adam_w_mode": "Decoupled weight decay, as in AdamW; also DeepSpeed's default for Adam.",
    "fp32_optimizer_states": "Keep the state in fp32; only for the CPU optimizer, which offload uses.",
    "foreach": "Update many tensors at once; if unset, PyTorch decides.",
    "maximize": "Maximize instead of minimize.",
    "capturable": "Make the step safe to capture in a CUDA graph.",
    "differentiable": "Let autograd run through the step.",
    "fused": "PyTorch's own fused kernel; if unset, PyTorch decides.",
    "decoupled_weight_decay": "Decouple weight decay from the gradient.",
    "decoupled_wd": "Do not apply muP's scaling to weight decay.",
    "eps_inside_sqrt": "Add eps under the square root.",
}
"""Notes on a parameter of this name, whichever optimizer has it."""

_ADAM: Notes = {
    "weight_decay": Key("Weight decay; 0.01 for AdamW with torch_adam.", minimum=0),
    "amsgrad": "The AMSGrad variant; only with torch_adam or offload.",
    "bias_correction": "Correct the bias of the running averages; not with torch_adam.",
    "foreach": f"Update many tensors at once; {_TORCH_ONLY}",
    "maximize": f"Maximize instead of minimize; {_TORCH_ONLY}",
    "capturable": f"Make the step safe to capture in a CUDA graph; {_TORCH_ONLY}",
    "differentiable": f"Let autograd run through the step; {_TORCH_ONLY}",
    "fused": f"PyTorch's own fused kernel; {_TORCH_ONLY}",
}
_LAMB: Notes = {
    "max_coeff": Key("Largest trust ratio.", minimum=0),
    "min_coeff": Key("Smallest trust ratio.", minimum=0),
    "amsgrad": "Must be false: the fused optimizer has no AMSGrad.",
}

OPTIMIZERS: dict[str, Notes] = {
    "adam": {
        **_ADAM,
        "decoupled_weight_decay": "Decouple weight decay; only with torch_adam and if adam_w_mode is false.",
    },
    "adamw": _ADAM,
    "lamb": _LAMB,
    "adagrad": {
        "weight_decay": Key("Weight decay.", types=NUMBER, minimum=0),
        "lr_decay": Key("Decay of the learning rate; not with offload.", minimum=0),
        "initial_accumulator_value": Key("Initial sum of squares; not with offload.", minimum=0),
        "foreach": "Update many tensors at once; not with offload.",
        "maximize": "Maximize instead of minimize; not with offload.",
        "differentiable": "Let autograd run through the step; not with offload.",
        "fused": "PyTorch's own fused kernel; not with offload.",
        "amsgrad": "Accepted with offload, but has no effect.",
        "fp32_optimizer_states": "Keep the state in fp32; only with offload.",
    },
    "lion": {
        "set_grad_none": "Set gradients to None instead of zero; not with offload.",
        "fp32_optimizer_states": "Keep the state in fp32; only with offload.",
    },
    # DeepSpeed's code gives only the names; the engine reads them one by one.
    "muon": {
        "lr": Key(
            "Learning rate; if unset, 0.02 for matrices (Muon) and 3e-4 for the rest (Adam).", types=NUMBER, minimum=0
        ),
        "muon_lr": Key("Learning rate of the matrices; overrides lr.", types=NUMBER, minimum=0),
        "adam_lr": Key("Learning rate of the rest; overrides lr.", types=NUMBER, minimum=0),
        "momentum": Key("Momentum.", types=NUMBER, default=0.95, minimum=0),
        "weight_decay": Key("Weight decay.", types=NUMBER, default=0.0, minimum=0),
        "ns_method": Key(
            "Form of the Newton-Schulz iteration.", types=STRING, default="gram", choices=("gram", "standard")
        ),
        "per_head_muon": Key("Orthogonalize each attention head separately.", types=BOOLEAN, default=False),
        "betas": Key("For Adam: decay rates of the running averages.", types=ARRAY, default=[0.9, 0.95], items=_SHARE),
        "eps": Key("Added to the denominator to avoid division by zero.", types=NUMBER, default=1e-10, minimum=0),
        "adam_w_mode": Key("Decoupled weight decay, as in AdamW.", types=BOOLEAN, default=True),
        "torch_adam": Key("Use torch.optim's Adam, which needs no compilation.", types=BOOLEAN, default=False),
        "foreach": Key(f"Update many tensors at once; {_TORCH_ONLY}", types=BOOLEAN + NULL),
        "fp32_optimizer_states": Key(
            "Keep the state in fp32; only for the CPU optimizer, which offload uses.", types=BOOLEAN, default=True
        ),
    },
    "rmsprop": {
        "alpha": Key("Decay rate of the running average of the squared gradient.", minimum=0),
        "centered": "Divide by the variance of the gradient instead of its mean square.",
    },
    "nadam": {"momentum_decay": Key("Decay rate of the momentum.", minimum=0)},
    "adadelta": {"rho": Key("Decay rate of the running average of the squared gradient.", minimum=0, maximum=1)},
    "adafactor": {
        "beta2_decay": Key(
            "Exponent of the decay rate of the running average of the squared gradient; 0 or less.", maximum=0
        ),
        "eps": Key(
            "Two lower bounds: of the squared gradient, and of the parameter scale.",
            items=Key("A bound.", types=NUMBER + NULL),
        ),
        "d": Key("Threshold above which an update is clipped.", minimum=1),
    },
    "asgd": {
        "lambd": "Decay term.",
        "alpha": "Power by which the learning rate decays.",
        "t0": Key("Step at which averaging starts.", "optimizer steps"),
    },
    "rprop": {
        "etas": Key("Factors by which steps shrink and grow.", items=Key("A factor.", types=NUMBER)),
        "step_sizes": Key("Minimum and maximum step size.", items=Key("A size.", types=NUMBER)),
    },
    "lbfgs": {
        "max_iter": "Maximum iterations per step.",
        "max_eval": "Maximum evaluations per step; if unset, 1.25 times max_iter.",
        "tolerance_grad": Key("Stop if the gradient is this small.", minimum=0),
        "tolerance_change": Key("Stop if the change is this small.", minimum=0),
        "history_size": "Number of updates kept in memory.",
        "line_search_fn": Key("Line search.", choices=("strong_wolfe", None)),
    },
    "onebitlamb": _LAMB,
}
"""Notes on the parameters of one type, in addition to those in PARAMETERS or instead of them."""

_MUP = "muP width scaling; needs the mup package and a model with its base shapes."
_EXACT = "An optimizer of torch.optim: spell the type exactly as there."
MEANINGS = {
    "adam": "AdamW unless adam_w_mode is false. A kernel compiled on first use, or torch.optim with torch_adam.",
    "adamw": "AdamW. A kernel compiled on first use (CUDA or CPU), or torch.optim with torch_adam.",
    "lamb": "LAMB. Only for CUDA or ROCm. fp16 needs dynamic loss scaling.",
    "adagrad": "Adagrad: that of torch.optim, or a compiled CPU kernel with offload.",
    "lion": "Lion: a CUDA kernel, or a compiled CPU kernel with offload.",
    "muadam": f"Adam with {_MUP}",
    "muadamw": f"AdamW with {_MUP}",
    "musgd": f"SGD with {_MUP}",
    "muon": "Muon for matrices, Adam for embeddings, the output head and vectors. Unknown parameters are ignored.",
    "sgd": f"Stochastic gradient descent. {_EXACT}",
    "rmsprop": f"RMSprop. {_EXACT}",
    "adamax": f"Adam with the infinity norm. {_EXACT}",
    "nadam": f"Adam with Nesterov momentum. {_EXACT}",
    "radam": f"Adam with rectified variance in the first steps. {_EXACT}",
    "adadelta": f"Adadelta. {_EXACT}",
    "adafactor": f"Adafactor. {_EXACT}",
    "asgd": f"Averaged stochastic gradient descent. {_EXACT}",
    "rprop": f"Resilient backpropagation. {_EXACT}",
    "sparseadam": f"Adam for sparse gradients. {_EXACT}",
    "lbfgs": f"L-BFGS; its step needs a closure, which the engine does not pass. {_EXACT}",
}
"""What each optimizer is, and what it requires."""
