"""Build the documentation into site/; any warning is an error: python tools/build_docs.py

`zensical build --strict` fails for links and anchors that lead nowhere. What the API reference warns of
(a name that is not found, an argument that a docstring describes and the function has not) is only
printed, so that this script looks for it.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    command = [Path(sys.executable).with_name("zensical"), "build", "--clean", "--strict"]
    ran = subprocess.run(
        command, cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(ran.stdout)
    warned = re.findall(r"^(?:griffe|mkdocstrings|mkdocs_autorefs): .*$", ran.stdout, re.MULTILINE)
    if warned:
        print(f"{len(warned)} warnings of the API reference, which are errors here")
    return ran.returncode or bool(warned)


if __name__ == "__main__":
    sys.exit(main())
