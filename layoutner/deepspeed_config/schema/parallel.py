"""Splitting and rewriting the model: tensor, expert and pipeline parallelism, recomputation, compilation."""

from layoutner.deepspeed_config.schema.key import ARRAY, BOOLEAN, INTEGER, NULL, NUMBER, OBJECT, STRING, Block, Key

_ANY = ("boolean", "integer", "number", "string", "array", "object", "null")
_PATTERN = Key(STRING, None, "A regular expression of parameter names.")

_LAYER_SPEC = Block(
    keys={
        "patterns": Key(ARRAY, [], "Regular expressions of the parameter names meant.", items=_PATTERN),
        "partition_type": Key(
            STRING,
            "column",
            "Split the output (column), the input (row), or leave the layer whole (skip).",
            choices=("column", "row", "skip"),
            case_insensitive=True,
        ),
        "gather_output": Key(BOOLEAN, False, "Give every rank the whole output of a column-split layer."),
        "grad_allreduce": Key(BOOLEAN, False, "For skip: sum the gradient over the tensor-parallel ranks."),
        "shape": Key(
            ARRAY + NULL,
            None,
            "Shape to view the weight in before the split; -1 is inferred, a list holds unequal parts.",
            items=Key(INTEGER + ARRAY, None, "A size, -1, or a list of sizes.", items=Key(INTEGER, None, "A size.")),
        ),
        "partition_dim": Key(INTEGER + NULL, None, "Dimension that is split; by default 0 for column, 1 for row."),
        "model_types": Key(
            ARRAY + NULL, None, "Model types the rule is for; unset, all.", items=Key(STRING, None, "A model type.")
        ),
    },
    strict=False,
    meaning="How one kind of layer is split.",
)

PARTITION_CONFIG = Block(
    keys={
        "use_default_specs": Key(BOOLEAN, True, "Add the preset's rules to these."),
        "layer_specs": Key(
            ARRAY, [], "Rules; the first that fits is used.", items=Key(OBJECT, None, "A rule.", block=_LAYER_SPEC)
        ),
        "tp_size": Key(INTEGER, 1, "Read, then replaced by autotp_size.", unit="GPUs"),
        "embedding_partition_dim": Key(INTEGER, 1, "Dimension in which embeddings are split."),
        "lm_head_patterns": Key(ARRAY, ["lm_head", "embed_out"], "Names of the output head.", items=_PATTERN),
        "strict_mode": Key(BOOLEAN, False, "Fail if a linear layer fits no rule."),
    },
    strict=False,
    meaning="Own rules for splitting layers.",
)

_TP = Block(
    keys={
        "tp_size": Key(INTEGER, 1, "Ranks a layer is split over.", unit="GPUs"),
        "tp_grain_size": Key(INTEGER, 1, "Multiple that split sizes are rounded to; not used in training."),
        "mpu": Key(_ANY, None, "A Python object, set from code; leave it out of JSON."),
        "tp_group": Key(_ANY, None, "A Python object, set from code; leave it out of JSON."),
    },
    strict=True,
    drops_auto=True,
    meaning="Sizes of the split.",
)
_TP_KEY = Key(OBJECT, {}, "Sizes of the split; usual name tp.", block=_TP)
_KERNEL_INJECT = Key(BOOLEAN, False, "Of inference; the parser wants it, training does not use it.")

TENSOR_PARALLEL = Block(
    keys={
        "dtype": Key(
            STRING, None, "Set from code only: DeepSpeed rejects any text but auto here.", choices=("auto",), auto=True
        ),
        "autotp_size": Key(INTEGER, 0, "Ranks that share each layer; 0 turns tensor parallelism off.", unit="GPUs"),
        "tp_overlap_comm": Key(BOOLEAN, False, "Communicate while computing, where all-reduce is used."),
        "vocab_parallel_lm_head": Key(
            BOOLEAN + NULL, None, "Split the output head by vocabulary; unset, as the model's own plan says."
        ),
        "vocab_parallel_ce_backend": Key(
            STRING, "torch", "What computes the cross entropy over a split vocabulary.", choices=("torch", "liger")
        ),
        "tp": _TP_KEY,
        "tensor_parallel": _TP_KEY,
        "injection_policy_tuple": Key(
            ARRAY + NULL, None, "Names of output layers to reduce after.", items=Key(_ANY, None, "A name.")
        ),
        "partition_config": Key(OBJECT + NULL, None, "Own rules for splitting layers.", block=PARTITION_CONFIG),
        "preset_model": Key(
            STRING + NULL,
            None,
            "Built-in rules; an unknown name means none.",
            choices=("llama", "bloom", "chatglm", "mixtral", "deepseek_v2", "qwen2", "phi3", None),
            case_insensitive=True,
        ),
        "keep_module_on_host": Key(BOOLEAN, False, "Keep loaded weights on the host until they are split."),
        "kernel_inject": _KERNEL_INJECT,
        "replace_with_kernel_inject": _KERNEL_INJECT,
    },
    strict=True,
    drops_auto=True,
    meaning="Automatic tensor parallelism (AutoTP).",
)

_NAME = STRING + NULL

EXPERT_PARALLEL = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Replace mixture-of-experts layers by expert-parallel ones."),
        "autoep_size": Key(INTEGER, 1, "Ranks the experts are shared out over.", unit="GPUs", minimum=1),
        "expert_tensor_parallel_size": Key(INTEGER, 1, "Ranks one expert is split over.", unit="GPUs", minimum=1),
        "validate_folding_routing": Key(BOOLEAN, False, "Check that tensor-parallel ranks route alike."),
        "async_split_plan": Key(BOOLEAN, False, "Plan the exchange of tokens while computing."),
        "preset_model": Key(
            _NAME,
            None,
            "Model family with built-in names.",
            choices=("mixtral", "qwen3_moe", "qwen3_5_moe", "deepseek_v2", "deepseek_v3", "minimax_m3", None),
        ),
        "moe_layer_pattern": Key(_NAME, None, "Regular expression of the layers' names."),
        "expert_pattern": Key(_NAME, None, "Attribute that holds the experts."),
        "router_pattern": Key(_NAME, None, "Attribute that holds the router."),
        "use_grouped_mm": Key(BOOLEAN, True, "Compute the experts in one grouped product."),
        "disable_triton_grouped_mm": Key(BOOLEAN, False, "Do not use the Triton kernel for it."),
        "route_norm": Key(BOOLEAN + NULL, None, "Make the chosen experts' weights sum to 1; unset, as the model does."),
        "route_scale": Key(NUMBER, 1.0, "Factor on the weights."),
        "score_apply": Key(
            STRING, "auto", "Weigh tokens before or after the experts.", choices=("auto", "pre", "post"), auto=True
        ),
        "combine_impl": Key(
            STRING,
            "auto",
            "How experts' outputs are joined.",
            choices=("auto", "weighted_sum", "fused_weighted_sum", "legacy_bmm"),
            auto=True,
        ),
        "row_weighting_impl": Key(
            STRING, "auto", "How rows are weighted on the DeepEP path.", choices=("auto", "eager", "fused"), auto=True
        ),
        "gate_up_impl": Key(
            STRING, "separate", "Gate and up projections as two products or one.", choices=("separate", "fused")
        ),
        "comm_backend": Key(
            STRING, "comm", "Exchange of tokens: DeepSpeed's own, or the DeepEP package.", choices=("comm", "deepep")
        ),
        "comm_num_sm": Key(INTEGER, 12, "GPU multiprocessors given to DeepEP.", minimum=1),
        "comm_qp_margin": Key(INTEGER, 4, "Spare queue pairs of DeepEP.", minimum=0),
        "comm_max_tokens_per_rank": Key(
            INTEGER, 0, "Most tokens a rank routes; DeepEP needs it above 0.", unit="tokens", minimum=0
        ),
        "num_expert_groups": Key(INTEGER + NULL, None, "Groups of experts, for routing limited to some.", minimum=1),
        "num_limited_groups": Key(INTEGER + NULL, None, "Groups a token may use.", minimum=1),
        "score_func": Key(
            STRING, "auto", "Function of the router's scores.", choices=("auto", "softmax", "sigmoid"), auto=True
        ),
        "top_k": Key(INTEGER + STRING, "auto", "Experts a token uses; auto takes the model's.", auto=True),
        "load_balance_coeff": Key(NULL, None, "Not supported: only null is accepted."),
        "routed_scaling_factor": Key(
            NUMBER + STRING, "auto", "Factor on routed output; auto takes the model's.", auto=True
        ),
        "expert_w1": Key(_NAME, None, "Name of the first weight (gate)."),
        "expert_w2": Key(_NAME, None, "Name of the second weight (down)."),
        "expert_w3": Key(_NAME, None, "Name of the third weight (up); null says gate and up are one weight."),
        "num_experts_attr": Key(_NAME, None, "Attribute of the model's config: number of experts."),
        "top_k_attr": Key(_NAME, None, "Attribute of the model's config: experts a token uses."),
        "has_shared_experts": Key(BOOLEAN + NULL, None, "Whether some experts see every token."),
        "shared_experts_pattern": Key(_NAME, None, "Attribute that holds the shared experts."),
        "shared_experts_gate_pattern": Key(_NAME, None, "Attribute that holds their gate."),
        "expert_activation": Key(
            _NAME,
            None,
            "Form of an expert; unset, the preset's.",
            choices=("swiglu", "geglu_tanh", "swiglu_clamped", "swiglu_oai", None),
        ),
    },
    strict=False,
    meaning="Automatic expert parallelism (AutoEP).",
)

PIPELINE = Block(
    keys={
        "stages": Key(
            INTEGER + STRING, "auto", "Kept, but nothing reads it: PipelineModule sets the stages.", auto=True
        ),
        "partition": Key(STRING, "best", "Kept, but nothing reads it: PipelineModule sets the partition."),
        "seed_layers": Key(BOOLEAN, False, "Kept, but nothing reads it: PipelineModule sets it."),
        "activation_checkpoint_interval": Key(
            INTEGER, 0, "Recompute activations every so many layers; 0 for none.", unit="layers", minimum=0
        ),
        "pipe_partitioned": Key(BOOLEAN, True, "Send activations in parts when layers are split over ranks."),
        "grad_partitioned": Key(BOOLEAN, True, "Send their gradients in parts when layers are split over ranks."),
        "use_reentrant": Key(BOOLEAN + NULL, None, "Kind of recomputation: re-entrant unless false."),
    },
    strict=False,
    meaning="Pipeline parallelism; read when the model is a PipelineModule.",
)

HYBRID_ENGINE = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Use the engine that both trains and generates (RLHF)."),
        "max_out_tokens": Key(INTEGER, 512, "Most tokens, prompt included.", unit="tokens", exclusive_minimum=0),
        "inference_tp_size": Key(INTEGER, 1, "Ranks a layer is split over when generating.", unit="GPUs"),
        "release_inference_cache": Key(BOOLEAN, False, "Free the cache of generation before training."),
        "pin_parameters": Key(BOOLEAN, True, "Keep gathered parameters in pinned memory while generating."),
        "tp_gather_partition_size": Key(INTEGER, 8, "Parameters gathered in groups of this size."),
        "enable_cuda_graph": Key(BOOLEAN, False, "Replay generation as a CUDA graph."),
    },
    strict=True,
    drops_auto=True,
    meaning="Training and generation in one engine.",
)

_QUANT_GROUP = Block(
    keys={
        "num_bits": Key(INTEGER, None, "Bits a weight.", choices=(4, 8), required=True),
        "group_size": Key(
            INTEGER, None, "Weights that share a scale.", unit="elements", exclusive_minimum=0, required=True
        ),
        "group_dim": Key(INTEGER, None, "Dimension along which groups run.", required=True),
        "symmetric": Key(BOOLEAN, None, "Must be false: only asymmetric quantization exists.", required=True),
    },
    strict=False,
    meaning="How weights are quantized.",
)

WEIGHT_QUANTIZATION = Block(
    keys={
        "enabled": Key(BOOLEAN, True, "Accepted; nothing reads it."),
        "num_bits": Key(INTEGER, 8, "Accepted; the groups' own num_bits are read.", unit="bits"),
        "q_type": Key(STRING, "symmetric", "Accepted; nothing reads it.", choices=("asymmetric", "symmetric")),
        "q_groups": Key(INTEGER, 1, "Accepted; nothing reads it."),
        "quantized_initialization": Key(OBJECT, {}, "Quantize weights as zero.Init creates them.", block=_QUANT_GROUP),
        "post_init_quant": Key(
            OBJECT,
            {},
            "Quantize a loaded model: part of a module's name to settings.",
            block=Block(
                keys={},
                strict=False,
                open=True,
                meaning="Part of a module's name to settings.",
                others=Key(OBJECT, None, "Settings of the modules whose name holds the key.", block=_QUANT_GROUP),
            ),
        ),
    },
    strict=True,
    drops_auto=True,
    meaning="Quantized weights, for inference with ZeRO.",
)

ACTIVATION_CHECKPOINTING = Block(
    keys={
        "partition_activations": Key(BOOLEAN, False, "Share saved activations out over tensor-parallel ranks."),
        "number_checkpoints": Key(INTEGER + NULL, None, "Number of recomputed segments; sizes the buffers.", minimum=1),
        "contiguous_memory_optimization": Key(
            BOOLEAN, False, "Copy saved activations into one buffer; needs partition_activations, number_checkpoints."
        ),
        "cpu_checkpointing": Key(BOOLEAN, False, "Keep saved activations on the host; needs partition_activations."),
        "profile": Key(BOOLEAN, False, "Time forward and backward of each segment."),
        "synchronize_checkpoint_boundary": Key(BOOLEAN, False, "Wait for the device at each segment's ends."),
    },
    strict=False,
    meaning="Recomputation, for code that calls deepspeed.checkpointing.",
)

COMPILE = Block(
    keys={
        "deepcompile": Key(BOOLEAN, False, "Let DeepSpeed rewrite the compiled graph (DeepCompile)."),
        "autoep_non_moe": Key(BOOLEAN, False, "Compile around expert-parallel layers and leave those as they are."),
        "free_activation": Key(BOOLEAN, False, "Free large activations early."),
        "free_activation_threshold": Key(INTEGER, 10_485_760, "Activations from this size on are freed.", unit="bytes"),
        "offload_activation": Key(BOOLEAN, False, "Keep saved activations on the host between forward and backward."),
        "offload_activation_pin_memory": Key(BOOLEAN, True, "Use page-locked memory for them."),
        "offload_opt_states": Key(BOOLEAN, False, "Keep optimizer state on the host between steps."),
        "double_buffer": Key(BOOLEAN, True, "Use two buffers in turn for reduction."),
        "symmetric_memory": Key(BOOLEAN, False, "Use PyTorch's symmetric memory for all-gathers."),
        "debug_log": Key(BOOLEAN, False, "Write the graphs out."),
        "offload_parameters": Key(BOOLEAN, False, "Keep parameters on the host between uses."),
        "sync_before_reduce": Key(BOOLEAN, False, "Wait for the device before each reduction."),
        "sync_after_reduce": Key(BOOLEAN, False, "Wait for the device after each reduction."),
        "sync_before_allgather": Key(BOOLEAN, False, "Wait for the device before each all-gather."),
        "sync_after_allgather": Key(BOOLEAN, False, "Wait for the device after each all-gather."),
        "keep_int_input_tensors": Key(BOOLEAN, True, "Keep the values of integer inputs for profiling."),
        "keep_all_input_tensors": Key(BOOLEAN, False, "Keep the values of all inputs for profiling."),
        "passes": Key(
            ARRAY + NULL,
            None,
            "Graph passes to run; unset, those of the ZeRO stage.",
            items=Key(STRING, None, "A pass.", choices=("z1", "z3", "autosp", "autotp")),
        ),
    },
    strict=True,
    drops_auto=True,
    meaning="DeepCompile; used when engine.compile() is called.",
)
