#!/bin/sh
# Find passages in an index made before.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/retrieve@v0.1.0}

dagger -m "$module" call --store ./store run --input-json '{"query": "Who may sign contracts?", "top_k": 3}'
