"""``python -m rain`` is the ``rain`` command."""

import sys

from rain.cli import main

sys.exit(main())
