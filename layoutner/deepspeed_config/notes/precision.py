"""Numeric precision: `fp16`, `bf16`, `torch_autocast` and `data_types`."""

from layoutner.deepspeed_config.key import ARRAY, NULL, STRING, Key, Notes

_BF16: Notes = {
    "enabled": "Train in bf16.",
    "immediate_grad_update": "Add each gradient to its fp32 sum at once.",
    "check_grad_overflow": "Skip a step whose gradient is not finite.",
    "bf16_master_weights_and_grads": "Keep master weights and gradients in bf16 too; ZeRO 1, 2 or 3.",
    "bf16_optimizer_states": "Keep the optimizer state in bf16; needs bf16_master_weights_and_grads.",
}

NOTES: dict[str, Notes] = {
    "fp16": {
        "enabled": "Train in fp16 with loss scaling.",
        "auto_cast": "Turn floating-point inputs into fp16.",
        "loss_scale": Key("A fixed loss scale; 0 lets it follow overflows.", minimum=0),
        "initial_scale_power": "The first loss scale is 2 to this power.",
        "loss_scale_window": Key(
            "Steps without overflow before the scale doubles.", "optimizer steps", exclusive_minimum=0
        ),
        "hysteresis": "Overflows borne before the scale is halved.",
        "consecutive_hysteresis": "Start counting overflows anew after a step without one.",
        "min_loss_scale": Key("The scale does not fall below this.", exclusive_minimum=0),
        "fp16_master_weights_and_grads": "Keep master weights and gradients in fp16 too; ZeRO with the CPU Adam.",
    },
    "bf16": _BF16,
    "bfloat16": _BF16,
    "torch_autocast": {
        "enabled": "Run forward under torch.autocast.",
        "dtype": Key("Lower precision that autocast uses.", types=STRING),
        "lower_precision_safe_modules": Key(
            "Full names of module classes whose parameters may travel in the lower precision.",
            types=ARRAY,
            items=Key("One class, such as torch.nn.modules.linear.Linear.", types=STRING),
        ),
    },
    "data_types": {
        "grad_accum_dtype": Key("Format gradients are summed in; unset, the model's.", types=STRING + NULL),
        "param_dtype": Key("Format of the parameters; must agree with fp16 or bf16 if given.", types=STRING + NULL),
        "buffer_dtype": Key("Format of buffers; unset, as loaded.", types=STRING + NULL),
        "keep_in_fp32_modules": Key(
            "Buffers that stay fp32: patterns of names, or auto for what the transformers model asks.",
            types=ARRAY + STRING,
            auto=True,
            items=Key("A pattern of names.", types=STRING),
        ),
    },
}
