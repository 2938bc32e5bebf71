"""Parallelism inside the model (tensor, expert, pipeline), recomputation of activations, compilation."""

from layoutner.deepspeed_config.key import ANY, ARRAY, BOOLEAN, INTEGER, NULL, STRING, Key, Notes

_QUANTIZED: Notes = {
    "num_bits": Key("Bits per weight.", types=INTEGER, choices=(4, 8), required=True),
    "group_size": Key(
        "Number of weights that share a scale.", "elements", types=INTEGER, exclusive_minimum=0, required=True
    ),
    "group_dim": Key("Dimension along which weights are grouped.", types=INTEGER, required=True),
    "symmetric": Key("Must be false: only asymmetric quantization exists.", types=BOOLEAN, required=True),
}

NOTES: dict[str, Notes] = {
    "tensor_parallel": {
        "dtype": Key(
            "Can be set only in code: in a config, DeepSpeed accepts only auto.",
            types=STRING,
            choices=("auto",),
            auto=True,
        ),
        "autotp_size": Key("Ranks over which each layer is split; 0 turns tensor parallelism off.", "GPUs"),
        "tp_overlap_comm": "Overlap all-reduce with computation.",
        "vocab_parallel_lm_head": "Split the output head by vocabulary; if unset, according to the model's plan.",
        "vocab_parallel_ce_backend": "Implementation of the cross-entropy over a split vocabulary.",
        "tensor_parallel": "Sizes of the split; usually written as tp.",
        "injection_policy_tuple": Key(
            "Names of the layers whose output needs an all-reduce.", items=Key("A name.", types=ANY)
        ),
        "partition_config": "Custom rules for splitting layers.",
        "preset_model": Key(
            "Built-in rules; an unknown name means no rules.",
            choices=("llama", "bloom", "chatglm", "mixtral", "deepseek_v2", "qwen2", "phi3", None),
            case_insensitive=True,
        ),
        "keep_module_on_host": "Keep loaded weights on the host until they are split.",
        "replace_with_kernel_inject": "An option of inference, which training does not use.",
    },
    "tensor_parallel.tensor_parallel": {
        "tp_size": Key("Ranks over which a layer is split.", "GPUs"),
        "tp_grain_size": "Split sizes are rounded to multiples of this; not used in training.",
        "mpu": Key("A Python object, which can be set only in code.", types=ANY),
        "tp_group": Key("A Python object, which can be set only in code.", types=ANY),
    },
    "tensor_parallel.partition_config": {
        "use_default_specs": "Also use the rules of the preset.",
        "layer_specs": Key("Rules; the first one that matches is used.", items=Key("A rule.")),
        "tp_size": Key("No effect: autotp_size replaces it.", "GPUs"),
        "embedding_partition_dim": "Dimension along which embeddings are split.",
        "lm_head_patterns": Key("Names of the output head.", items=Key("A regular expression of parameter names.")),
        "strict_mode": "Fail if no rule matches a linear layer.",
    },
    "tensor_parallel.partition_config.layer_specs[]": {
        "patterns": Key(
            "Regular expressions of parameter names.",
            default=[],
            items=Key("A regular expression of parameter names."),
        ),
        "partition_type": Key(
            "Split the output (column) or the input (row), or do not split the layer (skip).", case_insensitive=True
        ),
        "gather_output": "Give every rank the whole output of a column-split layer.",
        "grad_allreduce": "With skip: sum the gradient over the tensor-parallel ranks.",
        "shape": Key(
            "Shape in which the weight is viewed before the split; -1 is inferred, a list contains unequal parts.",
            items=Key("A size, -1, or a list of sizes.", types=INTEGER + ARRAY, items=Key("A size.", types=INTEGER)),
        ),
        "partition_dim": "Dimension along which it is split; by default 0 for column and 1 for row.",
        "model_types": Key("Model types to which the rule applies; if unset, all.", items=Key("A model type.")),
    },
    "expert_parallel": {
        "enabled": "Replace mixture-of-experts layers with expert-parallel ones.",
        "autoep_size": Key("Ranks over which the experts are distributed.", "GPUs", minimum=1),
        "expert_tensor_parallel_size": Key("Ranks over which one expert is split.", "GPUs", minimum=1),
        "validate_folding_routing": "Check that all tensor-parallel ranks route tokens in the same way.",
        "async_split_plan": "Plan the exchange of tokens during computation.",
        "preset_model": "Model family whose names of layers are built in.",
        "moe_layer_pattern": "Regular expression of the names of the layers.",
        "expert_pattern": "Attribute that contains the experts.",
        "router_pattern": "Attribute that contains the router.",
        "use_grouped_mm": "Compute the experts with one grouped matrix product.",
        "disable_triton_grouped_mm": "Do not use the Triton kernel for it.",
        "route_norm": "Normalize the weights of the selected experts to sum 1; if unset, as in the model.",
        "route_scale": "Factor of these weights.",
        "score_apply": Key("Whether weights are applied before or after the experts.", auto=True),
        "combine_impl": Key("How the outputs of experts are combined.", auto=True),
        "row_weighting_impl": Key("How rows are weighted on the DeepEP path.", auto=True),
        "gate_up_impl": "Whether the gate and up projections are one matrix product or two.",
        "comm_backend": "How tokens are exchanged: by DeepSpeed itself, or by the DeepEP package.",
        "comm_num_sm": Key("GPU multiprocessors that DeepEP may use.", minimum=1),
        "comm_qp_margin": Key("Additional queue pairs for DeepEP.", minimum=0),
        "comm_max_tokens_per_rank": Key(
            "Maximum tokens that a rank routes; DeepEP needs a value above 0.", "tokens", minimum=0
        ),
        "num_expert_groups": Key("Number of expert groups, for routing that is limited to some groups.", minimum=1),
        "num_limited_groups": Key("Number of groups that a token may use.", minimum=1),
        "score_func": Key("Function that is applied to the router's scores.", auto=True),
        "top_k": Key("Experts per token; auto: as in the model.", auto=True),
        "load_balance_coeff": Key("Not supported: only null is accepted.", types=NULL),
        "routed_scaling_factor": Key("Factor of the routed output; auto: as in the model.", auto=True),
        "expert_w1": "Name of the first weight (gate).",
        "expert_w2": "Name of the second weight (down).",
        "expert_w3": Key("Name of the third weight (up); null: gate and up are one weight.", types=STRING + NULL),
        "num_experts_attr": "Attribute of the model's config with the number of experts.",
        "top_k_attr": "Attribute of the model's config with the number of experts per token.",
        "has_shared_experts": "Whether some experts process every token.",
        "shared_experts_pattern": "Attribute that contains the shared experts.",
        "shared_experts_gate_pattern": "Attribute that contains their gate.",
        "expert_activation": Key(
            "Activation function of an expert; if unset, that of the preset.",
            choices=("swiglu", "geglu_tanh", "swiglu_clamped", "swiglu_oai", None),
        ),
    },
    "pipeline": {
        "stages": Key("Not used: PipelineModule sets the stages.", types=INTEGER + STRING, auto=True),
        "partition": "Not used: PipelineModule sets the partition.",
        "seed_layers": "Not used: PipelineModule sets it.",
        "activation_checkpoint_interval": Key(
            "Number of layers between recomputed activations; 0: no recomputation.", "layers", minimum=0
        ),
        "pipe_partitioned": "Send activations in parts if layers are split over ranks.",
        "grad_partitioned": "Send the gradients of activations in parts if layers are split over ranks.",
        "use_reentrant": Key("Whether recomputation is re-entrant; it is, unless this is false.", types=BOOLEAN + NULL),
    },
    "activation_checkpointing": {
        "partition_activations": "Partition saved activations over tensor-parallel ranks.",
        "number_checkpoints": Key(
            "Number of recomputed segments; it determines the size of buffers.", types=INTEGER + NULL, minimum=1
        ),
        "contiguous_memory_optimization": (
            "Copy saved activations into one buffer; needs partition_activations, number_checkpoints."
        ),
        "cpu_checkpointing": "Keep saved activations in host memory; needs partition_activations.",
        "profile": "Measure the time of forward and backward of each segment.",
        "synchronize_checkpoint_boundary": "Synchronize with the device at the start and end of each segment.",
    },
    "compile": {
        "deepcompile": "Let DeepSpeed rewrite the compiled graph (DeepCompile).",
        "autoep_non_moe": "Compile everything except expert-parallel layers.",
        "free_activation": "Free large activations early.",
        "free_activation_threshold": Key("Minimum size of activations that are freed early.", "bytes"),
        "offload_activation": "Keep saved activations in host memory between forward and backward.",
        "offload_activation_pin_memory": "Use page-locked memory for them.",
        "offload_opt_states": "Keep the optimizer state in host memory between steps.",
        "double_buffer": "Use two alternating buffers for reduction.",
        "symmetric_memory": "Use PyTorch's symmetric memory for all-gathers.",
        "debug_log": "Write the graphs to files.",
        "offload_parameters": "Keep parameters in host memory when they are not used.",
        "sync_before_reduce": "Synchronize with the device before each reduction.",
        "sync_after_reduce": "Synchronize with the device after each reduction.",
        "sync_before_allgather": "Synchronize with the device before each all-gather.",
        "sync_after_allgather": "Synchronize with the device after each all-gather.",
        "keep_int_input_tensors": "Keep the values of integer inputs for profiling.",
        "keep_all_input_tensors": "Keep the values of all inputs for profiling.",
        "passes": Key("Graph passes to run; if unset, those of the ZeRO stage.", items=Key("A pass.")),
    },
    "hybrid_engine": {
        "enabled": "Use the engine that both trains and generates (RLHF).",
        "max_out_tokens": Key("Maximum number of tokens, including the prompt.", "tokens"),
        "inference_tp_size": Key("Ranks over which a layer is split during generation.", "GPUs"),
        "release_inference_cache": "Free the cache of generation before training continues.",
        "pin_parameters": "Keep gathered parameters in pinned memory during generation.",
        "tp_gather_partition_size": "Size of the groups in which parameters are gathered.",
        "enable_cuda_graph": "Replay generation as a CUDA graph.",
    },
    "weight_quantization": {
        "enabled": "Accepted, but not used.",
        "num_bits": Key("Accepted, but not used: each group has its own num_bits.", "bits"),
        "q_type": "Accepted, but not used.",
        "q_groups": "Accepted, but not used.",
        "quantized_initialization": "Quantize weights as zero.Init creates them.",
        "post_init_quant": "Quantize a loaded model: part of a module's name -> settings.",
    },
    "weight_quantization.quantized_initialization": _QUANTIZED,
    "weight_quantization.post_init_quant": {
        "*": "Settings of the modules whose name contains the key.",
    },
    "weight_quantization.post_init_quant.*": _QUANTIZED,
}
