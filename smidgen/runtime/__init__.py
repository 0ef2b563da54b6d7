"""Run a finished folder without torch: text in, labels out."""

from smidgen.runtime.folder import deployed_bytes, deployed_files
from smidgen.runtime.model import Model, load

__all__ = ["Model", "deployed_bytes", "deployed_files", "load"]
