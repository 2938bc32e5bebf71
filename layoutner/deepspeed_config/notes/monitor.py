"""Watching a run: monitors, the communication log, the FLOPs profiler and timers."""

from layoutner.deepspeed_config.key import NULL, STRING, Key, Notes

NOTES: dict[str, Notes] = {
    "timers": {
        "throughput": "The throughput timer.",
    },
    "timers.throughput": {
        "enabled": "Measure samples a second.",
        "synchronized": "Wait for the device when measuring: exact, but slower.",
    },
    "flops_profiler": {
        "enabled": "Count operations of one step; it also turns wall_clock_breakdown on.",
        "recompute_fwd_factor": Key(
            "Extra forward work of activation checkpointing, as a share of one forward.", minimum=0
        ),
        "profile_step": Key("Step to measure.", "optimizer steps"),
        "module_depth": "Depth of modules in the report; -1 the innermost.",
        "top_modules": "Modules named a depth in the report.",
        "detailed": "Report each module.",
        "output_file": Key("File of the report; unset, standard output.", types=STRING + NULL),
    },
    "comms_logger": {
        "enabled": "Record collectives: their sizes and times.",
        "prof_all": "Record every operation.",
        "prof_ops": Key(
            "Operations to record where prof_all is false.", items=Key("An operation's name.", types=STRING)
        ),
        "verbose": "Say each operation as it happens.",
        "debug": "Add the name of the calling function.",
    },
    "tensorboard": {
        "enabled": "Write TensorBoard logs; needs the tensorboard package.",
        "output_path": "Folder of the logs; empty, under the folder the script was started in.",
        "job_name": "Name of this run: a folder inside output_path.",
    },
    "wandb": {
        "enabled": "Log to Weights & Biases; needs the wandb package.",
        "group": "Group the run belongs to.",
        "team": "Team (entity) the run belongs to.",
        "project": "Project the run belongs to.",
    },
    "csv_monitor": {
        "enabled": "Write CSV files.",
        "output_path": "Folder of the logs; empty, under the folder the script was started in.",
        "job_name": "Name of this run: a folder inside output_path.",
    },
    "comet": {
        "enabled": "Log to Comet; needs the comet_ml package.",
        "samples_log_interval": Key("Samples between two reports.", "samples"),
        "project": "Project; else from Comet's own settings.",
        "workspace": "Workspace; else from Comet's own settings.",
        "api_key": "API key; better kept in the environment (COMET_API_KEY).",
        "experiment_name": "Name of the experiment.",
        "experiment_key": "Key of the experiment, 32 to 50 letters and digits.",
        "online": "Send to the server (the default), or keep a local archive.",
        "mode": "Go on with an experiment (get), start one (create), or either (get_or_create, the default).",
    },
}
