#!/bin/sh
# Build the index of a folder and keep it.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/retrieve@v0.1.0}

dagger -m "$module" call index --docs ./docs export --path ./store
