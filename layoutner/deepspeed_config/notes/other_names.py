"""Names that people write, from other libraries or from memory, and DeepSpeed's names for the same things.

Similar spelling is not enough: FusedAdam is closer to MuAdam than to AdamW. Names of optimizers and schedules are
compared in lower case, and without characters other than letters and digits ("paged_adamw_8bit" is "pagedadamw8bit").
"""

from collections.abc import Iterable

_FUSED = "DeepSpeed's is already a fused kernel"
_CPU = "DeepSpeed uses its CPU kernel automatically if zero_optimization.offload_optimizer.device = cpu"
_FEW_BITS = "it has a full-size state; an 8-bit or paged one is made in the script, without this block"
_TORCH = "params.torch_adam = true makes it PyTorch's own"
_BITS = ("8bit", "32bit", "4bit", "bnb", "8bitbnb", "bnb8bit", "bnb32bit", "torch8bit", "torch4bit")


def _few_bits(name: str) -> list[str]:
    """Names in bitsandbytes, torchao and transformers of an optimizer with a smaller state."""
    return [f"paged{name}", *(f"{paged}{name}{bits}" for paged in ("", "paged") for bits in _BITS)]


def _all(names: Iterable[str], meant: str, note: str = "") -> dict[str, tuple[str, str]]:
    """The same entry for all names."""
    return dict.fromkeys(names, (meant, note))


OPTIMIZER_NAMES: dict[str, tuple[str, str]] = {
    **_all(_few_bits("adam"), "Adam", _FEW_BITS),
    **_all(_few_bits("adamw"), "AdamW", _FEW_BITS),
    **_all(_few_bits("lion"), "Lion", _FEW_BITS),
    **_all(_few_bits("adagrad"), "Adagrad", _FEW_BITS),
    **_all(_few_bits("rmsprop"), "RMSprop", _FEW_BITS),
    **_all(_few_bits("lamb"), "Lamb", _FEW_BITS),
    **_all(_few_bits("sgd"), "SGD", _FEW_BITS),
    **_all(("fusedadam", "fusedadamw", "adamfused", "adamwfused", "adamwapexfused", "apexfusedadam"), "AdamW", _FUSED),
    **_all(("deepspeedcpuadam", "deepspeedcpuadamw", "cpuadam", "cpuadamw", "hybridadam"), "AdamW", _CPU),
    **_all(("deepspeedadam", "deepspeedadamw", "dsadam", "zenflowcpuadam"), "AdamW"),
    **_all(("torchadam",), "Adam", "params.torch_adam = true and params.adam_w_mode = false make it PyTorch's own"),
    **_all(("torchadamw", "adamwtorch", "adamwtorchfused", "adamwtorchxla", "adamwtorchnpufused"), "AdamW", _TORCH),
    **_all(("adamoptimizer", "adamwoptimizer", "adamwithdecay", "adamweightdecay", "bertadam"), "AdamW"),
    **_all(("adamwhf", "adamwanyprecision", "adamwmode"), "AdamW"),
    **_all(("fusedlamb", "lambfused", "fusedmixedprecisionlamb", "nvlamb", "deepspeedlamb", "lamboptimizer"), "Lamb"),
    **_all(("fusedlion", "lionfused", "liontorch"), "Lion", _FUSED),
    **_all(("deepspeedcpulion", "cpulion"), "Lion", _CPU),
    **_all(("deepspeedcpuadagrad", "cpuadagrad", "fusedadagrad"), "Adagrad", _CPU),
    **_all(("muonwithauxadam", "singledevicemuon", "singledevicemuonwithauxadam", "torchmuon"), "Muon"),
    **_all(("sgdm", "sgdmomentum", "sgdwithmomentum", "momentum", "nesterov"), "SGD", "with params.momentum"),
    **_all(("fusedsgd", "gradientdescent", "stochasticgradientdescent", "torchsgd"), "SGD"),
}
"""Other name -> (type to write, note on it)."""

REMOVED_OPTIMIZERS: dict[str, str] = {
    **dict.fromkeys(("1bitadam", "onebitadam", "onebitadamoptimizer", "adam1bit"), "OneBitAdam"),
    **dict.fromkeys(("1bitlamb", "onebitlamb", "lamb1bit"), "OneBitLamb"),
    **dict.fromkeys(("01adam", "zerooneadam", "zerooneadamoptimizer"), "ZeroOneAdam"),
}
"""Spelling -> DeepSpeed's name of an optimizer that was removed."""

UNRELATED_OPTIMIZERS = frozenset(("adai", "adan", "madgrad", "sgdp", "sgdw"))
"""Optimizers that DeepSpeed does not have, but whose names differ by a letter or two from ones that it has."""

_DECAY = ("WarmupDecayLR", 'with params.total_num_steps, warmup_num_steps and warmup_type = "linear"')
_COSINE = ("WarmupCosineLR", "with params.total_num_steps and warmup_num_steps")
_CONSTANT = ("WarmupLR", 'with params.warmup_num_steps and warmup_type = "linear"')
_CYCLE = ("OneCycle", "with params.cycle_min_lr and cycle_max_lr")
_ONE_COSINE = (
    "WarmupCosineLR",
    "which decays once, as DeepSpeed has no schedule with restarts; with params.total_num_steps",
)
_POWER_ONE = ("WarmupDecayLR", "which decays with power 1; with params.total_num_steps and warmup_num_steps")

SCHEDULER_NAMES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            *("linear", "linearlr", "lineardecay", "lineardecaylr", "lineardecaywithwarmup", "linearschedule"),
            *("linearwithwarmup", "linearwarmup", "linearwarmupdecay", "linearwarmuplineardecay", "linearscheduler"),
            *("warmuplinear", "warmuplinearlr", "warmuplinearschedule", "warmuplineardecay", "warmuplineardecaylr"),
            *("warmupdecay", "warmupdecayscheduler", "warmuplrdecay", "warmupandlineardecay", "warmupthendecay"),
            *("getlinearschedulewithwarmup", "linearschedulewithwarmup", "decaylr", "lrdecay"),
        ),
        _DECAY,
    ),
    **dict.fromkeys(
        (
            *(
                "cosine",
                "cosinelr",
                "cosinedecay",
                "cosinedecaylr",
                "cosineschedule",
                "cosinescheduler",
                "cosinedecaywarmup",
            ),
            *("cosinewithwarmup", "cosinewarmup", "cosinewarmuplr", "cosineannealing", "cosineannealingwithwarmup"),
            *(
                "warmupcosine",
                "warmupcosinedecay",
                "warmupcosinedecaylr",
                "warmupcosineschedule",
                "warmupcosineannealing",
            ),
            *("warmupcosineannealinglr", "linearwarmupcosineannealing", "linearwarmupcosineannealinglr"),
            *("linearwarmupcosinedecay", "getcosineschedulewithwarmup", "cosineschedulewithwarmup", "cosinewithminlr"),
            *("cosineannealingwarmup", "cosinewarmupwithminlr", "cosineannealinglr"),
        ),
        _COSINE,
    ),
    **dict.fromkeys(
        (
            *("cosinewithrestarts", "cosinewithhardrestarts", "cosinerestarts", "cosineannealingwarmrestarts", "sgdr"),
            *("getcosinewithhardrestartsschedulewithwarmup", "cosinehardrestarts", "cosineannealingwarmuprestarts"),
        ),
        _ONE_COSINE,
    ),
    **dict.fromkeys(
        (
            *("polynomial", "polynomiallr", "polynomialdecay", "polynomialdecaylr", "polynomialwithwarmup", "poly"),
            *("polylr", "getpolynomialdecayschedulewithwarmup", "polynomialdecayschedulewithwarmup", "warmuppolydecay"),
        ),
        _POWER_ONE,
    ),
    **dict.fromkeys(
        (
            *("constantwithwarmup", "constantwarmup", "warmupconstant", "warmupconstantlr", "warmup", "linearwarmuplr"),
            *("warmupscheduler", "constantlrwithwarmup", "getconstantschedulewithwarmup", "warmuplrscheduler"),
        ),
        _CONSTANT,
    ),
    **dict.fromkeys(
        ("onecyclelr", "1cycle", "1cyclelr", "onecyclepolicy", "cycle", "cyclic", "cyclelr", "cycliclr"), _CYCLE
    ),
    **dict.fromkeys(("lrfinder", "rangetest", "lrrange"), ("LRRangeTest", "")),
}
"""Other name -> (type to write, note on it). Only DeepSpeed's own, which work with ZeRO, fp16 and bf16."""

CONSTANT_SCHEDULES = frozenset(("constant", "constantlr", "none", "no", "getconstantschedule", "constantschedule"))
"""Names for a constant learning rate, for which DeepSpeed needs no scheduler block."""

_LR, _DECAY_OF_WEIGHTS = "optimizer.params.lr", "optimizer.params.weight_decay"
_BETAS, _EPS = "optimizer.params.betas", "optimizer.params.eps"
_WARMUP, _TOTAL = "scheduler.params.warmup_num_steps", "scheduler.params.total_num_steps"
_MICRO = "train_micro_batch_size_per_gpu"

KEY_NAMES: dict[str, tuple[str, ...]] = {
    "lr_scheduler": ("scheduler",),
    **dict.fromkeys(("max_grad_norm", "clip_grad_norm", "grad_clip", "clip_grad", "max_norm"), ("gradient_clipping",)),
    **dict.fromkeys(("grad_clipping", "gradient_clip", "gradient_clip_val"), ("gradient_clipping",)),
    **dict.fromkeys(("gradient_accumulation", "accumulation_steps"), ("gradient_accumulation_steps",)),
    **dict.fromkeys(("micro_batch_size_per_gpu", "train_micro_batch_size", "micro_batch_size"), (_MICRO,)),
    "per_device_train_batch_size": (_MICRO,),
    **dict.fromkeys(("batch_size", "global_batch_size"), ("train_batch_size",)),
    **dict.fromkeys(("learning_rate", "lr"), (_LR, "scheduler.params.warmup_max_lr")),
    **dict.fromkeys(("weight_decay", "wd"), (_DECAY_OF_WEIGHTS,)),
    **dict.fromkeys(("betas", "beta1", "beta2", "adam_beta1", "adam_beta2"), (_BETAS,)),
    **dict.fromkeys(("eps", "epsilon", "adam_eps", "adam_epsilon"), (_EPS,)),
    **dict.fromkeys(("adamw_mode", "adam_w"), ("optimizer.params.adam_w_mode",)),
    "use_torch_adam": ("optimizer.params.torch_adam",),
    **dict.fromkeys(("warmup_steps", "num_warmup_steps", "warmup_iters", "warmup"), (_WARMUP,)),
    **dict.fromkeys(("total_steps", "num_training_steps", "max_steps", "training_steps"), (_TOTAL,)),
    "min_lr": ("scheduler.params.warmup_min_lr",),
    "max_lr": ("scheduler.params.warmup_max_lr",),
    **dict.fromkeys(("zero", "zero_config", "zero_opt"), ("zero_optimization",)),
    "zero_stage": ("zero_optimization.stage",),
    "allgather_size": ("zero_optimization.allgather_bucket_size",),
    "bp16": ("bf16", "fp16"),
    **dict.fromkeys(("bfp16", "bfloat", "bf_16"), ("bf16",)),
    **dict.fromkeys(("float16", "half"), ("fp16",)),
    **dict.fromkeys(("tp_size", "tensor_parallel_size"), ("tensor_parallel.autotp_size",)),
    "weights_and_biases": ("wandb",),
}
"""Other key -> dotted paths of the keys that may be meant, the most likely first."""
