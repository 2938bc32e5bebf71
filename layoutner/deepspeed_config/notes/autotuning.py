"""The `autotuning` block: `deepspeed --autotuning` tries ZeRO stages and micro-batches in turn."""

from layoutner.deepspeed_config.key import INTEGER, NULL, OBJECT, STRING, Key, Notes

NOTES: dict[str, Notes] = {
    "autotuning": {
        "enabled": "Tune; any other value of the config may then be a list to try.",
        "fast": "Tune the micro-batch alone, with other values at their defaults.",
        "results_dir": "Folder of the results; not empty.",
        "exps_dir": "Folder of the trials; not empty.",
        "overwrite": "Start anew where those folders hold earlier trials.",
        "start_profile_step": Key("First step that is timed.", "optimizer steps"),
        "end_profile_step": Key("Last step that is timed; the trial then ends.", "optimizer steps"),
        "metric": "What is compared: throughput, latency or FLOPS_per_gpu.",
        "metric_path": Key("File a trial writes its figures to; set by the tuner.", types=STRING + NULL),
        "tuner_type": Key(
            "Order of trials; an unknown name means gridsearch.", choices=("gridsearch", "random", "model_based")
        ),
        "tuner_early_stopping": Key("Trials without gain before tuning ends.", "trials"),
        "tuner_num_trials": Key("Most trials.", "trials"),
        "arg_mappings": Key("Key of this config to the script's argument that sets the same.", types=OBJECT + NULL),
        "model_info": Key("What is known of the model, so that no run has to find it out.", types=OBJECT + NULL),
        "model_info_path": Key("File with what is known of the model.", types=STRING + NULL),
        "mp_size": Key("Ranks that share a model.", "GPUs", minimum=1),
        "max_train_batch_size": Key("Largest global batch tried.", "samples", types=INTEGER + NULL, minimum=1),
        "min_train_batch_size": Key("Smallest global batch tried.", "samples", minimum=1),
        "max_train_micro_batch_size_per_gpu": Key("Largest micro-batch tried.", "samples", minimum=1),
        "min_train_micro_batch_size_per_gpu": Key("Smallest micro-batch tried.", "samples", minimum=1),
        "num_tuning_micro_batch_sizes": Key("Micro-batches tried in a stage.", minimum=1),
    },
    "autotuning.arg_mappings": {
        "*": Key("Argument of the script, such as --per_device_train_batch_size.", types=STRING),
    },
    "autotuning.model_info": {
        "profile": "Set by the tuner for the run that counts parameters.",
        "num_params": Key("Parameters of the model.", "elements", types=INTEGER + NULL, minimum=1),
        "hidden_size": Key("Width of the model.", "elements", types=INTEGER + NULL),
        "num_layers": Key("Layers of the model.", "layers", types=INTEGER + NULL),
    },
}
