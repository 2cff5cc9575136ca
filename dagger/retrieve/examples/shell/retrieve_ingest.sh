#!/bin/sh
# Bring a folder into a Qdrant server on this machine.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/retrieve@v0.1.0}

dagger -m "$module" call --qdrant tcp://localhost:6333 ingest --docs ./docs --prune
