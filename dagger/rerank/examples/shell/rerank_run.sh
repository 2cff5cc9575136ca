#!/bin/sh
# Rank the passages that retrieve found with a server that speaks Cohere's API.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/rerank@v0.1.0}

dagger -m "$module" call --url http://reranker.example.com --model my-reranker run --input ./retrieved.json
