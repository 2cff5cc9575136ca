#!/bin/sh
# Ask a folder with documents.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/rag@v0.1.0}

dagger -m "$module" call --docs ./docs run --query "Who may sign contracts?"
