#!/bin/sh
# Keep the step resident: POST http://localhost:8080/run.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/rerank@v0.1.0}

dagger -m "$module" call --url http://reranker.example.com --kind tei serve up --ports 8080:8080
