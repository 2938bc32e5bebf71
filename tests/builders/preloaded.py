# ruff: noqa: F401
"""What the process that forks has imported: what training, evaluation and prediction on the CPU need."""

import gc

import deepspeed.ops.op_builder.all_ops
import deepspeed.runtime.zero.muon.muon_optimizer  # and with it torch's compiler
import deepspeed.runtime.zero.stage3
import deepspeed.runtime.zero.stage_1_and_2
import torch
import transformers.models.layoutlm.modeling_layoutlm

import layoutner.cli
import layoutner.inference.export
import layoutner.inference.predict
import layoutner.objectives.evaluate
import layoutner.runs.cross_validation
import layoutner.runs.single

gc.collect()
gc.freeze()  # so that a fork does not walk what all forks share, and so copy it
