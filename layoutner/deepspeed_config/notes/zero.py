"""The `zero_optimization` block: ZeRO stages, their communication, offload, ZenFlow, ZeRO++ and leaf modules."""

from layoutner.deepspeed_config.key import ARRAY, NULL, OBJECT, STRING, Key, Notes

NOTES: dict[str, Notes] = {
    "zero_optimization": {
        "stage": "What ranks share out: 0 nothing, 1 optimizer state, 2 gradients too, 3 parameters too.",
        "contiguous_gradients": "Copy gradients into one buffer as they come: less fragmentation.",
        "reduce_scatter": "Average gradients by reduce or reduce-scatter, not by all-reduce.",
        "reduce_bucket_size": Key("Gradients reduced at a time; bounds the buffer.", "elements"),
        "use_multi_rank_bucket_allreduce": (
            "Join the buckets of all ranks in one all-reduce: helps small models on many GPUs."
        ),
        "allgather_partitions": "Collect updated parameters by all-gather, not by a series of broadcasts.",
        "allgather_bucket_size": Key("Parameters gathered at a time; bounds the buffer.", "elements"),
        "overlap_comm": "Reduce gradients while backward goes on; unset, on in stage 3 alone.",
        "compute_grad_norm": "Compute the norm of the gradient; false in stages 1 and 2 only, and without clipping.",
        "load_from_fp32_weights": "Start fp32 weights from the checkpoint's fp32 copy, not from the 16-bit one.",
        "elastic_checkpoint": (
            "Old checkpoints for another number of ranks; stage 3 no longer has them, see load_universal."
        ),
        "offload_param": "Keep parameters outside the GPU; stage 3 only.",
        "offload_optimizer": "Keep the optimizer state, and its step, outside the GPU; stages 1, 2 and 3.",
        "zenflow": "ZenFlow: offload that applies the important part of the gradient at once and the rest later.",
        "sub_group_size": Key("Parameters the optimizer works on at a time in stage 3.", "elements"),
        "cpu_offload_param": Key("Old switch: parameters to the host.", deprecated='offload_param: {"device": "cpu"}'),
        "cpu_offload_use_pin_memory": Key(
            "Old switch: pinned memory; it has no effect now.",
            deprecated="pin_memory in offload_param or offload_optimizer",
        ),
        "cpu_offload": Key(
            "Old switch: optimizer state to the host.", deprecated='offload_optimizer: {"device": "cpu"}'
        ),
        "prefetch_bucket_size": Key("Most parameters fetched ahead of their use in stage 3.", "elements"),
        "param_persistence_threshold": Key(
            "Parameters smaller than this stay whole on every GPU in stage 3.", "elements"
        ),
        "model_persistence_threshold": Key("Most parameters in all that may stay whole on a GPU.", "elements"),
        "max_live_parameters": Key("Most gathered parameters on a GPU before some are freed.", "elements"),
        "max_reuse_distance": Key("Do not free a parameter needed again within so many.", "elements"),
        "gather_16bit_weights_on_model_save": "Gather the whole 16-bit weights for save_16bit_model().",
        "module_granularity_threshold": (
            "Modules finer than this (parameters a descendant) are fetched whole; 0 turns it off."
        ),
        "use_all_reduce_for_fetch_params": "Fetch parameters by all-reduce: less work on the host.",
        "allgather_sequential": "Gather parameters one by one, without a bucket: less memory.",
        "stage3_gather_fp16_weights_on_model_save": Key(
            "Old name of stage3_gather_16bit_weights_on_model_save.",
            deprecated="stage3_gather_16bit_weights_on_model_save",
        ),
        "ignore_unused_parameters": "Go on when parameters got no gradient; stage 2.",
        "legacy_stage1": "The old stage 1, which is gone: true makes the engine raise.",
        "round_robin_gradients": (
            "Deal gradients to ranks in turn, so that copies to the host run in parallel; stages 1 and 2."
        ),
        "parameter_alignment": (
            "Pad the flat buffers so that each parameter starts at a 16-byte address; stages 1 and 2."
        ),
        "zero_hpz_partition_size": Key("Ranks that share a second copy of the parameters (ZeRO++ hpZ).", "GPUs"),
        "zero_quantized_weights": "Quantize weights for the all-gather (ZeRO++ qwZ).",
        "zero_quantized_nontrainable_weights": "Store and send frozen weights quantized; meant for LoRA.",
        "zero_quantized_gradients": "Quantize gradients for their reduction (ZeRO++ qgZ).",
        "memory_efficient_linear": "A linear layer that saves memory; stage 3.",
        "pipeline_loading_checkpoint": "Load a checkpoint piece by piece through the ranks; stage 3.",
        "override_module_apply": "Replace nn.Module.apply by one that gathers parameters; stage 3.",
        "log_trace_cache_warnings": "Say when the recorded order of modules no longer holds.",
        "enable_sanity_checks": "Internal checks, for finding errors.",
        "save_muon_momentum_buffer_in_memory": (
            "Keep Muon's momentum in memory where other state goes to NVMe; stage 3."
        ),
        "leaf_module": Key("Modules that stage 3 fetches whole.", types=OBJECT + NULL),
    },
    "zero_optimization.offload_param": {
        "device": "Where to keep it: nowhere but the GPU (none), host memory (cpu) or an NVMe disk (nvme).",
        "nvme_path": "Folder on the NVMe disk that holds the parameters.",
        "buffer_count": "Buffers in the pool for traffic with NVMe.",
        "buffer_size": Key("Size of one such buffer.", "elements"),
        "max_in_cpu": Key("Parameters kept in host memory beside NVMe.", "elements"),
        "pin_memory": "Use page-locked host memory: faster copies, but the pages cannot be swapped out.",
    },
    "zero_optimization.offload_optimizer": {
        "device": "Where to keep it: nowhere but the GPU (none), host memory (cpu) or an NVMe disk (nvme).",
        "nvme_path": "Folder on the NVMe disk that holds the optimizer state.",
        "buffer_count": "Buffers in the pool for traffic with NVMe; at least one a state of a parameter.",
        "pin_memory": "Use page-locked host memory: faster copies, but the pages cannot be swapped out.",
        "pipeline_read": "Read the next tile from NVMe while this one is computed.",
        "pipeline_write": "Write the last tile to NVMe while this one is computed.",
        "fast_init": "Start the optimizer state on NVMe by a faster way.",
        "ratio": "Share of the state that goes to the host; below 1 in stage 3 only.",
        "super_offload": "Offload tuned for GPU and CPU in one package (SuperOffload); stage 3 only.",
        "cpuadam_cores_perc": "Share of the CPU cores given to SuperOffload's Adam.",
    },
    "zero_optimization.zenflow": {
        "topk_ratio": "Share of the gradient columns that count as important and are applied on the GPU.",
        "select_strategy": Key("When important columns are chosen anew.", choices=("auto", "step", "epoch"), auto=True),
        "select_interval": Key("Steps or epochs between two choices of columns.", "steps or epochs", auto=True),
        "update_interval": Key(
            "Steps between two updates by the other columns.", "optimizer steps", minimum=1, auto=True
        ),
        "overlap_step": "Let the CPU step run while the GPU computes.",
        "offload": "Keep the state of the important columns on the host as well.",
        "auto_ratio": "Threshold by which the auto strategy sets update_interval.",
        "full_warm_up_rounds": Key("Rounds at the start that apply every column.", "optimizer steps"),
        "pt_reserved_cores_perc": "Share of the cores left to PyTorch; the rest work for ZenFlow.",
        "steps_per_epoch": Key("Set by DeepSpeed while it runs; leave it out.", "optimizer steps"),
    },
    "zero_optimization.leaf_module": {
        "classes": Key("Module classes that stage 3 fetches whole.", types=ARRAY + STRING, items=Key("One entry.")),
        "names": Key("Module names that stage 3 fetches whole.", types=ARRAY + STRING, items=Key("One entry.")),
        "name_suffixes": Key(
            "Endings of module names that stage 3 fetches whole.", types=ARRAY + STRING, items=Key("One entry.")
        ),
    },
}
