#!/bin/sh
# Answer with an OpenAI-compatible model; the key is a secret and never an argument's text.
set -eu
module=${MODULE:-github.com/OWNER/REPO/dagger/generate@v0.1.0}

dagger -m "$module" call \
    --llm-base-url https://llm.example.com/v1 --llm-model my-model --llm-api-key env:LLM_API_KEY \
    run --input ./augmented.json
