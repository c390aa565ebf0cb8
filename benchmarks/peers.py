"""The Python that the peers live in: packages that we compare with, and that ours should not have to agree with.

subprocess.run([peer_python(), "-c", "import model_signing"])
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / ".venv-peers"
LOCK = ROOT / "requirements" / "peers.lock"


def peer_python() -> Path:
    """Path of the interpreter in `.venv-peers`; sets it up from `requirements/peers.lock` when it is new or the lock changed."""
    python = PLACE / "bin" / "python"
    stamp = PLACE / "installed"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print("Setting up .venv-peers from requirements/peers.lock", file=sys.stderr)
        venv.create(PLACE, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-qq", "--no-deps", "--prefer-binary", "-r", str(LOCK)]
        subprocess.run(install, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
        stamp.write_text(wanted)
    return python
