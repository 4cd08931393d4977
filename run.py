"""Command line of mimicry: `python run.py --help`."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# Hydra finds experiments/ from here whatever the working directory is, and results/ lands here.
os.environ.setdefault("MIMICRY_ROOT", str(ROOT))
# A checkout runs without being installed, in the processes of a launcher too.
sys.path.insert(0, str(ROOT / "src"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))

if __name__ == "__main__":
    from mimicry.app import main

    main(ROOT / "conf")
