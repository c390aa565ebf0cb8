"""The Pythons that the peers live in: packages that we compare with, and that ours should not have to agree with.

subprocess.run([peer_python(), "-c", "import model_signing"])
subprocess.run([peer_python("peers-stability"), "-c", "import evidently"])
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def peer_python(name: str = "peers") -> Path:
    """Path of the interpreter in `.venv-<name>`; sets it up from `requirements/<name>.lock` when it is new or the lock changed."""
    place, lock = ROOT / f".venv-{name}", ROOT / "requirements" / f"{name}.lock"
    python, stamp = place / "bin" / "python", place / "installed"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Setting up .venv-{name} from requirements/{name}.lock", file=sys.stderr)
        venv.create(place, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-qq", "--no-deps", "--prefer-binary", "-r", str(lock)]
        subprocess.run(install, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
        stamp.write_text(wanted)
    return python


def installed_in(name: str) -> Path:
    """Where that Python's packages lie, for the sake of the data which some bring."""
    found = subprocess.run(
        [str(peer_python(name)), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True, text=True
    )
    return Path(found.stdout.strip())
