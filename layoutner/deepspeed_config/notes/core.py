"""The top level: batch, gradients, optimizer and scheduler, and all other blocks under their names.

DeepSpeed ignores a top-level key it does not know without a word, so a slip of the pen here trains another run.
"""

from layoutner.deepspeed_config.key import BOOLEAN, INTEGER, NULL, NUMBER, OBJECT, STRING, Key, Notes

NOTES: dict[str, Notes] = {
    "": {
        "train_batch_size": Key(
            "Global batch: micro-batch x accumulation steps x data-parallel ranks; give this or the micro-batch.",
            "samples",
            types=INTEGER + NULL,
            minimum=1,
        ),
        "train_micro_batch_size_per_gpu": Key(
            "Samples a rank computes at a time.", "samples", types=INTEGER + NULL, minimum=1
        ),
        "gradient_accumulation_steps": Key(
            "Micro-batches summed before an optimizer step.", "micro-batches", types=INTEGER + NULL, minimum=1
        ),
        "managed_gradient_accumulation": (
            "DeepSpeed counts micro-batches; false: every step() of the script is an optimizer step."
        ),
        "optimizer": "The optimizer; unset, the one the script passes in.",
        "scheduler": "The learning-rate schedule; unset, the one the script passes in.",
        "zero_allow_untested_optimizer": "Let ZeRO wrap an optimizer DeepSpeed has not tested.",
        "zero_force_ds_cpu_optimizer": "Insist on DeepSpeed's CPU optimizer with offload.",
        "zero_optimization": Key(
            "ZeRO: optimizer state, gradients, parameters shared out over ranks; true is an old way to write stage 1.",
            types=OBJECT + BOOLEAN,
        ),
        "allgather_size": Key(
            "Bucket of the all-gather; read only beside zero_optimization: true.",
            "elements",
            types=INTEGER,
            minimum=0,
            deprecated="zero_optimization.allgather_bucket_size",
        ),
        "fp16": "fp16 training. Not together with bf16.",
        "bf16": Key("bf16 training. Not together with fp16.", types=OBJECT + NULL),
        "bfloat16": Key("Old name of bf16; not read where bf16 stands.", deprecated="bf16"),
        "torch_autocast": "PyTorch's own mixed precision, run by DeepSpeed.",
        "data_types": "Formats beyond those that fp16 and bf16 set.",
        "gradient_clipping": Key("Largest norm of the gradient; 0 for no clipping.", minimum=0),
        "prescale_gradients": "Divide gradients before they are summed, not after.",
        "gradient_predivide_factor": Key(
            "What they are divided by before, with prescale_gradients.", exclusive_minimum=0
        ),
        "gradient_allreduce_op": Key(
            "Average or sum gradients over ranks; no sum in ZeRO 3, ZenFlow or DeepCompile.", case_insensitive=True
        ),
        "communication_data_type": Key(
            "Format gradients travel in; unset, the training's own.",
            types=STRING + NULL,
            choices=("fp32", "fp16", "bf16", None),
            case_insensitive=True,
        ),
        "seq_parallel_communication_data_type": Key(
            "Format gradients travel in between sequence-parallel ranks.",
            types=STRING + NULL,
            choices=("fp32", "fp16", "bf16", None),
            case_insensitive=True,
        ),
        "disable_allgather": "Read, but nothing uses it any more.",
        "sequence_parallel_size": Key("Ranks that share a sequence (Ulysses).", "GPUs", types=INTEGER, minimum=1),
        "data_parallel_size": Key(
            "Data-parallel ranks; read only beside sequence_parallel_size.", "GPUs", types=INTEGER, minimum=1
        ),
        "use_data_before_expert_parallelism": "Lay data parallelism out inside expert parallelism.",
        "tensor_parallel": "Automatic tensor parallelism (AutoTP).",
        "expert_parallel": Key("Automatic expert parallelism (AutoEP).", types=OBJECT + NULL),
        "pipeline": "Pipeline parallelism; read when the model is a PipelineModule.",
        "activation_checkpointing": "Recomputation, for code that calls deepspeed.checkpointing.",
        "compile": "DeepCompile; used when engine.compile() is called.",
        "hybrid_engine": "Training and generation in one engine.",
        "weight_quantization": "Quantized weights, for inference with ZeRO.",
        "data_efficiency": "Curriculum, token batches, layer-token drop.",
        "dataloader_drop_last": "Drop the last, incomplete batch of DeepSpeed's data loader.",
        "checkpoint": "Saving and loading.",
        "datastates_ckpt": Key(
            "Settings of the datastates package, which must be installed; all but false turns it on, even {} or null.",
            types=OBJECT + BOOLEAN + NULL,
        ),
        "aio": Key("Asynchronous I/O, for offload to NVMe and the fast checkpoint writer.", types=OBJECT + NULL),
        "steps_per_print": Key(
            "Steps between two lines of progress; unset, none.",
            "optimizer steps",
            types=NUMBER + NULL,
            exclusive_minimum=0,
        ),
        "wall_clock_breakdown": "Time forward, backward and step; it makes the run slower.",
        "memory_breakdown": "Say how much memory is used at each point of a step.",
        "dump_state": "Print the engine's state at its start.",
        "log_level": Key(
            "DeepSpeed's own log level.",
            types=STRING + NULL,
            choices=("debug", "info", "warning", "error", "critical", None),
            case_insensitive=True,
        ),
        "disable_python_gc": "Turn Python's cyclic garbage collection off.",
        "vocabulary_size": Key("Only warns when it is no multiple of 8.", "tokens", types=INTEGER + NULL, minimum=1),
        "timers": "Timers.",
        "flops_profiler": "Counts floating-point operations.",
        "comms_logger": "Log of communication.",
        "tensorboard": "TensorBoard logs.",
        "wandb": "Weights & Biases.",
        "csv_monitor": "Local CSV files.",
        "comet": "Comet.",
        "autotuning": "Automatic tuning.",
    },
    "optimizer": {
        "type": Key(
            "The optimizer: DeepSpeed's in any case, torch.optim's exactly as spelled there.", types=STRING + NULL
        ),
        "params": "Its parameters; which ones depends on the type.",
        "legacy_fusion": Key("Older order of work in the fused fp16 optimizer.", types=BOOLEAN, default=False),
    },
    "optimizer.params": {
        "*": None,
    },
    "scheduler": {
        "type": Key("The schedule, exactly as DeepSpeed or torch.optim.lr_scheduler spells it.", types=STRING + NULL),
        "params": "Its parameters; which ones depends on the type, and without this key the engine fails to start.",
    },
    "scheduler.params": {
        "*": None,
    },
}
