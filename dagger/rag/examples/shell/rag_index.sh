#!/bin/sh
# Build the index of a folder once, then ask it.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/rag@v0.1.0}

dagger -m "$module" call index --docs ./docs export --path ./store
dagger -m "$module" call --store ./store run --query "Who may sign contracts?"
