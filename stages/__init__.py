"""The stages of dvc.yaml (verbs, one file each) and the rooms they share (nouns, one folder each)."""

import os

# Set before any library is imported, because each reads its switch only once, at import.
QUIET = {
    # Nothing leaves the machine unasked: the telemetry of every library we import is off.
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # A tokenizer that forks threads after a DataLoader forked processes dead-locks; ours are too small to need them.
    "TOKENIZERS_PARALLELISM": "false",
    # OpenMP threads that spin for long while they wait are 10 to 100 times slower when another process holds a core; threads
    # that never spin are woken too late to share small work. So: spin for some microseconds, then sleep. Two quiet cores
    # tune the tiny model at 13,400 tokens a second so, at 8,900 without a spin; two busy ones lose nothing by it.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",
}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)
