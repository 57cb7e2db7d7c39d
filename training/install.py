"""Put what was trained into the folder that ships."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from training import configs

PARTS = {
    "vae": "vae",
    "transformer/transformer": "transformer",
    "transformer/connectors": "connectors",
    "upsampler": "latent_upsampler",
    **{f"adapters/{name}": f"adapters/{name}" for name in configs.ADAPTERS},
}


def copy(source: Path, target: Path) -> None:
    """Replace file by file, each at once: a reader sees the old file or the new one."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        fresh = target / f"{file.name}.new"
        shutil.copyfile(file, fresh)
        if file.name == "config.json":
            config = json.loads(fresh.read_text())
            config.pop("_name_or_path", None)  # a place on the machine of the training
            fresh.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        fresh.replace(target / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=configs.WORK)
    parser.add_argument("--folder", type=Path, default=configs.WEIGHTS)
    options = parser.parse_args()
    for source, target in PARTS.items():
        if (options.work / source).is_dir():
            copy(options.work / source, options.folder / target)
    text = json.dumps(configs.RECOMMENDED, indent=2)
    (options.folder / "loraloom.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
