"""The `autotuning` block: `deepspeed --autotuning` tries ZeRO stages and micro-batch sizes in turn."""

from layoutner.deepspeed_config.key import INTEGER, NULL, OBJECT, STRING, Key, Notes

NOTES: dict[str, Notes] = {
    "autotuning": {
        "enabled": "Turn tuning on; any other value of the config may then be a list of values to try.",
        "fast": "Tune only the micro-batch size, with the other values at their defaults.",
        "results_dir": "Folder for the results (a non-empty path).",
        "exps_dir": "Folder for the trials (a non-empty path).",
        "overwrite": "Start again if these folders contain earlier trials.",
        "start_profile_step": Key("First step that is measured.", "optimizer steps"),
        "end_profile_step": Key("Last step that is measured; the trial ends after it.", "optimizer steps"),
        "metric": "Metric that is compared: throughput, latency or FLOPS_per_gpu.",
        "metric_path": Key("File to which a trial writes its metrics; set by the tuner.", types=STRING + NULL),
        "tuner_type": Key(
            "Order of trials; an unknown name means gridsearch.", choices=("gridsearch", "random", "model_based")
        ),
        "tuner_early_stopping": Key("Trials without improvement after which tuning ends.", "trials"),
        "tuner_num_trials": Key("Maximum number of trials.", "trials"),
        "arg_mappings": Key(
            "Key of this config -> argument of the script that sets the same value.", types=OBJECT + NULL
        ),
        "model_info": Key("Properties of the model, so that no run is needed to find them.", types=OBJECT + NULL),
        "model_info_path": Key("File with the properties of the model.", types=STRING + NULL),
        "mp_size": Key("Model-parallel ranks: those that share one model.", "GPUs", minimum=1),
        "max_train_batch_size": Key("Largest global batch size to try.", "samples", types=INTEGER + NULL, minimum=1),
        "min_train_batch_size": Key("Smallest global batch size to try.", "samples", minimum=1),
        "max_train_micro_batch_size_per_gpu": Key("Largest micro-batch size to try.", "samples", minimum=1),
        "min_train_micro_batch_size_per_gpu": Key("Smallest micro-batch size to try.", "samples", minimum=1),
        "num_tuning_micro_batch_sizes": Key("Micro-batch sizes to try per ZeRO stage.", minimum=1),
    },
    "autotuning.arg_mappings": {
        "*": Key("Argument of the script, such as --per_device_train_batch_size.", types=STRING),
    },
    "autotuning.model_info": {
        "profile": "Set by the tuner for the run that counts parameters.",
        "num_params": Key("Number of parameters of the model.", "elements", types=INTEGER + NULL, minimum=1),
        "hidden_size": Key("Hidden size of the model.", "elements", types=INTEGER + NULL),
        "num_layers": Key("Number of layers of the model.", "layers", types=INTEGER + NULL),
    },
}
