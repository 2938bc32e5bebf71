"""The top level: batch, gradients, optimizer and scheduler, and the names of all other blocks.

DeepSpeed silently ignores a top-level key that it does not know, so a typing error here changes the run unnoticed.
"""

from layoutner.deepspeed_config.key import BOOLEAN, INTEGER, NULL, NUMBER, OBJECT, STRING, Key, Notes

NOTES: dict[str, Notes] = {
    "": {
        "train_batch_size": Key(
            "Global batch size: micro-batch size x gradient accumulation steps x data-parallel ranks; give it or the "
            "micro-batch size.",
            "samples",
            types=INTEGER + NULL,
            minimum=1,
        ),
        "train_micro_batch_size_per_gpu": Key(
            "Micro-batch size: samples per forward pass on one rank.", "samples", types=INTEGER + NULL, minimum=1
        ),
        "gradient_accumulation_steps": Key(
            "Micro-batches whose gradients are summed for an optimizer step.",
            "micro-batches",
            types=INTEGER + NULL,
            minimum=1,
        ),
        "managed_gradient_accumulation": (
            "Whether DeepSpeed counts micro-batches; if false, every step() of the script is an optimizer step."
        ),
        "optimizer": "The optimizer; if unset, the one that the script passes in.",
        "scheduler": "The learning-rate schedule; if unset, the one that the script passes in.",
        "zero_allow_untested_optimizer": "Let ZeRO wrap an optimizer that DeepSpeed has not tested with it.",
        "zero_force_ds_cpu_optimizer": "Require DeepSpeed's CPU optimizer for offload.",
        "zero_optimization": Key(
            "ZeRO: partition optimizer state, gradients and parameters over ranks; true: an old way to write stage 1.",
            types=OBJECT + BOOLEAN,
        ),
        "allgather_size": Key(
            "Bucket size of the all-gather; read only if zero_optimization is true.",
            "elements",
            types=INTEGER,
            minimum=0,
            deprecated="zero_optimization.allgather_bucket_size",
        ),
        "fp16": "fp16 training. It cannot be combined with bf16.",
        "bf16": Key("bf16 training. It cannot be combined with fp16.", types=OBJECT + NULL),
        "bfloat16": Key("Old name of bf16; ignored if bf16 is given.", deprecated="bf16"),
        "torch_autocast": "PyTorch's own mixed precision, run by DeepSpeed.",
        "data_types": "Data types that fp16 and bf16 do not set.",
        "gradient_clipping": Key("Maximum norm of the gradient; 0 turns clipping off.", minimum=0),
        "prescale_gradients": "Divide gradients before the all-reduce, not after it.",
        "gradient_predivide_factor": Key(
            "Divisor of the gradients before the all-reduce; used with prescale_gradients.", exclusive_minimum=0
        ),
        "gradient_allreduce_op": Key(
            "Average or sum gradients over ranks; ZeRO 3, ZenFlow and DeepCompile refuse sum.", case_insensitive=True
        ),
        "communication_data_type": Key(
            "Data type in which gradients are communicated; if unset, that of the training.",
            types=STRING + NULL,
            choices=("fp32", "fp16", "bf16", None),
            case_insensitive=True,
        ),
        "seq_parallel_communication_data_type": Key(
            "Data type in which sequence-parallel ranks communicate gradients.",
            types=STRING + NULL,
            choices=("fp32", "fp16", "bf16", None),
            case_insensitive=True,
        ),
        "disable_allgather": "Read, but no longer used.",
        "sequence_parallel_size": Key(
            "Ranks over which a sequence is split (Ulysses).", "GPUs", types=INTEGER, minimum=1
        ),
        "data_parallel_size": Key(
            "Data-parallel ranks; read only together with sequence_parallel_size.", "GPUs", types=INTEGER, minimum=1
        ),
        "use_data_before_expert_parallelism": "Arrange data-parallel groups inside expert-parallel groups.",
        "tensor_parallel": "Automatic tensor parallelism (AutoTP).",
        "expert_parallel": Key("Automatic expert parallelism (AutoEP).", types=OBJECT + NULL),
        "pipeline": "Pipeline parallelism; read when the model is a PipelineModule.",
        "activation_checkpointing": "Recomputation of activations, for code that calls deepspeed.checkpointing.",
        "compile": "DeepCompile; used when engine.compile() is called.",
        "hybrid_engine": "An engine that both trains and generates.",
        "weight_quantization": "Quantized weights, for inference with ZeRO.",
        "data_efficiency": "Curriculum learning, batches by number of tokens, random layer-token drop.",
        "dataloader_drop_last": "Drop the last, incomplete batch of DeepSpeed's data loader.",
        "checkpoint": "Saving and loading of checkpoints.",
        "datastates_ckpt": Key(
            "Settings of the datastates package, which must be installed; any value but false turns it on, even null.",
            types=OBJECT + BOOLEAN + NULL,
        ),
        "aio": Key("Asynchronous I/O, for offload to NVMe and the fast checkpoint writer.", types=OBJECT + NULL),
        "steps_per_print": Key(
            "Steps between two progress messages; if unset, there are none.",
            "optimizer steps",
            types=NUMBER + NULL,
            exclusive_minimum=0,
        ),
        "wall_clock_breakdown": "Measure the time of forward, backward and step; it slows the run down.",
        "memory_breakdown": "Log how much memory is used at each point of a step.",
        "dump_state": "Print the engine's state at its start.",
        "log_level": Key(
            "DeepSpeed's own log level.",
            types=STRING + NULL,
            choices=("debug", "info", "warning", "error", "critical", None),
            case_insensitive=True,
        ),
        "disable_python_gc": "Turn Python's cyclic garbage collection off.",
        "vocabulary_size": Key(
            "Size of the vocabulary; only used to warn if it is not a multiple of 8.",
            "tokens",
            types=INTEGER + NULL,
            minimum=1,
        ),
        "timers": "Timers.",
        "flops_profiler": "Count floating-point operations.",
        "comms_logger": "Log communication.",
        "tensorboard": "TensorBoard logs.",
        "wandb": "Weights & Biases.",
        "csv_monitor": "Local CSV files.",
        "comet": "Comet.",
        "autotuning": "Automatic tuning.",
    },
    "optimizer": {
        "type": Key(
            "Type: DeepSpeed's own in upper or lower case, those of torch.optim exactly as spelled there.",
            types=STRING + NULL,
        ),
        "params": "Parameters of the optimizer; they depend on the type.",
        "legacy_fusion": Key(
            "Use the older order of operations in the fused fp16 optimizer.", types=BOOLEAN, default=False
        ),
    },
    "optimizer.params": {
        "*": None,
    },
    "scheduler": {
        "type": Key("Type: exactly as DeepSpeed or torch.optim.lr_scheduler spells it.", types=STRING + NULL),
        "params": "Parameters of the schedule; they depend on the type. Without this key the engine fails to start.",
    },
    "scheduler.params": {
        "*": None,
    },
}
