"""`python -m deitlt_hf`, which is also what `accelerate launch -m deitlt_hf` runs."""

import sys

from deitlt_hf.cli.main import main

sys.exit(main())
