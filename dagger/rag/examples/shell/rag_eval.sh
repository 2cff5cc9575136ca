#!/bin/sh
# Measure answers on your own questions.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/rag@v0.1.0}

dagger -m "$module" call --docs ./docs eval --dataset ./questions.jsonl
