"""Numeric precision: `fp16`, `bf16`, `torch_autocast` and `data_types`."""

from layoutner.deepspeed_config.schema.key import ARRAY, BOOLEAN, INTEGER, NULL, NUMBER, STRING, Block, Key

DTYPES = (
    "fp32",
    "fp16",
    "bf16",
    "int8",
    "float32",
    "float16",
    "bfloat16",
    "float",
    "half",
    "torch.float32",
    "torch.float16",
    "torch.bfloat16",
    "torch.int8",
)
"""Spellings of a number format that DeepSpeed takes, case and all."""
_OR_NULL = (*DTYPES, None)

FP16 = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Train in fp16 with loss scaling."),
        "auto_cast": Key(BOOLEAN, False, "Turn floating-point inputs into fp16."),
        "loss_scale": Key(NUMBER, 0, "A fixed loss scale; 0 lets it follow overflows.", minimum=0),
        "initial_scale_power": Key(INTEGER, 16, "The first loss scale is 2 to this power."),
        "loss_scale_window": Key(
            INTEGER,
            1000,
            "Steps without overflow before the scale doubles.",
            unit="optimizer steps",
            exclusive_minimum=0,
        ),
        "hysteresis": Key(INTEGER, 2, "Overflows borne before the scale is halved."),
        "consecutive_hysteresis": Key(BOOLEAN, False, "Start counting overflows anew after a step without one."),
        "min_loss_scale": Key(INTEGER, 1, "The scale does not fall below this.", exclusive_minimum=0),
        "fp16_master_weights_and_grads": Key(
            BOOLEAN, False, "Keep master weights and gradients in fp16 too; ZeRO with the CPU Adam."
        ),
    },
    strict=True,
    drops_auto=True,
    meaning="fp16 training. Not together with bf16.",
)

BF16 = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Train in bf16."),
        "immediate_grad_update": Key(BOOLEAN, False, "Add each gradient to its fp32 sum at once."),
        "check_grad_overflow": Key(BOOLEAN, True, "Skip a step whose gradient is not finite."),
        "bf16_master_weights_and_grads": Key(
            BOOLEAN, False, "Keep master weights and gradients in bf16 too; ZeRO 1, 2 or 3."
        ),
        "bf16_optimizer_states": Key(
            BOOLEAN, False, "Keep the optimizer state in bf16; needs bf16_master_weights_and_grads."
        ),
    },
    strict=True,
    drops_auto=True,
    meaning="bf16 training. Not together with fp16.",
)

TORCH_AUTOCAST = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Run forward under torch.autocast."),
        "dtype": Key(STRING, None, "Lower precision that autocast uses.", choices=DTYPES),
        "lower_precision_safe_modules": Key(
            ARRAY,
            None,
            "Full names of module classes whose parameters may travel in the lower precision.",
            items=Key(STRING, None, "One class, such as torch.nn.modules.linear.Linear."),
        ),
    },
    strict=False,
    meaning="PyTorch's own mixed precision, run by DeepSpeed.",
)

DATA_TYPES = Block(
    keys={
        "grad_accum_dtype": Key(
            STRING + NULL, None, "Format gradients are summed in; unset, the model's.", choices=_OR_NULL
        ),
        "param_dtype": Key(
            STRING + NULL, None, "Format of the parameters; must agree with fp16 or bf16 if given.", choices=_OR_NULL
        ),
        "buffer_dtype": Key(STRING + NULL, None, "Format of buffers; unset, as loaded.", choices=_OR_NULL),
        "keep_in_fp32_modules": Key(
            ARRAY + STRING,
            "auto",
            "Buffers that stay fp32: patterns of names, or auto for what the transformers model asks.",
            items=Key(STRING, None, "A pattern of names."),
            auto=True,
        ),
    },
    strict=False,
    meaning="Formats beyond those that fp16 and bf16 set.",
)
