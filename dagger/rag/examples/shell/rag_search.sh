#!/bin/sh
# Find passages only.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/rag@v0.1.0}

dagger -m "$module" call --docs ./docs search --query "Who may sign contracts?" --top-k 3
