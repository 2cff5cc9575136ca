#!/bin/sh
# Build a prompt from the passages that retrieve found.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/augment@v0.1.0}

dagger -m "$module" call run --input ./retrieved.json
