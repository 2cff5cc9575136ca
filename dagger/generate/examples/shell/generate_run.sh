#!/bin/sh
# Answer from the sentences of the passages: no model, no key.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/generate@v0.1.0}

dagger -m "$module" call run --input ./augmented.json
