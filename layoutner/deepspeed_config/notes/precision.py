"""Numeric precision: `fp16`, `bf16`, `torch_autocast` and `data_types`."""

from layoutner.deepspeed_config.key import ARRAY, NULL, STRING, Key, Notes

_BF16: Notes = {
    "enabled": "Train in bf16.",
    "immediate_grad_update": "Add each gradient to its fp32 sum immediately.",
    "check_grad_overflow": "Skip a step if its gradient is not finite.",
    "bf16_master_weights_and_grads": "Keep master weights and gradients in bf16, too; needs ZeRO 1, 2 or 3.",
    "bf16_optimizer_states": "Keep the optimizer state in bf16, too; needs bf16_master_weights_and_grads.",
}

NOTES: dict[str, Notes] = {
    "fp16": {
        "enabled": "Train in fp16 with loss scaling.",
        "auto_cast": "Convert floating-point inputs to fp16.",
        "loss_scale": Key("A fixed loss scale; 0: a dynamic one.", minimum=0),
        "initial_scale_power": "The initial loss scale is 2 to this power.",
        "loss_scale_window": Key(
            "Steps without overflow after which the loss scale is doubled.", "optimizer steps", exclusive_minimum=0
        ),
        "hysteresis": "Overflows after which the loss scale is halved.",
        "consecutive_hysteresis": "Count overflows from 0 again after a step without one.",
        "min_loss_scale": Key("Minimum of the loss scale.", exclusive_minimum=0),
        "fp16_master_weights_and_grads": "Keep master weights and gradients in fp16, too; needs ZeRO and the CPU Adam.",
    },
    "bf16": _BF16,
    "bfloat16": _BF16,
    "torch_autocast": {
        "enabled": "Run the forward pass under torch.autocast.",
        "dtype": Key("Data type of lower precision that autocast uses.", types=STRING),
        "lower_precision_safe_modules": Key(
            "Full names of module classes whose parameters may be communicated in the lower precision.",
            types=ARRAY,
            items=Key("One class, such as torch.nn.modules.linear.Linear.", types=STRING),
        ),
    },
    "data_types": {
        "grad_accum_dtype": Key(
            "Data type in which gradients are summed; if unset, that of the model.", types=STRING + NULL
        ),
        "param_dtype": Key(
            "Data type of the parameters; it must agree with fp16 or bf16 if they are given.", types=STRING + NULL
        ),
        "buffer_dtype": Key("Data type of buffers; if unset, as loaded.", types=STRING + NULL),
        "keep_in_fp32_modules": Key(
            "Buffers that stay in fp32: patterns of names; auto: those that the transformers model names.",
            types=ARRAY + STRING,
            auto=True,
            items=Key("A pattern of names.", types=STRING),
        ),
    },
}
