"""ONNX Runtime's telemetry, off before ONNX Runtime is imported, unless the user has decided otherwise.

Its official builds are made with it on: at import they write a device identifier under the user's cache folder, and
queue events for their vendor. `ORT_DISABLE_TELEMETRY`, read once when the library initialises, prevents all of that.
Whoever wants it on sets the variable to 0. This module comes first in the package's table of contents.
"""

import os
import sys

SWITCH = "ORT_DISABLE_TELEMETRY"

if SWITCH not in os.environ:
    os.environ[SWITCH] = "1"
    started = sys.modules.get("onnxruntime")  # then its identifier is written already: what can be stopped is the rest
    if hasattr(started, "disable_telemetry_events"):
        started.disable_telemetry_events()  # type: ignore[union-attr]
