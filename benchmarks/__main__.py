"""All benchmarks, one after the other, each in a process of its own: `python -m benchmarks [--quick]`."""

import subprocess
import sys

NAMES = ("batched_forces", "lj_md", "packing", "moduli", "reversible", "env_throughput", "baselines")

if __name__ == "__main__":
    for name in NAMES:
        print(f"\n## {name}\n", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)
