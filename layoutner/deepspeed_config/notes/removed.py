"""Keys and values that older DeepSpeed read and newer does not.

A path is dotted; a value that is gone is written as the last part of the path (`optimizer.type.OneBitAdam`, to be
compared without regard to case). Those that the generated data call rejected stop DeepSpeed with a message of its own;
the rest are unknown keys: rejected in a strict block, ignored elsewhere. A release that still has a key is found by the
data too.
"""

_BATCH = "Give train_batch_size, train_micro_batch_size_per_gpu, gradient_accumulation_steps for the GPU count at hand."

_FEATURES: dict[str, tuple[str, str]] = {
    "nebula": ("0.19.7", "Remove it; checkpoints are saved by torch.save, or by checkpoint.writer."),
    "compression_training": ("0.19.7", "Remove it; compress the model with another library."),
    "quantize_training": ("0.19.7", "Remove it; quantize the model with another library."),
    "eigenvalue": ("0.19.8", "Remove it; it served quantize_training alone."),
    "sparse_gradients": ("0.19.8", "Remove it; an embedding made with sparse=True needs no key."),
    "sparse_attention": ("0.19.7", "Remove it; use the model's own attention."),
    "amp": ("0.19.8", "Use bf16, fp16 or torch_autocast instead of NVIDIA Apex."),
    "elasticity": ("0.19.8", f"Remove it. {_BATCH}"),
    "graph_harvesting": ("0.19.8", "Remove it."),
    "curriculum_learning": ("0.19.8", "Move it to data_efficiency.data_sampling.curriculum_learning."),
    "progressive_layer_drop": ("0.19.8", "Remove it."),
}
"""Top-level keys that did nothing where they were off."""

_ONE_BIT = "Use Adam, AdamW or Lamb; 1-bit optimizers are gone."

REMOVED: dict[str, tuple[str, str]] = {
    **_FEATURES,
    "zero_optimization.mics_shard_size": (
        "0.19.7",
        "Remove it; zero_hpz_partition_size also keeps parameters within a node.",
    ),
    "zero_optimization.mics_hierarchical_params_gather": ("0.19.7", "Remove it with mics_shard_size."),
    "zero_optimization.zeropp_loco_param": (
        "0.19.8",
        "Remove it; zero_quantized_gradients works without error feedback.",
    ),
    "optimizer.type.OneBitAdam": ("0.19.7", _ONE_BIT),
    "optimizer.type.OneBitLamb": ("0.19.7", _ONE_BIT),
    "optimizer.type.ZeroOneAdam": ("0.19.7", _ONE_BIT),
    "optimizer.params.max_grad_norm": ("0.19.8 or before", "Use the top-level gradient_clipping."),
    "optimizer.params.freeze_step": ("0.19.7", "Remove it; it belonged to the 1-bit optimizers."),
    "optimizer.params.cuda_aware": ("0.19.7", "Remove it; it belonged to the 1-bit optimizers."),
    "optimizer.params.comm_backend_name": ("0.19.7", "Remove it; it belonged to the 1-bit optimizers."),
    "optimizer.params.coeff_beta": ("0.19.7", "Remove it; it belonged to the 1-bit LAMB."),
    "optimizer.params.factor_max": ("0.19.7", "Remove it; it belonged to the 1-bit LAMB."),
    "optimizer.params.factor_min": ("0.19.7", "Remove it; it belonged to the 1-bit LAMB."),
    "optimizer.params.factor_threshold": ("0.19.7", "Remove it; it belonged to the 1-bit LAMB."),
    "optimizer.params.var_freeze_step": ("0.19.7", "Remove it; it belonged to 0/1 Adam."),
    "optimizer.params.var_update_scaler": ("0.19.7", "Remove it; it belonged to 0/1 Adam."),
    "optimizer.params.local_step_scaler": ("0.19.7", "Remove it; it belonged to 0/1 Adam."),
    "optimizer.params.local_step_clipper": ("0.19.7", "Remove it; it belonged to 0/1 Adam."),
    "fp32_allreduce": ("0.6 or before", 'Use communication_data_type: "fp32".'),
    "zero_reduce_scatter": ("0.2 or before", "Use zero_optimization.reduce_scatter."),
    "zero_max_elements_per_comm": ("0.2 or before", "Use zero_optimization.reduce_bucket_size."),
    "zero_all_gather_size": ("0.2 or before", "Use zero_optimization.allgather_bucket_size."),
    "aio.thread_count": ("0.16 or so", "Use aio.intra_op_parallelism."),
    "bf16.check_overflow": ("0.19.8 or before", "Use bf16.check_grad_overflow."),
    "bfloat16.check_overflow": ("0.19.8 or before", "Use bf16.check_grad_overflow."),
    "compile.enabled": ("0.14.4 or so", "Remove it; call engine.compile() in the script."),
    "compile.disable": ("0.14.4 or so", "Remove it; compiling happens only where the script calls engine.compile()."),
    "compile.backend": ("0.14.4 or so", "Pass backend to engine.compile() in the script."),
    "compile.kwargs": ("0.14.4 or so", "Pass compile_kwargs to engine.compile() in the script."),
}
"""Dotted path -> (release that removed it, what to do)."""

SWITCHES = frozenset((*_FEATURES, "fp32_allreduce", "compile.enabled", "compile.disable"))
"""Those that did nothing where they were off: there is nothing to move then."""
