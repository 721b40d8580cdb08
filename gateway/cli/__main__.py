"""`python -m gateway.cli` is `wayhold`."""

import sys

from gateway.cli import main

sys.exit(main())
