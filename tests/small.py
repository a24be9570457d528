"""A small project with real parts: two numbers, two classes, a network of one layer, a CSV file."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

EVERY, START = 200, 300


def project(folder: Path, **changes: Any) -> Path:
    """Lay down rows and project file, and return the file."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=900), "z": rng.normal(size=900)})
    frame.assign(y=np.where(frame.x + frame.z > 0, "up", "down")).to_csv(folder / "rows.csv", index=False)
    settings = {
        "name": "small",
        "home": str(folder / "home"),
        "source": {"kind": "csv", "path": str(folder / "rows.csv"), "label": "y"},
        "features": {"x": {}, "z": {}},
        "window": {"every": f"{EVERY} rows", "start": START},
        "model": {"factory": "trimtab_torch.networks:Mlp", "epochs": 1},
        "optimize": {"techniques": ["finetune", "export", "quantize.static"]},
        **changes,
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
