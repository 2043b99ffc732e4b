"""The child: one job from stdin, the vector from and to the folder that its argument names."""

import sys
from pathlib import Path

from fedrad_client.work import main

sys.exit(main(Path(sys.argv[1])))
