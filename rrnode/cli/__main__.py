"""`python -m rrnode.cli`: the same as `rrnode`, for starting a node in the background with this very interpreter."""

import sys

from rrnode.cli.app import main

sys.exit(main())
