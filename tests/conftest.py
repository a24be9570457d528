"""What every test stands on: timings that are short, since no test but those of timing looks at them closely."""

import os

os.environ.setdefault("TRIMTAB_BENCHMARK__SECONDS", "0.3")
os.environ.setdefault("TRIMTAB_BENCHMARK__MEMORY", "false")
