#!/bin/sh
# Keep the step resident: POST http://localhost:8080/run.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/generate@v0.1.0}

dagger -m "$module" call serve up --ports 8080:8080
