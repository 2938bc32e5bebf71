"""The `autotuning` block: `deepspeed --autotuning` tries ZeRO stages and micro-batches in turn."""

from layoutner.deepspeed_config.schema.key import BOOLEAN, INTEGER, NULL, OBJECT, STRING, Block, Key

MODEL_INFO = Block(
    keys={
        "profile": Key(BOOLEAN, False, "Set by the tuner for the run that counts parameters."),
        "num_params": Key(INTEGER + NULL, None, "Parameters of the model.", unit="elements", minimum=1),
        "hidden_size": Key(INTEGER + NULL, None, "Width of the model.", unit="elements"),
        "num_layers": Key(INTEGER + NULL, None, "Layers of the model.", unit="layers"),
    },
    strict=False,
    meaning="What is known of the model, so that no run has to find it out.",
)

AUTOTUNING = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Tune; any other value of the config may then be a list to try."),
        "fast": Key(BOOLEAN, True, "Tune the micro-batch alone, with other values at their defaults."),
        "results_dir": Key(STRING, "autotuning_results", "Folder of the results; not empty."),
        "exps_dir": Key(STRING, "autotuning_exps", "Folder of the trials; not empty."),
        "overwrite": Key(BOOLEAN, True, "Start anew where those folders hold earlier trials."),
        "start_profile_step": Key(INTEGER, 3, "First step that is timed.", unit="optimizer steps"),
        "end_profile_step": Key(INTEGER, 5, "Last step that is timed; the trial then ends.", unit="optimizer steps"),
        "metric": Key(STRING, "throughput", "What is compared: throughput, latency or FLOPS_per_gpu."),
        "metric_path": Key(STRING + NULL, None, "File a trial writes its figures to; set by the tuner."),
        "tuner_type": Key(
            STRING,
            "gridsearch",
            "Order of trials; an unknown name means gridsearch.",
            choices=("gridsearch", "random", "model_based"),
        ),
        "tuner_early_stopping": Key(INTEGER, 5, "Trials without gain before tuning ends.", unit="trials"),
        "tuner_num_trials": Key(INTEGER, 50, "Most trials.", unit="trials"),
        "arg_mappings": Key(
            OBJECT + NULL,
            None,
            "Key of this config to the script's argument that sets the same.",
            block=Block(
                keys={},
                strict=False,
                open=True,
                meaning="Key to argument.",
                others=Key(STRING, None, "Argument of the script, such as --per_device_train_batch_size."),
            ),
        ),
        "model_info": Key(OBJECT + NULL, None, "What is known of the model.", block=MODEL_INFO),
        "model_info_path": Key(STRING + NULL, None, "File with what is known of the model."),
        "mp_size": Key(INTEGER, 1, "Ranks that share a model.", unit="GPUs", minimum=1),
        "max_train_batch_size": Key(INTEGER + NULL, None, "Largest global batch tried.", unit="samples", minimum=1),
        "min_train_batch_size": Key(INTEGER, 1, "Smallest global batch tried.", unit="samples", minimum=1),
        "max_train_micro_batch_size_per_gpu": Key(
            INTEGER, 1024, "Largest micro-batch tried.", unit="samples", minimum=1
        ),
        "min_train_micro_batch_size_per_gpu": Key(INTEGER, 1, "Smallest micro-batch tried.", unit="samples", minimum=1),
        "num_tuning_micro_batch_sizes": Key(INTEGER, 3, "Micro-batches tried in a stage.", minimum=1),
    },
    strict=False,
    meaning="Automatic tuning.",
)
