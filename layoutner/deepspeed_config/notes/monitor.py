"""Monitoring a run: monitors, the communication log, the FLOPs profiler and timers."""

from layoutner.deepspeed_config.key import NULL, STRING, Key, Notes

NOTES: dict[str, Notes] = {
    "timers": {
        "throughput": "The throughput timer.",
    },
    "timers.throughput": {
        "enabled": "Measure samples per second.",
        "synchronized": "Synchronize with the device to measure: exact, but slower.",
    },
    "flops_profiler": {
        "enabled": "Count the operations of one step; this also turns wall_clock_breakdown on.",
        "recompute_fwd_factor": Key(
            "Additional operations of activation checkpointing, as a share of one forward pass.", minimum=0
        ),
        "profile_step": Key("Step in which operations are counted.", "optimizer steps"),
        "module_depth": "Depth of the modules in the report; -1: the innermost modules.",
        "top_modules": "Number of modules per depth in the report.",
        "detailed": "Report every module.",
        "output_file": Key("File for the report; if unset, standard output.", types=STRING + NULL),
    },
    "comms_logger": {
        "enabled": "Record the size and time of collective operations.",
        "prof_all": "Record every operation.",
        "prof_ops": Key("Operations to record if prof_all is false.", items=Key("An operation's name.", types=STRING)),
        "verbose": "Log each operation when it happens.",
        "debug": "Add the name of the calling function.",
    },
    "tensorboard": {
        "enabled": "Write TensorBoard logs; needs the tensorboard package.",
        "output_path": "Folder for the logs; if empty, a folder in the working directory.",
        "job_name": "Name of this run, and of its folder inside output_path.",
    },
    "wandb": {
        "enabled": "Log to Weights & Biases; needs the wandb package.",
        "group": "Group of the run.",
        "team": "Team (entity) of the run.",
        "project": "Project of the run.",
    },
    "csv_monitor": {
        "enabled": "Write CSV files.",
        "output_path": "Folder for the logs; if empty, a folder in the working directory.",
        "job_name": "Name of this run, and of its folder inside output_path.",
    },
    "comet": {
        "enabled": "Log to Comet; needs the comet_ml package.",
        "samples_log_interval": Key("Samples between two reports.", "samples"),
        "project": "Project; if unset, that of Comet's settings.",
        "workspace": "Workspace; if unset, that of Comet's settings.",
        "api_key": "API key; it is safer in the environment (COMET_API_KEY).",
        "experiment_name": "Name of the experiment.",
        "experiment_key": "Key of the experiment, 32 to 50 letters and digits.",
        "online": "Send to the server (the default), or write a local archive.",
        "mode": "Continue an experiment (get), start one (create), or either (get_or_create, the default).",
    },
}
