#!/bin/sh
# Keep the whole pipeline resident: POST http://localhost:8080/run.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/rag@v0.1.0}

dagger -m "$module" call --docs ./docs serve up --ports 8080:8080
