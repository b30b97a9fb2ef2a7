"""How OpenMP's idle threads wait. Imported before torch, which loads OpenMP.

By default they spin for milliseconds, and keep a shared core from the thread they wait for.
"""

import os

SPINS = "10000"  # about 0.1 ms, then they sleep; always sleeping halves the speed of small models

if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    os.environ["GOMP_SPINCOUNT"] = SPINS
