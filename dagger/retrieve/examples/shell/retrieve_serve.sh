#!/bin/sh
# Keep the retriever resident: POST http://localhost:8080/run.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/retrieve@v0.1.0}

dagger -m "$module" call --store ./store serve up --ports 8080:8080
