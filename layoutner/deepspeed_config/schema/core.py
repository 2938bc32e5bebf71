"""The top level: batch, gradients, optimizer and scheduler, and all other blocks under their names.

DeepSpeed ignores a top-level key it does not know without a word, so a slip of the pen here trains another run.
"""

from layoutner.deepspeed_config.schema.autotuning import AUTOTUNING
from layoutner.deepspeed_config.schema.data_efficiency import DATA_EFFICIENCY
from layoutner.deepspeed_config.schema.io import AIO, CHECKPOINT, DATASTATES_CKPT
from layoutner.deepspeed_config.schema.key import BOOLEAN, INTEGER, NULL, NUMBER, OBJECT, STRING, Block, Key
from layoutner.deepspeed_config.schema.monitor import (
    COMET,
    COMMS_LOGGER,
    CSV_MONITOR,
    FLOPS_PROFILER,
    TENSORBOARD,
    TIMERS,
    WANDB,
)
from layoutner.deepspeed_config.schema.parallel import (
    ACTIVATION_CHECKPOINTING,
    COMPILE,
    EXPERT_PARALLEL,
    HYBRID_ENGINE,
    PIPELINE,
    TENSOR_PARALLEL,
    WEIGHT_QUANTIZATION,
)
from layoutner.deepspeed_config.schema.precision import BF16, DATA_TYPES, FP16, TORCH_AUTOCAST
from layoutner.deepspeed_config.schema.zero import ZERO_OPTIMIZATION

_WIRE = ("fp32", "fp16", "bf16")

OPTIMIZER = Block(
    keys={
        "type": Key(
            STRING + NULL, None, "The optimizer: DeepSpeed's in any case, torch.optim's exactly as spelled there."
        ),
        "params": Key(
            OBJECT,
            None,
            "Its parameters; which ones depends on the type.",
            block=Block(keys={}, strict=True, open=True, meaning="Parameters; see OPTIMIZERS."),
        ),
        "legacy_fusion": Key(BOOLEAN, False, "Older order of work in the fused fp16 optimizer."),
    },
    strict=False,
    meaning="The optimizer; unset, the one the script passes in.",
)

SCHEDULER = Block(
    keys={
        "type": Key(STRING + NULL, None, "The schedule, exactly as DeepSpeed or torch.optim.lr_scheduler spells it."),
        "params": Key(
            OBJECT,
            None,
            "Its parameters; which ones depends on the type, and without this key the engine fails to start.",
            block=Block(keys={}, strict=True, open=True, meaning="Parameters; see SCHEDULERS."),
        ),
    },
    strict=False,
    meaning="The learning-rate schedule; unset, the one the script passes in.",
)

TOP = Block(
    keys={
        "train_batch_size": Key(
            INTEGER + NULL,
            None,
            "Global batch: micro-batch x accumulation steps x data-parallel ranks; give this or the micro-batch.",
            unit="samples",
            minimum=1,
        ),
        "train_micro_batch_size_per_gpu": Key(
            INTEGER + NULL, None, "Samples a rank computes at a time.", unit="samples", minimum=1
        ),
        "gradient_accumulation_steps": Key(
            INTEGER + NULL, None, "Micro-batches summed before an optimizer step.", unit="micro-batches", minimum=1
        ),
        "managed_gradient_accumulation": Key(
            BOOLEAN, True, "DeepSpeed counts micro-batches; false: every step() of the script is an optimizer step."
        ),
        "optimizer": Key(OBJECT, {}, "The optimizer.", block=OPTIMIZER),
        "scheduler": Key(OBJECT, {}, "The learning-rate schedule.", block=SCHEDULER),
        "zero_allow_untested_optimizer": Key(BOOLEAN, False, "Let ZeRO wrap an optimizer DeepSpeed has not tested."),
        "zero_force_ds_cpu_optimizer": Key(BOOLEAN, True, "Insist on DeepSpeed's CPU optimizer with offload."),
        "zero_optimization": Key(
            ("object", "boolean"), {}, "ZeRO; true is an old way to write stage 1.", block=ZERO_OPTIMIZATION
        ),
        "allgather_size": Key(
            INTEGER,
            500_000_000,
            "Bucket of the all-gather; read only beside zero_optimization: true.",
            unit="elements",
            minimum=0,
            deprecated="zero_optimization.allgather_bucket_size",
        ),
        "fp16": Key(OBJECT, {}, "fp16 training.", block=FP16),
        "bf16": Key(OBJECT + NULL, {}, "bf16 training.", block=BF16),
        "bfloat16": Key(OBJECT, {}, "Old name of bf16; not read where bf16 stands.", deprecated="bf16", block=BF16),
        "torch_autocast": Key(OBJECT, {}, "PyTorch's own mixed precision.", block=TORCH_AUTOCAST),
        "data_types": Key(OBJECT, {}, "Formats beyond those.", block=DATA_TYPES),
        "gradient_clipping": Key(NUMBER, 1.0, "Largest norm of the gradient; 0 for no clipping.", minimum=0),
        "prescale_gradients": Key(BOOLEAN, False, "Divide gradients before they are summed, not after."),
        "gradient_predivide_factor": Key(
            NUMBER, 1.0, "What they are divided by before, with prescale_gradients.", exclusive_minimum=0
        ),
        "gradient_allreduce_op": Key(
            STRING,
            "mean",
            "Average or sum gradients over ranks; no sum in ZeRO 3, ZenFlow or DeepCompile.",
            choices=("mean", "sum"),
            case_insensitive=True,
        ),
        "communication_data_type": Key(
            STRING + NULL,
            None,
            "Format gradients travel in; unset, the training's own.",
            choices=(*_WIRE, None),
            case_insensitive=True,
        ),
        "seq_parallel_communication_data_type": Key(
            STRING + NULL,
            "fp32",
            "Format gradients travel in between sequence-parallel ranks.",
            choices=(*_WIRE, None),
            case_insensitive=True,
        ),
        "disable_allgather": Key(BOOLEAN, False, "Read, but nothing uses it any more."),
        "sequence_parallel_size": Key(INTEGER, None, "Ranks that share a sequence (Ulysses).", unit="GPUs", minimum=1),
        "data_parallel_size": Key(
            INTEGER, None, "Data-parallel ranks; read only beside sequence_parallel_size.", unit="GPUs", minimum=1
        ),
        "use_data_before_expert_parallelism": Key(
            BOOLEAN, False, "Lay data parallelism out inside expert parallelism."
        ),
        "tensor_parallel": Key(OBJECT, {}, "Automatic tensor parallelism.", block=TENSOR_PARALLEL),
        "expert_parallel": Key(OBJECT + NULL, {}, "Automatic expert parallelism.", block=EXPERT_PARALLEL),
        "pipeline": Key(OBJECT, {}, "Pipeline parallelism.", block=PIPELINE),
        "activation_checkpointing": Key(OBJECT, {}, "Recomputation.", block=ACTIVATION_CHECKPOINTING),
        "compile": Key(OBJECT, {}, "DeepCompile.", block=COMPILE),
        "hybrid_engine": Key(OBJECT, {}, "Training and generation in one engine.", block=HYBRID_ENGINE),
        "weight_quantization": Key(
            OBJECT, None, "Quantized weights for inference with ZeRO.", block=WEIGHT_QUANTIZATION
        ),
        "data_efficiency": Key(OBJECT, {}, "Curriculum, token batches, layer-token drop.", block=DATA_EFFICIENCY),
        "dataloader_drop_last": Key(BOOLEAN, False, "Drop the last, incomplete batch of DeepSpeed's data loader."),
        "checkpoint": Key(OBJECT, {}, "Saving and loading.", block=CHECKPOINT),
        "datastates_ckpt": Key(
            ("object", "boolean", "null"),
            None,
            "DataStates checkpoints: anything but false turns them on, even an empty object or null.",
            block=DATASTATES_CKPT,
        ),
        "aio": Key(OBJECT + NULL, {}, "Asynchronous I/O for NVMe.", block=AIO),
        "steps_per_print": Key(
            NUMBER + NULL,
            None,
            "Steps between two lines of progress; unset, none.",
            "optimizer steps",
            exclusive_minimum=0,
        ),
        "wall_clock_breakdown": Key(BOOLEAN, False, "Time forward, backward and step; it makes the run slower."),
        "memory_breakdown": Key(BOOLEAN, False, "Say how much memory is used at each point of a step."),
        "dump_state": Key(BOOLEAN, False, "Print the engine's state at its start."),
        "log_level": Key(
            STRING + NULL,
            None,
            "DeepSpeed's own log level.",
            choices=("debug", "info", "warning", "error", "critical", None),
            case_insensitive=True,
        ),
        "disable_python_gc": Key(BOOLEAN, False, "Turn Python's cyclic garbage collection off."),
        "vocabulary_size": Key(
            INTEGER + NULL, None, "Only warns when it is no multiple of 8.", unit="tokens", minimum=1
        ),
        "timers": Key(OBJECT, {}, "Timers.", block=TIMERS),
        "flops_profiler": Key(OBJECT, {}, "Counts floating-point operations.", block=FLOPS_PROFILER),
        "comms_logger": Key(OBJECT, None, "Log of communication.", block=COMMS_LOGGER),
        "tensorboard": Key(OBJECT, {}, "TensorBoard logs.", block=TENSORBOARD),
        "wandb": Key(OBJECT, {}, "Weights & Biases.", block=WANDB),
        "csv_monitor": Key(OBJECT, {}, "Local CSV files.", block=CSV_MONITOR),
        "comet": Key(OBJECT, {}, "Comet.", block=COMET),
        "autotuning": Key(OBJECT, {}, "Automatic tuning.", block=AUTOTUNING),
    },
    strict=False,
    meaning="A DeepSpeed config.",
)
