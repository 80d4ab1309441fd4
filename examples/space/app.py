"""Start `affectnet serve` under the name that Hugging Face gives the Space."""

import os
import sys

from affectnet.__main__ import run

sys.argv = ["affectnet", "serve", "--host", "0.0.0.0", "--port", os.environ.get("PORT", "7860")]
sys.argv += ["--model", os.environ.get("MODEL", "cvnet")]
if name := os.environ.get("SPACE_HOST"):  # OWNER-NAME.hf.space
    sys.argv += ["--allow-host", name]
run()
