"""The `zero_optimization` block: ZeRO stages, their communication, offload, ZenFlow, ZeRO++ and leaf modules."""

from layoutner.deepspeed_config.schema.key import ARRAY, BOOLEAN, INTEGER, NULL, NUMBER, OBJECT, STRING, Block, Key

_LARGEST = 9223372036854775807  # sys.maxsize of a 64-bit Python, DeepSpeed's "no bound"
_DEVICES = ("none", "cpu", "nvme")
_DEVICE = "Where to keep it: nowhere but the GPU (none), host memory (cpu) or an NVMe disk (nvme)."
_PINNED = "Use page-locked host memory: faster copies, but the pages cannot be swapped out."

OFFLOAD_PARAM = Block(
    keys={
        "device": Key(STRING, "none", _DEVICE, choices=_DEVICES),
        "nvme_path": Key(STRING + NULL, None, "Folder on the NVMe disk that holds the parameters."),
        "buffer_count": Key(INTEGER, 5, "Buffers in the pool for traffic with NVMe.", minimum=0),
        "buffer_size": Key(INTEGER, 100_000_000, "Size of one such buffer.", unit="elements", minimum=0),
        "max_in_cpu": Key(
            INTEGER, 1_000_000_000, "Parameters kept in host memory beside NVMe.", unit="elements", minimum=0
        ),
        "pin_memory": Key(BOOLEAN, True, _PINNED),
    },
    strict=True,
    drops_auto=True,
    meaning="Keep parameters outside the GPU; stage 3 only.",
)

OFFLOAD_OPTIMIZER = Block(
    keys={
        "device": Key(STRING, "none", _DEVICE, choices=_DEVICES),
        "nvme_path": Key(STRING + NULL, None, "Folder on the NVMe disk that holds the optimizer state."),
        "buffer_count": Key(
            INTEGER, 4, "Buffers in the pool for traffic with NVMe; at least one a state of a parameter.", minimum=0
        ),
        "pin_memory": Key(BOOLEAN, True, _PINNED),
        "pipeline_read": Key(BOOLEAN, False, "Read the next tile from NVMe while this one is computed."),
        "pipeline_write": Key(BOOLEAN, False, "Write the last tile to NVMe while this one is computed."),
        "fast_init": Key(BOOLEAN, False, "Start the optimizer state on NVMe by a faster way."),
        "ratio": Key(
            NUMBER, 1.0, "Share of the state that goes to the host; below 1 in stage 3 only.", "", 0.0, None, 1.0
        ),
        "super_offload": Key(
            BOOLEAN, False, "Offload tuned for GPU and CPU in one package (SuperOffload); stage 3 only."
        ),
        "cpuadam_cores_perc": Key(
            NUMBER, 0.8, "Share of the CPU cores given to SuperOffload's Adam.", "", 0.0, None, 1.0
        ),
    },
    strict=True,
    drops_auto=True,
    meaning="Keep the optimizer state, and its step, outside the GPU; stages 1, 2 and 3.",
)

ZENFLOW = Block(
    keys={
        "topk_ratio": Key(
            NUMBER,
            0.1,
            "Share of the gradient columns that count as important and are applied on the GPU.",
            exclusive_minimum=0.0,
            exclusive_maximum=1.0,
        ),
        "select_strategy": Key(
            STRING, "auto", "When important columns are chosen anew.", choices=("auto", "step", "epoch"), auto=True
        ),
        "select_interval": Key(
            STRING + INTEGER, "auto", "Steps or epochs between two choices of columns.", "steps or epochs", auto=True
        ),
        "update_interval": Key(
            STRING + INTEGER, "auto", "Steps between two updates by the other columns.", "optimizer steps", 1, auto=True
        ),
        "overlap_step": Key(BOOLEAN, False, "Let the CPU step run while the GPU computes."),
        "offload": Key(BOOLEAN, False, "Keep the state of the important columns on the host as well."),
        "auto_ratio": Key(
            NUMBER, 0.99, "Threshold by which the auto strategy sets update_interval.", "", 0.0, None, 1.0
        ),
        "full_warm_up_rounds": Key(INTEGER, 0, "Rounds at the start that apply every column.", "optimizer steps"),
        "pt_reserved_cores_perc": Key(
            NUMBER, 0.5, "Share of the cores left to PyTorch; the rest work for ZenFlow.", "", 0.0, None, 1.0
        ),
        "steps_per_epoch": Key(
            INTEGER + NULL, None, "Set by DeepSpeed while it runs; leave it out.", "optimizer steps"
        ),
    },
    strict=True,
    drops_auto=True,
    meaning="Offload that applies the important part of the gradient at once and the rest later.",
)

_NAMES = Key(STRING, None, "One entry.")
LEAF_MODULE = Block(
    keys={
        "classes": Key(
            ARRAY + STRING,
            [
                "transformers.models.mixtral.modeling_mixtral.MixtralSparseMoeBlock",
                "transformers.models.qwen2_moe.modeling_qwen2_moe.Qwen2MoeSparseMoeBlock",
                "transformers.models.qwen3_moe.modeling_qwen3_moe.Qwen3MoeSparseMoeBlock",
            ],
            "Module classes that stage 3 fetches whole.",
            items=_NAMES,
        ),
        "names": Key(ARRAY + STRING, [], "Module names that stage 3 fetches whole.", items=_NAMES),
        "name_suffixes": Key(ARRAY + STRING, [], "Endings of module names that stage 3 fetches whole.", items=_NAMES),
    },
    strict=True,
    drops_auto=True,
    meaning="Modules that stage 3 does not look into.",
)

_STAGE3: dict[str, Key] = {
    "prefetch_bucket_size": Key(
        INTEGER, 50_000_000, "Most parameters fetched ahead of their use in stage 3.", unit="elements", minimum=0
    ),
    "param_persistence_threshold": Key(
        INTEGER, 100_000, "Parameters smaller than this stay whole on every GPU in stage 3.", unit="elements", minimum=0
    ),
    "model_persistence_threshold": Key(
        INTEGER, _LARGEST, "Most parameters in all that may stay whole on a GPU.", unit="elements", minimum=0
    ),
    "max_live_parameters": Key(
        INTEGER, 1_000_000_000, "Most gathered parameters on a GPU before some are freed.", unit="elements", minimum=0
    ),
    "max_reuse_distance": Key(
        INTEGER, 1_000_000_000, "Do not free a parameter needed again within so many.", unit="elements", minimum=0
    ),
    "gather_16bit_weights_on_model_save": Key(
        BOOLEAN, False, "Gather the whole 16-bit weights for save_16bit_model()."
    ),
    "module_granularity_threshold": Key(
        INTEGER, 0, "Modules finer than this (parameters a descendant) are fetched whole; 0 turns it off."
    ),
    "use_all_reduce_for_fetch_params": Key(BOOLEAN, False, "Fetch parameters by all-reduce: less work on the host."),
    "allgather_sequential": Key(BOOLEAN, False, "Gather parameters one by one, without a bucket: less memory."),
}


def _both_names(keys: dict[str, Key]) -> dict[str, Key]:
    """The stage 3 keys under the name with `stage3_`, which is the usual one, and under the short name."""
    return {f"stage3_{name}": key for name, key in keys.items()} | keys


ZERO_OPTIMIZATION = Block(
    keys={
        "stage": Key(
            INTEGER,
            0,
            "What ranks share out: 0 nothing, 1 optimizer state, 2 gradients too, 3 parameters too.",
            choices=(0, 1, 2, 3),
        ),
        "contiguous_gradients": Key(BOOLEAN, True, "Copy gradients into one buffer as they come: less fragmentation."),
        "reduce_scatter": Key(BOOLEAN, True, "Average gradients by reduce or reduce-scatter, not by all-reduce."),
        "reduce_bucket_size": Key(
            INTEGER,
            500_000_000,
            "Gradients reduced at a time; bounds the buffer.",
            unit="elements",
            exclusive_minimum=0,
        ),
        "use_multi_rank_bucket_allreduce": Key(
            BOOLEAN, True, "Join the buckets of all ranks in one all-reduce: helps small models on many GPUs."
        ),
        "allgather_partitions": Key(
            BOOLEAN, True, "Collect updated parameters by all-gather, not by a series of broadcasts."
        ),
        "allgather_bucket_size": Key(
            INTEGER, 500_000_000, "Parameters gathered at a time; bounds the buffer.", unit="elements", minimum=0
        ),
        "overlap_comm": Key(
            BOOLEAN + NULL, None, "Reduce gradients while backward goes on; unset, on in stage 3 alone."
        ),
        "compute_grad_norm": Key(
            BOOLEAN, True, "Compute the norm of the gradient; false in stages 1 and 2 only, and without clipping."
        ),
        "load_from_fp32_weights": Key(
            BOOLEAN, True, "Start fp32 weights from the checkpoint's fp32 copy, not from the 16-bit one."
        ),
        "elastic_checkpoint": Key(
            BOOLEAN,
            False,
            "Old checkpoints for another number of ranks; stage 3 no longer has them, see load_universal.",
        ),
        "offload_param": Key(OBJECT + NULL, None, "Keep parameters outside the GPU.", block=OFFLOAD_PARAM),
        "offload_optimizer": Key(
            OBJECT + NULL, None, "Keep the optimizer state outside the GPU.", block=OFFLOAD_OPTIMIZER
        ),
        "zenflow": Key(OBJECT + NULL, None, "ZenFlow: offload without waiting for the CPU.", block=ZENFLOW),
        "sub_group_size": Key(
            INTEGER,
            1_000_000_000,
            "Parameters the optimizer works on at a time in stage 3.",
            unit="elements",
            minimum=0,
        ),
        "cpu_offload_param": Key(
            BOOLEAN + NULL, None, "Old switch: parameters to the host.", deprecated='offload_param: {"device": "cpu"}'
        ),
        "cpu_offload_use_pin_memory": Key(
            BOOLEAN + NULL,
            None,
            "Old switch: pinned memory; it has no effect now.",
            deprecated="pin_memory in offload_param or offload_optimizer",
        ),
        "cpu_offload": Key(
            BOOLEAN + NULL,
            None,
            "Old switch: optimizer state to the host.",
            deprecated='offload_optimizer: {"device": "cpu"}',
        ),
        **_both_names(_STAGE3),
        "stage3_gather_fp16_weights_on_model_save": Key(
            BOOLEAN,
            False,
            "Old name of stage3_gather_16bit_weights_on_model_save.",
            deprecated="stage3_gather_16bit_weights_on_model_save",
        ),
        "ignore_unused_parameters": Key(BOOLEAN, True, "Go on when parameters got no gradient; stage 2."),
        "legacy_stage1": Key(BOOLEAN, False, "The old stage 1, which is gone: true makes the engine raise."),
        "round_robin_gradients": Key(
            BOOLEAN,
            False,
            "Deal gradients to ranks in turn, so that copies to the host run in parallel; stages 1 and 2.",
        ),
        "parameter_alignment": Key(
            BOOLEAN, False, "Pad the flat buffers so that each parameter starts at a 16-byte address; stages 1 and 2."
        ),
        "zero_hpz_partition_size": Key(
            INTEGER, 1, "Ranks that share a second copy of the parameters (ZeRO++ hpZ).", unit="GPUs", minimum=0
        ),
        "zero_quantized_weights": Key(BOOLEAN, False, "Quantize weights for the all-gather (ZeRO++ qwZ)."),
        "zero_quantized_nontrainable_weights": Key(
            BOOLEAN, False, "Store and send frozen weights quantized; meant for LoRA."
        ),
        "zero_quantized_gradients": Key(BOOLEAN, False, "Quantize gradients for their reduction (ZeRO++ qgZ)."),
        "memory_efficient_linear": Key(BOOLEAN, True, "A linear layer that saves memory; stage 3."),
        "pipeline_loading_checkpoint": Key(
            BOOLEAN, False, "Load a checkpoint piece by piece through the ranks; stage 3."
        ),
        "override_module_apply": Key(BOOLEAN, True, "Replace nn.Module.apply by one that gathers parameters; stage 3."),
        "log_trace_cache_warnings": Key(BOOLEAN, False, "Say when the recorded order of modules no longer holds."),
        "enable_sanity_checks": Key(BOOLEAN, False, "Internal checks, for finding errors."),
        "save_muon_momentum_buffer_in_memory": Key(
            BOOLEAN, False, "Keep Muon's momentum in memory where other state goes to NVMe; stage 3."
        ),
        "leaf_module": Key(OBJECT + NULL, {}, "Modules that stage 3 fetches whole.", block=LEAF_MODULE),
    },
    strict=True,
    drops_auto=True,
    meaning="ZeRO: sharing out optimizer state, gradients and parameters over the ranks.",
)
