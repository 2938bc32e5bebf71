"""Keys and values that older releases of DeepSpeed read and newer ones do not.

Paths are dotted. A removed value is the last part of its path (`optimizer.type.OneBitAdam`, in upper or lower case).
DeepSpeed stops with a message at keys that the generated data mark as rejected. The others are unknown keys, which it
rejects in a strict block and ignores elsewhere. The data also show which releases still have a key.
"""

_BATCH = "Set train_batch_size, train_micro_batch_size_per_gpu and gradient_accumulation_steps for your number of GPUs."

_FEATURES: dict[str, tuple[str, str]] = {
    "nebula": ("0.19.7", "Remove it; checkpoints are saved by torch.save, or by checkpoint.writer."),
    "compression_training": ("0.19.7", "Remove it; compress the model with another library."),
    "quantize_training": ("0.19.7", "Remove it; quantize the model with another library."),
    "eigenvalue": ("0.19.8", "Remove it; only quantize_training used it."),
    "sparse_gradients": ("0.19.8", "Remove it; an embedding with sparse=True works without it."),
    "sparse_attention": ("0.19.7", "Remove it; use the model's own attention."),
    "amp": ("0.19.8", "Use bf16, fp16 or torch_autocast instead of NVIDIA Apex."),
    "elasticity": ("0.19.8", f"Remove it. {_BATCH}"),
    "graph_harvesting": ("0.19.8", "Remove it."),
    "curriculum_learning": ("0.19.8", "Move it to data_efficiency.data_sampling.curriculum_learning."),
    "progressive_layer_drop": ("0.19.8", "Remove it."),
}
"""Top-level keys that had no effect if they were off."""

_ONE_BIT = "Use Adam, AdamW or Lamb; all 1-bit optimizers were removed."

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
    "compile.disable": ("0.14.4 or so", "Remove it; the model is compiled only if the script calls engine.compile()."),
    "compile.backend": ("0.14.4 or so", "Pass backend to engine.compile() in the script."),
    "compile.kwargs": ("0.14.4 or so", "Pass compile_kwargs to engine.compile() in the script."),
}
"""Dotted path -> (release that removed it, what to do)."""

SWITCHES = frozenset((*_FEATURES, "fp32_allreduce", "compile.enabled", "compile.disable"))
"""Keys that had no effect if they were off, so that nothing has to replace them."""
