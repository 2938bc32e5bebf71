"""The `zero_optimization` block: ZeRO stages, their communication, offload, ZenFlow, ZeRO++ and leaf modules."""

from layoutner.deepspeed_config.key import ARRAY, NULL, OBJECT, STRING, Key, Notes

NOTES: dict[str, Notes] = {
    "zero_optimization": {
        "stage": "What ranks partition: 0 nothing, 1 optimizer state, 2 also gradients, 3 also parameters.",
        "contiguous_gradients": "Copy gradients into one buffer when they are computed, against fragmentation.",
        "reduce_scatter": "Average gradients by reduce or reduce-scatter, not by all-reduce.",
        "reduce_bucket_size": Key("Gradients that are reduced at once; limits the size of the buffer.", "elements"),
        "use_multi_rank_bucket_allreduce": (
            "Combine the buckets of all ranks in one all-reduce; faster for small models on many GPUs."
        ),
        "allgather_partitions": "Collect updated parameters with all-gather, not with a series of broadcasts.",
        "allgather_bucket_size": Key(
            "Parameters that are gathered at once; limits the size of the buffer.", "elements"
        ),
        "overlap_comm": "Reduce gradients during the backward pass; if unset, only in stage 3.",
        "compute_grad_norm": "Compute the norm of the gradient; false only in stages 1 and 2, and without clipping.",
        "load_from_fp32_weights": "Take fp32 weights from the fp32 copy in a checkpoint, not from the 16-bit one.",
        "elastic_checkpoint": (
            "Old checkpoints for any number of ranks; stage 3 no longer supports them (see load_universal)."
        ),
        "offload_param": "Keep parameters outside the GPU; stage 3 only.",
        "offload_optimizer": "Keep the optimizer state outside the GPU, and compute its step there; stages 1, 2 and 3.",
        "zenflow": "ZenFlow: offload that applies the important part of the gradient immediately and the rest later.",
        "sub_group_size": Key("Parameters that the optimizer updates at once in stage 3.", "elements"),
        "cpu_offload_param": Key(
            "Old switch: offload parameters to host memory.", deprecated='offload_param: {"device": "cpu"}'
        ),
        "cpu_offload_use_pin_memory": Key(
            "Old switch: use pinned memory; it has no effect now.",
            deprecated="pin_memory in offload_param or offload_optimizer",
        ),
        "cpu_offload": Key(
            "Old switch: offload the optimizer state to host memory.", deprecated='offload_optimizer: {"device": "cpu"}'
        ),
        "prefetch_bucket_size": Key("Maximum of parameters that are fetched before their use in stage 3.", "elements"),
        "param_persistence_threshold": Key("Parameters smaller than this are not partitioned in stage 3.", "elements"),
        "model_persistence_threshold": Key("Maximum of parameters per GPU that are not partitioned.", "elements"),
        "max_live_parameters": Key("Maximum of gathered parameters per GPU; above it, some are freed.", "elements"),
        "max_reuse_distance": Key(
            "Do not free a parameter if it is used again within this number of parameters.", "elements"
        ),
        "gather_16bit_weights_on_model_save": "Gather the whole 16-bit weights for save_16bit_model().",
        "module_granularity_threshold": (
            "Modules with fewer parameters per submodule than this are fetched as a whole; 0 turns it off."
        ),
        "use_all_reduce_for_fetch_params": "Fetch parameters with all-reduce, which is less work for the CPU.",
        "allgather_sequential": "Gather parameters one at a time, without a bucket, which needs less memory.",
        "stage3_gather_fp16_weights_on_model_save": Key(
            "Old name of stage3_gather_16bit_weights_on_model_save.",
            deprecated="stage3_gather_16bit_weights_on_model_save",
        ),
        "ignore_unused_parameters": "Continue if parameters have no gradient; stage 2.",
        "legacy_stage1": "The old stage 1, which was removed: true raises an error.",
        "round_robin_gradients": (
            "Distribute gradients over ranks in turn, so that copies to the host run in parallel; stages 1 and 2."
        ),
        "parameter_alignment": (
            "Pad the flat buffers so that each parameter starts at a 16-byte address; stages 1 and 2."
        ),
        "zero_hpz_partition_size": Key(
            "Ranks over which a second copy of the parameters is partitioned (ZeRO++ hpZ).", "GPUs"
        ),
        "zero_quantized_weights": "Quantize weights for the all-gather (ZeRO++ qwZ).",
        "zero_quantized_nontrainable_weights": "Store and communicate frozen weights quantized; meant for LoRA.",
        "zero_quantized_gradients": "Quantize gradients for their reduction (ZeRO++ qgZ).",
        "memory_efficient_linear": "Use a linear layer that needs less memory; stage 3.",
        "pipeline_loading_checkpoint": "Load a checkpoint on one rank after the other; stage 3.",
        "override_module_apply": "Replace nn.Module.apply with a function that gathers parameters; stage 3.",
        "log_trace_cache_warnings": "Warn if modules run in another order than the recorded one.",
        "enable_sanity_checks": "Internal checks, for debugging.",
        "save_muon_momentum_buffer_in_memory": (
            "Keep Muon's momentum in memory if the other state goes to NVMe; stage 3."
        ),
        "leaf_module": Key("Modules that stage 3 fetches as a whole.", types=OBJECT + NULL),
    },
    "zero_optimization.offload_param": {
        "device": "Where it is kept: GPU (none), host memory (cpu) or an NVMe disk (nvme).",
        "nvme_path": "Folder on the NVMe disk that holds the parameters.",
        "buffer_count": "Number of buffers for transfers to and from NVMe.",
        "buffer_size": Key("Size of one of these buffers.", "elements"),
        "max_in_cpu": Key("Parameters that are kept in host memory if the others are on NVMe.", "elements"),
        "pin_memory": "Use page-locked host memory: faster copies, but the pages cannot be swapped out.",
    },
    "zero_optimization.offload_optimizer": {
        "device": "Where it is kept: GPU (none), host memory (cpu) or an NVMe disk (nvme).",
        "nvme_path": "Folder on the NVMe disk that holds the optimizer state.",
        "buffer_count": "Number of buffers for transfers to and from NVMe; at least one per state of a parameter.",
        "pin_memory": "Use page-locked host memory: faster copies, but the pages cannot be swapped out.",
        "pipeline_read": "Read the next tile from NVMe while the current one is computed.",
        "pipeline_write": "Write the previous tile to NVMe while the current one is computed.",
        "fast_init": "Use a faster initialization of the optimizer state on NVMe.",
        "ratio": "Share of the optimizer state that is offloaded; below 1 only in stage 3.",
        "super_offload": "Offload tuned for GPU and CPU in one package (SuperOffload); stage 3 only.",
        "cpuadam_cores_perc": "Share of the CPU cores that SuperOffload's Adam uses.",
    },
    "zero_optimization.zenflow": {
        "topk_ratio": "Share of the gradient columns that count as important and are applied on the GPU.",
        "select_strategy": Key(
            "When the important columns are selected again.", choices=("auto", "step", "epoch"), auto=True
        ),
        "select_interval": Key("Steps or epochs between two selections of columns.", "steps or epochs", auto=True),
        "update_interval": Key(
            "Steps between two updates with the other columns.", "optimizer steps", minimum=1, auto=True
        ),
        "overlap_step": "Run the CPU step while the GPU computes.",
        "offload": "Keep the state of the important columns in host memory, too.",
        "auto_ratio": "Threshold with which the auto strategy sets update_interval.",
        "full_warm_up_rounds": Key("Rounds at the start in which all columns are applied.", "optimizer steps"),
        "pt_reserved_cores_perc": "Share of the CPU cores for PyTorch; ZenFlow uses the others.",
        "steps_per_epoch": Key("Set by DeepSpeed during the run; leave it out.", "optimizer steps"),
    },
    "zero_optimization.leaf_module": {
        "classes": Key(
            "Module classes that stage 3 fetches as a whole.", types=ARRAY + STRING, items=Key("One entry.")
        ),
        "names": Key("Module names that stage 3 fetches as a whole.", types=ARRAY + STRING, items=Key("One entry.")),
        "name_suffixes": Key(
            "Endings of module names that stage 3 fetches as a whole.", types=ARRAY + STRING, items=Key("One entry.")
        ),
    },
}
