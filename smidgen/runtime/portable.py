"""Whether a graph in int8 says here what it said where it was made: without VNNI, sums of two products are cut off.

The graph itself says so, in its metadata, since nothing else of the folder has to be there when it runs.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from smidgen.runtime import wire
from smidgen.runtime.machine import cuts_off

KEY = "smidgen.same_without_vnni"  # the share of decisions that are the same, or UNKNOWN
UNKNOWN = "unknown"
SHARE = re.compile(r"0\.\d+")


def warn(graph: Path) -> None:
    """A RuntimeWarning where the processor is known to have no VNNI and the graph needs it."""
    said = wire.metadata(graph).get(KEY)
    if said is None or not cuts_off():
        return
    share = f"{1 - float(said):.1%} of decisions" if SHARE.fullmatch(said) else "some decisions"
    warnings.warn(
        f"{graph}: its int8 products need VNNI, which this processor lacks; {share} may be others than were measured. "
        "For such machines quantise with reduce_range: true.",
        RuntimeWarning,
        stacklevel=3,
    )
