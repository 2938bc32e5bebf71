"""Watching a run: monitors, the communication log, the FLOPs profiler and timers."""

from layoutner.deepspeed_config.schema.key import ARRAY, BOOLEAN, INTEGER, NULL, NUMBER, OBJECT, STRING, Block, Key

_FOLDER = Key(STRING, "", "Folder of the logs; empty, under the folder the script was started in.")
_JOB = Key(STRING, "DeepSpeedJobName", "Name of this run: a folder inside output_path.")

TENSORBOARD = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Write TensorBoard logs; needs the tensorboard package."),
        "output_path": _FOLDER,
        "job_name": _JOB,
    },
    strict=True,
    drops_auto=True,
    meaning="TensorBoard logs.",
)

WANDB = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Log to Weights & Biases; needs the wandb package."),
        "group": Key(STRING + NULL, None, "Group the run belongs to."),
        "team": Key(STRING + NULL, None, "Team (entity) the run belongs to."),
        "project": Key(STRING, "deepspeed", "Project the run belongs to."),
    },
    strict=True,
    drops_auto=True,
    meaning="Weights & Biases.",
)

CSV_MONITOR = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Write CSV files."),
        "output_path": _FOLDER,
        "job_name": _JOB,
    },
    strict=True,
    drops_auto=True,
    meaning="Local CSV files.",
)

COMET = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Log to Comet; needs the comet_ml package."),
        "samples_log_interval": Key(INTEGER, 100, "Samples between two reports.", unit="samples"),
        "project": Key(STRING + NULL, None, "Project; else from Comet's own settings."),
        "workspace": Key(STRING + NULL, None, "Workspace; else from Comet's own settings."),
        "api_key": Key(STRING + NULL, None, "API key; better kept in the environment (COMET_API_KEY)."),
        "experiment_name": Key(STRING + NULL, None, "Name of the experiment."),
        "experiment_key": Key(STRING + NULL, None, "Key of the experiment, 32 to 50 letters and digits."),
        "online": Key(BOOLEAN + NULL, None, "Send to the server (the default), or keep a local archive."),
        "mode": Key(
            STRING + NULL,
            None,
            "Go on with an experiment (get), start one (create), or either (get_or_create, the default).",
        ),
    },
    strict=True,
    drops_auto=True,
    meaning="Comet.",
)

COMMS_LOGGER = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Record collectives: their sizes and times."),
        "prof_all": Key(BOOLEAN, True, "Record every operation."),
        "prof_ops": Key(
            ARRAY, [], "Operations to record where prof_all is false.", items=Key(STRING, None, "An operation's name.")
        ),
        "verbose": Key(BOOLEAN, False, "Say each operation as it happens."),
        "debug": Key(BOOLEAN, False, "Add the name of the calling function."),
    },
    strict=True,
    drops_auto=True,
    meaning="Log of communication.",
)

FLOPS_PROFILER = Block(
    keys={
        "enabled": Key(BOOLEAN, False, "Count operations of one step; it also turns wall_clock_breakdown on."),
        "recompute_fwd_factor": Key(
            NUMBER, 0.0, "Extra forward work of activation checkpointing, as a share of one forward.", minimum=0
        ),
        "profile_step": Key(INTEGER, 1, "Step to measure.", unit="optimizer steps"),
        "module_depth": Key(INTEGER, -1, "Depth of modules in the report; -1 the innermost."),
        "top_modules": Key(INTEGER, 1, "Modules named a depth in the report."),
        "detailed": Key(BOOLEAN, True, "Report each module."),
        "output_file": Key(STRING + NULL, None, "File of the report; unset, standard output."),
    },
    strict=False,
    meaning="Counts floating-point operations.",
)

THROUGHPUT = Block(
    keys={
        "enabled": Key(BOOLEAN, True, "Measure samples a second."),
        "synchronized": Key(BOOLEAN, True, "Wait for the device when measuring: exact, but slower."),
    },
    strict=True,
    drops_auto=True,
    meaning="The throughput timer.",
)

TIMERS = Block(
    keys={"throughput": Key(OBJECT, {}, "The throughput timer.", block=THROUGHPUT)},
    strict=False,
    meaning="Timers.",
)
