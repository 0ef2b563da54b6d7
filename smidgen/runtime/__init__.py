"""Run a finished folder without torch: text in, labels out."""

from smidgen.runtime.bundle import Bundle
from smidgen.runtime.cascade import Cascade
from smidgen.runtime.folder import deployed_bytes, deployed_files
from smidgen.runtime.model import Model, load

__all__ = ["Bundle", "Cascade", "Model", "deployed_bytes", "deployed_files", "load"]
