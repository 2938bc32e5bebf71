# ruff: noqa: E501
"""Configs with one mistake each, such as a person would make, and what must be found."""

from layoutner.deepspeed_config.finding import ERROR, WARNING

B = '"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2'
ADAM = '"optimizer": {"type": "AdamW", "params": {"lr": 3e-4}}'


def decay(params: str) -> str:
    return f'{{{B}, {ADAM}, "scheduler": {{"type": "WarmupDecayLR", "params": {{{params}}}}}}}'


# (config, world size, severity, path, part of message or advice)
# fmt: off
BROKEN: list[tuple[str, int | None, str, str, str]] = [
    (f'{{{B}, "gradient_clippping": 1.0}}', None, ERROR, "gradient_clippping", "did you mean 'gradient_clipping'"),
    (f'{{{B}, "gradient_clipping": -1}}', None, ERROR, "gradient_clipping", "at least 0"),
    (f'{{{B}, "gradient_clipping": "auto"}}', None, ERROR, "gradient_clipping", "means nothing to DeepSpeed"),
    (f'{{{B}, "steps_per_print": "10"}}', None, ERROR, "steps_per_print", "remove the quotes: 10"),
    (f'{{{B}, "zero_optimizaton": {{"stage": 2}}}}', None, ERROR, "zero_optimizaton", "'zero_optimization'"),
    (f'{{{B}, "stage": 2}}', None, ERROR, "stage", "it belongs under zero_optimization"),
    (f'{{{B}, "overlap_comm": true}}', None, ERROR, "overlap_comm", "it belongs under zero_optimization"),
    (f'{{{B}, "bp16": {{"enabled": true}}}}', None, ERROR, "bp16", "16"),
    (f'{{{B}, "lr_scheduler": {{"type": "WarmupLR"}}}}', None, ERROR, "lr_scheduler", "scheduler"),
    (f'{{{B}, "max_grad_norm": 1.0}}', None, ERROR, "max_grad_norm", "gradient_clipping"),
    (f'{{{B}, "elasticity": {{"enabled": true}}}}', None, ERROR, "elasticity", "removed in DeepSpeed 0.19.8"),
    (f'{{{B}, "amp": {{"enabled": true}}}}', None, ERROR, "amp", "bf16, fp16 or torch_autocast"),
    (f'{{{B}, "nebula": {{"enabled": true}}}}', None, ERROR, "nebula", "removed in DeepSpeed 0.19.7"),
    (f'{{{B}, "zero_optimization": {{"stage": 3, "mics_shard_size": 4}}}}', None, ERROR, "zero_optimization.mics_shard_size", "removed"),
    (f'{{{B}, "fp16": {{"enabled": true}}, "bf16": {{"enabled": true}}}}', None, ERROR, "bf16.enabled", "both enabled"),
    (f'{{{B}, "fp16": {{"enabled": true}}, "fp16": {{"enabled": false}}}}', None, ERROR, "fp16", "duplicate key"),
    (f'{{{B}, "fp16": {{"enabled": true, "loss_scale": -1}}}}', None, ERROR, "fp16.loss_scale", "at least 0"),
    (f'{{{B}, "fp16": {{"enabled": true, "min_loss_scale": 0.5}}}}', None, ERROR, "fp16.min_loss_scale", "integer"),
    (f'{{{B}, "fp16": {{"enabled": true, "opt_level": "O2"}}}}', None, ERROR, "fp16.opt_level", "DeepSpeed refuses"),
    (f'{{{B}, "fp16": {{"enabled": true, "loss_scale": 128, "hysteresis": 2}}}}', None, WARNING, "fp16.hysteresis", "no effect"),
    (f'{{{B}, "fp16": {{"enabled": True,\n}}}}', None, ERROR, "fp16.enabled", "write true, in lower case"),
    (f'{{{B}, "zero_optimization": {{"stage": 4}}}}', None, ERROR, "zero_optimization.stage", "4"),
    (f'{{{B}, "zero_optimization": {{"stage": 2, "reduce_bucket_sise": 5e8}}}}', None, ERROR, "zero_optimization.reduce_bucket_sise", "'reduce_bucket_size'"),
    (f'{{{B}, "zero_optimization": {{"stage": 0, "offload_optimizer": {{"device": "cpu"}}}}}}', None, WARNING, "zero_optimization.offload_optimizer", "nothing is offloaded"),
    (f'{{{B}, "zero_optimization": {{"stage": 2, "offload_param": {{"device": "cpu"}}}}}}', None, WARNING, "zero_optimization.offload_param", "stage = 3"),
    (f'{{{B}, "zero_optimization": {{"stage": 3, "offload_optimizer": {{"device": "gpu"}}}}}}', None, ERROR, "zero_optimization.offload_optimizer.device", "one of"),
    (f'{{{B}, "optimizer": {{"type": "Lamb", "params": {{"lr": 1e-3}}}}, "zero_optimization": {{"stage": 1}}}}', None, ERROR, "optimizer.type", "norm of whole layers"),
    (f'{{{B}, "optimizer": {{"type": "AdamW", "params": {{"learning_rate": 1e-3}}}}}}', None, ERROR, "optimizer.params.learning_rate", "calls it lr"),
    (f'{{{B}, "optimizer": {{"type": "AdamW", "params": {{"lr": "3e-4"}}}}}}', None, ERROR, "optimizer.params.lr", "remove the quotes"),
    (f'{{{B}, "optimizer": {{"type": "AdamX"}}}}', None, ERROR, "optimizer.type", "is not an optimizer"),
    (f'{{{B}, "optimizer": {{"type": "OneBitAdam"}}}}', None, ERROR, "optimizer.type", "removed in DeepSpeed 0.19.7"),
    (f'{{{B}, "optimizer": {{"type": "AdamW", "params": {{"max_grad_norm": 1.0}}}}}}', None, ERROR, "optimizer.params.max_grad_norm", "gradient_clipping"),
    (f'{{{B}, "scheduler": {{"type": "WarmupDecay"}}}}', None, ERROR, "scheduler.type", "'WarmupDecayLR'"),
    (decay('"total_num_steps": 100, "warmup_steps": 10'), None, ERROR, "scheduler.params.warmup_steps", "warmup_num_steps"),
    (decay('"warmup_num_steps": 10, "warmup_type": "linear"'), None, ERROR, "scheduler.params", "total_num_steps is missing"),
    (decay('"total_num_steps": 10, "warmup_num_steps": 20'), None, ERROR, "scheduler.params.warmup_num_steps", "20 steps of warm-up in a run of 10"),
    (decay('"total_num_steps": 10, "warmup_num_steps": 0'), None, ERROR, "scheduler.params.warmup_num_steps", "at least 1"),
    (decay('"total_num_steps": 100, "warmup_num_steps": 9, "warmup_max_lr": 1e-3'), None, WARNING, "scheduler.params.warmup_max_lr", "is never used"),
    (decay('"total_num_steps": 100, "warmup_num_steps": 9, "warmup_max_lr": 3e-4'), None, WARNING, "scheduler", "logarithmic"),
    (f"{{{B}}}", 3, ERROR, "train_batch_size", "possible world sizes: 2"),
    ('{"train_batch_size": 10, "train_micro_batch_size_per_gpu": 4}', None, ERROR, "train_batch_size", "8 or 12"),
    ('{"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2}', None, ERROR, "train_batch_size", "no world size"),
    ('{"gradient_accumulation_steps": 2}', None, ERROR, "", "no batch size"),
    (f'{{{B}, "gradient_allreduce_op": "sum", "zero_optimization": {{"stage": 3}}}}', None, ERROR, "gradient_allreduce_op", "refused at ZeRO 3"),
    (f'{{{B}, {ADAM[:-1]}, "zero_optimization": {{"stage": 2}}}}}}', None, ERROR, "optimizer.zero_optimization", "the top level"),
    (f'{{{B}, "aio": {{"block_sise": 1048576}}}}', None, ERROR, "aio.block_sise", "'block_size'"),
]
# fmt: on
